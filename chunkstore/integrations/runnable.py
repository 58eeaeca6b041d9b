"""The run log store of runnable: `type: chunkstore` in its configuration.

    run-log-store:
      type: chunkstore
      config:
        url: runs/            # or s3://bucket/prefix, with the settings of such a place beside it

It holds settings and delegates. Nothing of a store is in it: runnable prints it, dumps it and pickles it into worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, PrivateAttr, SerializeAsAny, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from runnable import datastore, defaults, exceptions

from chunkstore.config import check_shown, checked_settings, has_scheme, open_checked
from chunkstore.errors import (
    BranchLogNotFoundError,
    InvalidInputError,
    JobLogNotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLogNotFoundError,
)
from chunkstore.models import BranchLog, JobLog, RunLog, StepLog
from chunkstore.schema import ParameterForm, Schema
from chunkstore.settings import Settings
from chunkstore.store import ChunkedRunLogStore
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


@lru_cache(maxsize=32)
def _opened(url: str, settings: Settings) -> ChunkedRunLogStore:
    """One store per process and configuration: runnable unpickles ours for every branch that a worker is given."""
    return open_checked(url, settings, schema=RUNNABLE)


class ChunkStoreRunLogStore(datastore.BaseRunLogStore):
    """Run logs of runnable in a chunkstore; every method is as in runnable's base class, and raises runnable's errors.

    `url` is required; the other keys are the settings of the place that it names. What is wrong with them is an
    `InvalidInputError` that names the key.
    """

    model_config = ConfigDict(extra="forbid", frozen=False)

    service_name: str = "chunkstore"
    supports_parallel_writes: bool = True
    url: str
    settings: SerializeAsAny[Settings]

    _place: str = PrivateAttr("")

    def __init__(self, **config: Any) -> None:
        if not config.get("url"):
            raise InvalidInputError(
                "run-log-store of type chunkstore needs a url: a folder such as 'runs/', or 's3://bucket/prefix'"
            )
        if not isinstance(config["url"], str):
            raise InvalidInputError(f"run-log-store of type chunkstore: the url must be text, not {config['url']!r}")
        check_shown(config["url"].strip())
        own = datastore.BaseRunLogStore.model_fields.keys() | {"url"}
        settings = checked_settings(config["url"], {name: value for name, value in config.items() if name not in own})
        try:
            super().__init__(**{"settings": settings} | {name: value for name, value in config.items() if name in own})
        except ValidationError as error:
            wrong = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors(include_input=False))
        else:
            return
        raise InvalidInputError(f"run-log-store of type chunkstore: {wrong}")  # its context would hold the values

    def model_post_init(self, _: Any, /) -> None:
        # Tasks may change the folder that a process works in; the runs stay where they were begun.
        folder = os.path.expanduser(self.url)  # noqa: PTH111  as `chunkstore.open` reads it
        self._place = self.url if has_scheme(self.url) else os.path.abspath(folder)  # noqa: PTH100  follows no links
        if self.url.lower().startswith("memory:"):
            self.supports_parallel_writes = False

    @property
    def store(self) -> ChunkedRunLogStore:
        """The store that all calls go to; with runnable's models."""
        return _opened(self._place, self.settings)

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


@contextmanager
def _runnables_errors() -> Iterator[None]:
    """The border: runnable decides by its own exception classes whether a run, step or branch is new."""
    try:
        yield
    except RunLogNotFoundError as error:
        raise exceptions.RunLogNotFoundError(error.run_id) from error
    except RunLogExistsError as error:
        raise exceptions.RunLogExistsError(error.run_id) from error
    except StepLogNotFoundError as error:
        raise exceptions.StepLogNotFoundError(error.run_id, error.name) from error
    except BranchLogNotFoundError as error:
        raise exceptions.BranchLogNotFoundError(error.run_id, error.name) from error
    except JobLogNotFoundError as error:
        raise exceptions.JobLogNotFoundError(error.run_id) from error
