"""Places for bytes. The contract is here; each place is a module that is imported when it is used."""

from chunkstore.backends.contract import (
    ANY,
    CREATE,
    FOUND,
    Backend,
    Blob,
    Condition,
    Entry,
    Excluding,
    Guarantees,
    unchanged,
)

__all__ = ["ANY", "CREATE", "FOUND", "Backend", "Blob", "Condition", "Entry", "Excluding", "Guarantees", "unchanged"]
