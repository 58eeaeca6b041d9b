"""How close does each S3 engine come to raw obstore, the same objects, as many at once?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Literal

import harness
import s3contestants
import sample
from harness import Call, Results, Samples

import chunkstore
from chunkstore import keys
from chunkstore.backends import ANY
from chunkstore.testing.proxy import CountingProxy

QUESTION: Final = "How close does each S3 engine come to raw obstore, the same objects, as many at once?"
SIZES: Final = {"tiny": (30, 1), "small": (2000, 5), "full": (2000, 15)}
"""Objects, and rounds."""

LATENCIES: Final = (("plain", 0.0), ("+ 20 ms", 0.020))
ENGINES: Final[tuple[Literal["obstore", "s3fs"], ...]] = ("obstore", "s3fs")
RAW: Final = "raw obstore"
BODY: Final = json.dumps(sample.step("s")).encode()
NOTES: Final = (
    ("put", "objects of a step's size under no condition; 64 at once, by threads, and raw obstore by coroutines"),
    ("get", "the same keys, as `get_many` does it"),
    (
        "add",
        "`put_run_log` of a run of new steps: encoded, signed, created under a condition; raw obstore puts as above",
    ),
    ("read", "a listing, then all of a run's chunks, decoded, checked and put together; raw obstore lists and gets"),
    ("to raw", "time to raw obstore's of the same round: 1.25 x is 0.8 of its throughput"),
)


class Raw:
    """Bytes with obstore as it comes, as many at once as chunkstore has connections."""

    def __init__(self, server: Any, bucket: str) -> None:
        from obstore.store import S3Store

        self._store = S3Store(
            bucket,
            endpoint=server.endpoint_url,
            access_key_id=server.key,
            secret_access_key=server.secret,
            region=server.region,
            client_options={"allow_http": server.endpoint_url.startswith("http:")},
        )

    def put(self, names: list[str]) -> None:
        asyncio.run(self._all(names, lambda key: self._store.put_async(key, BODY, use_multipart=False)))

    def get(self, names: list[str]) -> None:
        asyncio.run(self._all(names, self._get))

    def read(self, folder: str) -> None:
        self.get([found["path"] for page in self._store.list(prefix=folder) for found in page])

    async def _get(self, key: str) -> bytes:
        return bytes(await (await self._store.get_async(key)).bytes_async())

    async def _all(self, names: list[str], do: Callable[[str], Awaitable[object]]) -> None:
        places = asyncio.Semaphore(s3contestants.AT_ONCE)

        async def one(key: str) -> None:
            async with places:
                await do(key)

        await asyncio.gather(*map(one, names))


class Lanes:
    """The contestants on one bucket. Each action is made ready first; what it returns is what is timed."""

    def __init__(self, server: Any, count: int) -> None:
        self._bucket, self._count, self._turn = server.new_bucket(), count, 0
        self._raw = Raw(server, self._bucket)
        self._stores = {engine: self._open(server, engine) for engine in ENGINES}
        first = self._stores["obstore"]
        first.put_run_log(_run("read", count))
        with ThreadPoolExecutor(s3contestants.AT_ONCE) as threads:
            list(threads.map(lambda key: first.backend.put(key, BODY, ANY), self._names("there")))

    def close(self) -> None:
        for store in self._stores.values():
            store.close()

    def actions(self) -> Iterator[tuple[str, dict[str, Callable[[], Call]]]]:
        under = f"runs/{keys.folder_of('read')}"
        put = {RAW: lambda: partial(self._raw.put, [f"raw/{key}" for key in self._names(self._fresh())])}
        get = {RAW: lambda: partial(self._raw.get, [f"runs/{key}" for key in self._names("there")])}
        read = {RAW: lambda: partial(self._raw.read, under)}
        for action, raw, make in (
            ("put", put, self._put),
            ("get", get, self._get),
            ("add", put, self._add),
            ("read", read, self._read),
        ):
            yield action, {**raw, **{f"engine {name}": partial(make, store) for name, store in self._stores.items()}}

    def _open(self, server: Any, engine: Any) -> chunkstore.ChunkedRunLogStore:
        store = chunkstore.open(f"s3://{self._bucket}/runs", engine=engine, **s3contestants.settings_of(server))
        store.list_run_ids()
        backend: Any = store.backend
        _ = backend.guarantees  # asks the server once per process what it honours
        if backend.engine != engine:
            raise SystemExit(f"engine {engine} was asked for, and {backend.engine} came")
        return store

    def _fresh(self) -> str:
        self._turn += 1
        return f"turn-{self._turn}"

    def _names(self, folder: str) -> list[str]:
        return [f"{folder}/{number}.json" for number in range(self._count)]

    def _put(self, store: chunkstore.ChunkedRunLogStore) -> Call:
        names = self._names(self._fresh())

        def put() -> None:
            with ThreadPoolExecutor(s3contestants.AT_ONCE) as threads:
                list(threads.map(lambda key: store.backend.put(key, BODY, ANY), names))

        return put

    def _get(self, store: chunkstore.ChunkedRunLogStore) -> Call:
        return lambda: self._whole(sum(1 for _ in store.backend.get_many(self._names("there"))))

    def _add(self, store: chunkstore.ChunkedRunLogStore) -> Call:
        return partial(store.put_run_log, _run(self._fresh(), self._count))

    def _read(self, store: chunkstore.ChunkedRunLogStore) -> Call:
        fresh = chunkstore.ChunkedRunLogStore(store.backend, settings=store.settings)
        return lambda: self._whole(len(fresh.get_run_log_by_id("read").steps))

    def _whole(self, found: int) -> None:
        if found != self._count:
            raise SystemExit(f"{found} of {self._count} were found")


def _run(run_id: str, count: int) -> chunkstore.RunLog:
    steps = {f"s{number}": sample.step(f"s{number}") for number in range(count)}
    return chunkstore.RunLog.model_validate({"run_id": run_id, "status": "SUCCESS", "steps": steps})


def bench(server: Any, name: str, latency: float, count: int, rounds: int, results: Results) -> None:
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(CountingProxy(server.endpoint_url)) if latency else None
        lanes = stack.enter_context(contextlib.closing(Lanes(server.through(proxy.url) if proxy else server, count)))
        if proxy:
            proxy.set_latency(latency)
        rows = []
        for action, contestants in lanes.actions():
            turns = {who: partial(_round, take) for who, take in contestants.items()}
            samples = harness.interleaved(turns, rounds)
            rows += [_row(action, who, one, samples[RAW], count) for who, one in samples.items()]
    head = ["action", "contestant", *harness.HEAD, "objects a second", "to raw"]
    results.table(f"{name}, {count:,} objects, milliseconds for all of them", head, rows)


def _round(take: Callable[[], Call], _number: int) -> list[float]:
    return harness.timed([take()])


def _row(action: str, who: str, one: Samples, raw: Samples, count: int) -> list[str]:
    rate = harness.number(count / sorted(one.all)[len(one.all) // 2])
    return [action, who, *harness.core(one), rate, harness.ratio(one.ratio_to(raw))]


def main() -> None:
    given = harness.options(QUESTION, "Plain and with 20 ms of latency.")
    if not harness.installed("obstore"):
        raise SystemExit("skipped: obstore is not installed")
    began = time.monotonic()
    with harness.places(given) as places, harness.s3_server() as server:
        results = harness.print_facts(QUESTION, given, places, [harness.server_version(server)])
        for name, latency in LATENCIES:
            bench(server, name, latency, *SIZES[given.size], results)
    harness.print_notes("What is what", NOTES)
    harness.print_end(began)
    results.save(given)


if __name__ == "__main__":
    main()
