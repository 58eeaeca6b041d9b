"""The run log that all contestants store: one step of about 1.4 kB of JSON, branches below one map step, parameters.

Only fields that chunkstore's and runnable's models both have, so that all store the same.
"""

from __future__ import annotations

from typing import Any, Final

MAP: Final = "map"
STEPS_PER_BRANCH: Final = 3
PARAMETERS_PER_BRANCH: Final = 2
WRITES_PER_BRANCH: Final = 1 + STEPS_PER_BRANCH + PARAMETERS_PER_BRANCH


def step(internal_name: str, status: str = "SUCCESS") -> dict[str, Any]:
    """The fields of a step that ran once: two parameters in, two out, a metric, a commit, two files."""
    return {
        "name": internal_name.rpartition(".")[2],
        "internal_name": internal_name,
        "status": status,
        "step_type": "task",
        "message": "",
        "mock": False,
        "attempts": [_attempt(status)],
        "branches": {},
        "data_catalog": [_file("data/input.csv", "get"), _file("data/model.pickle", "put")],
    }


def map_step() -> dict[str, Any]:
    return step(MAP, "PROCESSING") | {"step_type": "map", "attempts": [], "data_catalog": []}


def branch(number: int) -> str:
    return f"{MAP}.b{number:05d}"


def steps_of(branch_name: str) -> list[str]:
    return [f"{branch_name}.s{number}" for number in range(STEPS_PER_BRANCH)]


def parameters_of(branch_name: str) -> dict[str, float]:
    return {f"p{number}": number + len(branch_name) / 7 for number in range(PARAMETERS_PER_BRANCH)}


def typed(value: object) -> dict[str, object]:
    """A parameter as the clients write it."""
    return {"kind": "json", "value": value}


def _attempt(status: str) -> dict[str, Any]:
    return {
        "attempt_number": 1,
        "start_time": "2026-11-21T12:00:00.123456",
        "end_time": "2026-11-21T12:00:07.654321",
        "status": status,
        "message": "",
        "input_parameters": {"rate": typed(0.001), "region": typed("eu-west")},
        "output_parameters": {"rows": typed(123456), "best": typed({"depth": 7, "leaves": 31})},
        "user_defined_metrics": {"accuracy": {"kind": "metric", "value": 0.9731}},
        "retry_indicator": "",
        "code_identities": [
            {
                "code_identifier": "3f786850e387550fdab836ed7e6dc881de23001b",
                "code_identifier_type": "git",
                "code_identifier_dependable": True,
                "code_identifier_url": "https://git.example.org/team/pipelines.git",
                "code_identifier_message": "",
            }
        ],
    }


def _file(name: str, stage: str) -> dict[str, str]:
    return {
        "name": name,
        "data_hash": "89e6c98d92887913cadf06b2adb97f26cde4849b0d1a2c3e4f5061728394a5b6",
        "catalog_relative_path": f"run/{name}",
        "catalog_handler_location": ".catalog",
        "stage": stage,
    }
