"""Everything that chunkstore raises on purpose.

    ChunkStoreError
    ├── NotFoundError
    │   ├── ObjectNotFoundError        a key that a backend does not hold
    │   ├── RunLogNotFoundError
    │   ├── StepLogNotFoundError
    │   ├── BranchLogNotFoundError
    │   ├── JobLogNotFoundError
    │   └── ParameterNotFoundError
    ├── AlreadyExistsError
    │   └── RunLogExistsError
    ├── ConflictError                  a condition that no longer held
    ├── LeaseError
    │   ├── LeaseHeldError             somebody else has it
    │   └── LeaseLostError             nothing may be written under it any more
    ├── InvalidInputError              (also a ValueError)
    ├── FormatError                    damaged bytes
    │   └── NewerFormatError           written by a newer chunkstore
    ├── NotSupportedError              the place cannot promise what was asked for
    └── BackendUnavailableError        .transient: is it worth trying again?
        ├── StorageFullError           no room left, or a quota used up
        └── WriteStateUnknownError     the reply was lost, and so was the answer to "did it land?"

A message names the thing, the place and the next step. A foreign error stays as `__cause__`. All of them pickle.
"""

from __future__ import annotations


class ChunkStoreError(Exception):
    """The root of the tree.

    `run_id`, `name` and `key` say what it is about, as far as the place that raised it knows.
    """

    def __init__(self, message: str, *, run_id: str = "", name: str = "", key: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id
        self.name = name
        self.key = key


class NotFoundError(ChunkStoreError, LookupError):
    """The thing asked for is not there."""


class ObjectNotFoundError(NotFoundError):
    """A backend holds no object under the key."""


class RunLogNotFoundError(NotFoundError):
    """No run of that id; or it is being deleted."""


class StepLogNotFoundError(NotFoundError):
    """The run has no step of that internal name."""


class BranchLogNotFoundError(NotFoundError):
    """The run has no branch of that internal name."""


class JobLogNotFoundError(NotFoundError):
    """The run has no job log."""


class ParameterNotFoundError(NotFoundError):
    """The scope has no parameter of that name."""


class AlreadyExistsError(ChunkStoreError):
    """Something of that name is there already; nothing was overwritten."""


class RunLogExistsError(AlreadyExistsError):
    """A run of that id exists; nothing was overwritten."""


class ConflictError(ChunkStoreError):
    """A condition of a write no longer held: somebody else wrote in between. Nothing was written."""


class LeaseError(ChunkStoreError):
    """Something about a lease, whose name is in `name`."""


class LeaseHeldError(LeaseError):
    """Another holds the lease: `holder` says who, `process` where (user, host, process), `since` since when by its clock, `generation` which holding it is."""

    def __init__(
        self,
        message: str,
        *,
        holder: str = "",
        process: str = "",
        since: str = "",
        generation: int = 0,
        run_id: str = "",
        name: str = "",
        key: str = "",
    ) -> None:
        super().__init__(message, run_id=run_id, name=name, key=key)
        self.holder = holder
        self.process = process
        self.since = since
        self.generation = generation


class LeaseLostError(LeaseError):
    """The lease is not held any more: it expired, was taken over or released. What was to be written was refused."""


class InvalidInputError(ChunkStoreError, ValueError):
    """The caller's value cannot be used. Nothing was written."""


class FormatError(ChunkStoreError):
    """The bytes under `key` are not a whole chunk of ours."""


class NewerFormatError(FormatError):
    """The chunk was written in a format that this version of chunkstore does not know."""


class NotSupportedError(ChunkStoreError):
    """The place cannot give the guarantee that the settings require."""


class BackendUnavailableError(ChunkStoreError):
    """The place did not do what was asked: network, server, disk or permissions.

    `transient` says whether the same call may succeed later without anybody changing anything.
    """

    def __init__(
        self, message: str, *, transient: bool = False, run_id: str = "", name: str = "", key: str = ""
    ) -> None:
        super().__init__(message, run_id=run_id, name=name, key=key)
        self.transient = transient


class StorageFullError(BackendUnavailableError):
    """The disk is full, or a quota used up. Nothing was overwritten; deleting a run still works."""


class WriteStateUnknownError(BackendUnavailableError):
    """A write was sent, its reply was lost, and the object could not be read back either.

    Repeating the write is safe: chunkstore recognises its own earlier try.
    """
