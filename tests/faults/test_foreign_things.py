"""Whatever else lies in the root or in a run's folder: nothing hangs or breaks, nothing beyond the root is touched, and it stays."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from chunkstore import BackendUnavailableError, ChunkedRunLogStore, ChunkStoreError, FormatError, StepLog
from chunkstore.backends import ANY
from chunkstore.backends.local import LocalBackend
from places import again, finish, in_bucket, start
from rigs import Tally
from servers import S3Server

Litter = Callable[[Path], object]

SOON = 30.0
"""Seconds after which a few calls on a small run hang."""


def bind(path: Path) -> None:
    """A socket file; its path may be longer than a socket's address can be."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError as error:
        pytest.skip(f"no device can be made here: {error}")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)


def folder_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


THINGS: dict[str, Litter] = {
    "folder": folder_with_a_file,
    "empty folder": Path.mkdir,
    "link to a file outside": lambda path: path.symlink_to(outside(path) / "victim"),
    "link to a folder outside": lambda path: path.symlink_to(outside(path)),
    "link to the passwords": lambda path: path.symlink_to("/etc/passwd"),
    "link to another run's chunk": lambda path: path.symlink_to(outside(path).parent / "runs/q/step.a.json"),
    "link to nothing": lambda path: path.symlink_to(outside(path) / "nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "pipe": os.mkfifo,
    "socket": bind,
    "device": device,
}


def outside(path: Path) -> Path:
    """The folder beside the root."""
    return next(parent for parent in path.parents if parent.name == "runs").parent / "outside"


NAMES_BESIDE = [
    *(
        ".DS_Store",
        "lost+found",
        "Thumbs.db",
        "notes.txt",
        "step.a.json~",
        "#step.a.json#",
        ".step.a.json.swp",
        ".hidden",
    ),
    *(
        "step.a.json.bak",
        "step.a (copy).json.tmp",
        "run.json.1",
        "CVS",
        ".git",
        ".nfs000000000001",
        "4913",
        "desktop.ini",
    ),
    *("STEP.a.json", "step.json", "parameter@.json", "a\nb", "*", "step.a.json\n", "%", "step.%61.json"),
]


@pytest.fixture
def store(tmp_path: Path) -> ChunkedRunLogStore:
    """Two runs, and a folder beside their root with a file that nobody may touch."""
    made = ChunkedRunLogStore(LocalBackend(tmp_path / "runs", durability="process"))
    for run_id in "rq":
        made.create_run_log(run_id, tag="t")
        made.set_parameters(run_id, {"p": 1})
        made.add_step_log(StepLog(name="a", internal_name="a", message=run_id), run_id)
        made.add_step_log(StepLog(name="b", internal_name="b"), run_id)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "victim").write_text("a secret")
    return made


def what_is_outside(tmp_path: Path) -> dict[str, str]:
    found = {path.name: path.read_text() for path in (tmp_path / "outside").iterdir()}
    return found | {"": str(sorted(path.name for path in tmp_path.iterdir()))}


def every_call(root: str, step: str) -> list[str]:
    """What goes wrong in a process of its own: a hang shows; what ours say is right, if it names the chunk."""
    wrong = []
    for knowing in (True, False):
        known = ChunkedRunLogStore(LocalBackend(root, durability="process"))
        if knowing:
            known.get_run_log_by_id("q")
        calls: list[Callable[[ChunkedRunLogStore], object]] = [
            lambda store: store.get_run_log_by_id("r"),
            lambda store: store.get_run_log_by_id("r", full=False),
            lambda store: store.get_step_log(step, "r"),
            lambda store: store.add_step_log(StepLog(name=step, internal_name=step, message="new"), "r"),
            lambda store: store.get_parameters("r"),
            lambda store: store.update_run_log_status("r", "FAIL"),
            lambda store: store.list_run_ids(),
            lambda store: store.get_run_logs(),
        ]
        for number, call in enumerate(calls):
            try:
                call(known)
            except ChunkStoreError as error:
                if "secret" in str(error) or "root:" in str(error):
                    wrong.append(f"{number}: shows what is in the file: {error}")
            except BaseException as error:  # noqa: BLE001  whatever it is, it is what we look for
                wrong.append(f"{number}: {type(error).__name__}: {error}")
    return wrong


@pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS.keys())
class TestInThePlaceOfAChunk:
    def test_it_is_neither_followed_nor_overwritten_and_no_call_hangs_or_breaks(
        self, store: ChunkedRunLogStore, tmp_path: Path, thing: Litter, tally: Tally
    ) -> None:
        before = what_is_outside(tmp_path)
        for name in ("a", "new"):  # one that the run had, and one that it had not
            path = tmp_path / "runs" / "r" / f"step.{name}.json"
            path.unlink(missing_ok=True)
            thing(path)
            kind = stat.S_IFMT(path.lstat().st_mode)
            (wrong,) = finish([start(every_call, (str(tmp_path / "runs"), name))], SOON)
            assert wrong == []
            with pytest.raises((BackendUnavailableError, FormatError), match=rf"step\.{name}\.json"):
                again(store).get_step_log(name, "r")
            with pytest.raises((BackendUnavailableError, FormatError), match=rf"step\.{name}\.json"):
                again(store).add_step_log(StepLog(name=name, internal_name=name), "r")
            assert stat.S_IFMT(path.lstat().st_mode) == kind
            assert what_is_outside(tmp_path) == before
        assert again(store).get_run_log_by_id("q").steps["a"].message == "q"
        tally("foreign things", 2)

    def test_a_store_that_knows_the_chunk_reads_the_rest_and_writes_nothing_through_it(
        self, store: ChunkedRunLogStore, tmp_path: Path, thing: Litter, tally: Tally
    ) -> None:
        before = what_is_outside(tmp_path)
        path = tmp_path / "runs" / "r" / "step.a.json"
        path.unlink()
        thing(path)
        kind = stat.S_IFMT(path.lstat().st_mode)
        with pytest.raises(ChunkStoreError, match=r"step\.a\.json"):
            store.add_step_log(StepLog(name="a", internal_name="a", message="new"), "r")
        assert list(store.get_run_log_by_id("r").steps) == ["b"]
        assert stat.S_IFMT(path.lstat().st_mode) == kind
        store.delete_run_log("r")
        assert what_is_outside(tmp_path) == before
        assert [one.name for one in path.parent.iterdir()] == ["step.a.json"]
        assert store.get_run_log_by_id("q").steps["a"].message == "q"
        tally("foreign things", 1)


@pytest.mark.parametrize("name", ["a", "new"])
def test_a_file_of_4_tb_is_named_and_the_rest_is_read(store: ChunkedRunLogStore, tmp_path: Path, name: str) -> None:
    sparse(tmp_path / "runs" / "r" / f"step.{name}.json")
    with pytest.raises(ChunkStoreError, match=rf"step\.{name}\.json"):
        store.get_step_log(name, "r")
    reading = store.read_run_log("r")
    assert "b" in reading.run_log.steps
    assert [finding.name for finding in reading.findings] == [f"r/step.{name}.json"]


def test_what_lies_beside_chunks_is_not_read_not_reported_and_stays(
    store: ChunkedRunLogStore, tmp_path: Path, tally: Tally
) -> None:
    root = tmp_path / "runs"
    for name in NAMES_BESIDE:
        (root / "r" / name).write_text("somebody else's")
        (root / name).write_text("somebody else's")
    for number, litter in enumerate(THINGS.values()):
        litter(root / "r" / f"thing {number}")
        litter(root / f".thing {number}")
    (wrong,) = finish([start(every_call, (str(root), "a"))], SOON)
    assert wrong == []
    reading = again(store).read_run_log("r")
    assert (list(reading.run_log.steps), reading.findings) == (["a", "b"], ())
    assert again(store).list_run_ids() == ["q", "r"]
    again(store).delete_run_log("r")
    left = {path.name for path in (root / "r").iterdir()}
    assert left == {*NAMES_BESIDE, *(f"thing {number}" for number in range(len(THINGS)))}
    assert all((root / name).read_text() == "somebody else's" for name in NAMES_BESIDE)
    assert again(store).get_run_log_by_id("q").steps["a"].message == "q"
    tally("foreign things", 2 * (len(NAMES_BESIDE) + len(THINGS)))


NO_UTF8 = "keys.run_id_of and keys.parse encode what a disk listed: UnicodeEncodeError"


def test_a_folder_whose_name_is_no_text_hides_no_run(store: ChunkedRunLogStore, tmp_path: Path) -> None:
    (tmp_path / "runs" / os.fsdecode(b"\xff\xfe")).mkdir()
    assert store.list_run_ids() == ["q", "r"]
    assert len(store.get_run_logs()) == 2


def test_a_file_whose_name_is_no_text_keeps_no_run_from_being_deleted(
    store: ChunkedRunLogStore, tmp_path: Path
) -> None:
    odd = os.fsdecode(b"step.\xff.json")
    (tmp_path / "runs" / "r" / odd).write_bytes(b"")
    assert list(store.get_run_log_by_id("r").steps) == ["a", "b"]
    store.delete_run_log("r")
    assert [path.name for path in (tmp_path / "runs" / "r").iterdir()] == [odd]


@pytest.fixture
def linked(store: ChunkedRunLogStore, tmp_path: Path) -> Path:
    """A run whose folder is a link to a folder outside of the root."""
    (tmp_path / "runs" / "r").rename(tmp_path / "outside" / "moved")
    (tmp_path / "runs" / "r").symlink_to(tmp_path / "outside" / "moved")
    return tmp_path / "outside" / "moved"


FOLLOWED = "LocalBackend refuses a link only in the last part of a path: a run's folder that is a link is followed"


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.update_run_log_status("r", "FAIL"),
        lambda store: store.add_step_log(StepLog(name="new", internal_name="new"), "r"),
        lambda store: store.set_parameters("r", {"p": 2}),
        lambda store: store.delete_run_log("r"),
        lambda store: store.get_run_log_by_id("r"),
        lambda store: store.get_step_log("a", "r"),
    ],
    ids=["status", "new step", "parameter", "delete", "read", "read a step"],
)
@pytest.mark.parametrize("knowing", [True, False], ids=["known", "not known"])
def test_a_run_whose_folder_is_a_link_is_refused_and_nothing_behind_it_changes(
    store: ChunkedRunLogStore, linked: Path, knowing: bool, call: Callable[[ChunkedRunLogStore], object]
) -> None:
    before = {path.name: path.read_bytes() for path in linked.iterdir()}
    with pytest.raises(BackendUnavailableError, match="symbolic link"):
        call(store if knowing else again(store))
    assert {path.name: path.read_bytes() for path in linked.iterdir()} == before
    assert store.list_run_ids() == ["q"]


def test_no_run_is_created_through_a_link(store: ChunkedRunLogStore, tmp_path: Path) -> None:
    (tmp_path / "runs" / "away").symlink_to(tmp_path / "outside")
    before = what_is_outside(tmp_path)
    with pytest.raises(BackendUnavailableError, match="symbolic link"):
        store.create_run_log("away")
    assert what_is_outside(tmp_path) == before


def test_no_lock_file_is_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "runs" / ".locks").symlink_to(tmp_path / "outside")
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs"))
    with pytest.raises(BackendUnavailableError, match="symbolic link"):
        store.create_run_log("r")
    assert list((tmp_path / "outside").iterdir()) == []


def test_foreign_keys_in_a_bucket_are_left_alone(moto_server: S3Server, tmp_path: Path, tally: Tally) -> None:
    store = ChunkedRunLogStore(in_bucket(moto_server, tmp_path))
    store.create_run_log("r")
    store.add_step_log(StepLog(name="a", internal_name="a"), "r")
    bucket, client = store.backend.settings.bucket, moto_server.client()  # type: ignore[attr-defined]
    foreign = [
        *(
            "some/runs/r/",
            "some/runs/r/notes.txt",
            "some/runs/r/sub/step.b.json",
            "some/runs/r//step.c.json",
            "other/run.json",
        ),
        *(
            "some/runs/run.json",
            "some/runs/.hidden/run.json",
            "some/runs//run.json",
            "some/runsx/r/run.json",
            "some/runs",
        ),
        *(
            "some/runs/r/step.%61.json",
            "some/runs/r/step.\u202e.json",
            "some/runs/r/a\nb",
            "some/runs/r/\x01",
            "r/run.json",
        ),
        *("some/runs/r/step..json", "some/runs/%2E%2E/run.json", "some/runs/r/step.a.json ", "some/runs/r/STEP.a.json"),
    ]
    for key in list(foreign):
        try:
            client.put_object(Bucket=bucket, Key=key, Body=b"somebody else's")
        except client.exceptions.ClientError:  # the server itself has no such key
            foreign.remove(key)
    assert len(foreign) > 12
    store.backend.put("r/step.empty.json", b"", ANY)
    reading = again(store).read_run_log("r")
    assert list(reading.run_log.steps) == ["a"]
    assert [finding.name for finding in reading.findings] == ["r/step.empty.json"]
    assert again(store).list_run_ids() == ["r"]
    again(store).delete_run_log("r")
    left = {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert left == set(foreign)
    tally("foreign things", len(foreign))
