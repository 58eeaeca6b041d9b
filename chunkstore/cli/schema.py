"""`chunkstore schema`: the JSON Schemas of what is stored, of what `--json` prints, and of the keys of a configuration."""

from __future__ import annotations

import json as jsons
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer
from pydantic import Field

from chunkstore.cli.documents import Document, described
from chunkstore.cli.options import JsonOption
from chunkstore.cli.output import Output
from chunkstore.configschema import json_schema
from chunkstore.configuration import TYPES
from chunkstore.errors import NotFoundError
from chunkstore.keys import Kind
from chunkstore.naming import nearest
from chunkstore.schema import OWN


class Schemas(Document):
    """What `chunkstore schema --json` prints without a name: the names of all schemas."""

    schema_id: Literal["chunkstore/schema/1"] = Field(default="chunkstore/schema/1", serialization_alias="schema")
    chunks: list[str]
    documents: list[str]
    types: list[str]
    """Of a store in a configuration: the schemas of their keys."""


def schema(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]",
            show_default=False,
            help="A kind of chunk, such as step; a command, such as ls; or a type, such as chunkstore-s3.",
        ),
    ] = "",
    json: JsonOption = False,
) -> None:
    """Print a JSON Schema: of the body of a chunk, by its kind, of a command's --json document, or of the keys of a store in a configuration, by its type; without a name, list them."""
    output = Output(json=json)
    documents: Mapping[str, type[Document]] = context.obj
    if name:
        for line in jsons.dumps(_named(name, documents), indent=2).splitlines():
            output.line(line)
        return
    found = Schemas(
        chunks=[f"chunk {kind.value}" for kind in Kind],
        documents=list(documents),
        types=[f"type {name}" for name in TYPES],
    )
    if json:
        output.document(found)
    else:
        rows = [(name, "the body of a chunk") for name in found.chunks]
        rows += [(name, f"chunkstore {name} --json") for name in found.documents]
        rows += [(name, "the keys of a store in a configuration") for name in found.types]
        output.table(("schema", "of"), rows)


def _named(name: str, documents: Mapping[str, type[Document]]) -> dict[str, Any]:
    document = documents.get(name) or documents.get(name.replace("-", " "))
    if document is not None:
        return described(document)
    if name.removeprefix("type ") in TYPES:
        return json_schema(name.removeprefix("type "))
    kind = name.removeprefix("chunk ").removeprefix("chunk-")
    if kind in list(Kind):
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **OWN.described(Kind(kind))}
    raise NotFoundError(
        f"there is no schema {name!r}; {nearest(name, [*documents, *(kind.value for kind in Kind), *TYPES])}", name=name
    )
