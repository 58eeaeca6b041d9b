"""What a place for bytes must do: one small contract. It knows keys, bytes and versions; no run, no JSON.

Nothing here has a default body: a default is convenient for whoever writes a backend, and wrong on half of them.
`chunkstore.testing.BackendSuite` proves an implementation, guarantee by guarantee.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a put to happen. Use `ANY`, `CREATE`, `FOUND` or `unchanged(version)`."""

    kind: Literal["any", "absent", "unchanged"]
    version: str = ""
    founding: bool = False


ANY: Final = Condition("any")
"""Put whatever is there."""

CREATE: Final = Condition("absent")
"""Put only where nothing is; the key's folder must be there, where the place has folders."""

FOUND: Final = Condition("absent", founding=True)
"""Like `CREATE`, for the first object of its folder: makes the folder, where the place has folders."""


def unchanged(version: str) -> Condition:
    """Put only where the object still has this version (compare-and-swap)."""
    return Condition("unchanged", version)


class Blob(NamedTuple):
    """An object's bytes and the version they belong to."""

    data: bytes
    version: str


class Entry(NamedTuple):
    """One line of a listing. An empty `version` means that the place cannot tell without reading."""

    key: str
    version: str
    size: int


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a backend promises. The shipped suite proves each one that is stated."""

    conditional_create: bool
    """Of many writers with `CREATE`, exactly one wins."""
    conditional_update: bool
    """Of many writers with `unchanged(v)`, at most one wins."""
    across_processes: bool
    """The two above hold between processes of one host, and they see each other's objects."""
    across_hosts: bool
    """The two above hold between hosts."""
    atomic: bool
    """A reader sees an object before or after a put, never half of it."""
    durable: bool
    """Every acknowledged put survives power loss."""
    conditional_delete: bool = False
    """A delete with `unchanged(v)` removes that version and no later one, as far as the conditions of puts hold."""


@runtime_checkable
class Backend(Protocol):
    """Six verbs and `close`, on keys such as `run_id/step.train.json`: two parts, `/` between them, ASCII.

    Errors of every verb: `BackendUnavailableError` (network, disk, permissions; `.transient`), within the deadline
    that the backend was made with. All verbs are safe in many threads and after a fork. Backends pickle: settings
    travel, connections and locks do not.
    """

    @property
    def place(self) -> str:
        """Where this is, for people: a folder or a URL, without secrets."""
        ...

    @property
    def concurrency(self) -> int:
        """How many requests at once are worth sending; 1 where the place answers faster than a thread starts."""
        ...

    @property
    def asynchronous(self) -> bool:
        """Whether every wait of every verb is one of `chunkstore.waiting`, so that calls can run on an event loop.

        Otherwise each call from an event loop is given a thread. Where in doubt: False.
        """
        ...

    @property
    def guarantees(self) -> Guarantees:
        """What holds here. May ask the server once, at most eight requests, and then remembers."""
        ...

    def get(self, key: str) -> Blob:
        """The object. Raises `ObjectNotFoundError`. One request."""
        ...

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        """The objects that are there, in any order, many at once; a missing key is left out. One request a key.

        A key that is given twice may come once or twice.
        """
        ...

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        """Writes the whole object and returns its version. One request.

        With `barrier` everything that this host has put here before survives power loss too when this returns,
        unless the backend was set to promise less. Raises `ObjectNotFoundError` when the key's folder is gone;
        `ConflictError` when the condition does not hold, which includes `unchanged` where nothing is, and which may be the
        echo of a first try that the network repeated; `WriteStateUnknownError` or a transient `BackendUnavailableError`
        when it may have landed nevertheless. After either, read the object to know.
        """
        ...

    def delete(self, key: str, condition: Condition = ANY) -> None:
        """Removes the object; nothing happens where there is none. One request.

        With `unchanged(version)` only that version: raises `ConflictError` where another one stands there, and
        `NotSupportedError` without `guarantees.conditional_delete`, before anything is removed. An update that was conditional
        on the deleted version does not bring it back.
        """
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose key starts with the prefix (a string prefix that contains the `/`), in any order.

        One request per 1,000. Every put that returned before the call is there; puts during it may or may not be. Best by name, or all
        names at one moment and their versions after that: then who misses what was removed meanwhile sees what was put before.
        """
        ...

    def folders(self) -> Iterator[str]:
        """The first parts of all keys, each once, in any order. One request per 1,000.

        Those that start with a dot are left out: a store keeps there what belongs to no run.
        """
        ...

    def close(self) -> None:
        """Lets connections go. The backend may be used again afterwards."""
        ...


@runtime_checkable
class Excluding(Protocol):
    """A backend that can keep all its other users out for a moment: they are on this host, or a server knows them. No part of the contract.

    Where there is it, what a lease says and the write that depends on it are one step; see `chunkstore.leases`.
    """

    def excludes(self) -> bool:
        """Whether it can, the way it is connected to; then the same must hold for all its users. May ask once, and then remembers."""
        ...

    def excluding(self, key: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """A block in which nobody else is in such a block of the same key; where the place can tell, those that are `shared` may be in it together.

        The verbs may be called inside, by the thread that entered: what they write is written while it is in. It ends with its
        process; where a server ends it earlier, the verbs fail, and nothing is written. Raises `BackendUnavailableError` where others are in it until
        the backend's deadline.
        """
        ...
