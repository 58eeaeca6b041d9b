"""Runs of other tools come in whole, in their order, once; what is damaged, or would come back as another, is refused by name."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import chunkstore
from chunkstore import ChunkedRunLogStore, InvalidInputError, JsonParameter, MetricParameter, ObjectParameter, StepLog
from chunkstore.backends.local import LocalBackend
from chunkstore.maintenance import ImportReport, import_runs
from chunkstore.maintenance.imports import FORMATS
from chunkstore.maintenance.progress import Progress
from chunkstore.testing import CountingBackend
from places import again, in_bucket, memory

DATA = Path(__file__).parent.parent / "data"
MAGNUS = DATA / "magnus-0.5.1"
DB_LOG = DATA / "magnus-db-log"
Store = ChunkedRunLogStore


@pytest.fixture
def store() -> Store:
    return Store(memory())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What magnus wrote, to be spoiled."""
    return Path(shutil.copytree(MAGNUS / "chunked-fs", tmp_path / "source"))


def magnus_reads(store: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MAGNUS / "read.json").read_text())[store]
    return found


def not_kept(before: Any, after: Any, path: str = "") -> list[str]:
    """Where a value is missing or another one, and where steps, branches or lists are in another order."""
    if isinstance(before, dict):
        missing = [f"{path}/{name} is missing" for name in before.keys() - after.keys()]
        order = [f"order of {path}"] if in_order(path) and list(before) != list(after) else []
        inner = [not_kept(before[name], after[name], f"{path}/{name}") for name in before.keys() & after.keys()]
        return [*missing, *order, *(one for some in inner for one in some)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [one for index, item in enumerate(before) for one in not_kept(item, after[index], f"{path}/{index}")]
    return [] if type(before) is type(after) and before == after else [f"{path}: {before!r} is {after!r}"]


def in_order(path: str) -> bool:
    return path.endswith(("/steps", "/branches"))


def refusals(report: ImportReport) -> dict[str, str]:
    return {refusal.run_id: refusal.message for refusal in report.refused}


def in_file(folder: Path, run: dict[str, Any]) -> Path:
    """A run as `file-system` of runnable has it."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{run['run_id']}.json"
    file.write_text(json.dumps(run, indent=4))
    return file


def runnable_run(run_id: str = "r", **more: Any) -> dict[str, Any]:
    return {"run_id": run_id, "dag_hash": "", "tag": "", "status": "SUCCESS", "steps": {}, "parameters": {}, **more}


def step(name: str, internal_name: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "internal_name": internal_name or name, "status": "SUCCESS", "attempts": [], **more}


# What magnus wrote is what comes in.


@pytest.mark.parametrize("name", ["chunked-fs", "file-system"])
def test_what_magnus_wrote_is_read_as_magnus_reads_it(store: Store, name: str) -> None:
    report = import_runs(store, MAGNUS / name)
    expected = magnus_reads(name)
    assert sorted(report.imported) == sorted(expected)
    assert (report.skipped, report.refused) == ((), ())
    for run_id, run in expected.items():
        assert not_kept(run, again(store).get_run_log_by_id(run_id).model_dump()) == []


def test_the_data_of_magnus_holds_something_of_everything() -> None:
    nightly, fails, mended = (magnus_reads("chunked-fs")[name] for name in ("nightly 1", "fails", "mended"))
    types = {one["step_type"] for one in nightly["steps"].values()}
    assert types == {"task", "map", "parallel", "dag", "stub", "success"}
    assert [attempt["attempt_number"] for attempt in fails["steps"]["broken"]["attempts"]] == [1, 2]
    assert (mended["use_cached"], mended["original_run_id"], fails["status"]) == (True, "fails", "FAIL")
    assert nightly["parameters"]["nested"] == {"kind": "json", "value": [1, None, "ü 😀"]}
    assert "all parts.us.sides.right.rest" in json.dumps(nightly)


def test_what_magnus_wrote_into_a_database_is_read_as_magnus_reads_it(store: Store) -> None:
    report = import_runs(store, DB_LOG / "runs.db")
    expected = json.loads((DB_LOG / "read.json").read_text())
    assert (report.imported, report.refused) == (("nightly 1", "fails"), ())
    for run_id, run in expected.items():
        assert not_kept(run, again(store).get_run_log_by_id(run_id).model_dump()) == []
    assert store.get_run_log_by_id("fails").created_at == datetime(2026, 11, 21, 23, 30, 56, 570870, UTC)


def test_a_database_by_its_url_is_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
    import_runs(store, DB_LOG / "runs.db")
    monkeypatch.setenv("WHERE", str(DB_LOG))
    report = import_runs(store, "sqlite:///${WHERE}/runs.db")
    assert (report.imported, report.skipped, report.refused) == ((), ("nightly 1", "fails"), ())


def test_the_words_of_the_description_are_taken_too(store: Store, tmp_path: Path) -> None:
    file = shutil.copy(DB_LOG / "runs.db", tmp_path / "runs.db")
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE db_log SET attribute_type = 'Step' WHERE attribute_type = 'StepLog'")
        database.execute("UPDATE db_log SET attribute_type = 'Branch' WHERE attribute_type = 'BranchLog'")
        database.execute("ALTER TABLE db_log RENAME TO runs_of_2023")
    import_runs(store, DB_LOG / "runs.db")
    assert import_runs(store, file).skipped == ("nightly 1", "fails")


# Times and order.


def test_times_become_creation_times(store: Store) -> None:
    import_runs(store, MAGNUS / "chunked-fs")
    run = store.get_run_log_by_id("nightly 1")
    (given,) = (MAGNUS / "chunked-fs" / "nightly 1").glob("StepLog-give-*.json")
    at = int(given.stem.rpartition("-")[2])
    assert run.created_at == datetime.fromtimestamp(at // 10**9, UTC).replace(microsecond=at // 1000 % 10**6)
    assert [run.run_id for run in store.find_runs(order="oldest").runs] == ["nightly 1", "fails", "mended"]


def test_order_is_kept_where_times_say_otherwise(store: Store, tmp_path: Path) -> None:
    times = ["2024-01-01 12:00:00+00:00", "2023-01-01 12:00:00+00:00", "nonsense", "9000-01-01 00:00:00+00:00"]
    names = ["z", "y", "x", "w"]
    steps = {name: step(name, attempts=[{"start_time": time}]) for name, time in zip(names, times, strict=True)}
    file = in_file(tmp_path / "runs", runnable_run(steps=steps, parameters={"b": plain(1), "a": plain(2)}))
    os.utime(file, (1_720_000_000, 1_720_000_000))
    import_runs(store, tmp_path / "runs")
    run = again(store).get_run_log_by_id("r")
    assert (list(run.steps), list(run.parameters)) == (names, ["b", "a"])
    assert run.created_at == datetime(2023, 1, 1, 12, tzinfo=UTC)
    store.add_step_log(StepLog(name="later", internal_name="later"), "r")
    created = json.loads(store.backend.get("r/step.w.json").data)["_chunkstore"]["created_at"]
    assert created.startswith("2024-07-03T")  # not later than the file


def plain(value: Any) -> dict[str, Any]:
    return {"kind": "json", "value": value, "description": value}


# Nothing is lost.


def test_fields_that_no_model_of_ours_knows_survive(store: Store, tmp_path: Path) -> None:
    newer = {"since 0.60": {"a": [1, None]}}
    attempt = {"attempt_number": 1, "status": "SUCCESS", **newer}
    branch = {"internal_name": "m.eu", "status": "fail", "steps": {}, "parameters": {}, **newer}
    steps = {"m": step("m", branches={"m.eu": branch}, attempts=[attempt], **newer)}
    in_file(tmp_path / "runs", runnable_run(steps=steps, job={"status": "success", **newer}, **newer))
    import_runs(store, tmp_path / "runs")
    run = again(store).get_run_log_by_id("r").model_dump()
    for part in (run, run["job"], run["steps"]["m"], run["steps"]["m"]["branches"]["m.eu"]):
        assert part["since 0.60"] == {"a": [1, None]}
    assert run["steps"]["m"]["attempts"][0]["since 0.60"] == {"a": [1, None]}
    assert (run["job"]["status"], run["steps"]["m"]["branches"]["m.eu"]["status"]) == ("SUCCESS", "FAIL")


def test_parameters_keep_kind_and_value_exactly(store: Store, tmp_path: Path) -> None:
    parameters = {
        "json": plain({"big": 2**70, "deep": [1, 1.0, True, None]}),
        "metric": {"kind": "metric", "value": math.inf, "description": math.inf},
        "object": {"kind": "object", "value": "found", "description": "Pickled object stored in catalog as: found"},
        "newer": {"kind": "table", "value": 1, "rows": 3},
        "plain": [1, {"kind": "json"}],
    }
    branch = {"internal_name": "m.1.5", "status": "SUCCESS", "steps": {}, "parameters": {"inner": plain("x")}}
    steps = {"m": step("m", branches={"m.1.5": branch})}
    in_file(tmp_path / "runs", runnable_run(parameters=parameters, steps=steps))
    assert import_runs(store, tmp_path / "runs").refused == ()
    found = again(store).get_parameters("r")
    assert found["json"] == JsonParameter(value={"big": 2**70, "deep": [1, 1.0, True, None]})
    assert found["metric"] == MetricParameter(value=math.inf)
    assert found["object"] == ObjectParameter(value="found")
    assert (found["newer"], found["plain"]) == ({"kind": "table", "value": 1, "rows": 3}, [1, {"kind": "json"}])
    assert again(store).get_parameters("r", "m.1.5") == {"inner": JsonParameter(value="x")}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ODD: dict[str, Callable[[dict[str, Any]], object]] = {
    "holds no step log": lambda run: run["steps"]["a"].update(attempts="none"),
    "the value at /attempts/0/attempt_number": lambda run: run["steps"]["a"].update(attempts=[{"attempt_number": "1"}]),
    "the value at /mock": lambda run: run["steps"]["a"].update(mock="yes"),
    "where 'a' should be": lambda run: run["steps"]["a"].update(internal_name="b"),
    "should be an object": lambda run: run.update(parameters=[]),
    "has no branch 'x.y'": lambda run: run["steps"].update({"x.y.z": step("z", "x.y.z")}),
    "is in": lambda run: run["steps"]["x"].update(
        branches={"x.1": {"internal_name": "x.1", "steps": {"a": step("a")}}}
    ),
    "lone surrogates": lambda run: run["parameters"].update({"\ud800": plain(1)}),
    "the name of a parameter is empty": lambda run: run["parameters"].update({"": plain(1)}),
    "says that it is run 'other'": lambda run: run.update(run_id="other"),
    "holds no run log": lambda run: run.update(dag_hash=7),
    "nested too deep": lambda run: run.update(run_config={"deep": nested(500)}),
    "has more than 4,000 digits": lambda run: run.update(run_config={"integer": 10**4100}),
    "created_at that is no time": lambda run: run.update(created_at="yesterday"),
    "parameter 'p'": lambda run: run["parameters"].update(p={"kind": "object", "value": 1}),
}


@pytest.mark.parametrize("told", list(ODD))
def test_what_would_not_come_back_as_it_is_refuses_its_run_and_no_other(
    store: Store, tmp_path: Path, told: str
) -> None:
    run = runnable_run("odd", steps={"a": step("a"), "x": step("x", branches={})})
    ODD[told](run)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "odd.json").write_text(json.dumps(run))
    in_file(tmp_path / "runs", runnable_run("good"))
    report = import_runs(store, tmp_path / "runs")
    assert report.imported == ("good",)
    assert told in refusals(report)["odd"]
    assert store.list_run_ids() == ["good"]


def test_a_step_in_another_branch_than_its_name_says_is_refused(store: Store, tmp_path: Path) -> None:
    inner = {"internal_name": "x.1", "steps": {"x.2.t": step("t", "x.2.t")}}
    steps = {"x": step("x", branches={"x.1": inner, "x.2": {"internal_name": "x.2"}})}
    in_file(tmp_path / "runs", runnable_run("odd", steps=steps))
    assert (
        "has the step 'x.2.t' in 'x.1', and its name says 'x.2'"
        in refusals(import_runs(store, tmp_path / "runs"))["odd"]
    )


def test_a_step_without_a_name_is_refused(store: Store, tmp_path: Path) -> None:
    in_file(tmp_path / "runs", runnable_run("odd", steps={"a": {"internal_name": "a", "status": "SUCCESS"}}))
    assert "name: Field required" in refusals(import_runs(store, tmp_path / "runs"))["odd"]


# Damage in what magnus wrote.


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def torn(run: Path) -> None:
    file = one(run, "StepLog-give-*")
    file.write_bytes(file.read_bytes()[:100])


def empty(run: Path) -> None:
    one(run, "BranchLog-all parts.eu-*").write_bytes(b"")


def written_over(run: Path) -> None:
    """As magnus does it, which looks for `StepLog-tidy up-*` and finds the file of `tidy up-2`."""
    file = one(run, "StepLog-tidy up-*")
    file.rename(file.with_name(file.name.replace("tidy up-", "tidy up-2-")))


def twice(run: Path) -> None:
    file = one(run, "StepLog-give-*")
    other = json.loads(file.read_text()) | {"status": "FAIL"}
    (run / "StepLog-give-1795303999000000000.json").write_text(json.dumps(other))


def without_branch(run: Path) -> None:
    one(run, "BranchLog-all parts.eu.sides.left-*").unlink()


def without_step(run: Path) -> None:
    one(run, "StepLog-all parts-*").unlink()


def without_run_log(run: Path) -> None:
    (run / "RunLog.json").unlink()


def two_values(run: Path) -> None:
    (run / "Parameter-gree.json").write_text('{"greek": 2}')


def renamed(run: Path) -> None:
    file = one(run, "StepLog-give-*")
    file.rename(run / "StepLog-give.json")


def no_right(run: Path) -> None:
    shutil.rmtree(run / "sub", ignore_errors=True)
    one(run, "StepLog-give-*").unlink()
    (run / "StepLog-give-1.json").symlink_to(run / "nowhere")


DAMAGE: dict[Callable[[Path], None], tuple[str, ...]] = {
    torn: ("StepLog-give-", "no whole JSON"),
    empty: ("BranchLog-all parts.eu-", "it is empty"),
    written_over: ("StepLog-tidy up-2-", "'tidy up'", "written over"),
    twice: ("'give' is in", "StepLog-give-1795303999000000000.json", "differ"),
    without_branch: ("has no branch 'all parts.eu.sides.left'",),
    without_step: ("has no step 'all parts'",),
    without_run_log: ("no RunLog.json",),
    two_values: ("'greek'", "Parameter-gree.json", "differ"),
    renamed: ("StepLog-give.json", "renamed"),
    no_right: ("StepLog-give-1.json cannot be read",),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_run_is_refused_by_its_file_and_the_others_come_in(
    store: Store, source: Path, damage: Callable[[Path], None]
) -> None:
    damage(source / "nightly 1")
    report = import_runs(store, source)
    assert report.imported == ("fails", "mended")
    assert [(refusal.run_id, refusal.sort) for refusal in report.refused] == [("nightly 1", "damaged")]
    message = refusals(report)["nightly 1"]
    assert [told for told in DAMAGE[damage] if told not in message] == [], message
    assert store.list_run_ids() == ["fails", "mended"]


def test_what_is_twice_and_the_same_is_taken_once(store: Store, source: Path) -> None:
    file = one(source / "nightly 1", "StepLog-give-*")
    shutil.copy(file, file.with_name("StepLog-give-1795309999000000000.json"))
    assert len(import_runs(store, source).imported) == 3
    assert import_runs(store, MAGNUS / "chunked-fs").skipped == ("fails", "mended", "nightly 1")


def test_a_run_that_two_stores_wrote_is_refused_both_times(store: Store, source: Path) -> None:
    shutil.copy(MAGNUS / "file-system" / "fails.json", source)
    report = import_runs(store, source)
    assert report.imported == ("mended", "nightly 1")
    assert [refusal.run_id for refusal in report.refused] == ["fails", "fails"]
    assert "fails.json" in report.refused[0].message


ROWS: dict[str, tuple[str, ...]] = {
    "UPDATE db_log SET attribute_value = substr(attribute_value, 1, 40) WHERE pk = 4": ("pk 4", "no whole JSON"),
    "UPDATE db_log SET attribute_type = 'Task' WHERE pk = 4": ("pk 4", "'Task'"),
    "DELETE FROM db_log WHERE pk = 1": ("none of type RunLog",),
    "DELETE FROM db_log WHERE pk = 9": ("repeats 'all parts.eu' of its branches", "pk 1"),
    "UPDATE db_log SET attribute_value = 7 WHERE pk = 4": ("pk 4", "should be an object"),
    "DELETE FROM db_log WHERE pk = 3": ("repeats 'text' of its parameters",),
    "UPDATE db_log SET attribute_value = NULL WHERE pk = 2": ("pk 2", "it is empty"),
    "INSERT INTO db_log SELECT 99, run_id, attribute_key, attribute_type, '2', created_at FROM db_log WHERE pk = 2": (
        "'greek'",
        "pk 2",
        "pk 99",
        "differ",
    ),
    "INSERT INTO db_log SELECT 99, run_id, attribute_key, attribute_type, '{}', created_at FROM db_log WHERE pk = 1": (
        "pk 1",
        "pk 99",
        "differ",
    ),
}


@pytest.mark.parametrize("spoiled", ROWS, ids=[told[0] for told in ROWS.values()])
def test_a_damaged_run_in_a_database_is_refused_by_its_row(store: Store, tmp_path: Path, spoiled: str) -> None:
    file = shutil.copy(DB_LOG / "runs.db", tmp_path / "runs.db")
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(spoiled)
        database.execute("INSERT INTO db_log VALUES (100, NULL, 'x', 'Parameter', '1', NULL)")
    report = import_runs(store, file)
    assert report.imported == ("fails",)
    assert "100" in refusals(report)[""]
    assert [told for told in ROWS[spoiled] if told not in refusals(report)["nightly 1"]] == []


def test_a_row_that_is_twice_and_the_same_is_taken_once(store: Store, tmp_path: Path) -> None:
    """magnus looks first and inserts then, so two writers insert both; the next one updates both."""
    file = shutil.copy(DB_LOG / "runs.db", tmp_path / "runs.db")
    columns = "run_id, attribute_key, attribute_type, attribute_value, created_at"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(f"INSERT INTO db_log ({columns}) SELECT {columns} FROM db_log")
    import_runs(store, DB_LOG / "runs.db")
    assert import_runs(store, file).skipped == ("nightly 1", "fails")


# Again, and beside others.


def test_a_second_import_changes_nothing_and_reads_only(tmp_path: Path) -> None:
    counting = CountingBackend(LocalBackend(tmp_path / "runs"))
    store = Store(counting)
    import_runs(store, MAGNUS / "chunked-fs")
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    counting.reset()
    report = import_runs(again(store), MAGNUS / "chunked-fs")
    assert (report.imported, report.skipped) == ((), ("fails", "mended", "nightly 1"))
    assert counting.by_verb.keys() & {"put", "delete"} == set()
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before


def test_the_requests_of_an_import_are_as_promised(source: Path) -> None:
    shutil.rmtree(source / "nightly 1")
    shutil.rmtree(source / "mended")
    n, index = len(list((source / "fails").iterdir())), 1
    counting = CountingBackend(memory())
    import_runs(Store(counting), source)
    assert counting.by_verb == {"list": index + 2, "put": n + 1, "get_many": n - 1, "get": 1}
    counting.reset()
    import_runs(Store(counting), source)
    assert counting.by_verb == {"list": index + 2, "get_many": n, "get": 1}


def test_the_source_is_not_touched(store: Store, source: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.rglob("*") if path.is_file()}
    import_runs(store, source)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in source.rglob("*") if p.is_file()} == before


def test_a_run_of_the_id_with_other_contents_is_a_conflict_and_is_not_changed(store: Store) -> None:
    store.create_run_log("fails", tag="mine")
    report = import_runs(store, MAGNUS / "chunked-fs")
    assert report.imported == ("mended", "nightly 1")
    assert [refusal.run_id for refusal in report.conflicts] == ["fails"]
    assert (store.get_run_log_by_id("fails").tag, store.get_run_log_by_id("fails").steps) == ("mine", {})


def test_a_run_that_was_packed_or_compressed_since_is_still_the_same(tmp_path: Path) -> None:
    store = Store(LocalBackend(tmp_path / "runs"))
    import_runs(store, MAGNUS / "chunked-fs")
    store.compact("nightly 1")
    assert import_runs(again(store), MAGNUS / "chunked-fs").skipped == ("fails", "mended", "nightly 1")


def test_a_dry_run_says_the_same_and_writes_nothing(store: Store, source: Path) -> None:
    torn(source / "nightly 1")
    report = import_runs(store, source, dry_run=True)
    assert (report.imported, refusals(report).keys(), report.dry_run) == (("fails", "mended"), {"nightly 1"}, True)
    assert list(store.backend.folders()) == []


def test_progress_tells_of_every_run(store: Store, source: Path) -> None:
    torn(source / "nightly 1")
    seen: list[Progress] = []
    import_runs(store, source, progress=seen.append)
    assert [(one.done, one.total) for one in seen] == [(2, 3), (3, 3)]
    assert {one.what for one in seen} == {"fails", "mended"}


def test_an_import_to_minio_is_the_same(tmp_path: Path, minio_server: Any, source: Path) -> None:
    shutil.rmtree(source / "nightly 1")
    store = Store(in_bucket(minio_server, tmp_path))
    assert import_runs(store, source).imported == ("fails", "mended")
    for run_id in ("fails", "mended"):
        assert not_kept(magnus_reads("chunked-fs")[run_id], again(store).get_run_log_by_id(run_id).model_dump()) == []
    assert import_runs(again(store), source).skipped == ("fails", "mended")


# What is a source.


def test_an_empty_folder_is_an_empty_store(store: Store, tmp_path: Path) -> None:
    assert import_runs(store, tmp_path) == ImportReport(str(tmp_path), store.backend.place)


def test_a_folder_without_runs_is_refused_and_so_is_what_is_not_there(store: Store, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "code").mkdir()
    with pytest.raises(InvalidInputError, match="holds no runs that we know"):
        import_runs(store, tmp_path)
    with pytest.raises(InvalidInputError, match="there is nothing at"):
        import_runs(store, tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        import_runs(store, tmp_path / "nowhere", format="runnable")
    with pytest.raises(InvalidInputError, match="known are: runnable, magnus, db-log"):
        import_runs(store, tmp_path, format="mlflow")


def test_a_store_of_our_own_is_named(store: Store, tmp_path: Path) -> None:
    chunkstore.open(tmp_path).create_run_log("r")
    with pytest.raises(InvalidInputError, match="is a store of chunkstore already"):
        import_runs(store, tmp_path)


def test_a_database_without_the_table_is_refused(store: Store, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.execute("CREATE TABLE other (pk INTEGER)")
    with pytest.raises(InvalidInputError, match=r"no one table with the columns pk, run_id.*these: other"):
        import_runs(store, tmp_path / "x.db")
    (tmp_path / "y.db").write_bytes(b"SQLite format 3\0" + b"x" * 100)
    with pytest.raises(chunkstore.FormatError, match=r"y\.db cannot be read by SQLite"):
        import_runs(store, tmp_path / "y.db")


def test_a_password_in_a_url_is_never_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
    for url in ("nosuch://u:hunter2@h/d", "sqlite://u:hunter2@h/d", "mysql+nosuch://u:hunter2@h:x/d"):
        with pytest.raises(chunkstore.ChunkStoreError) as caught:
            import_runs(store, url)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidInputError, match=r"\$\{password\}"):
        import_runs(store, "sqlite:///${password}")


def test_one_tool_is_asked_for_and_the_other_is_refused(store: Store, source: Path) -> None:
    in_file(source, runnable_run("of runnable"))
    report = import_runs(store, source, format="runnable")
    assert report.imported == ("of runnable",)
    assert all("was written by magnus" in message for message in refusals(report).values())
    assert import_runs(store, source, format="magnus").imported == ("fails", "mended", "nightly 1")
    assert import_runs(store, source).skipped == ("fails", "mended", "nightly 1", "of runnable")


def test_names_that_are_no_text_and_files_of_others_do_no_harm(store: Store, source: Path) -> None:
    (source / os.fsdecode(b"r\xff.json")).write_text(json.dumps(runnable_run("r\udcff")))
    (source / ".hidden.json").write_text("{")
    (source / "notes.txt").write_text("x")
    (source / "catalog").mkdir()
    (source / "nightly 1" / "notes.txt").write_text("x")
    report = import_runs(store, source)
    assert len(report.imported) == 3
    (refusal,) = report.refused
    assert "not valid unicode" in refusal.message
    json.dumps([refusal.run_id, refusal.place, refusal.message]).encode()
    refusal.place.encode()


def test_every_format_says_what_it_recognises(tmp_path: Path) -> None:
    assert [name for name, known in FORMATS.items() if known.recognises(str(DB_LOG / "runs.db"))] == ["db-log"]
    assert not any(known.recognises(str(tmp_path)) for known in FORMATS.values())
