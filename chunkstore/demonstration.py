"""A few small runs to look at: one that went well, one that failed, one that is still going on. Nothing in them ever ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from chunkstore.models import (
    BranchLog,
    CodeIdentity,
    DataCatalog,
    JsonParameter,
    MetricParameter,
    Parameter,
    RunLog,
    StepAttempt,
    StepLog,
)
from chunkstore.store import ChunkedRunLogStore

_REGIONS: Final = {"eu": 0.91, "us": 0.87, "asia.south": 0.89}
_TOO_FEW: Final = """\
ValueError: region 'us' has 0 rows, and training needs 100
Traceback (most recent call last):
  File "training.py", line 41, in fit
    raise ValueError(message)
"""
_DONE: Final = "SUCCESS"
_FAILED: Final = "FAIL"
_GOING_ON: Final = "PROCESSING"


def write_demo(store: ChunkedRunLogStore, name: str = "nightly", *, now: datetime | None = None) -> tuple[str, ...]:
    """Three runs, `nightly-1` to `nightly-3`, with parallel and map branches, parameters, metrics, data and attempts.

    The first succeeded, the second failed, the third is still going on, and always will be. Returns their ids. Raises
    `RunLogExistsError` where one of them is there. About 40 requests each.
    """
    now = now or datetime.now(UTC)
    nights = [
        _Night(f"{name}-1", now - timedelta(hours=48), _DONE, rate=0.1),
        _Night(f"{name}-2", now - timedelta(hours=24), _FAILED, rate=0.2),
        _Night(f"{name}-3", now - timedelta(minutes=5), _GOING_ON, rate=0.2),
    ]
    for night in nights:
        store.create_run_log(night.run_id, tag=name, dag_hash="4d3c2b1a", status=_GOING_ON)
    for night in nights:
        store.put_run_log(night.run_log(name))
    return tuple(night.run_id for night in nights)


@dataclass(frozen=True, slots=True)
class _Night:
    """One run, all of it made up."""

    run_id: str
    start: datetime
    status: str
    rate: float

    def run_log(self, tag: str) -> RunLog:
        steps = [self._load(), self._check(), self._train()]
        if self.status == _DONE:
            steps.append(self._step("report", [self._attempt(31.0, 2.25)]))
        return RunLog(
            run_id=self.run_id,
            tag=tag,
            dag_hash="4d3c2b1a",
            status=self.status,
            parameters=self._parameters(),
            steps={step.internal_name: step for step in steps},
        )

    def _parameters(self) -> dict[str, Parameter]:
        parameters: dict[str, Parameter] = {
            "learning_rate": JsonParameter(value=self.rate),
            "regions": JsonParameter(value=list(_REGIONS)),
        }
        if self.status == _DONE:
            parameters["score"] = MetricParameter(value=0.89)
        return parameters

    def _load(self) -> StepLog:
        digest = "9f86d081884c7d65" if self.status == _DONE else "60303ae22b998861"
        data = DataCatalog(name="sales.parquet", data_hash=digest, stage="put")
        return self._step("load", [self._attempt(0.0, 4.5)], data_catalog=[data])

    def _check(self) -> StepLog:
        branches = [
            BranchLog(internal_name=name, status=_DONE, steps={step.internal_name: step})
            for name, step in {
                "check.columns": self._step("check.columns.compare", [self._attempt(4.5, 0.75)]),
                "check.rows": self._step("check.rows.count", [self._attempt(4.5, 1.25)]),
            }.items()
        ]
        return self._step("check", [], step_type="parallel", branches={each.internal_name: each for each in branches})

    def _train(self) -> StepLog:
        branches = [self._region(number, region) for number, region in enumerate(_REGIONS)]
        failed = any(branch.status == _FAILED for branch in branches)
        status = _FAILED if failed else self.status
        return self._step(
            "train", [], status, step_type="map", branches={each.internal_name: each for each in branches}
        )

    def _region(self, number: int, region: str) -> BranchLog:
        name = f"train.{region}"
        fit = self._fit(f"{name}.fit", number, region)
        parameters: dict[str, Parameter] = {"region": JsonParameter(value=region)}
        if fit.status == _DONE:
            parameters["score"] = MetricParameter(value=_REGIONS[region])
        return BranchLog(internal_name=name, status=fit.status, steps={fit.internal_name: fit}, parameters=parameters)

    def _fit(self, name: str, number: int, region: str) -> StepLog:
        if region == "us" and self.status == _FAILED:
            tries = [self._attempt(5.75 + 3 * try_, 1.5, try_ + 1, _FAILED, message=_TOO_FEW) for try_ in (0, 1)]
            return self._step(name, tries, _FAILED)
        if region == "us" and self.status == _GOING_ON:
            return self._step(name, [self._attempt(5.75, None, status=_GOING_ON)], _GOING_ON)
        metrics: dict[str, Parameter] = {"loss": MetricParameter(value=round(1 - _REGIONS[region], 2))}
        return self._step(name, [self._attempt(5.75, 20.0 + 2.5 * number, user_defined_metrics=metrics)])

    def _step(self, name: str, attempts: list[StepAttempt], status: str = _DONE, **fields: object) -> StepLog:
        commit = CodeIdentity(
            code_identifier="1f2e3d4c" if self.status == _DONE else "5a6b7c8d", code_identifier_type="git"
        )
        made: Mapping[str, object] = {
            "name": name.rpartition(".")[2],
            "internal_name": name,
            "status": status,
            "code_identities": [commit],
            "attempts": attempts,
            **fields,
        }
        return StepLog.model_validate(made)

    def _attempt(
        self, after: float, seconds: float | None, number: int = 1, status: str = _DONE, **fields: object
    ) -> StepAttempt:
        start = self.start + timedelta(seconds=after)
        end = "" if seconds is None else (start + timedelta(seconds=seconds)).isoformat()
        made: Mapping[str, object] = {
            "attempt_number": number,
            "start_time": start.isoformat(),
            "end_time": end,
            "status": status,
            **fields,
        }
        return StepAttempt.model_validate(made)
