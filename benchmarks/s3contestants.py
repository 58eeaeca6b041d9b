"""The contestants on S3: chunkstore, runnable's chunked-minio, and objects moved raw with s3fs and obstore."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

import orjson
import sample
from harness import installed

import chunkstore

AT_ONCE: Final = 64
"""Requests at once: chunkstore's default, and what obstore and the tuned s3fs get here."""

CURRENT_RUN: Final = {"id": ""}

if installed("runnable", "boto3"):
    with contextlib.redirect_stdout(io.StringIO()):
        from extensions.run_log_store.chunked_minio import ChunkedMinioRunLogStore, get_minio_client
        from runnable import datastore, exceptions
    logging.getLogger("runnable").setLevel(logging.ERROR)

    class _ChunkedMinio(ChunkedMinioRunLogStore):
        """With a stand-in for the run that is current: the store asks it for its id, and ignores the id it is given."""

        @property
        def _context(self) -> Any:
            return SimpleNamespace(run_id=CURRENT_RUN["id"])


def settings_of(server: Any) -> dict[str, Any]:
    access = {"endpoint_url": server.endpoint_url, "key": server.key, "secret": server.secret, "region": server.region}
    return {**access, "max_connections": AT_ONCE}


class ChunkstoreS3:
    """A fresh store, as in a new process: its connections are open, and it knows no chunk."""

    name = "chunkstore"

    def __init__(self, server: Any, bucket: str, engine: str = "auto") -> None:
        self.store = chunkstore.open(f"s3://{bucket}/chunkstore", **settings_of(server), engine=engine)
        self.store.list_run_ids()
        _ = self.store.backend.guarantees  # asks the server once per process what it honours

    def create(self, run: str) -> None:
        self.store.create_run_log(run)

    def put(self, run: str, fields: Mapping[str, Any]) -> None:
        self.store.put_run_log(chunkstore.RunLog.model_validate({"run_id": run, **fields}))

    def read(self, run: str) -> chunkstore.RunLog:
        return self.store.get_run_log_by_id(run)

    def step(self, fields: Mapping[str, Any]) -> Any:
        return chunkstore.StepLog.model_validate(fields)

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        return {name: chunkstore.JsonParameter(value=value) for name, value in values.items()}  # type: ignore[arg-type]

    def add_step(self, run: str, step: Any) -> None:
        self.store.add_step_log(step, run)

    def set_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        self.store.set_parameters(run, parameters)

    def set_status(self, run: str, status: str) -> None:
        self.store.update_run_log_status(run, status)

    def get_step(self, run: str, name: str) -> object:
        return self.store.get_step_log(name, run)

    def get_parameters(self, run: str) -> object:
        return self.store.get_parameters(run)

    def close(self) -> None:
        self.store.close()


class RunnableChunkedMinio:
    """A fresh client with an empty file cache. One object per run and per branch; the steps are inside."""

    name = "runnable chunked-minio"

    def __init__(self, server: Any, bucket: str) -> None:
        get_minio_client.cache_clear()
        self._store = _ChunkedMinio(
            endpoint_url=server.endpoint_url,
            aws_access_key_id=server.key,
            aws_secret_access_key=server.secret,
            bucket=f"{bucket}/minio",
        )
        with contextlib.suppress(exceptions.RunLogNotFoundError):
            self._of("connect").get_run_log_by_id(run_id="connect")

    def create(self, run: str) -> None:
        self._of(run).create_run_log(run_id=run)

    def put(self, run: str, fields: Mapping[str, Any]) -> None:
        """Branch by branch: `put_run_log` would put everything into one object, which no pipeline does."""
        self.create(run)
        for step in fields["steps"].values():
            for branch in step["branches"].values():
                self._of(run).add_branch_log(datastore.BranchLog.model_validate(branch), run)
            self.add_step(run, self.step({**step, "branches": {}}))

    def read(self, run: str) -> Any:
        return self._of(run).get_run_log_by_id(run_id=run, full=True)

    def step(self, fields: Mapping[str, Any]) -> Any:
        return datastore.StepLog.model_validate(fields)

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        return {name: datastore.JsonParameter(kind="json", value=value) for name, value in values.items()}

    def add_step(self, run: str, step: Any) -> None:
        self._of(run).add_step_log(step, run)

    def set_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        self._of(run).set_parameters(run_id=run, parameters=dict(parameters))

    def set_status(self, run: str, status: str) -> None:
        self._of(run).update_run_log_status(run_id=run, status=status)

    def get_step(self, run: str, name: str) -> object:
        return self._of(run).get_step_log(name, run)

    def get_parameters(self, run: str) -> object:
        return self._of(run).get_parameters(run_id=run)

    def close(self) -> None:
        """Its connections go with its client."""

    def _of(self, run: str) -> Any:
        CURRENT_RUN["id"] = run
        return self._store


class RawS3fs:
    """An object per chunk with s3fs: bytes, without conditions; a status is read and written. As it comes, or tuned."""

    def __init__(self, server: Any, bucket: str, *, tuned: bool = False) -> None:
        import s3fs

        self.name = "s3fs tuned" if tuned else "s3fs as it comes"
        # max_concurrency: parts of one object at once, each a request of its own, also when the object is small.
        more: dict[str, Any] = (
            {"max_concurrency": 1, "config_kwargs": {"max_pool_connections": AT_ONCE}} if tuned else {}
        )
        self.fs = s3fs.S3FileSystem(
            **server.storage_options(), **more, skip_instance_cache=True, use_listings_cache=False
        )
        self._root = f"{bucket}/raw"
        self._batch = {"batch_size": AT_ONCE} if tuned else {}
        with contextlib.suppress(FileNotFoundError):
            self.fs.ls(f"{bucket}/nothing")

    def create(self, run: str) -> None:
        self.set_status(run, "CREATED", new=True)

    def step(self, fields: Mapping[str, Any]) -> Any:
        return chunkstore.StepLog.model_validate(fields)

    parameters = ChunkstoreS3.parameters

    def add_step(self, run: str, step: Any) -> None:
        self.fs.pipe_file(f"{self._root}/{run}/step.{step.internal_name}", orjson.dumps(step.model_dump()))

    def set_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        self.fs.pipe(
            {f"{self._root}/{run}/p.{name}": orjson.dumps(one.model_dump()) for name, one in parameters.items()}
        )

    def set_status(self, run: str, status: str, *, new: bool = False) -> None:
        path = f"{self._root}/{run}/run"
        header = {} if new else orjson.loads(self.fs.cat_file(path))
        self.fs.pipe_file(path, orjson.dumps({**header, "status": status}))

    def get_step(self, run: str, name: str) -> object:
        return chunkstore.StepLog.model_validate_json(self.fs.cat_file(f"{self._root}/{run}/step.{name}"))

    def get_parameters(self, run: str) -> object:
        found = self.fs.glob(f"{self._root}/{run}/p.*")
        return {path: orjson.loads(data) for path, data in self._cat(found).items()}

    def read(self, run: str) -> dict[str, bytes]:
        return self.read_folder(f"{self._root}/{run}")

    def read_folder(self, folder: str) -> dict[str, bytes]:
        return self._cat(self.fs.find(folder))

    def put_raw(self, run: str, bodies: Mapping[str, bytes]) -> None:
        self.fs.pipe({f"{self._root}/{run}/{name}": body for name, body in bodies.items()})

    def close(self) -> None:
        """Its connections go with it."""

    def _cat(self, paths: list[str]) -> dict[str, bytes]:
        return dict(self.fs.cat(paths, **self._batch)) if len(paths) != 1 else {paths[0]: self.fs.cat_file(paths[0])}


class RawObstore:
    """Bytes with obstore, as many at once as chunkstore has connections."""

    name = "obstore"

    def __init__(self, server: Any, bucket: str) -> None:
        from obstore.store import S3Store

        self._store = S3Store(
            bucket,
            endpoint=server.endpoint_url,
            access_key_id=server.key,
            secret_access_key=server.secret,
            region=server.region,
            client_options={"allow_http": True},
        )
        self._keys("nothing")

    def read_folder(self, folder: str) -> list[bytes]:
        return asyncio.run(self._get_all(self._keys(folder)))

    def _keys(self, folder: str) -> list[str]:
        return [found["path"] for page in self._store.list(prefix=folder) for found in page]

    async def _get_all(self, keys: list[str]) -> list[bytes]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(key: str) -> bytes:
            async with places:
                answer = await self._store.get_async(key)
                return bytes(await answer.bytes_async())

        return await asyncio.gather(*map(one, keys))


def branches(count: int, *, bare: bool = False) -> dict[str, Any]:
    """The fields of a run with a map step of so many branches; bare: branches without steps and parameters."""
    step = sample.map_step()
    step["branches"] = {name: _branch(name, bare=bare) for name in map(sample.branch, range(count))}
    return {"status": "SUCCESS", "steps": {sample.MAP: step}}


def _branch(name: str, *, bare: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"internal_name": name, "status": "SUCCESS"}
    if not bare:
        fields["steps"] = {step: sample.step(step) for step in sample.steps_of(name)}
        fields["parameters"] = {key: sample.typed(value) for key, value in sample.parameters_of(name).items()}
    return fields
