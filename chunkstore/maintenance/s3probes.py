"""What an S3 server does with conditions when it is asked without any lock of ours, and how far its clock is from ours."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from chunkstore.backends.probe import EXACT, Verdict, probe
from chunkstore.backends.s3 import S3Backend
from chunkstore.backends.s3server import Server
from chunkstore.errors import BackendUnavailableError, NotSupportedError
from chunkstore.maintenance.checks import Notes
from chunkstore.maintenance.localprobes import note_skew

_ADVICE: dict[Verdict, str] = {
    "all": "Writers on many hosts are safe here. Set require='across-hosts' to be told if that ever changes.",
    "cas": "Writers on many hosts are safe here. The server ignores conditions of deletes: compact with remove='always' when a run has no writer left.",
    "create-only": "Write from one host only: the server does not honour If-Match, so writers are kept apart by lock files of this host.",
    "none": "Write from one host only: the server ignores conditions, so writers are kept apart by lock files of this host.",
}


def examine_bucket(backend: S3Backend, start: str, notes: Notes) -> None:
    """Beyond what every backend is asked: who asks, the server's own verdict, in at most eight requests, and its clock, in one."""
    notes.note("credentials", "yes", backend.signed_as)
    server = Server(backend.settings)
    try:
        _verdict(server, backend, start, notes)
    finally:
        server.close()
    _clock(backend, notes)


def _verdict(server: Server, backend: S3Backend, start: str, notes: Notes) -> None:
    try:
        verdict = probe(server, start)
    except (BackendUnavailableError, NotSupportedError) as error:
        if isinstance(error, BackendUnavailableError) and error.transient:
            raise
        notes.note("the server's conditions", "unknown", str(error))
        return
    what = {
        "all": "If-None-Match and If-Match hold, also for deletes",
        "cas": "If-None-Match and If-Match hold for writes, not for deletes",
        "create-only": "only If-None-Match holds",
        "none": "no condition holds",
    }[verdict]
    if backend.settings.conditional_writes == "off" and verdict in EXACT:
        notes.advise(
            "The server honours conditions: set conditional_writes='auto', and writers on many hosts are safe."
        )
    else:
        notes.advise(_ADVICE[verdict])
    follows = "" if verdict in EXACT else "writers are kept apart on one host only"
    notes.note("the server's conditions", "yes" if verdict in EXACT else "no", what, follows)
    if verdict not in EXACT:
        notes.advise(
            "All processes of that host must share the lock folder (setting lock_folder), and run as users who may write there."
        )


def _clock(backend: S3Backend, notes: Notes) -> None:
    """By the Date of a reply: it is cut to seconds."""
    server = Server(replace(backend.settings, engine="s3fs"))
    try:
        before = time.time()
        page = next(server.pages(".doctor/", {}))
        after = time.time()
    except BackendUnavailableError:
        return  # who may not list has been told so
    finally:
        server.close()
    said = page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        at = parsedate_to_datetime(said)
    except (TypeError, ValueError):
        notes.note("clock", "unknown", "the server's replies tell no time")
        return
    begins = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = begins.total_seconds()
    skew = seconds - after if seconds > after else min(0.0, seconds + 1 - before)
    note_skew(skew, notes, ", to the second")
