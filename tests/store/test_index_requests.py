"""What finding runs and keeping their index costs, request by request: on a counting backend, and on MinIO's wire."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import ChunkedRunLogStore, reindexing
from chunkstore.backends import Backend
from chunkstore.testing import CountingBackend
from chunkstore.testing.proxy import CountingProxy
from places import in_bucket, memory

_PREFIXES = itertools.count(1)


class Place:
    """An empty place, and what it was asked for: how many listings, reads, writes and deletes."""

    def __init__(self, backend: Backend, ask: Callable[[], Counter[str]], forget: Callable[[], object]) -> None:
        self.backend = backend
        self._ask = ask
        self._forget = forget

    def cost(
        self, call: Callable[[ChunkedRunLogStore], object], store: ChunkedRunLogStore | None = None
    ) -> dict[str, int]:
        """Of a call of this store, or of one that knows nothing."""
        chosen = store or ChunkedRunLogStore(self.backend)
        self._forget()
        call(chosen)
        return dict(self._ask())


VERBS = {"get": "read", "get_many": "read", "put": "write", "list": "list", "folders": "list", "delete": "delete"}


def in_memory() -> Place:
    counting = CountingBackend(memory())
    return Place(counting, lambda: Counter(VERBS[request.verb] for request in counting.log), counting.reset)


def sort_of(method: str, query: str) -> str:
    if method == "GET":
        return "list" if "list-type=2" in query else "read"
    return {"PUT": "write", "DELETE": "delete"}.get(method, method)


@pytest.fixture(scope="module")
def wire(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Place]]:
    server = request.getfixturevalue("minio_server")
    bucket = server.new_bucket()
    with CountingProxy(server.endpoint_url) as proxy:

        def ask() -> Counter[str]:
            return Counter(sort_of(one.method, one.query) for one in proxy.requests)

        def fresh() -> Place:
            prefix = f"runs {next(_PREFIXES)}"
            folder: Path = tmp_path_factory.mktemp("locks")
            backend = in_bucket(server.through(proxy.url), folder, bucket=bucket, prefix=prefix)
            ChunkedRunLogStore(backend).create_run_log("first")  # the server is asked about conditions, once for a root
            ChunkedRunLogStore(backend).delete_run_log("first")
            return Place(backend, ask, proxy.reset)

        yield fresh


@pytest.fixture(params=["memory", "minio"])
def place(request: pytest.FixtureRequest) -> Place:
    return in_memory() if request.param == "memory" else request.getfixturevalue("wire")()


def fill(place: Place, finished: int, running: int = 0) -> ChunkedRunLogStore:
    store = ChunkedRunLogStore(place.backend)
    for number in range(finished + running):
        store.create_run_log(
            f"r{number:03d}", tag=f"t{number % 2}", status="SUCCESS" if number < finished else "PROCESSING"
        )
    return store


def find(store: ChunkedRunLogStore) -> Any:
    return store.find_runs(tag="t1")


def test_without_runs_nothing_but_the_runs_is_listed(place: Place) -> None:
    assert place.cost(find) == {"list": 1}
    assert place.cost(lambda store: store.reindex()) == {"list": 2, "read": 1}


def test_without_an_index_all_headers_are_read(place: Place) -> None:
    fill(place, 4, 1)
    assert place.cost(find) == {"list": 2, "read": 5}


def test_indexed_runs_cost_the_manifest_and_each_segment_once_and_the_others_one_each(place: Place) -> None:
    fill(place, 5, 2)
    assert place.cost(lambda store: store.reindex()) == {"list": 2, "read": 1 + 7, "write": 1 + 1}
    other = ChunkedRunLogStore(place.backend)
    assert place.cost(find, other) == {"list": 2, "read": 1 + 1 + 2}
    assert place.cost(find, other) == {"list": 2, "read": 1 + 0 + 2}
    assert place.cost(lambda store: store.get_run_logs(limit=1), other) == {"list": 2, "read": 1 + 2}
    assert place.cost(lambda store: list(store.iter_run_logs()), other) == {"list": 2, "read": 1 + 2}


def test_a_parameter_in_the_filter_costs_one_read_for_each_run_that_matches_otherwise(place: Place) -> None:
    store = fill(place, 4)
    store.set_parameters("r001", {"p": 1, "q": 2, "other": 3})
    store.reindex()
    base = {"list": 2, "read": 1 + 1 + 2}  # two runs have the tag
    assert place.cost(lambda store: store.find_runs(tag="t1", parameters={"p": 1})) == base
    both = {"p": 1, "q": 2}
    assert place.cost(lambda store: store.find_runs(tag="t1", parameters=both)) == {"list": 2, "read": 1 + 1 + 2 * 2}


def test_a_finished_run_that_changed_is_read_until_the_next_reindex(place: Place) -> None:
    store = fill(place, 3)
    store.reindex()
    store.set_run_config("r001", {"a": 1})
    store.set_run_config("r001", {"a": 2})
    other = ChunkedRunLogStore(place.backend)
    assert place.cost(find, other) == {"list": 2, "read": 1 + 1 + 1}
    # Manifest, segment and header; the new segment and manifest; two notes, and the segment whose place it took.
    assert place.cost(lambda store: store.reindex()) == {"list": 2, "read": 3, "write": 2, "delete": 3}
    assert place.cost(find, other) == {"list": 2, "read": 1 + 1}
    assert place.cost(find, other) == {"list": 2, "read": 1}


def test_a_write_that_never_came_costs_the_reindex_one_more(place: Place) -> None:
    store = fill(place, 2)
    store.reindex()
    store._chunks.put_new(".index/doubt.0badcafe0bad-1.r001", b"{}")  # of a writer that was killed then
    assert place.cost(lambda store: store.reindex()) == {"list": 2, "read": 3, "write": 3, "delete": 2}


def test_reindexing_again_costs_two_listings_the_manifest_and_what_is_not_finished(place: Place) -> None:
    store = fill(place, 3, 2)
    store.reindex()
    assert place.cost(lambda store: store.reindex()) == {"list": 2, "read": 1 + 1 + 2}
    assert place.cost(lambda store: store.reindex(), store) == {"list": 2, "read": 1 + 1 + 2}
    assert place.cost(lambda store: store.reindex(), store) == {
        "list": 2,
        "read": 1 + 2,
    }  # its own segment by now known


def test_making_it_anew_reads_all_headers_and_takes_the_old_segments_away(place: Place) -> None:
    fill(place, 4).reindex()
    assert place.cost(lambda store: store.reindex(full=True)) == {"list": 2, "read": 1 + 4, "write": 2, "delete": 1}


def test_finishing_a_run_costs_one_write_and_changing_it_then_two(place: Place) -> None:
    store = fill(place, 0, 1)
    assert place.cost(lambda store: store.update_run_log_status("r000", "SUCCESS"), store) == {"write": 1}
    assert place.cost(lambda store: store.update_run_log_status("r000", "SUCCESS"), store) == {"write": 1}
    assert place.cost(lambda store: store.update_run_log_status("r000", "FAIL"), store) == {"write": 2}
    assert place.cost(lambda store: store.update_run_log_status("r000", "PROCESSING"), store) == {"write": 2}
    assert place.cost(lambda store: store.set_run_config("r000", {"a": 1}), store) == {"write": 1}


def test_listings_cost_one_for_each_thousand_runs_and_each_thousand_notes() -> None:
    place = in_memory()
    store = fill(place, 1_001, 1)
    store.reindex()
    for number in range(999):
        store._chunks.put_new(f".index/doubt.0badcafe0bad-{number}.r000", b"{}")
    assert place.cost(find) == {"list": 2 + 2, "read": 1 + 1 + 1 + 1}
    assert place.cost(lambda store: list(store.iter_run_ids())) == {"list": 2}


def test_many_segments_are_read_once_each_and_small_ones_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reindexing, __import__("chunkstore.index", fromlist=["index"])):
        monkeypatch.setattr(module, "MAX_RUNS", 64)
    place = in_memory()
    store = ChunkedRunLogStore(place.backend)
    number = 0
    for _ in range(70):
        for _ in range(5):
            number += 1
            store.create_run_log(f"r{number:04d}", status="SUCCESS")
        report = store.reindex()
        # Full ones at least half so; of the small ones one for each power of two.
        assert report.segments <= 2 * report.runs / 64 + 6
        assert report.runs == number
    other = ChunkedRunLogStore(place.backend)
    assert place.cost(lambda store: store.find_runs(limit=3), other) == {"list": 2, "read": 1 + report.segments}
    assert place.cost(lambda store: store.find_runs(limit=3), other) == {"list": 2, "read": 1}
    assert [run.run_id for run in other.find_runs(order="oldest", limit=1000).runs] == store.list_run_ids()
