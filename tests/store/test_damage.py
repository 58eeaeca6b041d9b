"""A damaged chunk is named and isolated: the rest of the run stays readable, and nothing is overwritten in silence."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkstore import (
    BackendUnavailableError,
    BranchLog,
    ChunkedRunLogStore,
    ChunkStoreError,
    FormatError,
    InvalidInputError,
    NewerFormatError,
    StepLog,
    codec,
)
from chunkstore.backends import ANY, Backend, Blob, Condition, Entry, Guarantees
from chunkstore.backends.local import LocalBackend
from chunkstore.testing import CountingBackend
from places import again, memory, place

STEP = "r/step.b.json"
KEYS = {
    "step": STEP,
    "branch": "r/branch.m.x.json",
    "parameter": "r/parameter.p.json",
    "parameter of a branch": "r/parameter@m.x@q.json",
    "job": "r/job.json",
    "header": "r/run.json",
}


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
    """A store with a run that has a chunk of every kind."""
    made = ChunkedRunLogStore(place(request.param, request, tmp_path))
    made.create_run_log("r", tag="t")
    made.set_parameters("r", {"p": 1, "other": 2})
    made.add_job_log("r", made.create_job_log())
    for name in "abc":
        made.add_step_log(StepLog(name=name, internal_name=name), "r")
    branch = BranchLog(internal_name="m.x", parameters={"q": 1, "r": 2})
    branch.steps["m.x.t"] = StepLog(name="t", internal_name="m.x.t")
    made.add_step_log(StepLog(name="m", internal_name="m", branches={"m.x": branch}), "r")
    return made


def garbage(data: bytes) -> bytes:
    return b'{"Extra data": 1}\x00\xff not a chunk' + data[:10]


def flipped(data: bytes) -> bytes:
    at = random.Random(len(data)).randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def newer(data: bytes) -> bytes:
    return data.replace(b'"format":1', b'"format":7', 1)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": garbage,
    "zero bytes": lambda _data: b"",
    "a page of zeros": lambda data: bytes(len(data)),
    "cut short": lambda data: data[: len(data) // 2],
    "twice": lambda data: data + data,
    "extra data": lambda data: data + b"}",
    "a flipped byte": flipped,
    "a newer format": newer,
    "other JSON": lambda _data: b'{"name": "b", "internal_name": "b"}\n',
}


def damage(store: ChunkedRunLogStore, key: str, how: Callable[[bytes], bytes]) -> None:
    store.backend.put(key, how(store.backend.get(key).data), ANY)


@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("known", [True, False], ids=["known", "not known"])
def test_a_damaged_chunk_is_named_and_the_rest_is_read(
    store: ChunkedRunLogStore, key: str, how: Callable[[bytes], bytes], known: bool
) -> None:
    reader = store if known else again(store)
    damage(store, key, how)
    expected = NewerFormatError if how is newer else FormatError
    with pytest.raises(FormatError, match=r"'r' in .* has 1 damaged chunks: .*strict=False") as caught:
        reader.get_run_log_by_id("r")
    assert key in str(caught.value)
    assert caught.value.key == key
    reading = reader.read_run_log("r")
    (finding,) = [one for one in reading.findings if one.sort == "damaged"]
    assert finding.name == key
    assert key in finding.message
    assert ("upgrade chunkstore" if how is newer else "restore it") in finding.message
    found = reader.get_run_log_by_id("r", strict=False)
    lost = {name for name, one in KEYS.items() if one == key}
    assert list(found.steps) == [name for name in "abcm" if not (name == "b" and "step" in lost)]
    assert found.parameters == ({"other": 2} if "parameter" in lost else {"p": 1, "other": 2})
    assert (found.job is None) == ("job" in lost)
    assert (found.run_id, found.tag) == ("r", "" if "header" in lost else "t")
    branch = found.steps["m"].branches["m.x"]
    assert list(branch.steps) == ["m.x.t"]
    assert branch.parameters == ({"r": 2} if "parameter of a branch" in lost else {"q": 1, "r": 2})
    if key == STEP:
        with pytest.raises(expected) as caught:
            reader.get_step_log("b", "r")
        assert caught.value.key == key
        assert reader.get_step_log("a", "r").name == "a"


@pytest.mark.parametrize("how", [garbage, newer, DAMAGES["zero bytes"]], ids=["garbage", "newer", "zero bytes"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "not known"])
class TestWritingToADamagedChunk:
    @pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
    def test_it_is_refused_and_stays_as_it_is(
        self, store: ChunkedRunLogStore, key: str, how: Callable[[bytes], bytes], known: bool
    ) -> None:
        writer = store if known else again(store)
        damage(store, key, how)
        before = store.backend.get(key).data
        with pytest.raises(FormatError) as caught:
            writes(writer)[key]()
        assert caught.value.key == key
        assert store.backend.get(key).data == before

    def test_deleting_it_by_hand_and_adding_it_again_works(
        self, store: ChunkedRunLogStore, how: Callable[[bytes], bytes], known: bool
    ) -> None:
        writer = store if known else again(store)
        damage(store, STEP, how)
        store.backend.delete(STEP)
        writer.add_step_log(StepLog(name="b", internal_name="b", message="new"), "r")
        found = again(store).get_run_log_by_id("r")
        assert found.steps["b"].message == "new"
        assert list(found.steps) == ["a", "c", "m", "b"]


def writes(store: ChunkedRunLogStore) -> dict[str, Callable[[], object]]:
    """A write to each chunk that is damaged above."""
    return {
        KEYS["step"]: lambda: store.add_step_log(StepLog(name="b", internal_name="b", message="new"), "r"),
        KEYS["branch"]: lambda: store.add_branch_log(BranchLog(internal_name="m.x", status="FAIL"), "r"),
        KEYS["parameter"]: lambda: store.set_parameters("r", {"p": 3}),
        KEYS["parameter of a branch"]: lambda: store.set_parameters("r", {"q": 3}, "m.x"),
        KEYS["job"]: lambda: store.add_job_log("r", store.create_job_log().model_copy(update={"message": "new"})),
        KEYS["header"]: lambda: store.update_run_log_status("r", "FAIL"),
    }


def test_creating_a_run_over_a_damaged_header_is_refused(store: ChunkedRunLogStore) -> None:
    damage(store, "r/run.json", garbage)
    with pytest.raises(FormatError, match=r"r/run\.json is damaged"):
        again(store).create_run_log("r")


def test_a_run_with_a_damaged_header_can_be_deleted(store: ChunkedRunLogStore) -> None:
    damage(store, "r/run.json", garbage)
    again(store).delete_run_log("r")
    assert store.list_run_ids() == []


def test_other_runs_are_listed_beside_a_damaged_header(
    store: ChunkedRunLogStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.create_run_log("q")
    damage(store, "r/run.json", garbage)
    assert [run_log.run_id for run_log in again(store).get_run_logs()] == ["q"]
    assert "r/run.json" in caplog.text


@pytest.mark.parametrize("key", [KEYS["header"], KEYS["job"], STEP])
def test_a_whole_chunk_that_does_not_fit_its_model_is_damage_too(store: ChunkedRunLogStore, key: str) -> None:
    def misfit(data: bytes) -> bytes:
        chunk = codec.decode(data, key)
        body = b'{"status": {"is": "no text"}, "name": 5}'
        return codec.encode(codec.Chunk(chunk.envelope, codec.Content(body)))

    damage(store, key, misfit)
    with pytest.raises(FormatError, match=r"does not fit") as caught:
        again(store).get_run_log_by_id("r")
    assert key in str(caught.value)
    found = again(store).get_run_log_by_id("r", strict=False)
    assert list(found.steps) == [name for name in "abcm" if not (name == "b" and key == STEP)]
    assert found.parameters == {"p": 1, "other": 2}
    again(store).get_run_logs()


class TestMovedChunks:
    @pytest.mark.parametrize(
        ("moved", "to"),
        [(STEP, "r/step.z.json"), (STEP, "r/step.a.json"), ("r/run.json", "q/run.json"), (STEP, "r/job.json")],
    )
    def test_a_chunk_under_another_key_is_refused_with_both_names(
        self, store: ChunkedRunLogStore, moved: str, to: str
    ) -> None:
        store.create_run_log("q")
        store.backend.put(to, store.backend.get(moved).data, ANY)
        reading = again(store).read_run_log(to[0])
        (finding,) = [one for one in reading.findings if one.sort == "damaged"]
        assert finding.name == to
        assert moved in finding.message
        assert "move it back" in finding.message

    def test_a_copied_run_is_not_taken_for_the_original(self, store: ChunkedRunLogStore) -> None:
        store.create_run_log("copy")
        for entry in list(store.backend.list("r/")):
            store.backend.put(f"copy/{entry.key.partition('/')[2]}", store.backend.get(entry.key).data, ANY)
        with pytest.raises(FormatError, match=r"belongs to r/run.json"):
            again(store).get_run_log_by_id("copy")


class TestForeignThings:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "runs" / "r"

    @pytest.fixture
    def local(self, folder: Path) -> ChunkedRunLogStore:
        store = ChunkedRunLogStore(LocalBackend(folder.parent))
        store.create_run_log("r")
        store.add_step_log(store.create_step_log("a", "a"), "r")
        return store

    @pytest.fixture
    def littered(self, local: ChunkedRunLogStore, folder: Path) -> ChunkedRunLogStore:
        names = [
            "notes.txt",
            "step.%61.json",  # an escape that we never write
            "README.json",
            ".hidden",
            "step.a.json~",
            "step.a.json.bak",
            "step.json",
            "step..swp",
            "STEP.a.json",
            "pack.bin",
            "parameter@.json",
        ]
        for name in names:
            (folder / name).write_text("somebody else's")
        (folder / "sub").mkdir()
        shutil.copy(folder / "step.a.json", folder / "sub" / "step.b.json")
        (folder / "step.dir.json").mkdir()
        (folder / "step.link.json").symlink_to(folder / "step.a.json")
        (folder / "step.loop.json").symlink_to("step.loop.json")
        (folder / "away").symlink_to(folder.parent)
        os.mkfifo(folder / "step.pipe.json")
        (folder.parent / "file").write_text("beside the runs")
        (folder.parent / "linked").symlink_to(folder)
        return again(local)

    def test_they_are_neither_read_nor_reported(self, littered: ChunkedRunLogStore) -> None:
        reading = littered.read_run_log("r")
        assert (list(reading.run_log.steps), reading.findings) == (["a"], ())
        assert littered.list_run_ids() == ["r"]

    def test_they_stay_when_the_run_is_deleted(self, littered: ChunkedRunLogStore, folder: Path) -> None:
        before = {path.name for path in folder.iterdir()}
        littered.delete_run_log("r")
        assert {path.name for path in folder.iterdir()} == before - {"run.json", "step.a.json"}
        assert (folder / "step.link.json").is_symlink()

    @pytest.mark.parametrize("name", ["dir", "link", "loop", "pipe"])
    def test_one_in_the_place_of_a_chunk_is_an_error_that_names_it(
        self, littered: ChunkedRunLogStore, folder: Path, name: str
    ) -> None:
        with pytest.raises(ChunkStoreError, match=rf"step\.{name}\.json") as caught:
            littered.get_step_log(name, "r")
        assert isinstance(caught.value, BackendUnavailableError | FormatError)
        with pytest.raises(ChunkStoreError, match=rf"step\.{name}\.json"):
            littered.add_step_log(StepLog(name=name, internal_name=name), "r")
        assert (folder / "step.a.json").exists()
        assert littered.get_step_log("a", "r").name == "a"


class CaseBlind:
    """A place that does not tell upper and lower case apart but keeps what it was given, like most disks of Macs and Windows."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self._shown: dict[str, str] = {}

    place = "a case-blind place"
    concurrency = 1
    asynchronous = False

    @property
    def guarantees(self) -> Guarantees:
        return self.inner.guarantees

    def get(self, key: str) -> Blob:
        return self.inner.get(key.lower())

    def get_many(self, keys: Iterator[str]) -> Iterator[tuple[str, Blob]]:
        for key in list(keys):
            for _, blob in self.inner.get_many([key.lower()]):
                yield key, blob

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        version = self.inner.put(key.lower(), data, condition, barrier=barrier)
        self._shown.setdefault(key.lower(), key)
        return version

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self.inner.delete(key.lower(), condition)
        self._shown.pop(key.lower(), None)

    def list(self, prefix: str) -> Iterator[Entry]:
        folder = prefix.lower().partition("/")[0]
        for entry in self.inner.list(f"{folder}/"):
            shown = self._shown[entry.key]
            if shown.partition("/")[2].startswith(prefix.partition("/")[2]):
                yield Entry(f"{prefix.partition('/')[0]}/{shown.partition('/')[2]}", entry.version, entry.size)

    def folders(self) -> Iterator[str]:
        return iter(
            sorted(
                {
                    self._shown[entry.key].partition("/")[0]
                    for folder in self.inner.folders()
                    for entry in self.inner.list(f"{folder}/")
                }
            )
        )

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("knowing", [True, False], ids=["one store", "two stores"])
class TestCaseBlindPlaces:
    @pytest.fixture
    def store(self) -> ChunkedRunLogStore:
        made = ChunkedRunLogStore(CountingBackend(CaseBlind(memory())))
        made.create_run_log("run")
        return made

    def test_steps_that_differ_only_in_case_are_refused(self, store: ChunkedRunLogStore, knowing: bool) -> None:
        store.add_step_log(StepLog(name="Train", internal_name="Train", message="first"), "run")
        other = store if knowing else again(store)
        with pytest.raises(
            InvalidInputError,
            match=r"step\.train\.json and .*step\.Train\.json differ only in upper and lower case.*rename",
        ):
            other.add_step_log(StepLog(name="train", internal_name="train", message="second"), "run")
        found = again(store).get_run_log_by_id("run")
        assert {name: step.message for name, step in found.steps.items()} == {"Train": "first"}
        assert other.get_step_log("Train", "run").message == "first"
        with pytest.raises(ChunkStoreError):
            other.get_step_log("train", "run")

    def test_parameters_that_differ_only_in_case_are_refused(self, store: ChunkedRunLogStore, knowing: bool) -> None:
        store.set_parameters("run", {"alpha": 1})
        other = store if knowing else again(store)
        with pytest.raises(InvalidInputError, match="differ only in upper and lower case"):
            other.set_parameters("run", {"Alpha": 2})
        assert again(store).get_parameters("run") == {"alpha": 1}

    def test_runs_that_differ_only_in_case_are_refused(self, store: ChunkedRunLogStore, knowing: bool) -> None:
        other = store if knowing else again(store)
        with pytest.raises(InvalidInputError, match="differ only in upper and lower case"):
            other.create_run_log("RUN")
        assert again(store).get_run_log_by_id("run").run_id == "run"
        with pytest.raises(ChunkStoreError):
            other.get_run_log_by_id("RUN")
        with pytest.raises(ChunkStoreError):
            other.update_run_log_status("RUN", "FAIL")
        with pytest.raises(ChunkStoreError):
            other.delete_run_log("RUN")
        assert again(store).get_run_log_by_id("run").status == "CREATED"
