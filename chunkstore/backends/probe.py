"""Does an S3 server honour conditional writes? Asked once for each root, in at most eight requests, and remembered.

Old gateways answer any put with success and do not look at its condition: a writer who believes them loses the work of
others. A server's name or version says nothing, so it is tried out, on an object that nobody else knows.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from chunkstore.backends.contract import ANY, CREATE, Condition, unchanged
from chunkstore.errors import BackendUnavailableError, ConflictError, NotSupportedError

log = logging.getLogger(__name__)

Verdict = Literal["all", "cas", "create-only", "none"]
"""Both conditions of puts hold, and `If-Match` of deletes too; those of puts; only `If-None-Match: *` does; none does."""

EXACT: Final = ("all", "cas")
"""The verdicts under which writers may rely on the server alone."""

GHOST: Final = "00000000000000000000000000000000"
"""A version that no object ever had."""


class Root(NamedTuple):
    """A place under which all keys of a backend lie."""

    endpoint: str
    bucket: str
    prefix: str


class Probed(Protocol):
    """What the probe asks a server. Each call is one request."""

    def put(self, key: str, data: bytes, condition: Condition) -> str:
        """Puts with the condition, without any lock; raises `ConflictError`, or `NotSupportedError` for a 501."""
        ...

    def version(self, key: str) -> str:
        """The version of the object that is there, empty where there is none."""
        ...

    def delete(self, key: str, condition: Condition = ANY) -> None:
        """Removes the object, with the condition if there is one; raises `ConflictError`, or `NotSupportedError` for a 501."""
        ...


@dataclass(frozen=True, slots=True)
class _Outcome:
    accepted: bool
    version: str = ""


def probe(server: Probed, start: str = "") -> Verdict:
    """Tries out both conditions, in five to eight requests, on keys that begin with `start`, or in a folder of its own.

    Raises what the server raises, other than a refused condition: where nothing may be written, nothing is known.
    Objects of a probe that broke off stay; no listing shows them.
    """
    start = start or f".probe-{secrets.token_hex(8)}/"
    ghost, key = f"{start}ghost.json", f"{start}probe.json"
    # Older MinIO lets an update of a missing object pass, which would bring back what somebody has deleted.
    resurrects = _try(server, ghost, unchanged(GHOST)).accepted
    verdict = _verdict(server, key, resurrects=resurrects)
    if verdict == "all":
        return _with_deletes(server, key)
    for left in (key, ghost) if resurrects else (key,):
        _tidy(server, left)
    return verdict


def _verdict(server: Probed, key: str, *, resurrects: bool) -> Verdict:
    created = _try(server, key, CREATE)
    if _try(server, key, CREATE).accepted:
        return "none"
    updates = None if resurrects else _exact_updates(server, key, created.version)
    if updates is None:
        # Where the first create was refused too, nothing can be created under a condition at all.
        return "create-only" if created.accepted else "none"
    return updates


def _exact_updates(server: Probed, key: str, created: str) -> Verdict | None:
    """Whether a version is the same whoever tells it, the right one is accepted, a stale one refused.

    "all" where deletes may be tried out as well, "cas" where an echo took the request for that: a pack then takes no chunk away.
    """
    first = server.version(key)
    # A create without a version was refused: on a name that nobody else knows by the echo of its own first try.
    if not first or created not in {first, ""}:
        return None
    accepted = _try(server, key, unchanged(first)).accepted
    if not accepted and server.version(key) == first:
        return None
    if _try(server, key, unchanged(first)).accepted:
        return None
    return "all" if accepted else "cas"


def _with_deletes(server: Probed, key: str) -> Verdict:
    """Whether a delete is refused too where its condition does not hold. Leaves nothing behind, whatever the answer."""
    try:
        server.delete(key, unchanged(GHOST))
    except (ConflictError, NotSupportedError, BackendUnavailableError) as error:
        _tidy(server, key)
        return "all" if isinstance(error, ConflictError) else "cas"
    return "cas"  # a server that ignores the condition has deleted it


def _try(server: Probed, key: str, condition: Condition) -> _Outcome:
    try:
        # Different bytes each time: the versions of equal bytes are equal.
        return _Outcome(accepted=True, version=server.put(key, secrets.token_hex(16).encode(), condition))
    except (ConflictError, NotSupportedError):
        return _Outcome(accepted=False)


def _tidy(server: Probed, key: str) -> None:
    try:
        server.delete(key)
    except BackendUnavailableError as error:
        # Some may write and not delete: what was learned holds all the same.
        log.warning("the probe object %s could not be deleted: %s", key, error)


_KNOWN: Final[dict[Root, Verdict]] = {}
"""This process's memory. A forked child inherits it; a pickled backend brings its own entry along."""


def recall(root: Root) -> Verdict | None:
    """What is known of this root."""
    return _KNOWN.get(root)


def remember(root: Root, verdict: Verdict) -> bool:
    """Keeps the verdict for this process; False where one was known already."""
    new = root not in _KNOWN
    _KNOWN.setdefault(root, verdict)
    return new


def forget(root: Root) -> None:
    """Asks again next time. For tests, and for a server that was upgraded under a process."""
    _KNOWN.pop(root, None)
