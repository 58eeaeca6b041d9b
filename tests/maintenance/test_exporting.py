"""Runs out of a store into a file, and back from JSON: nothing lost, nothing half, nothing overwritten."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    AlreadyExistsError,
    BranchLog,
    ChunkedRunLogStore,
    InvalidInputError,
    JsonParameter,
    MetricParameter,
    NotSupportedError,
    RunFilter,
    StepLog,
)
from chunkstore.backends import ANY
from chunkstore.maintenance import import_runs, tabular
from chunkstore.maintenance.copying import copy_runs
from chunkstore.maintenance.exporting import export
from chunkstore.maintenance.progress import Progress
from chunkstore.testing import CountingBackend
from places import again, memory

Store = ChunkedRunLogStore
ODD: dict[str, Any] = {
    "nan": float("nan"),
    "inf": [1, {"x": -math.inf}],
    "big": 2**200,
    "zero": -0.0,
    "float": 1e16,
    "text": "a\u2028\x00\ud800</script>[red]",
    "metric": MetricParameter(value=float("inf")),
    "typed": JsonParameter(value={"kind": "json", "value": None}),
    "looks typed": {"kind": "json", "value": 1},
    "looks odd": {"kind": "json", "value": 1, "description": "x", "more": None},
    "/a~b": None,
    "s" * 300: True,
}


def filled(store: Store, run_id: str = "r", status: str = "SUCCESS", **fields: Any) -> None:
    store.create_run_log(run_id, tag="nightly", **fields)
    store.add_step_log(StepLog(name="z", internal_name="z", job="not ours", parameters={"not": "ours"}), run_id)
    step = StepLog(name="map", internal_name="map", status=status)
    branch = BranchLog(internal_name="map.1.5", parameters={"x": float("nan"), "y": {"kind": "metric", "value": 2}})
    inner = StepLog(name="a", internal_name="map.1.5.a", status=status)
    for number in (1, 2):
        attempt = store.create_attempt_log()
        attempt.attempt_number = number
        attempt.start_time = f"2026-11-21T10:00:0{number}+00:00"
        attempt.end_time = f"2026-11-21T10:00:0{number}.500000+00:00"
        attempt.status = status
        attempt.message = "=cmd|' /C calc'!A0"
        attempt.user_defined_metrics = {"loss": 0.5 / number}
        inner.attempts.append(attempt)
    branch.steps[inner.internal_name] = inner
    step.branches[branch.internal_name] = branch
    store.add_step_log(step, run_id)
    store.set_parameters(run_id, ODD)
    job = store.create_job_log()
    job.status = status
    store.add_job_log(run_id, job)


def contents(store: Store) -> dict[str, Any]:
    """What the store says: each chunk's content and time by its key, as a reader sees them."""
    found = {}
    for run_id in store.list_run_ids():
        scan = store._chunks.scan(f"{run_id}/")
        assert scan.damaged == []
        found |= {s.key: (s.chunk.content, s.chunk.envelope.created_at) for s in scan.chunks}
    return found


@pytest.fixture
def store() -> Store:
    store = Store(memory())
    filled(store, "b")
    filled(store, "a", "FAIL")
    store.create_run_log("c")
    return store


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# JSON and back.


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_all_that_a_store_says_comes_back_from_json(form: Any, store: Store, tmp_path: Path) -> None:
    store.create_run_log("d", branches={"a field": "of no step"}, attempts=1, description="\u2028")
    store.compact("b")
    again(store).add_step_log(StepLog(name="late", internal_name="late"), "b")
    report = export(store, tmp_path / "out", form)
    assert report.runs == ("b", "a", "c", "d")  # the oldest first
    assert report.refused == ()
    assert report.bytes == (tmp_path / "out").stat().st_size
    back = Store(memory())
    imported = import_runs(back, tmp_path / "out")
    assert (imported.imported, imported.skipped, imported.refused) == (report.runs, (), ())
    assert contents(back) == contents(store)
    assert [run.run_id for run in back.find_runs(order="oldest").runs] == ["b", "a", "c", "d"]
    for run_id in report.runs:
        ours, theirs = store.read_run_log(run_id), back.read_run_log(run_id)
        assert ours.findings == theirs.findings == ()
        assert repr(ours.run_log) == repr(theirs.run_log)
    assert import_runs(back, tmp_path / "out").skipped == report.runs
    assert {run.outcome for run in copy_runs(store, back, unfinished=True).runs} == {"same"}


def test_the_json_is_a_list_of_run_logs_that_any_parser_reads(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out.json", "json")
    export(store, tmp_path / "out.jsonl", "jsonl")
    found = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    assert found == lines(tmp_path / "out.jsonl")
    run = found[1]
    assert (run["run_id"], run["status"], run["steps"]["map"]["branches"]["map.1.5"]["parameters"]["y"]["value"]) == (
        "a",
        "FAIL",
        2,
    )
    assert run["parameters"]["nan"] is None
    assert run["_chunkstore"]["exact"]["/parameters/nan"] == "float:nan"
    assert list(run["steps"]) == ["z", "map"]


def test_a_list_that_another_program_laid_out_comes_back_too(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out.json", "json")
    tree = json.loads((tmp_path / "out.json").read_text())
    for number, text in enumerate((json.dumps(tree, indent=2), json.dumps(tree), json.dumps(tree[0], indent=1))):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        back = Store(memory())
        assert import_runs(back, path).refused == ()
        assert contents(back).items() <= contents(store).items()
        assert back.list_run_ids() == (["b"] if number == 2 else ["a", "b", "c"])


def test_a_child_without_its_parent_stays_one(tmp_path: Path) -> None:
    store = Store(memory())
    store.create_run_log("r")
    store.add_step_log(StepLog(name="t", internal_name="m.x.t"), "r")
    store.set_parameters("r", {"p": 1}, internal_branch_name="")
    assert [finding.sort for finding in store.read_run_log("r").findings] == ["orphan"] * 2
    export(store, tmp_path / "out", "json")
    back = Store(memory())
    import_runs(back, tmp_path / "out")
    assert contents(back) == contents(store)


def test_of_a_file_that_was_cut_off_the_whole_runs_come_and_the_rest_is_told(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out", "json")
    whole = (tmp_path / "out").read_bytes()
    for cut in (whole[:-3], whole[: whole.index(b"\n{", 3) + 500], whole[:100], b"[\n"):
        (tmp_path / "cut").write_bytes(cut)
        back = Store(memory())
        report = import_runs(back, tmp_path / "cut", format="json")
        assert report.refused
        assert all("line" in refusal.place for refusal in report.refused)
        assert contents(back).items() <= contents(store).items()
        assert len(report.imported) == cut.count(b"\n{") - (not cut.endswith(b"}") and cut.count(b"\n{") > 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"run_id":"x"}', "no run that chunkstore exported"),
        (b"[1]", "no run that chunkstore exported"),
        (b'{"_chunkstore":{"export":2},"run_id":"x"}', "format 2"),
        (b'{"_chunkstore":{"export":1,"created_at":{}},"run_id":"x"}', "no whole run"),
        (
            b'{"_chunkstore":{"export":1,"created_at":{"run.json":"now"}},"run_id":"x","steps":{},"parameters":{}}',
            "no time",
        ),
        (
            b'{"_chunkstore":{"export":1,"created_at":{"run.json":"2026-11-21T00:00:00.000000000Z",'  # noqa: ISC004
            b'"step.a.json":"2026-11-21T00:00:00.000000000Z"}},"run_id":"x","steps":{},"parameters":{}}',
            "lacks step.a.json",
        ),
        (b'{"_chunkstore":{"export":1,"created_at":{},"exact":{"/no":"float:nan"}},"run_id":"x"}', "no place"),
        (
            b'{"_chunkstore":{"export":1,"created_at":{"run.json":"2026-11-21T00:00:00.000000000Z"}},"run_id":"../x"}',
            "folder",
        ),
        (b"\xff\xfe", "no JSON"),
    ],
)
def test_what_is_no_run_of_ours_is_refused_by_its_line(line: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\n" + line + b"\n")
    target = Store(memory())
    report = import_runs(target, tmp_path / "in", format="json")
    assert [refusal.sort for refusal in report.refused] == ["damaged"]
    assert said in report.refused[0].message
    assert "line 2" in report.refused[0].place
    assert target.list_run_ids() == []


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        import_runs(Store(memory()), tmp_path / "nowhere", format="json")
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(InvalidInputError, match="no JSON"):
        import_runs(Store(memory()), tmp_path / "text", format="json")


def test_another_run_of_the_id_is_not_overwritten_by_an_import(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out", "jsonl")
    twice = (tmp_path / "out").read_bytes()
    (tmp_path / "twice").write_bytes(twice + twice.splitlines(keepends=True)[0])
    target = Store(memory())
    target.create_run_log("a", tag="mine")
    before = contents(target)
    seen: list[Progress] = []
    report = import_runs(target, tmp_path / "twice", progress=seen.append)
    assert report.imported == ("b", "c")
    assert [(refusal.run_id, refusal.sort) for refusal in report.refused] == [("b", "conflict"), ("a", "conflict")]
    assert contents(target).items() >= before.items()
    assert seen[-1].done == 4


def test_a_dry_import_writes_nothing(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out", "json")
    target = Store(memory())
    assert import_runs(target, tmp_path / "out", dry_run=True).imported == ("b", "a", "c")
    assert target.list_run_ids() == []


# Files.


def test_a_file_that_is_there_stays_unless_it_is_forced(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("mine")
    with pytest.raises(AlreadyExistsError, match=r"out\.json"):
        export(store, path, "json")
    assert path.read_text() == "mine"
    export(store, path, "json", force=True)
    assert len(json.loads(path.read_text())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_an_export_that_fails_leaves_no_file(store: Store, tmp_path: Path) -> None:
    def stop(_progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, tmp_path / "out", "json", progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["no/such/folder/out", "file/out"])
def test_a_file_that_cannot_be_made_is_told(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        export(store, tmp_path / name, "json")


def test_a_damaged_run_is_refused_by_name_and_the_others_go_on(store: Store) -> None:
    store.backend.put("b/step.z.json", b"", ANY)
    store.backend.put("a/run.json", b"", ANY)
    out = io.BytesIO()
    report = export(again(store), out, "jsonl")
    assert report.runs == ("c",)
    assert [(run.run_id, run.sort) for run in report.refused] == [("b", "damaged"), ("a", "damaged")]
    assert "step.z.json" in report.refused[0].message
    assert len(out.getvalue().splitlines()) == 1


def test_a_run_that_is_nested_too_deep_is_refused_by_name() -> None:
    store = Store(memory())
    store.create_run_log("r")
    name = "s"
    for _ in range(60):
        store.add_step_log(StepLog(name="s", internal_name=name), "r")
        store.add_branch_log(BranchLog(internal_name=f"{name}.b"), "r")
        name += ".b.s"
    out = io.BytesIO()
    report = export(store, out, "json")
    assert [run.sort for run in report.refused] == ["too deep"]
    assert json.loads(out.getvalue()) == []


def test_runs_are_chosen_by_id_or_filter_and_asked_for_once(store: Store) -> None:
    out = io.BytesIO()
    assert export(store, out, "jsonl", ["c", "a", "c"]).runs == ("c", "a")
    assert export(store, out, "jsonl", RunFilter(status="fail")).runs == ("a",)
    report = export(store, out, "jsonl", ["nowhere", "c"])
    assert ([run.sort for run in report.refused], report.runs) == (["missing"], ("c",))
    with pytest.raises(InvalidInputError, match="list of run ids"):
        export(store, out, "jsonl", "c")
    with pytest.raises(InvalidInputError, match="no format"):
        export(store, out, "xml")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="rows"):
        export(store, out, "csv", rows="cells")  # type: ignore[arg-type]


def test_an_export_costs_two_listings_and_one_request_for_each_chunk(store: Store) -> None:
    counting = CountingBackend(store.backend)
    n = len(list(store.backend.list("a/")))
    seen: list[Progress] = []
    export(Store(counting), io.BytesIO(), "json", ["a"], progress=seen.append)
    assert counting.by_verb == {"list": 2, "get_many": n}
    assert [(one.done, one.total, one.what) for one in seen] == [(1, 1, "a")]


# Tables.


def table(store: Store, **options: Any) -> list[dict[str, str]]:
    out = io.BytesIO()
    export(store, out, "csv", **options)
    return list(csv.DictReader(io.StringIO(out.getvalue().decode(), newline="")))


def test_the_csv_has_a_row_for_each_run_with_its_parameters_and_metrics(store: Store) -> None:
    rows = table(store)
    assert [row["run_id"] for row in rows] == ["b", "a", "c"]
    first = rows[0]
    assert (first["steps"], first["attempts"], first["seconds"]) == ("3", "2", "1.5")
    assert (first["parameter.nan"], first["parameter.big"], first["parameter.metric"]) == ("nan", str(2**200), "inf")
    assert json.loads(first["parameter.inf"]) == [1, {"x": -math.inf}]
    assert first["metric.map.1.5.a.loss"] == "0.25"
    assert rows[2]["parameter.big"] == rows[2]["metric.map.1.5.a.loss"] == ""


def test_the_csv_has_a_row_for_each_attempt(store: Store) -> None:
    rows = [row for row in table(store, rows="steps") if row["run_id"] == "a"]
    assert [(row["step"], row["attempt"]) for row in rows] == [
        ("", ""),
        ("z", ""),
        ("map", ""),
        ("map.1.5.a", "1"),
        ("map.1.5.a", "2"),
    ]
    assert [row["metric.loss"] for row in rows] == ["", "", "", "0.5", "0.25"]
    assert rows[0]["step_type"] == "job"


def test_no_cell_of_the_csv_is_a_formula(store: Store) -> None:
    store.set_parameters(
        "c", {"=1+1": "@SUM(1)", "minus": -1, "text": "-1", "space": "  =1", "tab": "\t=1", "fine": "a=b"}
    )
    row = next(row for row in table(store) if row["run_id"] == "c")
    assert row["parameter.=1+1"] == "'@SUM(1)"
    assert (row["parameter.minus"], row["parameter.text"], row["parameter.space"]) == ("-1", "'-1", "'  =1")
    assert (row["parameter.tab"], row["parameter.fine"]) == ("'\t=1", "a=b")
    assert {row["message"] for row in table(store, rows="steps")} == {"", "'=cmd|' /C calc'!A0"}


def test_an_empty_store_makes_an_empty_table_and_an_empty_list() -> None:
    out = io.BytesIO()
    assert export(Store(memory()), out, "json").runs == ()
    assert json.loads(out.getvalue()) == []
    assert table(Store(memory())) == []


def test_parquet_keeps_each_column_in_a_type_that_holds_all_of_it(store: Store, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    store.set_parameters("c", {"whole": 2**53 + 1, "float": 2**53 + 1, "mixed": "text", "flag": True, "bad": "\ud800"})
    store.set_parameters("a", {"whole": 1, "float": 0.5, "mixed": 7, "flag": False, "half": 3})
    store.set_parameters("b", {"half": float("nan"), "list": [1]})
    export(store, tmp_path / "runs.parquet", "parquet")
    found = pq.read_table(tmp_path / "runs.parquet")
    types = {field.name.removeprefix("parameter."): str(field.type) for field in found.schema}
    assert {name: types[name] for name in ("run_id", "created_at", "steps", "seconds")} == {
        "run_id": "string",
        "created_at": "timestamp[us, tz=UTC]",
        "steps": "int64",
        "seconds": "double",
    }
    assert (types["whole"], types["float"], types["mixed"], types["flag"], types["big"], types["half"]) == (
        "int64",
        "string",
        "string",
        "bool",
        "string",
        "double",
    )
    rows = {row["run_id"]: row for row in found.to_pylist()}
    assert rows["c"]["parameter.whole"] == 2**53 + 1
    assert math.isnan(rows["b"]["parameter.half"])
    assert rows["c"]["parameter.half"] is None
    assert (rows["b"]["parameter.big"], rows["a"]["parameter.mixed"], rows["c"]["parameter.mixed"]) == (
        str(2**200),
        "7",
        '"text"',
    )
    export(store, tmp_path / "steps.parquet", "parquet", rows="steps")
    assert pq.read_table(tmp_path / "steps.parquet").num_rows == 10
    with pytest.raises(InvalidInputError, match="no run"):
        export(Store(memory()), tmp_path / "none.parquet", "parquet")


def test_parquet_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(NotSupportedError, match="parquet"):
        export(store, io.BytesIO(), "parquet")


def test_columns_that_all_rows_have_stand_first() -> None:
    rows: list[tabular.Row] = [{"a": 1, "parameter.z": 1}, {"a": 1, "metric.b": 1, "parameter.c": 1}]
    assert tabular.columns_of(rows) == ["a", "metric.b", "parameter.c", "parameter.z"]
