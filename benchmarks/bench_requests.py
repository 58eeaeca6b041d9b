"""How many requests does each action send to an S3 server?"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import harness
import sample
from harness import Call, Results, Samples, installed
from s3contestants import ChunkstoreS3, RawS3fs, branches

from chunkstore.testing.proxy import CountingProxy

if installed("runnable", "boto3"):
    from s3contestants import RunnableChunkedMinio

QUESTION: Final = "How many requests does each action send to an S3 server?"
LATENCY: Final = 0.020


@dataclass(frozen=True, slots=True)
class Size:
    branches: int
    rounds: int


SIZES: Final = {"tiny": Size(2, 1), "small": Size(20, 3), "full": Size(100, 9)}


@dataclass(frozen=True, slots=True)
class Act:
    """One call to be counted: on whose store, and what happens before it and is not counted."""

    title: str
    call: Call


def makers(server: Any, bucket: str) -> dict[str, Callable[[], Any]]:
    made: dict[str, Callable[[], Any]] = {"chunkstore": lambda: ChunkstoreS3(server, bucket)}
    if installed("runnable", "boto3"):
        made["runnable chunked-minio"] = lambda: RunnableChunkedMinio(server, bucket)
    made["s3fs as it comes"] = lambda: RawS3fs(server, bucket)
    made["s3fs tuned"] = lambda: RawS3fs(server, bucket, tuned=True)
    return made


def acts(make: Callable[[], Any], big: str, number: int) -> Iterator[Act]:
    """What a pipeline does, in its order. `big` is a run with many branches that is there already."""
    run = f"requests-{number}"
    one = make()
    yield Act("create a run", lambda: one.create(run))
    step = one.step(sample.step("train"))
    yield Act("add a step", lambda: one.add_step(run, step))
    changed = one.step(sample.step("train", "FAIL"))
    yield Act("update a step just added", lambda: one.add_step(run, changed))
    first = one.parameters({"alpha": number})
    yield Act("set 1 parameter", lambda: one.set_parameters(run, first))
    ten = one.parameters({f"p{index}": index + number for index in range(10)})
    yield Act("set 10 parameters", lambda: one.set_parameters(run, ten))
    yield Act("set the status", lambda: one.set_status(run, "PROCESSING"))
    yield Act("get a step", lambda: one.get_step(run, "train"))
    yield Act("get 11 parameters, known", lambda: one.get_parameters(run))
    other = make()  # a new process's view
    yield Act("get 11 parameters, cold", lambda: other.get_parameters(run))
    another = make()
    yield Act("add a step, run not known", lambda: another.add_step(run, another.step(sample.step("other"))))
    reader = make()
    yield Act("full read, cold", lambda: reader.read(big))
    yield Act("full read again, unchanged", lambda: reader.read(big))
    for store in (one, other, another, reader):
        store.close()


@dataclass(slots=True)
class Seen:
    """What one action of one contestant came to, round after round."""

    samples: Samples = field(default_factory=Samples)
    counts: list[int] = field(default_factory=list)
    conflicts: int = 0
    verbs: str = ""


def bench(server: Any, size: Size, results: Results) -> None:
    bucket, big = server.new_bucket(), f"{size.branches}-branches"
    with CountingProxy(server.endpoint_url) as proxy:
        contestants = makers(server.through(proxy.url), bucket)
        _store_big(makers(server, bucket), big, branches(size.branches))
        proxy.set_latency(LATENCY)
        seen: dict[tuple[str, str], Seen] = {}
        for number in range(size.rounds):
            shift = number % len(contestants)
            for name in [*contestants][shift:] + [*contestants][:shift]:
                harness.alone_with_the_collector()
                for act in acts(contestants[name], big, number):
                    _count(act, seen.setdefault((act.title, name), Seen()), proxy)
    actions = list(dict.fromkeys(title for title, _ in seen))
    rows = [_row(title, name, seen, results) for title in actions for name in contestants]
    head = ["action", "contestant", *harness.HEAD, "to chunkstore", "in the last round"]
    title = f"{server.name}, + {LATENCY * 1000:.0f} ms; full read of {size.branches} branches x (3 steps + 2 parameters); milliseconds"
    harness.print_table(title, head, rows)


def _store_big(stores: dict[str, Callable[[], Any]], run: str, fields: dict[str, Any]) -> None:
    for name, make in stores.items():
        if not name.startswith("s3fs"):
            make().put(run, fields)
    # The raw contestants read the same objects as they would have made: one per chunk.
    raw, bodies = stores["s3fs as it comes"](), {}
    for branch, inner in fields["steps"][sample.MAP]["branches"].items():
        bodies[branch] = b'{"internal_name":"' + branch.encode() + b'"}'
        bodies |= {step: raw.step(body).model_dump_json().encode() for step, body in inner["steps"].items()}
        bodies |= {f"{branch}.{name}": b'{"kind":"json","value":0.5}' for name in inner["parameters"]}
    raw.put_raw(run, {"run": b"{}", sample.MAP: raw.step(sample.map_step()).model_dump_json().encode(), **bodies})


def _count(act: Act, seen: Seen, proxy: Any) -> None:
    proxy.reset()
    seen.samples.rounds.append(harness.timed([act.call]))
    requests = proxy.requests
    seen.counts.append(len(requests))
    seen.conflicts += sum(1 for request in requests if request.status == 412)
    verbs = Counter(
        "LIST" if request.method == "GET" and "list-type" in request.query else request.method for request in requests
    )
    seen.verbs = " ".join(f"{verb} {count}" for verb, count in verbs.most_common())


def _row(title: str, name: str, seen: dict[tuple[str, str], Seen], results: Results) -> list[str]:
    mine = seen[title, name]
    low, high = min(mine.counts), max(mine.counts)
    mine.samples.requests = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    mine.samples.conflicts = mine.conflicts
    ratio = mine.samples.ratio_to(seen[title, "chunkstore"].samples)
    requests = statistics.median(mine.counts)
    results.add(action=title, contestant=name, **mine.samples.numbers() | {"requests": requests}, to_chunkstore=ratio)
    return [title, name, *harness.core(mine.samples), harness.ratio(ratio), mine.verbs if requests else "-"]


NOTES: Final = (
    ("requests", "on the wire, of one call; a client's own retries and redirects included"),
    ("conflicts", "replies with 412: a condition that did not hold"),
    (
        "chunkstore",
        "sends the condition with the write itself, and remembers versions; asks the server once per process what it honours",
    ),
    (
        "chunked-minio",
        "checks, reads and rewrites the object of the whole run; no conditions: a parallel write is lost without an error",
    ),
    (
        "s3fs",
        "an object per chunk, written without conditions; a status is read and written; nothing is parsed on a full read",
    ),
    ("in the last round", "by method; HEAD, GET, PUT and LIST"),
)


def main() -> None:
    given = harness.options(QUESTION, "A proxy before a MinIO of our own counts them.")
    began = time.monotonic()
    with harness.s3_server() as server:
        results = harness.print_facts(QUESTION, given, [], [harness.server_version(server)])
        bench(server, SIZES[given.size], results)
    harness.print_notes("What is what", NOTES)
    harness.print_end(began)
    results.save(given)


if __name__ == "__main__":
    main()
