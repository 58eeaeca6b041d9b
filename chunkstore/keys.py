"""Where a chunk lives: (run, kind, name) ⇄ object key. Knows no bytes and no backend.

A key has two parts, `run/chunk`:

    run.json                          the header
    job.json                          the job log
    step.map.eu.train.json            a step, by its internal name
    branch.map.eu.json                a branch, by its internal name
    parameter.alpha.json              a parameter of the run
    parameter@map.eu@alpha.json       a parameter of the branch `map.eu`

Beside them there may be `whole.pack`, which is no chunk: the pack of the run. Its leases are in no run's folder: `.leases/run@name.json`.

The mapping is total, readable for ordinary names, and no two names share a key. Letters, digits, space and `-_.+=,~()`
stand for themselves; every other byte of the UTF-8 form is `%XX`. A name too long for a file name keeps a readable head and
ends in `%~` and a digest; its full name stands inside the chunk. `@` and `%~` never come out of the escaping itself.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from chunkstore.errors import InvalidInputError

SUFFIX: Final = ".json"
PACK: Final = "whole.pack"
LEASES: Final = ".leases/"
"""The start of the keys of all leases."""
MAX_RUN_ID_BYTES: Final = 200
_MAX_FILE_NAME: Final = 255  # bytes; ext4, XFS, APFS, NTFS and MinIO agree
_DIGEST_LENGTH: Final = 32
_CHUNK: Final = re.compile(
    r"[^/]+/(?:run|job|(?:step|branch|parameter)\.(?:[A-Za-z0-9 \-_.+=,~()]|%[0-9A-F]{2}|%~)+"
    r"|parameter@(?:[A-Za-z0-9 \-_.+=,~()@]|%[0-9A-F]{2}|%~)+)\.json"
)
_PLAIN_RUN: Final = re.compile(rf"[A-Za-z0-9\-_](?:[A-Za-z0-9 \-_.+=,~()]{{0,{MAX_RUN_ID_BYTES - 2}}}[A-Za-z0-9\-_])?")
"""Run ids that are their own folders, most of them."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9 \-_.+=,~()]*")
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9 \-_.+=,~()]")
_ABBREVIATED: Final = re.compile(r"(?:[A-Za-z0-9 \-_.+=,~()]|%[0-9A-F]{2})*(?:%~[0-9a-f]{32})?")


class Kind(StrEnum):
    """The sorts of chunk; the value is the start of its key's second part."""

    HEADER = "run"
    JOB = "job"
    STEP = "step"
    BRANCH = "branch"
    PARAMETER = "parameter"


_KINDS: Final = frozenset(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True)
class ChunkId:
    """One chunk of one run. `scope` is the branch that a parameter belongs to, empty for the run's own.

    Raises `InvalidInputError` where the run id cannot be a folder.
    """

    run_id: str
    kind: Kind
    name: str = ""
    scope: str = ""
    key: str = field(init=False, compare=False, repr=False)
    """Its object key."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", made_of(self.run_id, self.kind, self.name, self.scope))

    def __str__(self) -> str:
        what = f"{self.kind.value} {self.name!r}" if self.name else self.kind.value
        return f"{what} of {self.scope!r}" if self.scope else what


def header(run_id: str) -> ChunkId:
    """The chunk of the run itself."""
    return ChunkId(run_id, Kind.HEADER)


def job(run_id: str) -> ChunkId:
    """The chunk of the run's job log."""
    return ChunkId(run_id, Kind.JOB)


def step(run_id: str, internal_name: str) -> ChunkId:
    """The chunk of a step. Raises `InvalidInputError` for a name that is empty or not valid unicode; so do the next two."""
    return ChunkId(run_id, Kind.STEP, _named("step", internal_name))


def branch(run_id: str, internal_name: str) -> ChunkId:
    """The chunk of a branch."""
    return ChunkId(run_id, Kind.BRANCH, _named("branch", internal_name))


def parameter(run_id: str, name: str, scope: str = "") -> ChunkId:
    """The chunk of a parameter of the run, or of the branch `scope`."""
    return ChunkId(run_id, Kind.PARAMETER, _named("parameter", name), _named("branch", scope) if scope else "")


def _named(what: str, name: str) -> str:
    if not isinstance(name, str):
        raise InvalidInputError(f"the name of a {what} must be a string, not {type(name).__name__}: {name!r}")
    if not name:
        raise InvalidInputError(f"the name of a {what} is empty; give it one")
    if _has_lone_surrogate(name):
        raise InvalidInputError(
            f"the name of a {what} is not valid unicode: {name!r}; replace its lone surrogates", name=name
        )
    return name


def _has_lone_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def key_of(chunk: ChunkId) -> str:
    """The object key of a chunk."""
    return chunk.key


def made_of(run_id: str, kind: str, name: str, scope: str) -> str:
    """The object key of the chunk that is named so; the kind is one of `Kind`, or its value."""
    return f"{folder_of(run_id)}/{_file_of(kind, name, scope)}"


def is_kind(text: str) -> bool:
    """Whether this is the value of a `Kind`."""
    return text in _KINDS


def prefix_of_run(run_id: str) -> str:
    """The start of the keys of all chunks of a run."""
    return f"{folder_of(run_id)}/"


def pack(run_id: str) -> str:
    """The object key of a run's pack.

    It sorts behind every chunk: a listing that goes by name, page by page, and misses a chunk that was packed and removed
    meanwhile comes to the pack later than that, and shows it.
    """
    return f"{folder_of(run_id)}/{PACK}"


def lease(run_id: str, name: str) -> str:
    """The object key of a lease: in no run's folder, so that no reader, listing or copy of the run meets it."""
    limit = _MAX_FILE_NAME - MAX_RUN_ID_BYTES - len("@") - len(SUFFIX)
    return f"{LEASES}{folder_of(run_id)}@{_escape(_named('lease', name), limit)}{SUFFIX}"


def run_of_lease(key: str) -> str | None:
    """The run whose lease has this key; None for a key that is no lease's."""
    folder, at, _ = key.removeprefix(LEASES).partition("@")
    return run_id_of(folder) if at and key.startswith(LEASES) and key.endswith(SUFFIX) else None


def run_of_prefix(prefix: str) -> str | None:
    """The run whose chunks are all those that start with this; None where it is the start of some of them."""
    return run_id_of(prefix[:-1]) if prefix.endswith("/") else None


def stays_loose(key: str) -> bool:
    """Whether packing leaves the chunk where it is: the header, which makes a run's id taken, and parameters, which are listed."""
    return key.rpartition("/")[2].startswith((f"{Kind.HEADER.value}.", Kind.PARAMETER.value))


def prefix_of_parameters(run_id: str, scope: str = "") -> str:
    """The start of the keys of the parameters of one scope, and of no others."""
    if not scope:
        return f"{folder_of(run_id)}/{Kind.PARAMETER.value}."
    return f"{folder_of(run_id)}/{Kind.PARAMETER.value}@{_escape(_named('branch', scope), _parameter_limit())}@"


@lru_cache(maxsize=1024)
def folder_of(run_id: str) -> str:
    """The first part of the keys of a run. Raises `InvalidInputError` for an id that could leave the prefix."""
    if not isinstance(run_id, str):
        raise InvalidInputError(f"a run id must be a string, not {type(run_id).__name__}: {run_id!r}")
    shown = run_id if len(run_id) <= 80 else f"{run_id[:80]}…"
    if not run_id.strip():
        raise InvalidInputError("the run id is empty; give the run an id", run_id=run_id)
    if "/" in run_id or "\\" in run_id or run_id in (".", ".."):
        raise InvalidInputError(
            f"run id {shown!r} cannot be a folder: it must not contain '/' or '\\' nor be '.' or '..'", run_id=run_id
        )
    if any(ord(character) < 32 or ord(character) == 127 for character in run_id):
        raise InvalidInputError(f"run id {shown!r} has a control character; leave it out", run_id=run_id)
    if _has_lone_surrogate(run_id):
        raise InvalidInputError(f"run id {shown!r} is not valid unicode; replace its lone surrogates", run_id=run_id)
    folder = _escape_ends(_escape_all(run_id))
    if len(folder) > MAX_RUN_ID_BYTES:
        raise InvalidInputError(
            f"run id {shown!r} is too long: {len(folder)} bytes when written, {MAX_RUN_ID_BYTES} at the most",
            run_id=run_id,
        )
    return folder


def run_id_of(folder: str) -> str | None:
    """The run id that a folder stands for; None for a folder that is no run of ours."""
    if _PLAIN_RUN.fullmatch(folder):  # nearly all, and there may be 100,000
        return folder
    if not folder.isascii():  # what a disk holds beside our names: also bytes that are no UTF-8
        return None
    try:
        run_id = _unescape(folder)
        return run_id if folder_of(run_id) == folder else None
    except InvalidInputError:
        return None


def parse(key: str) -> ChunkId | None:
    """The chunk that a key stands for; None for a key that is no chunk's.

    A name that was too long for its key comes back as its head with `%~` and the digest: the full name is inside.
    """
    folder, _, file = key.partition("/")
    run_id = run_id_of(folder)
    if run_id is None or not file.isascii() or not file.endswith(SUFFIX):
        return None
    chunk = _parse_file(run_id, file.removesuffix(SUFFIX))
    if chunk is None:
        return None
    named = _file_of(chunk.kind, chunk.name, chunk.scope)
    is_ours = _is_well_formed(file) if is_abbreviated(file) else named == file
    return chunk if is_ours else None


def is_chunk(key: str) -> bool:
    """Whether a key may be a chunk's; quicker than `parse`, and sure only for keys that are not."""
    return _CHUNK.fullmatch(key) is not None and ("%" not in key or parse(key) is not None)


def is_abbreviated(key: str) -> bool:
    """Whether the key holds only a digest of the name."""
    return "%~" in key


def _is_well_formed(file: str) -> bool:
    return len(file) <= _MAX_FILE_NAME and all(map(_ABBREVIATED.fullmatch, file.removesuffix(SUFFIX).split("@")))


def _parse_file(run_id: str, file: str) -> ChunkId | None:
    if file in (Kind.HEADER.value, Kind.JOB.value):
        return ChunkId(run_id, Kind(file))
    word, _, rest = file.partition(".")
    if word in (Kind.STEP.value, Kind.BRANCH.value, Kind.PARAMETER.value) and rest:
        return _unescaped(run_id, Kind(word), rest)
    if file.startswith(f"{Kind.PARAMETER.value}@"):
        scope, _, name = file.removeprefix(f"{Kind.PARAMETER.value}@").partition("@")
        return _unescaped(run_id, Kind.PARAMETER, name, scope) if scope and name else None
    return None


def _unescaped(run_id: str, kind: Kind, name: str, scope: str = "") -> ChunkId:
    return ChunkId(run_id, kind, _unescape(name), _unescape(scope))


def _unescape(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace")  # an abbreviated head may end within a character


def _file_of(kind: str, name: str, scope: str) -> str:
    if not name:
        return f"{kind}{SUFFIX}"
    if scope:
        limit = _parameter_limit()
        return f"{kind}@{_escape(scope, limit)}@{_escape(name, limit)}{SUFFIX}"
    return f"{kind}.{_escape(name, _MAX_FILE_NAME - len(kind) - 1 - len(SUFFIX))}{SUFFIX}"


def _parameter_limit() -> int:
    return (_MAX_FILE_NAME - len(Kind.PARAMETER.value) - 2 - len(SUFFIX)) // 2


def _escape(name: str, limit: int) -> str:
    if len(name) <= limit and _PLAIN.fullmatch(name):
        return name
    return _escape_odd(name, limit)


@lru_cache(maxsize=4096)
def _escape_odd(name: str, limit: int) -> str:
    escaped = _escape_all(name)
    if len(escaped) <= limit:
        return escaped
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST_LENGTH // 2).hexdigest()
    head = re.sub(r"%.?$", "", escaped[: limit - _DIGEST_LENGTH - 2])  # never half of a `%XX`
    return f"{head}%~{digest}"


def _escape_all(name: str) -> str:
    raw = name.encode()
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], raw).decode("ascii")


def _escape_ends(folder: str) -> str:
    """A folder name must not start with a dot (ours) nor end with a dot or space (Windows drops them)."""
    if folder[0] in ". ":
        folder = f"%{ord(folder[0]):02X}{folder[1:]}"
    if folder[-1] in ". ":
        folder = f"{folder[:-1]}%{ord(folder[-1]):02X}"
    return folder
