"""How `format-1/` was made: runs in format 1 as chunkstore 0.1 wrote them. Made once, read for ever, never made again.

    python tests/data/make_format_1.py

`format-1/` is a folder as `chunkstore.open` takes it; `format-1.json` is what reading it gave on that day, as `described` puts it.
A later chunkstore must read the same from the same bytes. A new format gets a folder of its own.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sys
from pathlib import Path

from chunkstore import keys, values
from chunkstore.backends.local import LocalBackend
from chunkstore.clock import HybridClock
from chunkstore.models import (
    CodeIdentity,
    DataCatalog,
    JobLog,
    JsonParameter,
    MetricParameter,
    ObjectParameter,
    RunLog,
    StepAttempt,
    StepLog,
)
from chunkstore.store import ChunkedRunLogStore, StoreSettings

HERE = Path(__file__).parent
FOLDER = HERE / "format-1"
EXPECTED = HERE / "format-1.json"
NOON = 1_795_262_400_000_000_000  # 2026-11-21T12:00:00Z

NIGHTLY = "2026-11-21 nightly"
JOB = ".job: ü π"
GONE = "gone"
LONG = "value-" + "Grüße " * 50
MAP_VALUES = ["0.1", "a.b/c.csv", "eu west", LONG]
ODD_VALUES = {
    "nan": math.nan,
    "infinities": [math.inf, -math.inf],
    "zeros": [0, 0.0, -0.0, False, None],
    "one": [1, 1.0, True],
    "big": [2**63, 2**64, -(2**70), 10**40],
    "small": [5e-324, 1e16, 1e-7, 0.1],
    "text": ["", "NaN", "\ud800 alone", "日本 😀 e\u0301", "\u2028\n\t\0", 'quote " and \\'],
    "nested": {"": {"/": {"~": [math.nan, {"a/b": -math.inf}]}}},
    "kind": {"kind": "json", "value": 1},
}


def described(run_log: RunLog) -> dict[str, object]:
    """A run log as strict JSON, with what JSON cannot hold beside it."""
    fields = run_log.model_dump()
    fields["created_at"] = run_log.created_at.isoformat() if run_log.created_at else None
    content = values.encode(fields)
    return {"run_log": json.loads(content.body), "exact": dict(content.exact)}


def step_log(name: str, internal_name: str, status: str = "SUCCESS", **fields: object) -> StepLog:
    return StepLog.model_validate({"name": name, "internal_name": internal_name, "status": status, **fields})


def attempt(number: int, status: str, **fields: object) -> StepAttempt:
    code = CodeIdentity(code_identifier="c0ffee" * 6, code_identifier_type="git", code_identifier_dependable=True)
    times = {"start_time": "2026-11-21 12:00:00.000001", "end_time": "2026-11-21 12:00:01"}
    return StepAttempt.model_validate(
        {"attempt_number": number, "status": status, "code_identities": [code], **times, **fields}
    )


def write_map(store: ChunkedRunLogStore, holder: str, depth: int) -> None:
    """A map step below a branch (or the run itself), with a map inside one of its branches."""
    outer = f"{holder}.map" if holder else "map"
    store.add_step_log(step_log("map", outer, "PROCESSING", step_type="map"), NIGHTLY)
    for value in MAP_VALUES if depth > 1 else MAP_VALUES[:2]:
        name = f"{outer}.{value}"
        branch = store.create_branch_log(name, {"value": value, "typed": MetricParameter(value=math.nan)})
        branch.status = "PROCESSING"
        store.add_branch_log(branch, NIGHTLY)
        store.set_parameters(NIGHTLY, {LONG: depth, "p@rt.of%a/name": [name]}, name)
        store.add_step_log(step_log("train.v2", f"{name}.train.v2", attempts=[attempt(1, "SUCCESS")]), NIGHTLY)
        if depth > 1 and value == "a.b/c.csv":
            write_map(store, name, depth - 1)
        branch.status = "SUCCESS"
        store.add_branch_log(branch, NIGHTLY)
    store.add_step_log(step_log("map", outer, step_type="map"), NIGHTLY)


def write_nightly(store: ChunkedRunLogStore) -> None:
    store.create_run_log(
        NIGHTLY, dag_hash="ab12", tag="nightly", original_run_id="2026-11-20", a_newer_field={"x": [1]}
    )
    store.set_parameters(NIGHTLY, ODD_VALUES)
    store.set_parameters(
        NIGHTLY, {"j": JsonParameter(value={"a": 1}), "o": ObjectParameter(value="model.pkl"), LONG: LONG}
    )
    store.set_run_config(NIGHTLY, {"executor": {"type": "local"}, "rate": math.inf})
    first = step_log("first.step", "first.step", "PROCESSING", message="long\n" * 200)
    store.add_step_log(first, NIGHTLY)
    first.attempts.append(attempt(1, "FAIL", message="boom", retry_indicator=""))
    store.add_step_log(first, NIGHTLY)
    first.attempts.append(attempt(2, "SUCCESS", output_parameters={"loss": {"kind": "metric", "value": math.nan}}))
    first.status = "SUCCESS"
    first.data_catalog.append(DataCatalog(name="data/ü.csv", data_hash="00ff", stage="put"))
    first.user_defined_metrics["accuracy"] = 0.5
    store.add_step_log(first, NIGHTLY)
    write_map(store, "", 3)
    store.add_step_log(step_log("last", "last", "TRIGGERED", mock=True, step_type="success"), NIGHTLY)
    store.update_run_log_status(NIGHTLY, "success")


def write_job(store: ChunkedRunLogStore) -> None:
    store.create_run_log(JOB)
    store.add_job_log(
        JOB, JobLog(status="FAIL", message="no", attempts=[attempt(1, "FAIL", input_parameters={"a": 1})])
    )


def write_deleted(store: ChunkedRunLogStore) -> None:
    """A run of which somebody began the deletion."""
    store.create_run_log(GONE)
    store.set_parameters(GONE, {"a": 1})
    store._chunks.mark_deleted(keys.header(GONE))


def main() -> None:
    if FOLDER.exists():
        sys.exit(f"{FOLDER} is there; it is never made again")
    ticks = itertools.count(NOON, 1_234_567)
    settings = StoreSettings(compress_above=2000)
    store = ChunkedRunLogStore(LocalBackend(FOLDER), settings=settings, clock=HybridClock(lambda: next(ticks)))
    write_nightly(store)
    write_job(store)
    write_deleted(store)
    shutil.rmtree(FOLDER / ".locks")
    reader = ChunkedRunLogStore(LocalBackend(FOLDER))
    expected = {run_id: described(reader.get_run_log_by_id(run_id)) for run_id in (NIGHTLY, JOB)}
    EXPECTED.write_text(json.dumps(expected, indent=1, ensure_ascii=True) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
