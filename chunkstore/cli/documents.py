"""What `--json` prints: the base of all documents, and how one is written and described."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """What a command prints with `--json`.

    Its first field says which document it is, and which version of that:

        schema_id: Literal["chunkstore/ls/1"] = Field(default="chunkstore/ls/1", serialization_alias="schema")

    Fields may be added without another version; none goes away or changes its meaning.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


def name_of(document: type[Document]) -> str:
    """`ls` of `chunkstore/ls/1`."""
    (schema_id,) = get_args(document.model_fields["schema_id"].annotation)
    return str(schema_id).split("/")[1]


def written(document: Document) -> str:
    """The document as JSON that every reader takes: ASCII, and the numbers that JSON lacks as "NaN", "Infinity", "-Infinity"."""
    return json.dumps(as_json(document.model_dump(mode="json", by_alias=True)), allow_nan=False, indent=2)


def as_json(value: Any) -> Any:
    """The value with the numbers that JSON lacks as text."""
    if isinstance(value, dict):
        return {name: as_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [as_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def described(document: type[Document]) -> dict[str, Any]:
    """The document's JSON Schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **document.model_json_schema(mode="serialization"),
    }
