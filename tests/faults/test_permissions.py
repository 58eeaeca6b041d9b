"""What is made on a disk is as open as the process's umask says and no more; users of one group share a root, or are told why not."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import BackendUnavailableError, BranchLog, ChunkedRunLogStore, StepLog
from chunkstore.backends.hostlock import HostLocks
from chunkstore.backends.local import Durability, LocalBackend
from places import finish, start
from rigs import Tally

UMASKS: Final = (0o000, 0o022, 0o027, 0o077)
ALICE, BOB, TEAM = 61_001, 61_002, 61_100
"""Two users and a group that nobody has."""


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def write_everything(root: Path, durability: Durability = "process") -> ChunkedRunLogStore:
    """A run with a chunk of each kind, each of them written a second time."""
    store = ChunkedRunLogStore(LocalBackend(root, durability=durability))
    store.create_run_log("r")
    for message in ("first", "second"):
        store.add_step_log(StepLog(name="s", internal_name="s", message=message), "r")
        store.set_parameters("r", {"p": message})
        store.add_branch_log(BranchLog(internal_name="s.b", status=message, parameters={"q": message}), "r")
        store.add_job_log("r", store.create_job_log().model_copy(update={"message": message}))
    return store


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode) for path in [root, *root.rglob("*")]}


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("staged", [False, True], ids=["nameless", "staged"])
@pytest.mark.parametrize("mask", UMASKS, ids=oct)
def test_files_folders_and_locks_have_the_umasks_mode(
    tmp_path: Path, mask: int, staged: bool, durability: Durability, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    if staged:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    root = tmp_path / "deep" / "runs"
    with umask(mask):
        write_everything(root, durability)
    made = {
        tmp_path / "deep": 0o777,
        **dict.fromkeys([path for path in (tmp_path / "deep").rglob("*") if path.is_dir()], 0o777),
    }
    made |= dict.fromkeys([path for path in (tmp_path / "deep").rglob("*") if path.is_file()], 0o666)
    assert len(made) > 9
    assert any(path.suffix == ".lock" for path in made)
    for path, most in made.items():
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(most & ~mask), path
    tally("files whose permissions were looked at", len(made))


def test_while_a_file_is_being_written_it_is_no_more_open_than_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fill = LocalBackend._fill

    def look(self: LocalBackend, fd: int, *rest: Any) -> str:
        seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fill(self, fd, *rest)

    monkeypatch.setattr(LocalBackend, "_fill", look)
    with umask(0o077):
        write_everything(tmp_path / "runs")
    assert set(seen) == {0o600}
    assert len(seen) > 8


def test_a_chunk_that_is_rewritten_gets_the_umasks_mode_and_the_folder_keeps_its_own(tmp_path: Path) -> None:
    """A rewritten chunk is another file. Who wants a run closed closes its folder, which nothing of ours opens again."""
    root = tmp_path / "runs"
    with umask(0o022):
        store = write_everything(root)
        (root / "r" / "step.s.json").chmod(0o600)
        (root / "r").chmod(0o700)
        store.add_step_log(StepLog(name="s", internal_name="s", message="third"), "r")
        store.update_run_log_status("r", "SUCCESS")
    assert modes(root)["r"] == 0o700
    assert modes(root)["r/step.s.json"] == 0o644


# Another user; only root can become one


def as_user(user: int, mask: int, work: Any, *arguments: object) -> Any:
    """What the work returns that another user does, of the group that both are in."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    return finish([start(_become, (user, mask, work, arguments))], 60)[0]


def _become(user: int, mask: int, work: Any, arguments: tuple[object, ...]) -> Any:
    os.setgroups([TEAM])
    os.setgid(TEAM)
    os.setuid(user)
    os.umask(mask)
    return work(*arguments)


def _try_all(root: str) -> dict[str, str]:
    """What becomes of each kind of access; ours must say what is wrong, and anything else is a fault."""
    store = ChunkedRunLogStore(LocalBackend(root, durability="process"))
    calls: dict[str, Any] = {
        "read": lambda: store.get_run_log_by_id("r").run_id,
        "list": store.list_run_ids,
        "change": lambda: store.update_run_log_status("r", "FAIL"),
        "add": lambda: store.add_step_log(StepLog(name="new", internal_name="new"), "r"),
        "create": lambda: store.create_run_log("mine").run_id,
        "delete": lambda: store.delete_run_log("r"),
    }
    results = {}
    for name, call in calls.items():
        try:
            call()
            results[name] = "done"
        except BackendUnavailableError as error:
            results[name] = f"{error}{' again' * error.transient}"
    return results


def _write(root: str) -> None:
    write_everything(Path(root))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of the group, in which what is made is the group's too. Not below pytest's folders: those are closed for others."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to a group")
    with tempfile.TemporaryDirectory(prefix="chunkstore-shared-") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "shared"
        folder.mkdir()
        os.chown(folder, -1, TEAM)
        folder.chmod(0o2775)
        yield folder


def test_two_users_of_a_group_work_on_the_same_runs(shared: Path, tally: Tally) -> None:
    as_user(ALICE, 0o002, _write, str(shared / "runs"))
    results = as_user(BOB, 0o002, _try_all, str(shared / "runs"))
    assert set(results.values()) == {"done"}
    assert {path.stat().st_gid for path in (shared / "runs").rglob("*")} == {TEAM}
    owners = {path.stat().st_uid for path in (shared / "runs").rglob("*")}
    assert owners == {ALICE, BOB}
    tally("accesses of another user", len(results))


def test_a_user_who_may_only_read_reads_and_is_told_the_rest(shared: Path, tally: Tally) -> None:
    as_user(ALICE, 0o022, _write, str(shared / "runs"))
    before = modes(shared)
    results = as_user(BOB, 0o022, _try_all, str(shared / "runs"))
    assert (results["read"], results["list"]) == ("done", "done")
    for name in ("change", "add", "create", "delete"):
        assert "ermission denied" in results[name], name
        assert "writable" in results[name], name
        assert not results[name].endswith("again"), name
        assert str(shared) in results[name], name
    assert modes(shared) == before
    tally("accesses of another user", len(results))


def test_a_user_who_may_not_even_read_is_told_so_and_never_that_nothing_is_there(shared: Path, tally: Tally) -> None:
    as_user(ALICE, 0o077, _write, str(shared / "runs"))
    results = as_user(BOB, 0o077, _try_all, str(shared / "runs"))
    for name, result in results.items():
        assert "ermission denied" in result, name
    tally("accesses of another user", len(results))


def _read_with_one_closed(root: str) -> str:
    store = ChunkedRunLogStore(LocalBackend(root))
    try:
        store.get_run_log_by_id("r")
    except BackendUnavailableError as error:
        return error.key
    return "read"


def test_one_chunk_that_may_not_be_read_is_named_and_not_taken_for_missing(shared: Path) -> None:
    as_user(ALICE, 0o022, _write, str(shared / "runs"))
    (shared / "runs" / "r" / "step.s.json").chmod(0o600)
    assert as_user(BOB, 0o022, _read_with_one_closed, str(shared / "runs")) == "r/step.s.json"


# The files of locks in a folder that others can write


def _hold(folder: str) -> str:
    locks = HostLocks(folder, timeout=1)
    for number in range(300):  # all stripes
        try:
            with locks.holding(f"r/step.{number}.json"):
                pass
        except BackendUnavailableError as error:
            return f"{error}"
    return "held"


@pytest.mark.parametrize("to", ["victim", "nothing", "/dev/zero"])
def test_a_link_in_the_place_of_a_lock_file_is_never_followed(shared: Path, to: str) -> None:
    """The names of lock files can be guessed; a link there must neither make nor open what it points to."""
    folder = shared / "locks"
    folder.mkdir()
    folder.chmod(0o1777)
    victim = shared / "victim"
    victim.write_text("mine")
    for stripe in range(64):
        (folder / f"{stripe:02d}.lock").symlink_to(to if to.startswith("/") else shared / to)
    result = as_user(BOB, 0o002, _hold, str(folder))
    assert str(folder) in result
    assert os.strerror(errno.ELOOP) in result
    assert victim.read_text() == "mine"
    assert not (shared / "nothing").exists()


def test_two_users_share_a_sticky_lock_folder_if_the_umask_lets_them(shared: Path) -> None:
    folder = shared / "locks"
    folder.mkdir()
    folder.chmod(0o3777)
    os.chown(folder, -1, TEAM)
    folder.chmod(0o3777)
    assert as_user(ALICE, 0o002, _hold, str(folder)) == "held"
    assert as_user(BOB, 0o002, _hold, str(folder)) == "held"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o664}


def test_lock_files_that_another_user_closed_are_named(shared: Path) -> None:
    folder = shared / "locks"
    folder.mkdir()
    folder.chmod(0o1777)
    assert as_user(ALICE, 0o077, _hold, str(folder)) == "held"
    result = as_user(BOB, 0o077, _hold, str(folder))
    assert "ermission denied" in result
    assert str(folder) in result
    assert "Make it writable" in result
