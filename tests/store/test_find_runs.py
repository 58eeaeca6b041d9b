"""Runs by filter, page by page, and as a stream: the same whether they are indexed, in doubt, or neither."""

from __future__ import annotations

import inspect
import itertools
import math
import random
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import (
    ChunkedRunLogStore,
    InvalidInputError,
    JsonParameter,
    RunFilter,
    RunLog,
    RunPage,
    StepLog,
    codec,
    keys,
)
from chunkstore.backends import ANY, FOUND, Backend
from chunkstore.backends.local import LocalBackend
from chunkstore.clock import HybridClock
from chunkstore.codec import Chunk, Envelope
from chunkstore.keys import Kind
from chunkstore.schema import OWN
from chunkstore.testing import CountingBackend
from chunkstore.values import Content
from places import again, between, memory, place

DAY: Final = datetime(2026, 11, 21, tzinfo=UTC)
COUNT: Final = 60


def fields_of(number: int) -> dict[str, Any]:
    """A mix in which each filter lets some through, and no two the same."""
    status = ("SUCCESS", "FAIL", "PROCESSING", "SUCCESS", "CREATED")[number % 5]
    return {
        "run_id": f"{'nightly' if number % 2 else 'by hand'} {number:03d}",
        "tag": f"t{number % 3}",
        "status": status,
    }


def filled(backend: Backend, sort: str) -> ChunkedRunLogStore:
    """Sixty runs, one a minute: not indexed; or two thirds of them, of which some changed since."""
    seconds = itertools.count(int(DAY.timestamp()), 60)
    store = ChunkedRunLogStore(backend, clock=HybridClock(lambda: next(seconds) * 10**9))
    for number in random.Random(7).sample(range(COUNT), COUNT):
        fields = fields_of(number)
        store.create_run_log(**fields)
        store.set_parameters(fields["run_id"], {"rate": number % 4, "depth": {"max": [number % 2, None]}})
        if sort != "not indexed" and number == 5:
            store.reindex()
    if sort == "in doubt":
        store.reindex()
        for number in (1, 3, 10, 16, 18, 30, 31):
            store.update_run_log_status(fields_of(number)["run_id"], "TRIGGERED")
            store.update_run_log_status(fields_of(number)["run_id"], fields_of(number)["status"])
        store.set_run_config(fields_of(20)["run_id"], {"x": 1})
    return store


@pytest.fixture(scope="module", params=["not indexed", "indexed in part", "in doubt"])
def runs(request: pytest.FixtureRequest) -> ChunkedRunLogStore:
    return filled(memory(), request.param)


def ids(found: Any) -> list[str]:
    return [run_log.run_id for run_log in found]


def age_of(store: ChunkedRunLogStore) -> dict[str, datetime]:
    return {run.run_id: run.created_at for run in store.get_run_logs()}  # type: ignore[misc]


FILTERS: Final[Mapping[str, tuple[dict[str, Any], Callable[[int], bool]]]] = {
    "all": ({}, lambda n: True),
    "status": ({"status": "FAIL"}, lambda n: n % 5 == 1),
    "status in lower case": ({"status": "success"}, lambda n: n % 5 in (0, 3)),
    "tag": ({"tag": "t2"}, lambda n: n % 3 == 2),
    "text": ({"text": "ghtly 0"}, lambda n: n % 2 == 1),
    "text in another case": ({"text": "NIGHTLY"}, lambda n: False),
    "one parameter": ({"parameters": {"rate": 3}}, lambda n: n % 4 == 3),
    "one parameter, as a float": ({"parameters": {"rate": 1.0}}, lambda n: n % 4 == 1),
    "one parameter, typed": ({"parameters": {"rate": JsonParameter(value=2)}}, lambda n: n % 4 == 2),
    "true is not 1": ({"parameters": {"rate": True}}, lambda n: False),
    "a nested parameter": ({"parameters": {"depth": {"max": (1, None)}}}, lambda n: n % 2 == 1),
    "two parameters": ({"parameters": {"rate": 0, "depth": {"max": [0, None]}}}, lambda n: n % 4 == 0),
    "a parameter that no run has": ({"parameters": {"nobody": 1}}, lambda n: False),
    "all at once": (
        {"status": "SUCCESS", "tag": "t0", "text": "0", "parameters": {"rate": 0}},
        lambda n: n % 5 in (0, 3) and n % 3 == 0 and n % 4 == 0,
    ),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_each_filter_finds_exactly_what_it_says_in_order(runs: ChunkedRunLogStore, name: str, order: Any) -> None:
    keywords, expected = FILTERS[name]
    ages = age_of(runs)
    wanted = [fields["run_id"] for n in range(COUNT) if expected(n) for fields in [fields_of(n)]]
    wanted.sort(key=ages.__getitem__, reverse=order == "newest")
    store = again(runs)
    assert ids(store.find_runs(order=order, **keywords).runs) == wanted
    assert ids(store.find_runs(RunFilter(**keywords), order=order).runs) == wanted
    assert ids(store.iter_run_logs(order=order, **keywords)) == wanted
    newest = wanted if order == "newest" else wanted[::-1]
    assert ids(store.get_run_logs(**keywords)) == newest
    assert ids(store.get_run_logs(sorted(ages), **keywords)) == newest
    assert ids(store.get_run_logs(limit=3, **keywords)) == newest[:3]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("limit", [1, 7, COUNT, 1000])
def test_pages_put_together_are_the_whole(runs: ChunkedRunLogStore, name: str, limit: int) -> None:
    store, keywords = again(runs), FILTERS[name][0]
    whole, found, cursor, pages = ids(store.iter_run_logs(**keywords)), [], "", 0
    while True:
        page = store.find_runs(limit=limit, cursor=cursor, **keywords)
        found += ids(page.runs)
        pages += 1
        if not page.cursor:
            break
        assert len(page.runs) == limit
        cursor = page.cursor
    assert found == whole
    assert pages <= max(1, math.ceil(COUNT / limit))


def test_times_bound_the_creation_and_the_end_is_not_in_it(runs: ChunkedRunLogStore) -> None:
    ages = sorted(age_of(runs).items(), key=lambda one: one[1])
    (_, since), (_, until) = ages[10], ages[20]
    expected = [run_id for run_id, _ in ages[10:20]]
    there = timezone(timedelta(hours=5, minutes=30))
    for first, last in ((since, until), (since.astimezone(there), until.astimezone(there))):
        assert ids(runs.find_runs(since=first, until=last, order="oldest").runs) == expected
        assert sorted(ids(runs.get_run_logs(since=first, until=last))) == sorted(expected)
    assert runs.find_runs(since=until, until=since) == RunPage((), "")
    assert len(runs.find_runs(since=datetime.min.replace(tzinfo=UTC)).runs) == COUNT
    assert len(runs.find_runs(until=datetime.max.replace(tzinfo=UTC)).runs) == COUNT


def test_runs_that_come_and_go_between_pages_shift_none(runs: ChunkedRunLogStore) -> None:
    store = filled(memory(), "in doubt")
    whole = ids(store.iter_run_logs())
    first = store.find_runs(limit=20)
    store.create_run_log("younger than all")
    store.delete_run_log(whole[3])
    store.delete_run_log(whole[30])
    store.reindex()
    second = store.find_runs(limit=20, cursor=first.cursor)
    assert ids(first.runs + second.runs) == [one for one in whole[:41] if one != whole[30]]
    assert ids(store.find_runs(limit=2).runs) == ["younger than all", whole[0]]


def test_what_is_found_is_as_it_was_stored_and_can_be_put_back() -> None:
    store = ChunkedRunLogStore(memory())
    config = {"nan": math.nan, "big": 10**30, "text": "ü\ud800", "line": "a\nb"}
    made = store.create_run_log("r", tag="t", status="SUCCESS", more={"unknown": 1})
    store.set_run_config("r", config)
    direct = again(store).get_run_logs(["r"])[0]
    store.reindex()
    counting = CountingBackend(store.backend)
    other = ChunkedRunLogStore(counting)
    (found,) = other.find_runs().runs
    assert "r/run.json" not in counting.keys("get_many")
    assert repr(found) == repr(direct)
    assert (found.created_at, found.model_extra) == (made.created_at, {"more": {"unknown": 1}})
    assert found.run_config["big"] == 10**30
    assert math.isnan(found.run_config["nan"])  # type: ignore[arg-type]
    store.set_run_config("r", {"theirs": 1})
    found.tag = "mine"
    other.put_run_log(found)
    changed = again(store).get_run_log_by_id("r")
    assert (changed.tag, changed.run_config["theirs"]) == ("mine", 1)


def test_full_runs_are_whole_and_one_that_is_damaged_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    store = ChunkedRunLogStore(memory())
    for run_id in ("a", "b"):
        store.create_run_log(run_id, status="SUCCESS")
        store.set_parameters(run_id, {"p": run_id})
        store.add_step_log(StepLog(name="s", internal_name="s"), run_id)
    store.reindex()
    store.backend.put("b/step.s.json", b"{", ANY)
    pages = again(store).find_runs(full=True, order="oldest").runs
    assert [(run.run_id, dict(run.parameters), list(run.steps)) for run in pages] == [
        ("a", {"p": "a"}, ["s"]),
        ("b", {"p": "b"}, []),
    ]
    assert "b/step.s.json is damaged" in caplog.text
    assert [dict(run.parameters) for run in again(store).iter_run_logs(full=True)] == [{"p": "b"}, {"p": "a"}]


def test_a_header_that_fits_no_model_is_left_out_and_the_page_is_full_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = ChunkedRunLogStore(memory())
    for number in range(6):
        store.create_run_log(f"r{number}", status="SUCCESS")
    store.set_run_config("r3", {})
    key, envelope = keys.header("r4").key, Envelope("r4", "run", "", "", "2026-11-21T00:00:00.000000000Z", {"s": 1})
    content = Content(b'{"run_id":"r4","status":"SUCCESS","run_config":"no mapping"}')
    store.backend.put(key, codec.encode(Chunk(envelope, content)), ANY)
    for indexed in (False, True):
        if indexed:
            assert store.reindex(full=True).runs == 6
        caplog.clear()
        assert ids(again(store).find_runs(order="oldest", limit=3).runs) == ["r0", "r1", "r2"]
        assert "r4/run.json does not fit RunLog" in caplog.text
        assert len(again(store).find_runs().runs) == 5


def test_a_parameter_that_a_deleted_run_of_the_id_left_counts_for_nothing() -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("r", status="SUCCESS")
    store.set_parameters("r", {"p": 1})
    left = store.backend.get("r/parameter.p.json").data
    store.delete_run_log("r")
    store.create_run_log("r", status="SUCCESS")
    store.backend.put("r/parameter.p.json", left, FOUND)
    store.reindex()
    assert again(store).find_runs(parameters={"p": 1}).runs == ()


def test_a_limit_ends_the_reading_of_parameters() -> None:
    store = filled(memory(), "not indexed")
    backend = CountingBackend(store.backend)
    assert len(ChunkedRunLogStore(backend).find_runs(text="hand", parameters={"rate": 2}, limit=2).runs) == 2
    asked = [key for key in backend.keys("get_many") if "parameter" in key]
    assert len(asked) < 15


REFUSED: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "a time without a zone": ({"since": datetime(2026, 1, 1)}, "since needs a time zone"),  # noqa: DTZ001
    "a time that is a text": ({"until": "2026-01-01"}, "until must be a datetime"),
    "a time that is before all years": (
        {"since": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))},
        "since is no year",
    ),
    "a tag that is no text": ({"tag": 1}, "tag must be a string"),
    "a status that is none": ({"status": None}, "status must be a string"),
    "parameters as a list": ({"parameters": ["rate"]}, "must be a mapping"),
    "a parameter that is no JSON": ({"parameters": {"p": {1, 2}}}, "parameter 'p' cannot be compared"),
    "a parameter without a name": ({"parameters": {"": 1}}, "name of a parameter is empty"),
    "an order that there is not": ({"order": "best"}, "no order 'best'"),
    "a limit of nothing": ({"limit": 0}, "limit must be a number of runs"),
    "a filter twice": ({"wanted": RunFilter(tag="t"), "tag": "t"}, "not both"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(name: str) -> None:
    keywords, message = REFUSED[name]
    backend = CountingBackend(memory())
    store = ChunkedRunLogStore(backend)
    with pytest.raises(InvalidInputError, match=message):
        store.find_runs(**keywords)
    if not {"order", "limit", "wanted"} & keywords.keys():
        with pytest.raises(InvalidInputError, match=message):
            store.get_run_logs(**keywords)
    if "limit" not in keywords:
        with pytest.raises(InvalidInputError, match=message):
            store.iter_run_logs(**keywords)
    with pytest.raises(InvalidInputError, match="must not be negative"):
        store.get_run_logs(limit=-1)
    assert backend.requests == 0


def test_a_cursor_of_another_filter_or_order_is_refused(runs: ChunkedRunLogStore) -> None:
    cursor = runs.find_runs(limit=2, tag="t1", parameters={"rate": 1}).cursor
    same = {"tag": "t1", "parameters": {"rate": 1}}
    assert runs.find_runs(cursor=cursor, **same).runs  # another limit is no other question
    for other in (
        {**same, "tag": "t2"},
        {**same, "parameters": {"rate": 2}},
        {**same, "order": "oldest"},
        {**same, "since": DAY},
        {"tag": "t1"},
        {},
    ):
        with pytest.raises(InvalidInputError, match="belongs to another filter or order"):
            runs.find_runs(cursor=cursor, **other)  # type: ignore[arg-type]


def test_a_cursor_that_was_tampered_with_is_refused(runs: ChunkedRunLogStore) -> None:
    cursor = runs.find_runs(limit=2).cursor
    damaged = [cursor[:at] + chr(ord(cursor[at]) ^ 1) + cursor[at + 1 :] for at in range(len(cursor))]
    for one in [*damaged, cursor[:-1], cursor[1:], f"{cursor}A", "x", "ü", "===", " ", "AAAAAAAAAAAAAAAA"]:
        with pytest.raises(InvalidInputError, match="the cursor is damaged"):
            runs.find_runs(cursor=one)


@pytest.mark.parametrize("where", ["local", "minio"])
def test_it_finds_the_same_on_every_place(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = ChunkedRunLogStore(place(where, request, tmp_path))
    expected = {}
    for number in range(12):
        fields = fields_of(number)
        store.create_run_log(**fields)
        store.set_parameters(fields["run_id"], {"rate": number % 4})
        expected[fields["run_id"]] = number
    for indexed in (False, True, True):
        if indexed:
            store.reindex()
            store.set_run_config(fields_of(3)["run_id"], {"again": True})
        assert ids(again(store).get_run_logs()) == [*expected][::-1]
        assert ids(again(store).find_runs(status="FAIL", order="oldest").runs) == [
            run_id for run_id, number in expected.items() if number % 5 == 1
        ]
        assert ids(again(store).iter_run_logs(parameters={"rate": 1})) == [
            run_id for run_id, number in reversed(expected.items()) if number % 4 == 1
        ]
        assert sorted(again(store).iter_run_ids()) == store.list_run_ids() == sorted(expected)
    assert ".index" not in store.list_run_ids()


def test_what_is_made_after_a_query_is_younger_than_all_that_it_saw() -> None:
    backend = memory()
    ahead = ChunkedRunLogStore(backend, clock=HybridClock(lambda: 4_000_000_000 * 10**9))
    ahead.create_run_log("from the future", status="SUCCESS")
    ahead.reindex()
    store = ChunkedRunLogStore(backend)
    store.find_runs()
    store.create_run_log("later")
    assert ids(store.find_runs().runs) == ["later", "from the future"]


def test_a_stream_is_lazy_and_leaves_out_what_is_deleted_meanwhile() -> None:
    store = ChunkedRunLogStore(memory())
    for number in range(3):
        store.create_run_log(f"r{number}")
    stream = again(store).iter_run_logs(full=True)
    assert inspect.isgenerator(stream)
    assert next(stream).run_id == "r2"
    store.delete_run_log("r1")
    assert ids(stream) == ["r0"]


# Memory.

MANY: Final = between(20_000, 100_000)


@dataclass(frozen=True)
class Peak:
    bytes: int
    models: int


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    """So many finished runs, indexed."""
    backend = LocalBackend(tmp_path_factory.mktemp("many") / "runs", durability="process")
    for number in range(MANY):
        run_id = f"nightly-{number:06d}"
        run_log = RunLog(run_id=run_id, tag=f"t{number % 40}", status="FAIL" if number % 100 == 7 else "SUCCESS")
        run_log.run_config = {"seed": number, "catalog": ".catalog"}
        envelope = Envelope(
            run_id,
            "run",
            "",
            "",
            f"2026-11-21T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000000Z",
        )
        data = codec.encode(Chunk(envelope, OWN.write(Kind.HEADER, run_log)))
        backend.put(keys.header(run_id).key, data, FOUND)
    assert ChunkedRunLogStore(backend).reindex().runs == MANY
    return backend


def peak_of(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> Peak:
    made = itertools.count()
    validate = RunLog.model_validate_json.__func__  # type: ignore[attr-defined]

    def counted(kind: type[RunLog], *rest: Any, **keywords: Any) -> RunLog:
        next(made)
        return validate(kind, *rest, **keywords)  # type: ignore[no-any-return]

    monkeypatch.setattr(RunLog, "model_validate_json", classmethod(counted))
    tracemalloc.start()
    try:
        call()
        return Peak(tracemalloc.get_traced_memory()[1], next(made))
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_filter_with_a_limit_makes_no_more_models_than_it_returns(
    many: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ChunkedRunLogStore(many)
    peak = peak_of(monkeypatch, lambda: store.find_runs(status="FAIL", limit=50))
    assert peak.models == 50
    assert peak.bytes < 1_000 * MANY


@pytest.mark.slow
def test_a_stream_of_all_runs_holds_a_window_of_headers(many: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ChunkedRunLogStore(many)
    peak = peak_of(monkeypatch, lambda: sum(1 for _ in store.iter_run_logs()))
    assert peak.models == MANY
    assert peak.bytes < 1_500 * MANY


@pytest.mark.slow
def test_ids_stream_in_little_memory(many: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ChunkedRunLogStore(many)
    peak = peak_of(monkeypatch, lambda: sum(1 for _ in store.iter_run_ids()))
    assert peak.models == 0
    assert peak.bytes < 250 * MANY
