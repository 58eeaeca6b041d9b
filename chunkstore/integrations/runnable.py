"""The run log store of runnable: `type: chunkstore` in its configuration.

    run-log-store:
      type: chunkstore
      config:
        url: runs/            # or s3://bucket/prefix, with the settings of such a place beside it

It holds settings and delegates. Nothing of a store is in it: runnable prints it, dumps it and pickles it into worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, cast

from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_jsonable_python
from runnable import context, datastore, defaults, exceptions

from chunkstore.errors import (
    BranchLogNotFoundError,
    ChunkStoreError,
    JobLogNotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLogNotFoundError,
)
from chunkstore.integrations.configured import Configured, InFolder, raising
from chunkstore.models import BranchLog, JobLog, RunLog, StepLog
from chunkstore.schema import ParameterForm, Schema
from chunkstore.values import Json

_PARAMETER: Final[TypeAdapter[object]] = TypeAdapter(datastore.Parameter)
_KINDS: Final = ("json", "metric", "object")


def _read_parameter(fields: dict[str, Json]) -> object:
    """The client knows only typed parameters; a plain value that another program stored is a JSON one."""
    if fields.get("kind") in _KINDS:
        return _PARAMETER.validate_python(fields)
    plain = fields["value"] if "kind" not in fields else fields
    return datastore.JsonParameter(kind="json", value=cast(Any, plain))


def _write_parameter(parameter: object) -> dict[str, object]:
    if isinstance(parameter, BaseModel):
        return parameter.model_dump(exclude_computed_fields=True, warnings=False)
    return {"kind": "json", "value": parameter}


RUNNABLE: Final = Schema(
    run_log=datastore.RunLog,
    step_log=datastore.StepLog,
    branch_log=datastore.BranchLog,
    job_log=datastore.JobLog,
    step_attempt=datastore.StepAttempt,
    code_identity=datastore.CodeIdentity,
    data_catalog=datastore.DataCatalog,
    parameter=ParameterForm(_read_parameter, _write_parameter),
)
"""The model classes of runnable itself."""


_ERRORS: Final[Mapping[type[ChunkStoreError], Callable[[ChunkStoreError], Exception]]] = {
    RunLogNotFoundError: lambda error: exceptions.RunLogNotFoundError(error.run_id),
    RunLogExistsError: lambda error: exceptions.RunLogExistsError(error.run_id),
    StepLogNotFoundError: lambda error: exceptions.StepLogNotFoundError(error.run_id, error.name),
    BranchLogNotFoundError: lambda error: exceptions.BranchLogNotFoundError(error.run_id, error.name),
    JobLogNotFoundError: lambda error: exceptions.JobLogNotFoundError(error.run_id),
}


class ChunkStoreRunLogStore(Configured, datastore.BaseRunLogStore):
    """Run logs of runnable in a chunkstore; every method is as in runnable's base class, and raises runnable's errors.

    `url` is required; the other keys are the settings of the place that it names. What is wrong with them is an
    `InvalidInputError` that names the key.
    """

    schema_of_tool: ClassVar[Schema] = RUNNABLE

    service_name: str = "chunkstore"

    @classmethod
    def find_secret(cls, name: str) -> str | None:
        """What runnable's secrets manager has; none of it is there before runnable has made the context of a run."""
        manager = getattr(context.get_run_context(), "secrets", None)
        if manager is None or manager.service_name == "do-nothing":  # which has an empty text for every name
            return None
        try:
            return cast("str | None", manager.get(name))
        except exceptions.SecretNotFoundError:
            return None

    def get_summary(self) -> dict[str, Any]:
        return self.store.get_summary()

    def create_run_log(
        self,
        run_id: str,
        dag_hash: str = "",
        use_cached: bool = False,
        tag: str = "",
        original_run_id: str = "",
        status: str = defaults.CREATED,
    ) -> datastore.RunLog:
        with _runnables_errors():
            created = self.store.create_run_log(
                run_id,
                dag_hash=dag_hash,
                use_cached=use_cached,
                tag=tag,
                original_run_id=original_run_id,
                status=status,
            )
        return cast(datastore.RunLog, created)

    def get_run_log_by_id(self, run_id: str, full: bool = True) -> datastore.RunLog:
        with _runnables_errors():
            return cast(datastore.RunLog, self.store.get_run_log_by_id(run_id, full=full))

    def put_run_log(self, run_log: datastore.RunLog) -> None:
        with _runnables_errors():
            self.store.put_run_log(cast(RunLog, run_log))

    def update_run_log_status(self, run_id: str, status: str) -> None:
        with _runnables_errors():
            self.store.update_run_log_status(run_id, status)

    def get_parameters(self, run_id: str, internal_branch_name: str = "") -> dict[str, Any]:
        with _runnables_errors():
            return self.store.get_parameters(run_id, internal_branch_name)

    def set_parameters(self, run_id: str, parameters: Mapping[str, object], internal_branch_name: str = "") -> None:
        with _runnables_errors():
            self.store.set_parameters(run_id, parameters, internal_branch_name)

    def get_run_config(self, run_id: str) -> dict[str, Any]:
        with _runnables_errors():
            return self.store.get_run_config(run_id)

    def set_run_config(self, run_id: str, run_config: dict[str, Any]) -> None:
        # The dump of a whole context, for people and for a retry: paths and the like become text, secrets stars.
        with _runnables_errors():
            self.store.set_run_config(run_id, to_jsonable_python(run_config, bytes_mode="base64", fallback=repr))

    def get_step_log(self, internal_name: str, run_id: str) -> datastore.StepLog:
        with _runnables_errors():
            return cast(datastore.StepLog, self.store.get_step_log(internal_name, run_id))

    def add_step_log(self, step_log: datastore.StepLog, run_id: str) -> None:
        with _runnables_errors():
            self.store.add_step_log(cast(StepLog, step_log), run_id)

    def get_branch_log(self, internal_branch_name: str, run_id: str) -> datastore.BranchLog | datastore.RunLog:
        with _runnables_errors():
            found = self.store.get_branch_log(internal_branch_name, run_id)
        return cast("datastore.BranchLog | datastore.RunLog", found)

    def add_branch_log(self, branch_log: datastore.BranchLog | datastore.RunLog, run_id: str) -> None:
        with _runnables_errors():
            self.store.add_branch_log(cast("BranchLog | RunLog", branch_log), run_id)

    def get_job_log(self, run_id: str) -> datastore.JobLog:
        with _runnables_errors():
            return cast(datastore.JobLog, self.store.get_job_log(run_id))

    def add_job_log(self, run_id: str, job_log: datastore.JobLog) -> None:
        with _runnables_errors():
            self.store.add_job_log(run_id, cast(JobLog, job_log))


class FolderRunLogStore(InFolder, ChunkStoreRunLogStore):
    """Type `chunkstore-fs`: `log_folder`, as runnable's `chunked-fs` and `file-system` have it, and the settings of a folder."""


class S3RunLogStore(ChunkStoreRunLogStore):
    """Type `chunkstore-s3`: `s3_bucket` and the other keys of magnus's `s3`, and the settings of a bucket."""

    type_name: ClassVar[str] = "chunkstore-s3"
    service_name: str = "chunkstore-s3"


class MinioRunLogStore(ChunkStoreRunLogStore):
    """Type `chunkstore-minio`: `bucket` and the other keys of runnable's `chunked-minio`, and the settings of a bucket."""

    type_name: ClassVar[str] = "chunkstore-minio"
    service_name: str = "chunkstore-minio"


class DatabaseRunLogStore(ChunkStoreRunLogStore):
    """Type `chunkstore-db`: `connection_string`, as magnus's `db` has it, and the settings of a database."""

    type_name: ClassVar[str] = "chunkstore-db"
    service_name: str = "chunkstore-db"


STORES: Final[Mapping[str, type[ChunkStoreRunLogStore]]] = {
    store.type_name: store
    for store in (ChunkStoreRunLogStore, FolderRunLogStore, S3RunLogStore, MinioRunLogStore, DatabaseRunLogStore)
}
"""The classes by their types; see `hosts`."""


def _runnables_errors() -> AbstractContextManager[None]:
    return raising(_ERRORS)
