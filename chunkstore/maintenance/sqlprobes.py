"""What a database's table offers, and, of an SQLite file, whether it lies where its locks hold."""

from __future__ import annotations

from pathlib import Path

from chunkstore.backends.sql import SqlBackend
from chunkstore.maintenance.checks import Notes
from chunkstore.maintenance.localprobes import note_file_system


def examine_table(backend: SqlBackend, notes: Notes) -> None:
    """Beyond what every backend is asked: the table, and the file's log and file system. Two statements."""
    facts = backend.facts()
    if facts.is_complete:
        notes.note("table", "yes", "has versions and a unique key")
    else:
        notes.note("table", "no", "an old one, without version and unique key", "each call looks at the whole table")
        notes.advise(
            "Complete the table: chunkstore.backends.sql.create_tables(connection_string); rows of magnus stay as they are."
        )
    if backend.file is not None:
        log = "readers and writers do not wait for each other" if facts.journal == "wal" else facts.journal
        notes.note("write-ahead log", "yes" if facts.journal == "wal" else "no", log)
        note_file_system(Path(backend.file).parent, notes)
