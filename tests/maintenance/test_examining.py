"""examine: what a place really does is seen, what follows is said, and nothing stays behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chunkstore
from chunkstore import BackendUnavailableError, ChunkedRunLogStore, InvalidInputError, StepLog
from chunkstore.backends import ANY, Backend, Condition, Entry
from chunkstore.backends.local import LocalBackend
from chunkstore.maintenance import Examination, doctor, examine, localprobes
from chunkstore.testing import CountingBackend
from places import in_bucket, memory
from servers import free_port

FORK = multiprocessing.get_context("fork")
PROMISED = ("list", "write", "read", "delete", "listing after put", "conditional create", "conditional update")
RACES = ("create race", "update race")


def outcomes(examination: Examination) -> dict[str, str]:
    return {check.name: check.outcome for check in examination.checks}


def left_in(backend: Backend) -> list[str]:
    return [entry.key for entry in backend.list(f"{doctor.FOLDER}/")]


class TestADisk:
    def test_all_that_a_store_needs_is_tried_out_and_nothing_stays(self, tmp_path: Path) -> None:
        store = chunkstore.open(tmp_path / "runs")
        store.create_run_log("r")
        before = sorted(tmp_path.rglob("*"))
        examination = examine(store)
        assert sorted(tmp_path.rglob("*")) == before
        seen = outcomes(examination)
        needed = (
            *PROMISED,
            *RACES,
            "conditional delete",
            "link",
            "replace",
            "locks between processes",
            "fsync",
            "clock",
        )
        assert {seen[name] for name in needed} == {"yes"}
        assert {"file system", "O_TMPFILE", "case", "long names", "time stamps", "free space", "free inodes"} <= set(
            seen
        )
        assert examination.writers == "one host"
        assert examination.is_usable
        assert "durability" in examination.advice[-1]

    def test_a_folder_that_is_not_there_is_made_for_as_long_as_it_takes(self, tmp_path: Path) -> None:
        assert examine(tmp_path / "a" / "b" / "runs").is_usable
        assert list(tmp_path.iterdir()) == []

    def test_what_a_killed_examination_left_is_removed_by_the_next(self, tmp_path: Path) -> None:
        root = tmp_path / "a" / "runs"

        def until_killed() -> None:
            doctor.examine_disk = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            examine(root)

        killed = FORK.Process(target=until_killed)
        killed.start()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        assert list((root / ".doctor").iterdir()) != []
        examine(root)
        assert list(tmp_path.iterdir()) == []

    def test_another_that_is_at_work_is_left_alone(self, tmp_path: Path) -> None:
        other = tmp_path / ".doctor" / f"{doctor._token()}-0"
        other.mkdir(parents=True)
        examine(tmp_path)
        assert other.is_dir()

    def test_a_link_in_the_place_of_its_folder_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "runs").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "runs" / ".doctor").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BackendUnavailableError, match="symbolic link"):
            examine(tmp_path / "runs")
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_a_file_where_the_folder_should_be_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(BackendUnavailableError, match="cannot examine"):
            examine(tmp_path / "file" / "runs")

    def test_a_folder_that_nobody_may_write_to_can_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chunkstore.open(tmp_path).create_run_log("r")

        def refused(self: Path, *_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

        monkeypatch.setattr(Path, "mkdir", refused)  # root may write where others may not
        examination = examine(tmp_path)
        assert (examination.outcome("list"), examination.outcome("write")) == ("yes", "no")
        assert examination.writers == "nobody"

    def test_locks_that_do_not_hold_leave_one_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(localprobes, "_lock_elsewhere", lambda *_: "taken")
        examination = examine(tmp_path)
        assert examination.writers == "one process"
        assert any("one process" in advice for advice in examination.advice)

    def test_a_disk_without_links_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        notes = doctor._Notes()

        def refused(*_: Any, **__: Any) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refused)
        localprobes._links(tmp_path, notes)
        localprobes._nameless(tmp_path, notes)
        assert {check.name: check.outcome for check in notes.checks} == {"link": "no", "O_TMPFILE": "no"}

    @pytest.mark.parametrize(
        ("mounts", "kind"),
        [
            ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {root} rw - nfs4 host:/x rw\n", "nfs4"),
            ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {root}x rw - nfs4 host:/x rw\n", "ext4"),
            ("1 0 8:1 / / rw shared:1 - xfs /dev/sda rw\n", "xfs"),
            ("what is this\n", ""),
        ],
    )
    def test_the_file_system_is_that_of_the_nearest_mount(self, tmp_path: Path, mounts: str, kind: str) -> None:
        (tmp_path / "mounts").write_text(mounts.replace("{root}", str(tmp_path)))
        assert localprobes.file_system_of(tmp_path, str(tmp_path / "mounts")) == kind

    def test_a_clock_that_is_wrong_is_told_with_its_direction(self) -> None:
        for skew, word in ((-400.0, "400 s behind"), (3600.0, "3,600 s ahead of"), (0.5, "agrees")):
            notes = doctor._Notes()
            localprobes.note_skew(skew, notes)
            assert word in notes.checks[0].what


class Deaf(CountingBackend):
    """Ignores conditions, as old gateways do, and says that it honours them."""

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        return super().put(key, data, ANY)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        super().delete(key, ANY)


class Late(CountingBackend):
    """Its listings are one request behind."""

    seen: list[Entry] = []  # noqa: RUF012

    def list(self, prefix: str) -> Iterator[Entry]:
        before, self.seen = self.seen, list(super().list(prefix))
        return iter(before)


class Guarded(CountingBackend):
    """Refuses some verbs for a lack of rights."""

    def __init__(self, inner: Backend, *verbs: str) -> None:
        super().__init__(inner)
        self._verbs = verbs

    def _count(self, verb: str, key: str) -> None:
        if verb in self._verbs:
            raise BackendUnavailableError(f"{verb} refused", key=key) from PermissionError(errno.EACCES, "denied")
        super()._count(verb, key)


class TestAnyPlace:
    def test_memory_is_one_process(self) -> None:
        backend = memory()
        examination = examine(backend)
        assert {outcomes(examination)[name] for name in (*PROMISED, *RACES)} == {"yes"}
        assert examination.writers == "one process"
        assert left_in(backend) == []
        assert examine("memory://somewhere").writers == "one process"

    def test_a_place_that_ignores_conditions_is_found_out_whatever_it_says(self, tmp_path: Path) -> None:
        (tmp_path / doctor.FOLDER).mkdir()  # which a put under no condition does not make
        backend = Deaf(LocalBackend(tmp_path))
        examination = examine(backend)
        wrong = ("conditional create", "conditional update", "conditional delete", "create race")
        assert {outcomes(examination)[name] for name in wrong} == {"no"}
        assert examination.writers == "one process"
        assert left_in(backend) == []

    def test_a_listing_that_is_late_is_told(self) -> None:
        examination = examine(Late(memory()))
        assert examination.outcome("listing after put") == "no"

    @pytest.mark.parametrize("verb", ["list", "put", "get", "delete"])
    def test_a_right_that_is_missing_is_told_by_its_name(self, verb: str) -> None:
        name = {"list": "list", "put": "write", "get": "read", "delete": "delete"}[verb]
        examination = examine(Guarded(memory(), verb))
        assert examination.outcome(name) == "no"
        check = next(check for check in examination.checks if check.name == name)
        assert check.follows

    def test_a_place_that_lets_nobody_in_is_an_error(self) -> None:
        with pytest.raises(BackendUnavailableError, match="refused"):
            examine(Guarded(memory(), "list", "put"))

    def test_it_costs_at_most_120_requests(self) -> None:
        backend = CountingBackend(memory())
        examine(backend)
        assert backend.requests < 120

    def test_a_url_or_setting_that_cannot_be_used_is_an_error(self) -> None:
        with pytest.raises(InvalidInputError):
            examine("gopher://x")
        with pytest.raises(InvalidInputError):
            examine("memory://x", nosuch=1)


class TestS3:
    @pytest.mark.parametrize(
        ("name", "writers"), [("moto", "many hosts"), ("rclone", "one host"), ("minio", "many hosts")]
    )
    def test_the_servers_own_verdict_is_told_and_nothing_stays(
        self, request: pytest.FixtureRequest, tmp_path: Path, name: str, writers: str
    ) -> None:
        backend = in_bucket(request.getfixturevalue(f"{name}_server"), tmp_path)
        examination = examine(backend)
        seen = outcomes(examination)
        assert {seen[each] for each in (*PROMISED, "clock", "credentials")} == {"yes"}
        assert (
            next(each.what for each in examination.checks if each.name == "credentials")
            == "the settings key and secret"
        )
        assert seen["the server's conditions"] == ("no" if name == "rclone" else "yes")
        # moto checks a condition and puts in two steps: under load the races find that out.
        races = all(seen[each] == "yes" for each in RACES)
        assert races or name == "moto"
        assert examination.writers == (writers if races else "one process")
        assert "host" in examination.advice[0]
        assert left_in(backend) == []
        backend.close()

    def test_an_endpoint_where_nobody_is_is_unreachable_and_no_secret_is_shown(self) -> None:
        pytest.importorskip("s3fs")
        settings = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "key": "AKIAkey", "secret": "verysecret"}
        with pytest.raises(BackendUnavailableError) as caught:
            examine("s3://bucket/runs", timeout_seconds=8, region="us-east-1", **settings)
        assert "verysecret" not in str(caught.value)
        assert "AKIAkey" not in str(caught.value)

    def test_wrong_credentials_are_unreachable_too(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        server = request.getfixturevalue("minio_server")
        with pytest.raises(BackendUnavailableError, match="access was refused") as caught:
            examine(
                f"s3://{server.new_bucket()}/runs",
                endpoint_url=server.endpoint_url,
                key=server.key,
                secret="notTheSecret",
                region="us-east-1",
            )
        assert "notTheSecret" not in str(caught.value)

    def test_what_a_killed_examination_left_is_removed(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        backend = in_bucket(request.getfixturevalue("moto_server"), tmp_path)
        ended = FORK.Process(target=int)
        ended.start()
        ended.join()
        _, _, *rest = doctor._token().split("-")
        for pid, key in ((ended.pid, "dead"), (os.getppid(), "alive")):
            backend.put(f".doctor/{doctor._host()}-{pid}-{'-'.join(rest)}-{key}", b"", ANY)
        backend.put(f".doctor/0badcafe-1-{int(rest[0]) - 10_000}-00-old", b"", ANY)
        backend.put(f".doctor/0badcafe-1-{rest[0]}-00-young", b"", ANY)
        examine(backend)
        assert sorted(key.rpartition("-")[2] for key in left_in(backend)) == ["alive", "young"]
        backend.close()


def test_a_store_that_is_examined_works_on(tmp_path: Path) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path))
    store.create_run_log("r")
    examine(store)
    store.add_step_log(StepLog(name="a", internal_name="a"), "r")
    assert store.list_run_ids() == ["r"]
