"""The probe tells what a server really does, whatever its age, its quotes and the faults of the network while it asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import BackendUnavailableError, ChunkedRunLogStore, NotSupportedError
from chunkstore.backends.probe import EXACT, forget, recall
from fault_server import FAULTS, FaultServer, Rule, fault_server
from places import between, in_bucket
from rigs import Tally

pytest.importorskip("s3fs")

pytestmark = pytest.mark.usefixtures("engine")

MOST_REQUESTS: Final = 8
FALSEHOODS: Final = {"empty_200", "page_200", "page_200_false", "412_false"}
"""A server that says what is not so cannot be told from one that does it."""

VERDICTS: Final[dict[tuple[str, ...], str]] = {
    (): "all",
    ("ignores_if_match_of_deletes",): "cas",
    ("unquoted_lists",): "all",
    ("unquoted",): "all",
    ("bare_412",): "all",
    ("empty_412",): "all",
    ("unquoted", "empty_412", "small_pages"): "all",
    ("ignores_if_match",): "create-only",
    ("if_match_creates",): "create-only",
    ("if_match_takes_any",): "create-only",
    ("ignores_if_match", "empty_412"): "create-only",
    ("ignores_if_none_match",): "none",
    ("ignores_if_none_match", "ignores_if_match"): "none",
    ("ignores_if_none_match", "if_match_creates", "unquoted"): "none",
}


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture(autouse=True)
def calm(faults: FaultServer) -> Iterator[None]:
    yield
    faults.calm()
    faults.quirks()
    faults.release()
    faults.requests(forget=True)


@pytest.mark.parametrize(("quirks", "verdict"), VERDICTS.items(), ids=str)
def test_the_verdict_on_a_server_is_right_in_at_most_eight_requests(
    faults: FaultServer, tmp_path: Path, quirks: tuple[str, ...], verdict: str
) -> None:
    faults.quirks(*quirks)
    backend: Any = in_bucket(faults.s3, tmp_path)
    bucket = backend.settings.bucket
    with closing(backend):
        stated = backend.guarantees
        assert recall(backend.settings.root) == verdict
        assert len(faults.requests(bucket)) <= MOST_REQUESTS
        assert stated.across_hosts == stated.atomic == (verdict in EXACT)
        assert stated.conditional_delete == (verdict != "cas")
        assert faults.objects(bucket) == {}
        backend.guarantees  # noqa: B018 - it must not ask again
        assert len(faults.requests(bucket)) <= MOST_REQUESTS


@pytest.mark.parametrize(("quirks", "verdict"), VERDICTS.items(), ids=str)
def test_two_stores_of_one_host_lose_nothing_to_each_other_whatever_the_server_does(
    faults: FaultServer, tmp_path: Path, quirks: tuple[str, ...], verdict: str
) -> None:
    faults.quirks(*quirks)
    backend: Any = in_bucket(faults.s3, tmp_path)
    with closing(backend):
        one, other = ChunkedRunLogStore(backend), ChunkedRunLogStore(backend)
        one.create_run_log("r")
        for number in range(5):
            one.set_run_config("r", {f"one {number}": number})
            other.set_run_config("r", {f"other {number}": number})
        assert len(ChunkedRunLogStore(backend).get_run_config("r")) == 10
        puts = [
            seen for seen in faults.requests(backend.settings.bucket) if seen.verb == "PUT" and ".probe" not in seen.key
        ]
        assert all(bool(seen.condition) == (verdict in EXACT) for seen in puts)


@pytest.mark.parametrize("quirks", [quirks for quirks, verdict in VERDICTS.items() if verdict not in EXACT], ids=str)
def test_a_server_that_must_honour_conditions_and_does_not_is_refused(
    faults: FaultServer, tmp_path: Path, quirks: tuple[str, ...]
) -> None:
    faults.quirks(*quirks)
    backend: Any = in_bucket(faults.s3, tmp_path, conditional_writes="require")
    with closing(backend), pytest.raises(NotSupportedError, match="does not honour conditional writes"):
        ChunkedRunLogStore(backend).create_run_log("r")
    assert faults.objects(backend.settings.bucket) == {}


def test_no_fault_at_any_request_of_the_probe_makes_its_verdict_wrong(
    faults: FaultServer, tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict is for the whole life of a process: in doubt there must be none."""
    monkeypatch.setattr("chunkstore.backends.s3server.PAUSES", (0.001, 0.002, 0.004))
    kinds = sorted(fault for fault in FAULTS if fault not in FALSEHOODS and "hang" not in fault)
    backend: Any = in_bucket(faults.s3, tmp_path, deadline=20.0)
    tried = 0
    for quirks in (), ("ignores_if_match",), ("ignores_if_none_match",):
        faults.quirks(*quirks)
        # Who ignores conditions does not refuse a request that is sent twice.
        possible = [fault for fault in kinds if not (quirks and fault.startswith("412"))]
        for number, fault in enumerate(possible):
            verb = "PUT" if fault.startswith(("4", "zombie")) else ""
            for position in [(3 * number + shift) % MOST_REQUESTS for shift in range(between(2, MOST_REQUESTS))]:
                times = 1 + (number + position) % 2
                verdict = asked(faults, backend, Rule(fault, verb, skip=position, times=times, seconds=0.02))
                assert verdict in _true(VERDICTS[quirks]), f"{quirks}, {fault} at {position}, {times} times: {verdict}"
                tried += 1
    backend.close()
    tally("probes under a network fault", tried)


def _true(verdict: str) -> set[str | None]:
    """What may be said where one request failed: nothing, or that deletes were not found to honour conditions."""
    return {verdict, "cas", None} if verdict == "all" else {verdict, None}


def asked(faults: FaultServer, backend: Any, rule: Rule) -> str | None:
    """The verdict under a fault; None where it could not be had, which must be said as what it is."""
    bucket, root = backend.settings.bucket, backend.settings.root
    forget(root)
    faults.plan([rule], within=bucket)
    doubt: BackendUnavailableError | None = None
    try:
        backend.guarantees  # noqa: B018 - it asks
    except BackendUnavailableError as error:
        doubt = error
    faults.calm(bucket)
    verdict = recall(root)
    assert (verdict is None) == (doubt is not None)
    assert doubt is None or doubt.transient
    return verdict
