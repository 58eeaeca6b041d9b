"""The model classes that a store works with, and how each becomes a chunk's JSON and comes back.

The library's own classes by default; a client such as runnable brings its own. What a client's class does not know (fields that
another client or a newer version wrote) is not lost when it writes the object back: see `Schema.seen`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from chunkstore import models, values
from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.keys import ChunkId, Kind, key_of
from chunkstore.values import Content, Json

Model = TypeVar("Model", bound=BaseModel)

MAX_PARAMETER_DEPTH: Final = 128
"""Levels of nesting of one parameter; an attempt that repeats it has some levels of its own around it."""

_NOT_IN_CHUNK: Final[Mapping[str, set[str]]] = {
    Kind.HEADER.value: {"steps", "parameters", "job", "created_at"},
    Kind.JOB.value: set(),
    Kind.STEP.value: {"branches"},
    Kind.BRANCH.value: {"steps", "parameters"},
}
"""What the model holds and the chunk does not: other chunks of their own, and the time that the envelope tells."""

_FIELD_OF: Final[Mapping[str, str]] = {
    Kind.HEADER.value: "run_log",
    Kind.JOB.value: "job_log",
    Kind.STEP.value: "step_log",
    Kind.BRANCH.value: "branch_log",
}
"""By text: Python computes the hash of a member of an enum by a function of its own each time."""


@dataclass(frozen=True, slots=True)
class ParameterForm:
    """How a client holds a parameter: from the JSON of its chunk, and back."""

    read: Callable[[dict[str, Json]], object]
    write: Callable[[object], dict[str, object]]


@dataclass(frozen=True)
class Schema:
    """A client's model classes; the fields that each must have are those of `chunkstore.models`.

    A run log may lack `job`, and a branch log `parameters`: magnus has neither. What others stored of them stays, and is not read.
    """

    run_log: type[BaseModel]
    step_log: type[BaseModel]
    branch_log: type[BaseModel]
    job_log: type[BaseModel]
    step_attempt: type[BaseModel]
    code_identity: type[BaseModel]
    data_catalog: type[BaseModel]
    parameter: ParameterForm

    def class_of(self, kind: Kind) -> type[BaseModel]:
        """The class whose objects are stored as chunks of this kind."""
        return getattr(self, _FIELD_OF[kind])  # type: ignore[no-any-return]

    def knows(self, kind: Kind, field: str) -> bool:
        """Whether the class has this field."""
        return field in self.class_of(kind).model_fields

    def described(self, kind: Kind) -> dict[str, Any]:
        """The JSON Schema of the bodies of chunks of this kind, as this client writes them. Of a parameter any value may be in it."""
        if kind is Kind.PARAMETER:
            return {"type": "object", "properties": {"kind": {"type": "string"}, "value": {}}, "required": ["value"]}
        made = self.class_of(kind).model_json_schema(mode="serialization")
        definitions = made.pop("$defs", {})
        if "$ref" in made:  # a class that holds others of its own kind, further down
            made = dict(definitions[_named(made["$ref"])])
        kept = {name: field for name, field in made["properties"].items() if name not in _NOT_IN_CHUNK[kind]}
        required = [name for name in made.get("required", []) if name in kept]
        used = {name: definitions[name] for name in sorted(_reached(kept, definitions))}
        return {**made, "properties": kept, "required": required, "$defs": used}

    def write(self, kind: Kind, log: BaseModel) -> Content:
        """The chunk's JSON of a model object. Raises `InvalidInputError` for what JSON cannot keep."""
        fields = log.model_dump(exclude=_NOT_IN_CHUNK[kind], exclude_computed_fields=True, warnings=False)
        status = fields.get("status")
        if isinstance(status, str):
            fields["status"] = status.upper()
        return values.encode(fields)

    def read(self, kind: Kind, content: Content, key: str) -> BaseModel:
        """The model object of a chunk's JSON. Raises `FormatError` with the key where it does not fit the class."""
        return self._read(self.class_of(kind), content, key)

    def seen(self, kind: Kind, content: Content, key: str) -> Content:
        """What this client's class makes of a chunk: the part of it that the client can have changed.

        The class drops fields that it does not know. Compared with the chunk itself, they would look deleted.
        """
        if self.class_of(kind).model_config.get("extra") == "allow":
            return content
        return self.write(kind, self.read(kind, content, key))

    def write_parameter(self, name: str, value: object) -> Content:
        """The chunk's JSON of a parameter. Raises `InvalidInputError` with its name for what JSON cannot keep."""
        try:
            return values.encode_strictly(self.parameter.write(value), max_depth=MAX_PARAMETER_DEPTH)
        except InvalidInputError as error:
            raise InvalidInputError(f"parameter {name!r} cannot be stored: {error}", name=name) from error

    def read_parameter(self, content: Content, key: str) -> object:
        """The parameter of a chunk's JSON. Raises `FormatError` with the key where it is none."""
        try:
            return self.parameter.read(values.decode(content))
        except (KeyError, ValidationError, FormatError) as error:
            raise FormatError(f"{key} holds no parameter: {_brief(error)}", key=key) from error

    def seen_parameter(self, chunk: ChunkId, content: Content) -> Content:
        """What this client makes of a stored parameter: it may hold a plain value as a typed one."""
        return self.write_parameter(chunk.name, self.read_parameter(content, key_of(chunk)))

    def _read(self, kind: type[Model], content: Content, key: str) -> Model:
        try:
            if content.exact:
                return kind.model_validate(values.decode(content))
            return kind.model_validate_json(content.body)
        except (ValidationError, FormatError) as error:
            raise FormatError(f"{key} does not fit {kind.__name__}: {_brief(error)}", key=key) from error


def _named(reference: str) -> str:
    """`StepLog` of `#/$defs/StepLog`."""
    return reference.rpartition("/")[2]


def _reached(part: object, definitions: Mapping[str, object]) -> set[str]:
    """The definitions that a part of a schema refers to, at once or through others."""
    found: set[str] = set()
    pending = [part]
    while pending:
        match pending.pop():
            case dict() as inner:
                name = _named(inner["$ref"]) if isinstance(inner.get("$ref"), str) else ""
                if name and name not in found:
                    found.add(name)
                    pending.append(definitions[name])
                pending += inner.values()
            case list() as inner:
                pending += inner
            case _:
                pass
    return found


def _brief(error: Exception) -> str:
    """What is wrong, for people: of a hundred thousand wrong items the first few."""
    if isinstance(error, ValidationError) and error.error_count() > 100:  # all of them are seconds and megabytes
        return f"{error.error_count():,} of its values do not fit"
    text = str(error)
    return text if len(text) <= 1000 else f"{text[:1000]}…"


_TYPED: Final[Mapping[str, type[BaseModel]]] = {
    "json": models.JsonParameter,
    "metric": models.MetricParameter,
    "object": models.ObjectParameter,
}


def _read_own(fields: dict[str, Json]) -> object:
    """A plain value was stored without a kind; a kind of a newer version comes back as the dict that it is."""
    if "kind" not in fields:
        return fields["value"]
    typed = _TYPED.get(str(fields["kind"]))
    return fields if typed is None or fields.keys() != {"kind", "value"} else typed.model_validate(fields)


def _write_own(value: object) -> dict[str, object]:
    if isinstance(value, models.JsonParameter | models.MetricParameter | models.ObjectParameter):
        return value.model_dump(exclude_computed_fields=True, warnings=False)
    return {"value": value}  # any other model is refused there: it could not come back


OWN: Final = Schema(
    run_log=models.RunLog,
    step_log=models.StepLog,
    branch_log=models.BranchLog,
    job_log=models.JobLog,
    step_attempt=models.StepAttempt,
    code_identity=models.CodeIdentity,
    data_catalog=models.DataCatalog,
    parameter=ParameterForm(_read_own, _write_own),
)
"""The classes of `chunkstore.models`."""
