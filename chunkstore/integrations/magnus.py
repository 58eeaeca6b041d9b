"""The run log store of magnus 0.5: `type: chunkstore` in its configuration.

    run_log_store:
      type: chunkstore
      config:
        url: runs/            # or s3://bucket/prefix, with the settings of such a place beside it

magnus has one scope of parameters, the run's, and no job logs. What other clients stored of such in a run stays, and is not read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, cast

from magnus import context, datastore, defaults, exceptions
from magnus.executor import BaseExecutor
from magnus.integration import BaseIntegration
from pydantic import PrivateAttr
from pydantic_core import to_jsonable_python

from chunkstore.backends.local import LocalBackend
from chunkstore.errors import (
    BranchLogNotFoundError,
    ChunkStoreError,
    NotSupportedError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLogNotFoundError,
)
from chunkstore.integrations.configured import Configured, InFolder, raising
from chunkstore.models import BranchLog, JobLog, RunLog, StepLog
from chunkstore.reading import Parameters
from chunkstore.schema import ParameterForm, Schema
from chunkstore.values import Content, Json

log = logging.getLogger(__name__)

_TYPED: Final = ("json", "metric", "object")
_STARS: Final = "**********"


def _read_parameter(fields: dict[str, Json]) -> object:
    """The client knows only plain values; of a typed one that another client stored, it gets the value."""
    return fields["value"] if fields.get("kind", "json") in _TYPED else fields


def _write_parameter(value: object) -> dict[str, object]:
    return {"value": value}


MAGNUS: Final = Schema(
    run_log=datastore.RunLog,
    step_log=datastore.StepLog,
    branch_log=datastore.BranchLog,
    job_log=JobLog,
    step_attempt=datastore.StepAttempt,
    code_identity=datastore.CodeIdentity,
    data_catalog=datastore.DataCatalog,
    parameter=ParameterForm(_read_parameter, _write_parameter),
)
"""The model classes of magnus itself; it has none for jobs."""

_ERRORS: Final[Mapping[type[ChunkStoreError], Callable[[ChunkStoreError], Exception]]] = {
    RunLogNotFoundError: lambda error: exceptions.RunLogNotFoundError(error.run_id),
    RunLogExistsError: lambda error: exceptions.RunLogExistsError(error.run_id),
    StepLogNotFoundError: lambda error: exceptions.StepLogNotFoundError(error.run_id, error.name),
    BranchLogNotFoundError: lambda error: exceptions.BranchLogNotFoundError(error.run_id, error.name),
}


class ChunkStoreRunLogStore(Configured, datastore.BaseRunLogStore):
    """Run logs of magnus in a chunkstore; every method is as in magnus's base class, and raises magnus's errors.

    `url` is required; the other keys are the settings of the place that it names. What is wrong with them is an
    `InvalidInputError` that names the key.
    """

    schema_of_tool: ClassVar[Schema] = MAGNUS

    service_name: str = "chunkstore"

    _handed: Mapping[str, Content] = PrivateAttr(default_factory=dict)
    """What each of the parameters that were read last was, by its key."""

    @classmethod
    def find_secret(cls, name: str) -> str | None:
        """What magnus's secrets handler has; there is none before magnus has made the context of a run."""
        handler = getattr(context.run_context, "secrets_handler", None)
        if handler is None or handler.service_name == "do-nothing":  # which has an empty text for every name
            return None
        try:
            # A copy, as a handler keeps all that it has read from its file in a field, and magnus records all fields.
            return cast(str, handler.model_copy(deep=True).get(name))
        except exceptions.SecretNotFoundError:
            return None

    def create_run_log(
        self,
        run_id: str,
        dag_hash: str = "",
        use_cached: bool = False,
        tag: str = "",
        original_run_id: str = "",
        status: str = defaults.CREATED,
        **_kwargs: object,
    ) -> datastore.RunLog:
        with _magnus_errors():
            created = self.store.create_run_log(
                run_id,
                dag_hash=dag_hash,
                use_cached=use_cached,
                tag=tag,
                original_run_id=original_run_id,
                status=status,
            )
        return cast(datastore.RunLog, created)

    def get_run_log_by_id(self, run_id: str, full: bool = False, **_kwargs: object) -> datastore.RunLog:
        with _magnus_errors():
            return cast(datastore.RunLog, self.store.get_run_log_by_id(run_id, full=full))

    def put_run_log(self, run_log: datastore.RunLog, **_kwargs: object) -> None:
        with _magnus_errors():
            self.store.put_run_log(cast(RunLog, run_log))

    def update_run_log_status(self, run_id: str, status: str, **_kwargs: object) -> None:
        with _magnus_errors():
            self.store.update_run_log_status(run_id, status)

    def get_parameters(self, run_id: str, **_kwargs: object) -> dict[str, Any]:
        with _magnus_errors():
            parameters = self.store.get_parameters(run_id)
        self._handed = parameters.seen
        return parameters

    def set_parameters(self, run_id: str, parameters: Mapping[str, object], **_kwargs: object) -> None:
        # After each task magnus gives back all parameters of the run, as they were when the task began: those that it
        # did not change must not undo what another branch set meanwhile, whatever this process has read since.
        if not isinstance(parameters, Parameters):
            parameters = Parameters(_as_json(parameters), self._handed)
        with _magnus_errors():
            self.store.set_parameters(run_id, parameters)
        self._handed = parameters.seen

    def get_run_config(self, run_id: str, **_kwargs: object) -> dict[str, Any]:
        with _magnus_errors():
            return self.store.get_run_config(run_id)

    def set_run_config(self, run_id: str, run_config: dict[str, Any], **_kwargs: object) -> None:
        # The dump of a whole context, with all fields of every service: paths and the like become text, secrets stars.
        plain = to_jsonable_python(_without_secrets(run_config), bytes_mode="base64", fallback=repr)
        with _magnus_errors():
            self.store.set_run_config(run_id, plain)

    def get_step_log(self, internal_name: str, run_id: str, **_kwargs: object) -> datastore.StepLog:
        with _magnus_errors():
            return cast(datastore.StepLog, self.store.get_step_log(internal_name, run_id))

    def add_step_log(self, step_log: datastore.StepLog, run_id: str, **_kwargs: object) -> None:
        step_log.user_defined_metrics = _as_json(step_log.user_defined_metrics)  # the steps of a metric are numbers
        with _magnus_errors():
            self.store.add_step_log(cast(StepLog, step_log), run_id)

    def get_branch_log(
        self, internal_branch_name: str, run_id: str, **_kwargs: object
    ) -> datastore.BranchLog | datastore.RunLog:
        with _magnus_errors():
            found = self.store.get_branch_log(internal_branch_name, run_id)
        return cast("datastore.BranchLog | datastore.RunLog", found)

    def add_branch_log(
        self, branch_log: datastore.BranchLog | datastore.RunLog, run_id: str, **_kwargs: object
    ) -> None:
        with _magnus_errors():
            self.store.add_branch_log(cast("BranchLog | RunLog", branch_log), run_id)


class FolderRunLogStore(InFolder, ChunkStoreRunLogStore):
    """Type `chunkstore-fs`: `log_folder`, as magnus's `chunked-fs` and `file-system` have it, and the settings of a folder."""

    # Not that of magnus's store: what magnus then does with it would stand beside what `AnyExecutor` does.
    service_name: str = "chunkstore"


class S3RunLogStore(ChunkStoreRunLogStore):
    """Type `chunkstore-s3`: `s3_bucket` and the other keys of magnus's `s3`, and the settings of a bucket."""

    type_name: ClassVar[str] = "chunkstore-s3"


class MinioRunLogStore(ChunkStoreRunLogStore):
    """Type `chunkstore-minio`: `bucket` and the other keys of runnable's `chunked-minio`, and the settings of a bucket."""

    type_name: ClassVar[str] = "chunkstore-minio"


class DatabaseRunLogStore(ChunkStoreRunLogStore):
    """Type `chunkstore-db`: `connection_string`, as magnus's `db` has it, and the settings of a database."""

    type_name: ClassVar[str] = "chunkstore-db"


STORES: Final[Mapping[str, type[ChunkStoreRunLogStore]]] = {
    store.type_name: store
    for store in (ChunkStoreRunLogStore, FolderRunLogStore, S3RunLogStore, MinioRunLogStore, DatabaseRunLogStore)
}
"""The classes by their types; see `hosts`."""


class AnyExecutor(BaseIntegration):
    """What an executor must know of the store, or the store of it. magnus finds it by itself, as a subclass of its own."""

    service_type = "run_log_store"
    service_provider = "chunkstore"

    executor: BaseExecutor
    service: ChunkStoreRunLogStore

    def validate(self, **_kwargs: object) -> None:
        """Refuses memory for an executor that runs steps in other processes, where they would be lost."""
        name = self.executor.service_name
        if self.service.scheme == "memory" and (name not in ("local", "mocked") or self.executor.enable_parallel):
            raise NotSupportedError(
                f"{self.service.url} is the memory of one process, and the executor {name!r} runs steps in others; "
                "choose a folder, a bucket or a database for the runs"
            )
        if self.service.scheme == "file" and name == "argo":
            log.warning("%s must be a volume that every pod of argo mounts there", self.service.url)

    def configure_for_traversal(self, **_kwargs: object) -> None:
        """Mounts the folder of the runs into the containers."""
        backend = self.service.store.backend
        if self.executor.service_name == "local-container" and isinstance(backend, LocalBackend):
            executor = cast(Any, self.executor)
            executor._volumes[backend.root] = {"bind": executor._container_log_location, "mode": "rw"}  # noqa: SLF001

    def configure_for_execution(self, **_kwargs: object) -> None:
        """In a container, the runs are where the folder is mounted."""
        if self.executor.service_name == "local-container" and self.service.scheme == "file":
            self.service.move_to(cast(Any, self.executor)._container_log_location)  # noqa: SLF001


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As magnus's own stores give values back: through JSON, where keys that are numbers become text."""
    try:
        return cast(dict[str, Any], json.loads(json.dumps(values)))
    except (TypeError, ValueError):  # the store says which one it cannot keep
        return dict(values)


def _without_secrets(run_config: dict[str, Any]) -> dict[str, Any]:
    """A secrets handler keeps all that it has read from its file in a field."""
    handler = run_config.get("secrets_handler")
    if not isinstance(handler, dict) or not isinstance(handler.get("secrets"), dict):
        return run_config
    return {**run_config, "secrets_handler": {**handler, "secrets": dict.fromkeys(handler["secrets"], _STARS)}}


def _magnus_errors() -> AbstractContextManager[None]:
    return raising(_ERRORS)
