"""`chunkstore metrics`: what a run measured."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.findings import is_damaged, show_findings
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, RunArgument, StoreOption
from chunkstore.cli.output import Output, shown_value
from chunkstore.naming import resolve
from chunkstore.outcomes import metrics_of


class MeasuredValue(Document):
    """One metric: a metric parameter, or a metric of a step or of one of its attempts."""

    name: str
    value: Any
    where: str
    """The internal name of the step or branch; empty for the run and its job."""
    source: Literal["parameter", "step", "attempt"]
    attempt_number: int | None


class Metrics(Document):
    """What `chunkstore metrics --json` prints."""

    schema_id: Literal["chunkstore/metrics/1"] = Field(default="chunkstore/metrics/1", serialization_alias="schema")
    store: str
    run_id: str
    metrics: list[MeasuredValue]


def metrics(run: RunArgument, store: StoreOption = "", config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show what a run measured: its metric parameters, and the metrics of all steps and attempts.

    The exit code is 1 where chunks of the run are damaged: there may be more than is shown.
    """
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        run_id = resolve(opened, run)
        reading = opened.read_run_log(run_id)
        place = opened.backend.place
    found = [
        MeasuredValue(
            name=each.name, value=each.value, where=each.where, source=each.source, attempt_number=each.attempt
        )
        for each in metrics_of(reading.run_log)
    ]
    if json:
        output.document(Metrics(store=place, run_id=run_id, metrics=found))
    elif not found:
        output.note(f"run {run_id!r} measured nothing")
    else:
        rows = [(each.name, shown_value(each.value), each.where, _source(each)) for each in found]
        output.table(("metric", "value", "where", "source"), rows)
    show_findings(output, reading)
    if is_damaged(reading):
        raise Exit(Code.FOUND)


def _source(metric: MeasuredValue) -> str:
    return metric.source if metric.attempt_number is None else f"{metric.source} {metric.attempt_number}"
