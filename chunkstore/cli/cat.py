"""`chunkstore cat`: the bytes of one chunk as they are stored, or the keys that a run has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from pydantic import Field

from chunkstore import codec, keys, values
from chunkstore.cli.documents import Document
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, RunArgument, StoreOption
from chunkstore.cli.output import Output, shown_bytes
from chunkstore.errors import InvalidInputError, RunLogNotFoundError
from chunkstore.naming import resolve
from chunkstore.objects import RawObject, chunk_named, keys_of, raw_object
from chunkstore.store import ChunkedRunLogStore


class StoredObject(Document):
    """One object in a run's folder."""

    key: str
    size: int
    version: str


class ShownChunk(Document):
    """One chunk, decoded."""

    key: str
    packed: bool
    envelope: dict[str, Any]
    body: dict[str, Any]


class Objects(Document):
    """What `chunkstore cat --json` prints: the keys of a run, or one chunk of it."""

    schema_id: Literal["chunkstore/cat/1"] = Field(default="chunkstore/cat/1", serialization_alias="schema")
    store: str
    run_id: str
    objects: list[StoredObject]
    """Without a chunk to be shown: all that is in the folder of the run."""
    chunk: ShownChunk | None


def cat(
    run: RunArgument,
    chunk: Annotated[
        str,
        typer.Argument(
            metavar="[KEY|KIND]",
            show_default=False,
            help="A key such as run.json; or run, job, step, branch, parameter.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", show_default=False, help="The name of the step, branch or parameter.")
    ] = "",
    branch: Annotated[str, typer.Option(show_default=False, help="The branch whose parameter it is.")] = "",
    store: StoreOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Print one chunk as it is stored, by its key or by kind and name; without one, list the keys of the run.

    Nothing is decoded: damaged chunks are printed too. With --json the chunk is decoded.
    """
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        run_id = resolve(opened, run)
        if chunk:
            _print(output, opened, run_id, _key(run_id, chunk, name, branch))
        else:
            _list(output, opened, run_id)


def _key(run_id: str, chunk: str, name: str, branch: str) -> str:
    if "." in chunk or "/" in chunk:
        if name or branch:
            raise InvalidInputError(
                f"{chunk!r} is a key; leave out the name, or give a kind instead of the key", name=chunk
            )
        return chunk
    return keys.key_of(chunk_named(run_id, chunk, name, branch))


def _print(output: Output, store: ChunkedRunLogStore, run_id: str, key: str) -> None:
    found = raw_object(store, run_id, key)
    if output.json:
        output.document(Objects(store=store.backend.place, run_id=run_id, objects=[], chunk=_decoded(found)))
    elif output.is_terminal:
        for line in found.data.decode("utf-8", "backslashreplace").splitlines():
            output.line(line)
    else:
        output.raw(found.data)


def _decoded(found: RawObject) -> ShownChunk:
    decoded = codec.decode(found.data, found.key)
    envelope = {name: value for name, value in decoded.envelope._asdict().items() if value not in ("", False)}
    body = values.decode(decoded.content)
    return ShownChunk(key=found.key, packed=found.packed, envelope=envelope, body=body)


def _list(output: Output, store: ChunkedRunLogStore, run_id: str) -> None:
    found = keys_of(store, run_id)
    if not found:  # deleted since it was named
        raise RunLogNotFoundError(f"run {run_id!r} is not in {store.backend.place}", run_id=run_id)
    if output.json:
        objects = [StoredObject(key=each.key, size=each.size, version=each.version) for each in found]
        output.document(Objects(store=store.backend.place, run_id=run_id, objects=objects, chunk=None))
        return
    output.table(("key", "size"), [(each.key, shown_bytes(each.size)) for each in found])
    if any(each.key == keys.pack(run_id) for each in found):
        output.note(f"what was packed is in {keys.pack(run_id)}; cat finds it there by kind and name")
