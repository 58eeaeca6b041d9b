"""Packing a run: it reads the same before and after, whatever happens between any two requests of the packer, a reader or a writer."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    BranchLog,
    ChunkedRunLogStore,
    Compaction,
    FormatError,
    InvalidInputError,
    JobLog,
    RunLogNotFoundError,
    StepAttempt,
    StepLog,
    StepLogNotFoundError,
    StoreSettings,
    keys,
    packs,
)
from chunkstore.backends import ANY, Backend, Blob, Condition, Entry, Guarantees
from chunkstore.backends.local import LocalBackend
from places import again, memory, place, raw

Store = ChunkedRunLogStore


class Between:
    """A backend before whose request of a number something else happens, once."""

    def __init__(self, inner: Backend, at: int, act: Callable[[], object]) -> None:
        self.inner = inner
        self.at = at
        self.act = act
        self.requests = 0

    @property
    def place(self) -> str:
        return self.inner.place

    @property
    def concurrency(self) -> int:
        return 1

    @property
    def guarantees(self) -> Guarantees:
        return self.inner.guarantees

    def get(self, key: str) -> Blob:
        self._count()
        return self.inner.get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        for key in keys:
            self._count()
            yield from self.inner.get_many([key])

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self._count()
        return self.inner.put(key, data, condition, barrier=barrier)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self._count()
        self.inner.delete(key, condition)

    def list(self, prefix: str) -> Iterator[Entry]:
        self._count()
        return self.inner.list(prefix)

    def folders(self) -> Iterator[str]:
        self._count()
        return self.inner.folders()

    def close(self) -> None:
        self.inner.close()

    def _count(self) -> None:
        self.requests += 1
        if self.requests == self.at:
            self.act()


def attempt(message: str) -> StepAttempt:
    return StepAttempt(message=message)


def ended(backend: Backend) -> Store:
    """A run with one of everything that has ended, and the store that wrote it."""
    store = Store(backend)
    store.create_run_log("r", tag="first")
    store.set_parameters("r", {"p": 1})
    store.add_step_log(StepLog(name="a", internal_name="a", attempts=[attempt("first")]), "r")
    store.add_step_log(StepLog(name="b", internal_name="b"), "r")
    store.add_step_log(StepLog(name="m", internal_name="m", step_type="map"), "r")
    store.add_branch_log(store.create_branch_log("m.x", {"q": 1}), "r")
    store.add_step_log(StepLog(name="t", internal_name="m.x.t"), "r")
    store.add_job_log("r", JobLog(status="SUCCESS", attempts=[attempt("first")]))
    return store


def whole(store: Store) -> dict[str, Any]:
    """All of the run as its complete read shows it; every part of it must read the same by its name."""
    reading = store.read_run_log("r")
    assert reading.findings == ()
    run = reading.run_log
    assert [name for name in run.steps if name in "abm"] == ["a", "b", "m"]  # what is written anew keeps its place
    return run.model_dump(exclude={"created_at"})


def by_name(store: Store) -> list[Any]:
    names = ["a", "b", "m", "m.x.t"]
    parts = [store.get_step_log(name, "r") for name in names] + [
        store.get_branch_log("m.x", "r"),
        store.get_job_log("r"),
    ]
    header = store.get_run_log_by_id("r", full=False)
    return [part.model_dump(exclude={"created_at"}) for part in [*parts, header]]


def parts_of(run: dict[str, Any]) -> list[Any]:
    """What `by_name` must give, by the complete read."""
    below = run["steps"]["m"]["branches"]["m.x"]
    steps = [*(run["steps"][name] for name in "abm"), below["steps"]["m.x.t"]]
    parts = [{**step, "branches": {}} for step in steps] + [{**below, "steps": {}, "parameters": {}}]
    return [*parts, run["job"], {**run, "steps": {}}]


def agree(store: Store, new: bool = True) -> dict[str, Any]:
    """What the run is, when it is the same to all who read it in any way."""
    run = whole(store)
    assert by_name(again(store) if new else store) == parts_of(run)
    return run


def loose(backend: Backend) -> list[str]:
    """The chunks that stand loose and need not."""
    return sorted(
        entry.key for entry in backend.list("r/") if keys.is_chunk(entry.key) and not keys.stays_loose(entry.key)
    )


@pytest.fixture(params=["memory", "local", "sqlite", "moto", "faults", "minio", "rclone"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    backend = place(request.param, request, tmp_path)
    yield backend
    backend.close()


class TestAPackedRun:
    def test_reads_the_same_in_every_way(self, anywhere: Backend) -> None:
        store = ended(anywhere)
        before = agree(store)
        done = store.compact("r")
        assert raw(anywhere, "r/whole.pack") is not None
        if anywhere.guarantees.conditional_delete:
            assert (done.packed, done.removed, done.kept, loose(anywhere)) == (9, 6, 0, [])
            assert done.bytes_after < done.bytes_before
        else:
            assert (done.packed, done.removed, done.kept, len(loose(anywhere))) == (9, 0, 6, 6)
        for reader in (store, again(store)):
            assert agree(reader) == before
            assert agree(reader, new=False) == before

    def test_is_packed_with_nothing_loose_where_the_operator_says_so(self, anywhere: Backend) -> None:
        store = ended(anywhere)
        before = agree(store)
        done = store.compact("r", remove="always")
        assert (done.removed, done.kept, loose(anywhere)) == (6, 0, [])
        sizes = [entry.size for entry in anywhere.list("r/")]
        assert done.bytes_after == sum(sizes)
        for reader in (store, again(store)):
            assert agree(reader) == before

    def test_is_changed_and_read_and_packed_again(self, anywhere: Backend) -> None:
        store = ended(anywhere)
        store.compact("r")
        for writer in (store, again(store)):
            step = writer.get_step_log("a", "r")
            step.attempts.append(attempt(f"late {writer is store}"))
            writer.add_step_log(step, "r")
            job = writer.get_job_log("r")
            job.attempts.append(attempt(f"late {writer is store}"))
            writer.add_job_log("r", job)
        messages = ["first", "late True", "late False"]
        for _ in range(3):
            found = agree(again(store))
            assert [one["message"] for one in found["steps"]["a"]["attempts"]] == messages
            assert [one["message"] for one in found["job"]["attempts"]] == messages
            store.compact("r")

    def test_is_deleted_whole(self, anywhere: Backend) -> None:
        store = ended(anywhere)
        store.compact("r")
        again(store).delete_run_log("r")
        assert list(anywhere.list("r/")) == []
        assert store.list_run_ids() == []
        with pytest.raises((RunLogNotFoundError, StepLogNotFoundError)):
            store.get_step_log("a", "r")
        with pytest.raises(RunLogNotFoundError):
            again(store).get_step_log("a", "r")

    def test_takes_new_steps_branches_and_parameters(self, anywhere: Backend) -> None:
        store = ended(anywhere)
        store.compact("r")
        other = again(store)
        other.add_step_log(StepLog(name="u", internal_name="m.x.u"), "r")
        other.add_branch_log(BranchLog(internal_name="m.y"), "r")
        other.set_parameters("r", {"p": 2, "new": 3})
        store.compact("r")
        found = whole(again(store))
        assert list(found["steps"]["m"]["branches"]["m.x"]["steps"]) == ["m.x.t", "m.x.u"]
        assert list(found["steps"]["m"]["branches"]) == ["m.x", "m.y"]
        assert found["parameters"] == {"p": 2, "new": 3} == again(store).get_parameters("r")


def test_a_pack_is_fetched_and_parsed_once_a_process_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    decode = packs.decode

    def counted(data: bytes, key: str) -> packs.Pack:
        parsed.append(key)
        return decode(data, key)

    monkeypatch.setattr(packs, "decode", counted)
    store = ended(memory())
    store.compact("r")
    other = again(store)
    parsed.clear()
    for _ in range(5):
        by_name(other)
        whole(other)
    assert len(parsed) == 1


def test_a_run_that_has_not_ended_is_not_packed_and_does_not_change() -> None:
    store = ended(memory())
    store.update_run_log_status("r", "PROCESSING")
    before = {entry.key: entry.version for entry in store.backend.list("r/")}
    for one in (store, again(store)):
        with pytest.raises(InvalidInputError, match="has not ended"):
            one.compact("r")
    assert {entry.key: entry.version for entry in store.backend.list("r/")} == before


def test_what_to_remove_is_checked() -> None:
    store = ended(memory())
    with pytest.raises(InvalidInputError, match="unchanged, always, never"):
        store.compact("r", remove="all")  # type: ignore[arg-type]


def test_nothing_is_removed_where_that_is_asked_for_and_the_rest_is_done_later() -> None:
    store = ended(memory())
    before = agree(store)
    assert store.compact("r", remove="never").removed == 0
    assert agree(again(store)) == before
    done = again(store).compact("r")
    assert (done.removed, done.kept) == (6, 0)
    assert agree(again(store)) == before


def test_a_run_that_is_packed_as_it_is_is_not_packed_again() -> None:
    store = ended(memory())
    store.compact("r")
    before = {entry.key: entry.version for entry in store.backend.list("r/")}
    done = again(store).compact("r")
    assert done == dataclasses.replace(done, removed=0, kept=0, packed=9, bytes_before=done.bytes_after)
    assert {entry.key: entry.version for entry in store.backend.list("r/")} == before


def test_a_run_beyond_what_a_pack_holds_is_not_packed_and_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MAX_PLAIN_BYTES", "MAX_PACK_BYTES"):
        store = ended(memory())
        before = agree(store)
        with monkeypatch.context() as patch:
            patch.setattr(packs, limit, 700)
            done = store.compact("r")
        assert (done.too_large, done.packed, done.removed, done.kept) == (True, 0, 0, 6)
        assert agree(again(store)) == before


class TestDamage:
    def test_a_damaged_chunk_stays_where_it_is_and_is_reported(self) -> None:
        store = ended(memory())
        data = raw(store.backend, "r/step.b.json") or b""
        store.backend.put("r/step.b.json", data[:-3], ANY)
        for _ in range(2):
            done = again(store).compact("r")
            assert [(one.sort, one.name) for one in done.damaged] == [("damaged", "r/step.b.json")]
            assert loose(store.backend) == ["r/step.b.json"]
            findings = again(store).read_run_log("r").findings
            assert [(one.sort, one.name) for one in findings] == [("damaged", "r/step.b.json")]
        store.backend.put("r/step.b.json", data, ANY)
        assert agree(again(store))

    def test_a_damaged_pack_is_a_finding_and_the_loose_chunks_are_read(self) -> None:
        store = ended(memory())
        store.compact("r")
        store.add_step_log(StepLog(name="late", internal_name="late"), "r")
        data = raw(store.backend, "r/whole.pack") or b""
        store.backend.put("r/whole.pack", data[:-1] + bytes([data[-1] ^ 1]), ANY)
        for reader in (store, again(store)):
            reading = reader.read_run_log("r")
            assert [one.name for one in reading.findings if one.sort == "damaged"] == ["r/whole.pack"]
            assert {one.name for one in reading.findings if one.sort == "orphan"} == {
                "m",
                "m.x",
            }  # whose parameter is loose
            assert {*reading.run_log.steps} == {"late", "m"}
            assert reading.run_log.parameters == {"p": 1}
            with pytest.raises(FormatError, match=r"whole\.pack is damaged"):
                reader.get_step_log("a", "r")
            assert reader.get_step_log("late", "r").name == "late"
            with pytest.raises(FormatError, match=r"whole\.pack is damaged"):
                reader.compact("r")  # it would take the last trace of what is missing
        store.backend.put("r/whole.pack", data, ANY)
        assert agree(again(store))

    def test_a_pack_in_another_runs_place_is_refused(self) -> None:
        store = ended(memory())
        store.compact("r")
        store.create_run_log("other", status="SUCCESS")
        store.compact("other")
        store.backend.put("other/whole.pack", raw(store.backend, "r/whole.pack") or b"", ANY)
        findings = again(store).read_run_log("other").findings
        assert [(one.sort, one.name) for one in findings] == [("damaged", "other/whole.pack")]

    def test_a_foreign_object_too_large_to_be_a_pack_is_never_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = ended(memory())
        store.backend.put("r/whole.pack", b"x" * 1_000, ANY)
        monkeypatch.setattr(packs, "MAX_PACK_BYTES", 999)
        findings = again(store).read_run_log("r").findings
        assert [(one.sort, "no pack of ours" in one.message) for one in findings] == [("damaged", True)]
        with pytest.raises(FormatError, match="no pack of ours"):
            store.compact("r")


class TestAtTheEnd:
    @pytest.fixture
    def store(self) -> Store:
        return Store(memory(), settings=StoreSettings(compact_at_end=True))

    def test_a_run_is_packed_when_its_terminal_status_is_acknowledged(self, store: Store) -> None:
        for number, end in enumerate(("status", "put", "job")):
            run_id = f"r{number}"
            store.create_run_log(run_id)
            store.add_step_log(StepLog(name="a", internal_name="a"), run_id)
            assert raw(store.backend, f"{run_id}/whole.pack") is None
            if end == "status":
                store.update_run_log_status(run_id, "fail")
            elif end == "put":
                run = store.get_run_log_by_id(run_id)
                run.status = "SUCCESS"
                store.put_run_log(run)
            else:
                store.add_job_log(run_id, JobLog(status="SUCCESS"))
            assert raw(store.backend, f"{run_id}/whole.pack") is not None
            assert raw(store.backend, f"{run_id}/step.a.json") is None
            assert list(again(store).get_run_log_by_id(run_id).steps) == ["a"]

    def test_a_failure_of_packing_fails_no_call(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        store.create_run_log("r")
        store.backend.put("r/whole.pack", b"foreign", ANY)
        store.update_run_log_status("r", "SUCCESS")
        assert "was not packed" in caplog.text
        assert again(store).get_run_logs()[0].status == "SUCCESS"

    def test_by_default_nothing_is_packed(self) -> None:
        store = ended(memory())
        assert raw(store.backend, "r/whole.pack") is None


# Late writers.


def test_a_writer_who_knows_nothing_of_the_packed_chunk_is_merged_with_it_as_on_a_conflict() -> None:
    store = ended(memory())
    late, plain = again(store), ended(memory())
    late.get_run_config("r")  # it knows the run, and no more
    store.compact("r")
    mine = StepLog(name="a", internal_name="a", status="FAIL", attempts=[attempt("late")])
    late.add_step_log(mine.model_copy(deep=True), "r")
    again(plain).add_step_log(mine, "r")
    expected = whole(again(plain))
    assert [one["message"] for one in expected["steps"]["a"]["attempts"]] == ["first", "late"]
    assert whole(again(store)) == expected
    assert whole(late) == expected
    assert store.get_step_log("a", "r").model_dump() == expected["steps"]["a"]
    step = store.get_step_log("a", "r")  # and who changes it goes on from both
    step.message = "changed"
    store.add_step_log(step, "r")
    expected["steps"]["a"]["message"] = "changed"
    assert agree(again(store)) == expected
    store.compact("r")
    assert agree(again(store)) == expected


def test_the_next_compaction_brings_what_a_late_writer_left_back_to_its_place_for_all_to_read() -> None:
    store = ended(memory())
    late = again(store)
    late.get_run_config("r")
    store.compact("r")
    late.add_step_log(StepLog(name="a", internal_name="a", attempts=[attempt("late")]), "r")
    expected = whole(again(store))
    done = again(store).compact("r")
    assert (done.removed, done.kept) == (0, 1)
    assert agree(again(store)) == expected
    assert [one.message for one in again(store).get_step_log("a", "r").attempts] == ["first", "late"]


def test_a_late_writer_repeats_itself_without_doubling_anything() -> None:
    store = ended(memory())
    late = again(store)
    late.get_run_config("r")
    store.compact("r")
    for _ in range(3):
        late.add_step_log(StepLog(name="a", internal_name="a", attempts=[attempt("late")]), "r")
        assert [one.message for one in again(store).get_run_log_by_id("r").steps["a"].attempts] == ["first", "late"]
        store.compact("r")


def test_what_was_written_again_after_it_was_packed_is_never_removed_again() -> None:
    """A writer who holds the first pack builds on what is in it; had a later content been removed, he would undo that."""
    store = ended(memory())
    store.compact("r")
    old = again(store)
    held = old.get_step_log("a", "r")
    step = store.get_step_log("a", "r")
    step.message = "theirs"
    store.add_step_log(step, "r")
    for _ in range(2):
        assert store.compact("r").kept == 1
    held.attempts.append(attempt("late"))
    old.add_step_log(held, "r")
    found = agree(again(store))["steps"]["a"]
    assert (found["message"], [one["message"] for one in found["attempts"]]) == ("theirs", ["first", "late"])


MERGED: dict[str, Callable[[Store], Any]] = {
    "a step": lambda store: store.get_step_log("a", "r"),
    "a branch": lambda store: store.get_branch_log("m.x", "r"),
    "the job log": lambda store: store.get_job_log("r"),
    "the run log": lambda store: store.get_run_log_by_id("r"),
}


def put_back(store: Store, held: Any) -> None:
    match held:
        case StepLog():
            store.add_step_log(held, "r")
        case BranchLog():
            store.add_branch_log(held, "r")
        case JobLog():
            store.add_job_log("r", held)
        case _:
            store.put_run_log(held)


@pytest.mark.parametrize("changes", [False, True], ids=["as it was", "changed"])
@pytest.mark.parametrize("by_hand", [False, True], ids=["read", "made by hand"])
@pytest.mark.parametrize("what", MERGED)
def test_a_holder_whose_process_forgot_the_chunk_undoes_nothing_when_it_was_packed_since(
    what: str, by_hand: bool, changes: bool
) -> None:
    """His create holds, as nothing stands there; but what he holds is no news from somebody who had never seen the chunk."""
    store = ended(memory())
    forgetful = Store(store.backend, settings=StoreSettings(known_bytes=1))
    held = MERGED[what](forgetful)
    if by_hand:
        again_by_hand = held.model_copy(deep=True)
        put_back(forgetful, again_by_hand)
        held = again_by_hand
    forgetful.get_run_config("r")  # there is room for one chunk
    theirs = store.get_run_log_by_id("r")
    theirs.steps["a"].message, theirs.steps["m"].branches["m.x"].status = "theirs", "SUCCESS"
    assert theirs.job is not None
    theirs.job.message = "theirs"
    store.put_run_log(theirs)
    store.compact("r")
    expected = agree(again(store))
    if changes and not isinstance(held, BranchLog):
        part = held.steps["a"] if what == "the run log" else held
        part.attempts.append(attempt("late"))
        place = expected["job"] if what == "the job log" else expected["steps"]["a"]
        place["attempts"].append(attempt("late").model_dump())
    put_back(forgetful, held)
    assert agree(again(store)) == expected


def test_a_write_whose_reply_was_lost_and_that_was_packed_since_is_recognised() -> None:
    backend = memory()
    store = ended(backend)
    step = store.get_step_log("a", "r")
    packer = again(store)

    class Lost(Between):
        def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
            version = self.inner.put(key, data, condition, barrier=barrier)
            if self.requests == 0:
                self.requests = 1
                packer.compact("r")
                from chunkstore.errors import WriteStateUnknownError

                raise WriteStateUnknownError("the reply was lost", transient=True)
            return version

    store.backend = store._chunks.backend = Lost(backend, -1, lambda: None)
    step.attempts.append(attempt("once"))
    store.add_step_log(step, "r")
    assert loose(backend) == []  # nobody wrote it a second time
    assert [
        one.message for one in agree(Store(backend))["steps"] and Store(backend).get_step_log("a", "r").attempts
    ] == [
        "first",
        "once",
    ]


# Ids that are used again.


def test_the_pack_of_a_deleted_run_is_not_the_new_ones() -> None:
    store = ended(memory())
    store.compact("r")
    pack = raw(store.backend, "r/whole.pack") or b""
    other = again(store)
    store.delete_run_log("r")
    store.create_run_log("r", status="SUCCESS")
    store.add_step_log(StepLog(name="n", internal_name="n"), "r")
    store.backend.put("r/whole.pack", pack, ANY)  # as a put that was on its way would
    for reader in (store, other, again(store)):
        assert list(reader.get_run_log_by_id("r").steps) == ["n"]
        with pytest.raises(StepLogNotFoundError):
            reader.get_step_log("a", "r")
    done = again(store).compact("r")
    assert (done.packed, done.removed) == (2, 1)
    for reader in (store, other, again(store)):
        assert list(reader.get_run_log_by_id("r").steps) == ["n"]
        assert reader.get_step_log("n", "r").name == "n"


def test_a_process_that_knew_the_deleted_run_reads_the_packed_new_one() -> None:
    store = ended(memory())
    other = again(store)
    whole(other)
    store.delete_run_log("r")
    store.create_run_log("r")
    store.add_step_log(StepLog(name="n", internal_name="n"), "r")
    store.update_run_log_status("r", "SUCCESS")
    store.compact("r")
    assert other.get_step_log("n", "r").name == "n"
    assert list(other.get_run_log_by_id("r").steps) == ["n"]


def test_a_left_over_does_not_hide_the_packed_chunk() -> None:
    store = ended(memory())
    first = raw(store.backend, "r/step.b.json") or b""
    store.delete_run_log("r")
    ended(store.backend)
    before = agree(again(store))
    again(store).compact("r")
    store.backend.put("r/step.b.json", first, ANY)  # a put of the deleted run that was on its way
    reading = again(store).read_run_log("r")
    assert [(one.sort, one.name) for one in reading.findings] == [("left over", "r/step.b.json")]
    assert reading.run_log.model_dump(exclude={"created_at"}) == before


# Between any two requests.

Act = Callable[[Store], object]


def change_known(other: Store) -> None:
    step = other.get_step_log("a", "r")
    step.attempts.append(attempt("theirs"))
    other.add_step_log(step, "r")


def change_all(other: Store) -> None:
    run = other.get_run_log_by_id("r")
    for step in [*run.steps.values(), run.steps["m"].branches["m.x"].steps["m.x.t"]]:
        step.attempts.append(attempt("theirs"))
    run.steps["m"].branches["m.x"].status = "FAIL"
    assert run.job is not None
    run.job.attempts.append(attempt("theirs"))
    run.parameters["p"] = 2
    other.put_run_log(run)


MEANWHILE: dict[str, Act] = {
    "a step changes": change_known,
    "everything changes": change_all,
    "a step is written by hand": lambda other: other.add_step_log(
        StepLog(name="a", internal_name="a", attempts=[attempt("theirs")]), "r"
    ),
    "a job is changed": lambda other: other.add_job_log("r", JobLog(status="FAIL", attempts=[attempt("theirs")])),
    "steps come": lambda other: [
        other.add_step_log(StepLog(name=n, internal_name=n), "r") for n in ("0", "m.x.0", "z")
    ],
    "parameters change": lambda other: other.set_parameters("r", {"p": 2, "n": 3}),
    "the status changes": lambda other: other.update_run_log_status("r", "FAIL"),
    "another packs": lambda other: other.compact("r"),
    "another packs with all its might": lambda other: other.compact("r", remove="always"),
    "another packs, changes and packs": lambda other: (other.compact("r"), change_all(other), other.compact("r")),
    "steps come and another packs": lambda other: (
        [other.add_step_log(StepLog(name=n, internal_name=n), "r") for n in ("0", "m.x.0", "z")],
        other.compact("r"),
    ),
    "nothing": lambda _other: None,
}


def begun(backend: Backend, start: str) -> Store:
    """A run that has ended, and was packed before, or not."""
    store = ended(backend)
    if start == "packed before":
        store.compact("r")
        step = store.get_step_log("b", "r")
        step.message = "changed"
        store.add_step_log(step, "r")
        store.add_step_log(StepLog(name="w", internal_name="w"), "r")
    return store


def plainly(act: Act, knows: bool, start: str = "loose") -> dict[str, Any]:
    """What the run is where nobody packs it. What is made by hand says less where its process has seen more."""
    store = begun(memory(), start)
    other = again(store)
    whole(other) if knows else other.get_run_config("r")
    compact = Store.compact
    try:
        Store.compact = lambda *_given, **_more: None  # type: ignore[assignment,method-assign]
        act(other)
    finally:
        Store.compact = compact  # type: ignore[method-assign]
    return whole(again(store))


def requests_of(call: Callable[[Store], object], knows: bool, start: str = "loose") -> int:
    backend = begun(memory(), start).backend
    between = Between(backend, -1, lambda: None)
    store = Store(between)
    if knows:
        whole(store)
    between.requests = 0
    call(store)
    return between.requests


@pytest.mark.parametrize("name", MEANWHILE)
@pytest.mark.parametrize("knows", [False, True], ids=["new", "knowing"])
@pytest.mark.parametrize("start", ["loose", "packed before"])
def test_nothing_is_lost_whatever_happens_between_two_requests_of_the_packer(
    name: str, knows: bool, start: str
) -> None:
    """`knows`: the other has read the run before; else it is a late writer who knows the header alone."""
    act, expected = MEANWHILE[name], plainly(MEANWHILE[name], knows, start)
    for at in range(1, requests_of(lambda store: store.compact("r"), False, start) + 1):
        backend = begun(memory(), start).backend
        other = Store(backend)
        whole(other) if knows else other.get_run_config("r")
        done = Store(Between(backend, at, lambda other=other: act(other))).compact("r")
        assert isinstance(done, Compaction)
        for _ in range(2):
            assert whole(Store(backend)) == expected, at
            assert whole(other) == expected, at
            assert by_name(other) == parts_of(expected), at
            Store(backend).compact("r")
        agree(Store(backend))
        other.delete_run_log("r")
        assert list(backend.list("r/")) == []


READS: dict[str, Callable[[Store], object]] = {
    "whole": whole,
    "by name": by_name,
    "whole, twice": lambda store: (whole(store), whole(store)),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("knows", [False, True], ids=["new", "knowing"])
@pytest.mark.parametrize("packer", ["packs", "packs again"])
def test_a_reader_misses_nothing_when_a_run_is_packed_between_two_of_its_requests(
    name: str, knows: bool, packer: str
) -> None:
    read = READS[name]
    expected = read(ended(memory()))
    for at in range(1, requests_of(read, knows) + 8):
        backend = ended(memory()).backend
        other = Store(backend)
        if packer == "packs again":
            Store(backend).compact("r", remove="never")
        between = Between(backend, -1, lambda other=other: other.compact("r"))
        store = Store(between)
        if knows:
            whole(store)
        between.requests, between.at = 0, at
        assert read(store) == expected, at


@pytest.mark.parametrize("remove", ["unchanged", "always"])
def test_a_reader_sees_what_was_acknowledged_before_when_it_is_packed_and_made_anew_by_who_knows_nothing(
    remove: Any,
) -> None:
    """The late writer's chunk stands where the packed one stood when the reader listed it."""
    for at in range(1, 14):
        store = ended(memory())
        late, packer = again(store), again(store)
        late.get_run_config("r")

        def act(late: Store = late, packer: Store = packer) -> None:
            packer.compact("r", remove=remove)
            late.add_step_log(StepLog(name="a", internal_name="a", attempts=[attempt("late")]), "r")

        run = Store(Between(store.backend, at, act)).get_run_log_by_id("r")
        messages = [one.message for one in run.steps["a"].attempts]
        assert messages in (["first"], ["first", "late"]), at


class Paged(Between):
    """Lists by name, one to a page, each as it is at its moment; something else happens before one of the pages."""

    def list(self, prefix: str) -> Iterator[Entry]:
        after = ""
        while True:
            self._count()
            page = sorted(entry for entry in self.inner.list(prefix) if entry.key > after)[:1]
            if not page:
                return
            yield from page
            after = page[-1].key


@pytest.mark.parametrize("knows", [False, True], ids=["new", "knowing"])
def test_a_reader_misses_nothing_when_a_run_is_packed_between_two_pages_of_its_listing(knows: bool) -> None:
    """`knows`: the reader knows the header as it was, and nothing of the steps."""
    expected = whole(ended(memory()))
    for at in range(1, 30):
        backend = ended(memory()).backend
        between = Paged(backend, -1, lambda backend=backend: Store(backend).compact("r"))
        store = Store(between)
        if knows:
            store.get_run_config("r")
        between.requests, between.at = 0, at
        assert whole(store) == expected, at


@pytest.mark.parametrize("knows", [False, True], ids=["new", "knowing"])
def test_it_misses_no_step_either_where_nothing_else_that_was_listed_is_missing(knows: bool) -> None:
    """Steps alone: they come behind the header, and all go before their pages are listed."""
    for at in range(1, 12):
        store = Store(memory())
        store.create_run_log("r", status="SUCCESS")
        for name in "abcd":
            store.add_step_log(StepLog(name=name, internal_name=name), "r")
        between = Paged(store.backend, -1, lambda store=store: again(store).compact("r"))
        reader = Store(between)
        if knows:
            reader.get_run_config("r")
        between.requests, between.at = 0, at
        assert list(reader.get_run_log_by_id("r").steps) == ["a", "b", "c", "d"], at


class Names:
    """A folder's names as a system hands them out, some at a time: what is removed meanwhile is missed, and so is what is new."""

    def __init__(self, found: Iterator[os.DirEntry[str]], first: int, act: Callable[[], object]) -> None:
        self.found = sorted(found, key=lambda entry: entry.name != "run.json")  # the header's comes first
        self.first = first
        self.act = act

    def __enter__(self) -> Iterator[os.DirEntry[str]]:
        return self._names()

    def _names(self) -> Iterator[os.DirEntry[str]]:
        yield from self.found[: self.first]
        self.act()
        yield from (entry for entry in self.found[self.first :] if Path(entry.path).exists())

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("knows", [False, True], ids=["new", "knowing"])
def test_a_reader_misses_nothing_when_a_run_is_packed_while_a_disk_lists_its_names(
    knows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir
    expected = whole(ended(memory()))
    for first in range(1, 10):
        backend = LocalBackend(tmp_path / str(first), durability="process")
        ended(backend)
        store, other = Store(backend), Store(backend)
        if knows:
            store.get_run_config("r")

        def listed(path: str, first: int = first, other: Store = other) -> Any:
            monkeypatch.setattr(os, "scandir", scandir)
            return Names(scandir(path), first, lambda: other.compact("r"))

        monkeypatch.setattr(os, "scandir", listed)
        assert whole(store) == expected, first


WRITES: dict[str, Act] = {name: act for name, act in MEANWHILE.items() if "packs" not in name and name != "nothing"}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("knows", [False, True], ids=["new", "knowing"])
def test_a_writer_loses_nothing_when_a_run_is_packed_between_two_of_its_requests(name: str, knows: bool) -> None:
    act, expected = WRITES[name], plainly(WRITES[name], knows)
    for at in range(1, requests_of(act, knows) + 4):
        backend = ended(memory()).backend
        other = Store(backend)
        between = Between(backend, -1, lambda other=other: other.compact("r"))
        store = Store(between)
        if knows:
            whole(store)
        between.requests, between.at = 0, at
        act(store)
        assert whole(Store(backend)) == expected, at
        assert whole(store) == expected, at
        Store(backend).compact("r")
        assert agree(Store(backend)) == expected, at


@pytest.mark.parametrize("then", ["deleted", "made anew"])
def test_a_run_that_is_deleted_meanwhile_stays_deleted(then: str) -> None:
    for at in range(1, requests_of(lambda store: store.compact("r"), False) + 1):
        backend = ended(memory()).backend
        other = Store(backend)

        def act(other: Store = other) -> None:
            other.delete_run_log("r")
            if then == "made anew":
                other.create_run_log("r", tag="anew")
                other.add_step_log(StepLog(name="a", internal_name="a"), "r")

        with suppress(RunLogNotFoundError, InvalidInputError):
            Store(Between(backend, at, act)).compact("r")
        if then == "deleted":
            assert list(backend.list("r/")) == [], at
            continue
        for reader in (other, Store(backend)):
            run = reader.get_run_log_by_id("r")
            assert (run.tag, list(run.steps)) == ("anew", ["a"]), at
            assert reader.get_step_log("a", "r").attempts == []
        other.update_run_log_status("r", "SUCCESS")
        assert Store(backend).compact("r").packed == 2
        assert list(Store(backend).get_run_log_by_id("r").steps) == ["a"]
        other.delete_run_log("r")
        assert list(backend.list("r/")) == []


def test_a_run_is_deleted_whole_when_it_is_packed_between_two_requests() -> None:
    for at in range(1, 30):
        backend = ended(memory()).backend
        other = Store(backend)
        missing: list[Exception] = []

        def act(other: Store = other, missing: list[Exception] = missing) -> None:
            try:
                other.compact("r")
            except RunLogNotFoundError as error:
                missing.append(error)

        Store(Between(backend, at, act)).delete_run_log("r")
        assert list(backend.list("r/")) == [], at


def test_many_packers_at_once_lose_nothing(tmp_path: Path) -> None:
    for number in range(5):
        store = ended(LocalBackend(tmp_path / str(number)))
        expected = whole(store)
        with ThreadPoolExecutor(6) as pool:
            done = list(pool.map(lambda one: one.compact("r"), [again(store) for _ in range(6)]))
        assert sum(one.removed for one in done) >= 6
        assert agree(again(store)) == expected
        assert loose(store.backend) == []


# Memory.


def test_packs_are_held_within_the_bytes_that_the_cache_may_have() -> None:
    backend = memory()
    store = Store(backend)
    for number in range(6):
        store.create_run_log(f"r{number}")
        store.add_step_log(StepLog(name="a", internal_name="a", message="x" * 5_000), f"r{number}")
        store.update_run_log_status(f"r{number}", "SUCCESS")
        store.compact(f"r{number}")
    small = Store(backend, settings=StoreSettings(known_bytes=20_000))
    for _ in range(2):
        for number in range(6):
            assert small.get_step_log("a", f"r{number}").message == "x" * 5_000
    held = small._chunks.known.packs
    assert 0 < held._bytes <= 20_000
    assert held._bytes == sum(one.pack.size for one in held._packs.values())
    gc.collect()
