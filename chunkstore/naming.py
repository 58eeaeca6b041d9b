"""How a person names a run: by its id, the start of one, or by what it is: `last`, `last~1`, `last:failed`, `tag:nightly`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from itertools import islice
from typing import Final

from chunkstore.errors import FormatError, InvalidInputError, RunLogNotFoundError
from chunkstore.models import Status
from chunkstore.queries import RunFilter
from chunkstore.store import ChunkedRunLogStore

_RELATIVE: Final = re.compile(r"(?:last(?::(?P<status>[^~]+))?|tag:(?P<tag>.+?))(?:~(?P<back>\d{1,9}))?", re.DOTALL)
_EXACTLY: Final = "id:"
_SHOWN: Final = 5  # candidates
_LOOKED_AT: Final = 10_000  # ids, for the nearest one: more take seconds
_WORDS: Final = {
    "failed": Status.FAIL,
    "failure": Status.FAIL,
    "succeeded": Status.SUCCESS,
    "ok": Status.SUCCESS,
    "running": Status.PROCESSING,
}


def resolve(store: ChunkedRunLogStore, name: str) -> str:
    """The id of the run that a person means.

    * an id, or a start that only one id has; `id:NAME` is the id NAME and no start of one
    * `last`, the run that was created last; `last~1`, the one before it
    * `last:failed`, the last one of a status: any, or `failed`, `succeeded`, `running`; also `last:failed~1`
    * `tag:nightly`, the last one of a tag; also `tag:nightly~1`

    An id is one request; the start of one also a listing (one request per 1,000 runs); what a run is costs as `find_runs` (and a
    request, as there may be a run of that very id). Raises `RunLogNotFoundError`, which names the nearest ids, and
    `InvalidInputError` where the name can mean several runs, which names them.
    """
    if not name:
        raise InvalidInputError("the name of the run is empty; give an id, the start of one, 'last' or 'tag:NAME'")
    if name.startswith(_EXACTLY):
        return _exactly(store, name.removeprefix(_EXACTLY))
    relative = _RELATIVE.fullmatch(name)
    if relative is None:
        return name if _is_there(store, name) else _of_prefix(store, name)
    if _is_there(store, name):
        clear = name if relative["back"] else f"{name}~0"
        raise InvalidInputError(
            f"{name!r} is the id of a run in {store.backend.place}, and has a meaning of its own; "
            f"write {_EXACTLY + name!r} for that run"
            + ("" if clear == name else f", or {clear!r} for the other meaning"),
            run_id=name,
        )
    wanted = RunFilter(status=status_of(relative["status"] or ""), tag=relative["tag"] or "")
    return _relative(store, name, wanted, int(relative["back"] or 0))


def status_of(word: str) -> str:
    """The status that a person means by a word: in upper case, and `failed`, `succeeded` and `running` as they are stored."""
    return _WORDS.get(word.lower(), word.upper())


def nearest(name: str, known: Sequence[str]) -> str:
    """What to say after "there is no …": the known name that is nearest, or some of them."""
    close = difflib.get_close_matches(name, known[:_LOOKED_AT], n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {_listed(known)}" if known else "there are none"


def _exactly(store: ChunkedRunLogStore, run_id: str) -> str:
    if not _is_there(store, run_id):
        raise RunLogNotFoundError(f"run {run_id!r} is not in {store.backend.place}", run_id=run_id)
    return run_id


def _is_there(store: ChunkedRunLogStore, run_id: str) -> bool:
    if "/" in run_id or "\\" in run_id:  # a tag may have one, an id may not
        return False
    try:
        store.get_run_config(run_id)
    except RunLogNotFoundError:
        return False
    except FormatError:  # damaged, but there
        return True
    return True


def _of_prefix(store: ChunkedRunLogStore, start: str) -> str:
    known = store.list_run_ids()
    found = [run_id for run_id in known if run_id.startswith(start)]
    if not found:
        raise RunLogNotFoundError(
            f"no run in {store.backend.place} has the id {start!r}, nor one that starts so; {nearest(start, known)}",
            run_id=start,
        )
    if len(found) > 1:
        raise InvalidInputError(
            f"{len(found):,} runs in {store.backend.place} start with {start!r}: {_listed(found)}; write more of the id",
            run_id=start,
        )
    return found[0]


def _relative(store: ChunkedRunLogStore, name: str, wanted: RunFilter, back: int) -> str:
    newest = list(islice((run.run_id for run in store.iter_run_logs(wanted)), back + 1))
    if len(newest) > back:
        return newest[back]
    there = f"there are {len(newest):,} such runs" if newest else "there is no such run"
    raise RunLogNotFoundError(f"{name!r} names no run in {store.backend.place}: {there}", run_id=name)


def _listed(names: Sequence[str]) -> str:
    some = ", ".join(repr(name) for name in names[:_SHOWN])
    return some if len(names) <= _SHOWN else f"{some} and {len(names) - _SHOWN:,} more"
