"""Runs as flat rows for spreadsheets and data frames: one for each run, or one for each attempt of a step; written as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from chunkstore.errors import InvalidInputError, NotSupportedError
from chunkstore.models import JobLog, RunLog, StepAttempt, StepLog
from chunkstore.outcomes import Metric, attempts_of, metrics_of, span_of, steps_of, value_of

Rows: TypeAlias = Literal["runs", "steps"]
Row: TypeAlias = dict[str, object]
Write: TypeAlias = Callable[[bytes], object]

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the start of a formula, or lets go before it looks."""
_INT64: Final = 1 << 63
_EXACT_FLOAT: Final = 1 << 53


def rows_of(run_log: RunLog, rows: Rows) -> Iterator[Row]:
    """The rows of one run that was read in full."""
    if rows == "runs":
        yield _run_row(run_log)
    else:
        yield from _step_rows(run_log)


def _run_row(run_log: RunLog) -> Row:
    steps = list(steps_of(run_log))
    attempts = list(attempts_of(run_log))
    started, ended = _ends(attempts)
    row: Row = {
        "run_id": run_log.run_id,
        "status": run_log.status,
        "tag": run_log.tag,
        "created_at": run_log.created_at,
        "started": started,
        "ended": ended,
        "seconds": _seconds(span_of(attempts)),
        "steps": len(steps),
        "failed_steps": sum(step.status == "FAIL" for step in steps),
        "attempts": len(attempts),
        "dag_hash": run_log.dag_hash,
        "original_run_id": run_log.original_run_id,
    }
    row |= {f"parameter.{name}": value_of(value) for name, value in run_log.parameters.items()}
    row |= {f"metric.{_place_of(metric)}": metric.value for metric in metrics_of(run_log)}  # the last attempt wins
    return row


def _place_of(metric: Metric) -> str:
    return f"{metric.where}.{metric.name}" if metric.where else metric.name


def _step_rows(run_log: RunLog) -> Iterator[Row]:
    if run_log.job is not None:
        yield from _work_rows(run_log, "", "job", "job", run_log.job)
    for step in steps_of(run_log):
        yield from _work_rows(run_log, step.internal_name, step.name, step.step_type, step)


def _work_rows(run_log: RunLog, internal_name: str, name: str, sort: str, work: StepLog | JobLog) -> Iterator[Row]:
    attempts: Sequence[StepAttempt | None] = work.attempts or [None]
    for attempt in attempts:
        row: Row = {
            "run_id": run_log.run_id,
            "run_status": run_log.status,
            "tag": run_log.tag,
            "created_at": run_log.created_at,
            "step": internal_name,
            "name": name,
            "step_type": sort,
            "status": work.status,
        }
        row |= _attempt_columns(work, attempt)
        yield row


def _attempt_columns(work: StepLog | JobLog, attempt: StepAttempt | None) -> Row:
    """Columns of an attempt; empty ones of a step that has none, so that every row has them."""
    codes = work.code_identities if attempt is None else [*attempt.code_identities, *work.code_identities]
    row: Row = {
        "attempt": None if attempt is None else attempt.attempt_number,
        "attempt_status": None if attempt is None else attempt.status,
        "started": None if attempt is None else attempt.start_time,
        "ended": None if attempt is None else attempt.end_time,
        "seconds": None if attempt is None else _seconds(attempt.elapsed),
        "message": (attempt.message if attempt is not None else "") or work.message,
        "code": next((code.code_identifier for code in codes if code.code_identifier), ""),
    }
    found = [] if attempt is None else [attempt]
    return row | {f"metric.{name}": value for name, value in _metrics(work, found)}


def _metrics(work: StepLog | JobLog, attempts: Iterable[StepAttempt]) -> Iterator[tuple[str, object]]:
    """A step's own, and those of the attempts, which win."""
    own: Mapping[str, object] = work.user_defined_metrics if isinstance(work, StepLog) else {}
    for metrics in (own, *(attempt.user_defined_metrics for attempt in attempts)):
        yield from ((name, value_of(value)) for name, value in metrics.items())


def _ends(attempts: Sequence[StepAttempt]) -> tuple[str, str]:
    """The first start and the last end, as they were written."""
    starts = [attempt.start_time for attempt in attempts if attempt.start_time]
    ends = [attempt.end_time for attempt in attempts if attempt.end_time]
    try:
        return min(starts, key=datetime.fromisoformat), max(ends, key=datetime.fromisoformat)
    except (ValueError, TypeError):  # none; no ISO times; or one with a time zone and one without
        return "", ""


def _seconds(elapsed: timedelta | None) -> float | None:
    return None if elapsed is None else elapsed.total_seconds()


def columns_of(rows: Iterable[Row]) -> list[str]:
    """All columns, in the order in which they came; those that come by name behind those that every row has."""
    found: dict[str, None] = {}
    for row in rows:
        found.update(dict.fromkeys(row))
    fixed = [name for name in found if not name.startswith(("parameter.", "metric."))]
    return [*fixed, *sorted(name for name in found if name.startswith(("parameter.", "metric.")))]


def write_csv(rows: Sequence[Row], write: Write) -> None:
    """UTF-8 with a line of names first. Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    columns = columns_of(rows)
    write(_line([_harmless(name) for name in columns]))
    for row in rows:
        write(_line([_cell(row.get(name)) for name in columns]))


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _harmless(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return _as_text(value)


def _harmless(text: str) -> str:
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _as_text(value: object) -> str:
    """As JSON, with NaN and Infinity as Python writes them."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124  NaN alone differs from itself
        return "nan"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def write_parquet(rows: Sequence[Row], write: Write) -> None:
    """One typed column each: whole numbers, floats, truth values, times or text; a column of several sorts is text, its values as JSON.

    Raises `NotSupportedError` where pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NotSupportedError(
            "Parquet is written by pyarrow, which is not installed; pip install 'chunkstore[parquet]', or export csv"
        ) from error
    columns = {name: _typed([row.get(name) for row in rows], pa) for name in columns_of(rows)}
    if not columns:
        raise InvalidInputError(
            "there is no run to export, and a Parquet file without columns cannot be read; export csv"
        )
    made = io.BytesIO()
    pq.write_table(pa.table(columns), made)
    write(made.getvalue())


def _typed(cells: list[object], pa: Any) -> Any:
    there = [cell for cell in cells if cell is not None]
    sorts = {type(cell) for cell in there}
    if sorts == {bool}:
        return pa.array(cells, pa.bool_())
    if sorts == {int} and all(-_INT64 <= cell < _INT64 for cell in there if isinstance(cell, int)):
        return pa.array(cells, pa.int64())
    if sorts and sorts <= {int, float} and all(_is_exact(cell) for cell in there):
        return pa.array([None if cell is None else float(str(cell)) for cell in cells], pa.float64(), from_pandas=False)
    if sorts == {datetime}:
        return pa.array(cells, pa.timestamp("us", tz="UTC"))
    return pa.array([None if cell is None else _column_text(cell, sorts) for cell in cells], pa.string())


def _is_exact(cell: object) -> bool:
    """Whether a float holds it as it is."""
    return not isinstance(cell, int) or -_EXACT_FLOAT <= cell <= _EXACT_FLOAT


def _column_text(cell: object, sorts: set[type]) -> str:
    text = cell if isinstance(cell, str) and sorts == {str} else _as_text(cell)
    return str(text).encode("utf-8", "replace").decode()
