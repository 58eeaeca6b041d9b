"""Each test of the shipped suite catches a backend that is broken in just the way it is about.

The broken ones are the memory or the local backend with one verb done wrong, as people do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import itertools
import os
import pickle
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import unquote

import pytest
from witnesses import FolderWitness, MemoryWitness

from chunkstore import waiting
from chunkstore.backends import ANY, CREATE, Backend, Blob, Condition, Entry, Guarantees, unchanged
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.errors import BackendUnavailableError, ConflictError, ObjectNotFoundError
from chunkstore.testing import BackendSuite, Witness, suite

pytestmark = pytest.mark.slow

NUMBERS = itertools.count()


class Broken(MemoryBackend):
    """A memory backend of its own, to be broken below."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(f"teeth-{next(NUMBERS)}" if name is None else name)

    def __reduce__(self) -> tuple[type[Broken], tuple[str]]:
        return type(self), (self.name,)

    def holds(self, key: str) -> bool:
        return any(entry.key == key for entry in MemoryBackend.list(self, key))


# Conditions.


class CreatesByCheckThenWrite(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "absent":
            if self.holds(key):
                raise ConflictError(f"{key} in {self.place}", key=key)
            condition = ANY
        return super().put(key, data, condition)


class UpdatesByCompareThenWrite(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "unchanged":
            if not self.holds(key) or self.get(key).version != condition.version:
                raise ConflictError(f"{key} in {self.place}", key=key)
            condition = ANY
        return super().put(key, data, condition)


class IgnoresConditions(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        return super().put(key, data, ANY)


class UpdatesWhateverVersionItIs(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "unchanged" and self.holds(key):
            condition = ANY
        return super().put(key, data, condition)


class TakesUpdatesOfNothingForCreates(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "unchanged" and not self.holds(key):
            condition = CREATE
        return super().put(key, data, condition)


class TakesEmptyVersionsForAny(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        return super().put(key, data, ANY if condition == unchanged("") else condition)


class RefusesPlainPutsOfNewObjects(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "any" and not self.holds(key):
            raise ObjectNotFoundError(f"{key} in {self.place}", key=key)
        return super().put(key, data, condition)


class RefusesAllUpdates(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "unchanged":
            raise ConflictError(f"{key} in {self.place}", key=key)
        return super().put(key, data, condition)


class CreatesNothingTwice(Broken):
    """Remembers what it created, also what was deleted since."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.created: set[str] = set()

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "absent" and key in self.created:
            raise ConflictError(f"{key} in {self.place}", key=key)
        self.created.add(key)
        return super().put(key, data, condition)


class DoesNotWriteWithABarrier(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        return "42" if barrier else super().put(key, data, condition)


# Versions.


class TakesSizeForVersion(Broken):
    """As those do who compare sizes, or times that tick too slowly."""

    def get(self, key: str) -> Blob:
        blob = super().get(key)
        return Blob(blob.data, str(len(blob.data)))

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        return ((key, Blob(blob.data, str(len(blob.data)))) for key, blob in super().get_many(keys))

    def list(self, prefix: str) -> Iterator[Entry]:
        return (Entry(entry.key, str(entry.size), entry.size) for entry in super().list(prefix))

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "unchanged" and self.holds(key) and self.get(key).version == condition.version:
            condition = unchanged(super().get(key).version)
        super().put(key, data, condition)
        return str(len(data))


class TakesAnyKnownVersion(Broken):
    """Asks whether there was such a version, and not of which object."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.known: set[str] = set()

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.version in self.known and self.holds(key):
            condition = ANY
        version = super().put(key, data, condition)
        self.known.add(version)
        return version


class ReadsTheVersionAfterThePut(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        super().put(key, data, condition)
        return self.get(key).version


class ReadsTheVersionBeforeTheBytes(Broken):
    def get(self, key: str) -> Blob:
        version = super().get(key).version
        return Blob(super().get(key).data, version)


class GivesNewVersionsToReaders(Broken):
    def get(self, key: str) -> Blob:
        return Blob(super().get(key).data, "read")


class ListsOtherVersions(Broken):
    def list(self, prefix: str) -> Iterator[Entry]:
        return (Entry(entry.key, f"listed {entry.version}", entry.size) for entry in super().list(prefix))


# Reading, names, sizes.


class RemembersWhatItRead(Broken):
    """A cache that trusts itself."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.cache: dict[str, list[Entry]] = {}

    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(self.cache.setdefault(prefix, [*super().list(prefix)]))


class LosesTheFirstByte(Broken):
    def get(self, key: str) -> Blob:
        blob = super().get(key)
        return Blob(blob.data[1:], blob.version)


class RaisesAnErrorWithoutNames(Broken):
    def get(self, key: str) -> Blob:
        if not self.holds(key):
            raise ObjectNotFoundError("not found")
        return super().get(key)


class ShowsItsSecret(Broken):
    def __repr__(self) -> str:
        return "Broken(password='hush')"


class HasNoFolders(MemoryBackend):
    folders = None  # type: ignore[assignment]


class ContradictsItself(Broken):
    guarantees = Guarantees(True, True, across_processes=False, across_hosts=True, atomic=True, durable=False)


class TakesEmptyForMissing(Broken):
    def get(self, key: str) -> Blob:
        blob = super().get(key)
        if not blob.data:
            raise ObjectNotFoundError(f"{key} in {self.place}", key=key)
        return blob


class Unquotes(Broken):
    """One step of URL decoding too many."""

    def get(self, key: str) -> Blob:
        return super().get(unquote(key))

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        return super().put(unquote(key), data, condition)


class CutsLongNames(Broken):
    def get(self, key: str) -> Blob:
        return super().get(key[:200])

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        return super().put(key[:200], data, condition)


# Deleting.


class CannotDeleteTwice(Broken):
    def delete(self, key: str, condition: Condition = ANY) -> None:
        self.get(key)
        super().delete(key)


class DeletesWhateverTheCondition(Broken):
    def delete(self, key: str, condition: Condition = ANY) -> None:
        super().delete(key)


class DeletesWithoutTheGuarantee(Broken):
    guarantees = dataclasses.replace(MemoryBackend.guarantees, conditional_delete=False)


class EmptiesInsteadOfDeleting(Broken):
    def delete(self, key: str, condition: Condition = ANY) -> None:
        if self.holds(key):
            self.put(key, b"", ANY)


# Listing.


class TakesPrefixesForFolders(Broken):
    def list(self, prefix: str) -> Iterator[Entry]:
        folder = prefix.rstrip("/") + "/"
        return (entry for entry in super().list("") if entry.key.startswith(folder))


class ListsSiblings(Broken):
    def list(self, prefix: str) -> Iterator[Entry]:
        return super().list(prefix.rstrip("/"))


class ListsTheFirstPage(Broken):
    def list(self, prefix: str) -> Iterator[Entry]:
        return itertools.islice(super().list(prefix), 1_000)


class ListsWhileOthersWrite(Broken):
    def list(self, prefix: str) -> Iterator[Entry]:
        for key, blob in self._space.objects.items():
            if key.startswith(prefix):
                yield Entry(key, blob.version, len(blob.data))


class HoldsTheLockWhileItLists(Broken):
    def list(self, prefix: str) -> Iterator[Entry]:
        entries = list(super().list(prefix))
        with self._space.lock:
            yield from entries


class NamesAFolderPerObject(Broken):
    def folders(self) -> Iterator[str]:
        return iter([entry.key.partition("/")[0] for entry in self.list("")])


class ShowsEveryFolder(Broken):
    def folders(self) -> Iterator[str]:
        return iter({entry.key.partition("/")[0] for entry in self.list("")})


class KeepsEmptyFolders(Broken):
    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.ever: set[str] = set()

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self.ever.add(key.partition("/")[0])
        return super().put(key, data, condition)

    def folders(self) -> Iterator[str]:
        return iter(self.ever)


# Many at once.


class FailsForOneMissing(Broken):
    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        return ((key, self.get(key)) for key in keys)


class GivesEmptyForMissing(Broken):
    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        return ((key, self.get(key) if self.holds(key) else Blob(b"", "")) for key in keys)


class LosesWhatIsAskedTwice(Broken):
    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        asked = list(keys)
        return super().get_many(key for key in asked if asked.count(key) == 1)


class HoldsTheLockWhileItReads(Broken):
    """With a lock that gives up, so that this test of a test ends."""

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        blobs = list(super().get_many(keys))
        with self._space.lock:
            yield from blobs

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        assert self._space.lock.acquire(timeout=0.1), "deadlock"
        self._space.lock.release()
        return super().put(key, data, condition)


# Threads, processes, event loops.


class WritesInPlace(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        super().put(key, data[: len(data) // 2], condition)
        return super().put(key, data, ANY)


class LeavesStagingObjects(Broken):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        super().put(f"{key.partition('/')[0]}/.staging", data, ANY)
        return super().put(key, data, condition)


class FailsWhenItsThreadsAreMany(Broken):
    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.threads: set[int] = set()

    def get(self, key: str) -> Blob:
        self.threads.add(threading.get_ident())
        if len(self.threads) > 8:
            raise BackendUnavailableError("no more connections")
        return super().get(key)


class LosesItsSettingsInThePickle(Broken):
    def __reduce__(self) -> tuple[type[Broken], tuple[str]]:
        return type(self), ("",)

    guarantees = Guarantees(True, True, across_processes=True, across_hosts=False, atomic=True, durable=False)


class DoesNotPickle(Broken):
    def __reduce__(self) -> NoReturn:
        raise pickle.PicklingError("there is a connection in it")


class StatesProcessesWithoutReason(Broken):
    guarantees = Guarantees(True, True, across_processes=True, across_hosts=False, atomic=True, durable=False)


class BindsItselfToItsProcess(Broken):
    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.pid = os.getpid()

    def get(self, key: str) -> Blob:
        assert os.getpid() == self.pid, "not fork-safe"
        return super().get(key)


class KeepsALockThroughForks(Broken):
    """A lock of its own around each verb, as a connection pool has, and no thought of forks."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.lock = threading.Lock()

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        with self.lock:
            return super().put(key, data, condition)

    def get(self, key: str) -> Blob:
        with self.lock:
            return super().get(key)


class RunsItsOwnEventLoop(Broken):
    def get(self, key: str) -> Blob:
        async def ask() -> Blob:
            return MemoryBackend.get(self, key)

        asking = ask()
        try:
            return asyncio.run(asking)
        finally:
            asking.close()


class IsClosedForEver(Broken):
    closed = False

    def close(self) -> None:
        self.closed = True

    def get(self, key: str) -> Blob:
        assert not self.closed
        return super().get(key)


class BlocksTheLoop(Broken):
    """Says that it lets the loop run, and has no idea of it."""

    asynchronous = True


class WaitsForItself(Broken):
    """Holds a plain lock while it waits."""

    asynchronous = True
    concurrency = 8

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.lock = threading.Lock()

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if not self.lock.acquire(timeout=0.5):
            raise BackendUnavailableError("nobody lets it go", transient=True)
        try:
            waiting.sleep(0.001)
            return super().put(key, data, condition)
        finally:
            self.lock.release()


class IsAloneOnItsHost(Broken):
    """Compares under a lock of this host only, and says that it holds everywhere."""

    guarantees = Guarantees(True, True, across_processes=True, across_hosts=True, atomic=True, durable=False)
    put = CreatesByCheckThenWrite.put


# Out of reach.


class OutOfReach(MemoryBackend):
    """What a backend does whose server is gone."""

    def _fail(self) -> NoReturn:
        raise BackendUnavailableError(f"cannot reach {self.place}", transient=True)

    def get(self, key: str) -> Blob:
        self._fail()

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        self._fail()

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self._fail()

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self._fail()

    def list(self, prefix: str) -> Iterator[Entry]:
        self._fail()

    def folders(self) -> Iterator[str]:
        self._fail()


class HidesErrorsOfGetMany(OutOfReach):
    """As `cat(list, on_error="omit")` does."""

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        for key in keys:
            try:
                yield key, self.get(key)
            except BackendUnavailableError:
                continue


class HidesErrorsOfList(OutOfReach):
    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(())


# On disk.


class CreatesFilesByCheckThenWrite(LocalBackend):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "absent":
            if Path(self._path(key)).exists():
                raise ConflictError(f"{key} in {self.place}", key=key)
            Path(self._path(key)).parent.mkdir(parents=True, exist_ok=True)
            condition = ANY
        return super().put(key, data, condition)


class UpdatesFilesByCompareThenWrite(LocalBackend):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind == "unchanged":
            try:
                if self.get(key).version != condition.version:
                    raise ConflictError(f"{key} in {self.place}", key=key)
            except ObjectNotFoundError:
                raise ConflictError(f"{key} in {self.place}", key=key) from None
            condition = ANY
        return super().put(key, data, condition)


class PutsFilesWithoutTheLock(LocalBackend):
    """A plain put that slips in between another's compare and replace."""

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind != "any":
            return super().put(key, data, condition)
        staging = Path(f"{self._path(key)}.{os.getpid()}.{threading.get_ident()}")
        staging.write_bytes(data)
        staging.replace(self._path(key))
        return self.get(key).version


class DeletesFilesWithoutTheLock(LocalBackend):
    def delete(self, key: str, condition: Condition = ANY) -> None:
        Path(self._path(key)).unlink(missing_ok=True)


class ComparesAndThenDeletes(LocalBackend):
    """With a moment in between, so that the race need not hit it by chance."""

    def delete(self, key: str, condition: Condition = ANY) -> None:
        with contextlib.suppress(FileNotFoundError):
            if condition != ANY:
                self._expect(key, condition.version)
            time.sleep(0.002)
            Path(self._path(key)).unlink()


class WritesFilesInPlace(LocalBackend):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.kind != "any":
            return super().put(key, data, condition)
        Path(self._path(key)).write_bytes(data)
        return self.get(key).version


class MakesEveryFolder(LocalBackend):
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        Path(self._path(key)).parent.mkdir(parents=True, exist_ok=True)
        return super().put(key, data, condition)


class RemovesFoldersInBetween(LocalBackend):
    """Makes the folder first and uses it later, whoever removed it meanwhile."""

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if condition.founding:
            Path(self._path(key)).parent.mkdir(parents=True, exist_ok=True)
            condition = CREATE
        return super().put(key, data, condition)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        super().delete(key)
        with contextlib.suppress(OSError):
            Path(self._path(key)).parent.rmdir()


# What catches what.


class Bite(NamedTuple):
    """A broken backend and a test that must fail on it."""

    broken: type[MemoryBackend | LocalBackend]
    test: str
    arguments: dict[str, object]


def of(test: str, *broken: type[MemoryBackend | LocalBackend], **arguments: object) -> list[Bite]:
    return [Bite(each, f"test_{test}", arguments) for each in broken]


THREADS, FORK, SPAWN = {"crew": "threads"}, {"crew": "fork"}, {"crew": "spawn"}

BITES = [
    *of("it_is_a_backend_and_says_where_it_is", HasNoFolders),
    *of("guarantees_do_not_contradict_each_other", ContradictsItself),
    *of("secrets_are_never_shown", ShowsItsSecret),
    *of("what_was_put_is_read", LosesTheFirstByte, GivesNewVersionsToReaders),
    *of("what_somebody_else_wrote_is_read_at_once", RemembersWhatItRead),
    *of("a_missing_object_is_an_error_that_names_key_and_place", RaisesAnErrorWithoutNames),
    *of("bytes_of_any_size_come_back", TakesEmptyForMissing, size=0),
    *of("bytes_of_any_size_come_back", LosesTheFirstByte, size=1),
    *of("every_name_that_keys_are_made_of_works_with_every_verb", CutsLongNames, name=suite.ODD_NAMES[-1]),
    *of("every_name_that_keys_are_made_of_works_with_every_verb", Unquotes, name="step.%2F.json"),
    *of("names_that_encoding_could_mix_up_stay_apart", Unquotes),
    *of("a_put_with_a_barrier_is_a_put", DoesNotWriteWithABarrier),
    *of("an_object_is_created_once", IgnoresConditions),
    *of("creating_does_not_overwrite_what_somebody_else_wrote", IgnoresConditions),
    *of("an_update_of_the_present_version_is_written", RefusesAllUpdates),
    *of("a_version_that_get_returned_is_good_for_an_update", RefusesAllUpdates, GivesNewVersionsToReaders),
    *of("an_update_of_a_stale_version_is_refused", IgnoresConditions, UpdatesWhateverVersionItIs),
    *of("an_update_is_refused_after_a_plain_put_of_as_many_bytes", TakesSizeForVersion, UpdatesWhateverVersionItIs),
    *of("an_update_is_refused_after_somebody_else_wrote", TakesSizeForVersion, UpdatesWhateverVersionItIs),
    *of("an_update_where_nothing_is_is_refused", IgnoresConditions, TakesUpdatesOfNothingForCreates),
    *of("an_update_with_the_version_of_another_object_is_refused", UpdatesWhateverVersionItIs, TakesAnyKnownVersion),
    *of("an_update_with_a_version_that_never_was_is_refused", TakesEmptyVersionsForAny, version=""),
    *of("an_update_with_a_version_that_never_was_is_refused", UpdatesWhateverVersionItIs, version="*"),
    *of("a_version_does_not_come_back_to_life_with_a_new_object", TakesSizeForVersion, TakesAnyKnownVersion),
    *of("different_bytes_have_different_versions_however_fast_they_follow", TakesSizeForVersion),
    *of("a_plain_put_needs_nothing_and_minds_nothing", RefusesPlainPutsOfNewObjects),
    *of("deleting_twice_is_deleting_once", CannotDeleteTwice, EmptiesInsteadOfDeleting),
    *of("a_conditional_delete_removes_the_version_that_it_names_and_no_other", DeletesWhateverTheCondition),
    *of("without_the_guarantee_a_conditional_delete_is_refused_and_removes_nothing", DeletesWithoutTheGuarantee),
    *of("a_deleted_object_can_be_created_again", EmptiesInsteadOfDeleting, CreatesNothingTwice),
    *of("a_listing_goes_by_string_prefix", TakesPrefixesForFolders, ListsSiblings),
    *of("a_listing_of_nothing_is_empty", ListsSiblings),
    *of("a_listing_has_the_sizes_and_versions_that_get_has", ListsOtherVersions),
    *of("a_long_listing_is_complete", ListsTheFirstPage),
    *of("objects_may_be_deleted_and_put_while_they_are_listed", ListsWhileOthersWrite, RemembersWhatItRead),
    *of("a_half_read_listing_holds_nobody_up", HoldsTheLockWhileItLists),
    *of("folders_are_the_first_parts_of_all_keys", NamesAFolderPerObject),
    *of("a_folder_that_starts_with_a_dot_is_kept_and_not_shown", ShowsEveryFolder),
    *of("a_folder_is_gone_with_its_last_object", KeepsEmptyFolders),
    *of("get_many_gives_what_is_there_and_leaves_out_what_is_not", FailsForOneMissing, GivesEmptyForMissing),
    *of("get_many_takes_a_key_asked_twice", LosesWhatIsAskedTwice),
    *of("the_backend_may_be_used_while_get_many_is_read", HoldsTheLockWhileItReads),
    *of("nothing_but_founding_makes_a_folder", MakesEveryFolder, RefusesPlainPutsOfNewObjects),
    *of("a_folder_that_disappeared_is_never_silently_made_anew", MakesEveryFolder),
    *of("of_eight_creators_one_wins", CreatesByCheckThenWrite, CreatesFilesByCheckThenWrite, **THREADS),
    *of("of_eight_creators_one_wins", LeavesStagingObjects, **THREADS),
    *of("of_eight_creators_one_wins", CreatesFilesByCheckThenWrite, StatesProcessesWithoutReason, **FORK),
    *of("of_eight_creators_one_wins", StatesProcessesWithoutReason, **SPAWN),
    *of("of_eight_founders_one_wins", CreatesByCheckThenWrite, CreatesFilesByCheckThenWrite, **THREADS),
    *of("of_eight_founders_one_wins", CreatesFilesByCheckThenWrite, **FORK),
    *of("of_eight_updaters_of_one_version_one_wins", UpdatesByCompareThenWrite, **THREADS),
    *of("of_eight_updaters_of_one_version_one_wins", UpdatesFilesByCompareThenWrite, **FORK),
    *of("five_times_ten_increments_are_fifty", UpdatesByCompareThenWrite, **THREADS),
    *of("five_times_ten_increments_are_fifty", UpdatesFilesByCompareThenWrite, **FORK),
    *of("a_plain_put_is_never_lost_to_updaters", UpdatesByCompareThenWrite, PutsFilesWithoutTheLock, **THREADS),
    *of("a_plain_put_is_never_lost_to_updaters", PutsFilesWithoutTheLock, **FORK),
    *of("a_plain_put_is_never_lost_to_creators", CreatesByCheckThenWrite, **THREADS),
    *of("a_plain_put_is_never_lost_to_creators", CreatesFilesByCheckThenWrite, **FORK),
    *of("a_delete_is_never_undone_by_updaters", UpdatesByCompareThenWrite, DeletesFilesWithoutTheLock, **THREADS),
    *of("a_delete_is_never_undone_by_updaters", DeletesFilesWithoutTheLock, **FORK),
    *of("an_update_is_never_removed_by_conditional_deletes", DeletesWhateverTheCondition, **THREADS),
    *of("an_update_is_never_removed_by_conditional_deletes", ComparesAndThenDeletes, **THREADS),
    *of("an_update_is_never_removed_by_conditional_deletes", ComparesAndThenDeletes, **FORK),
    *of("founding_never_misses_the_folder_that_a_delete_emptied", RemovesFoldersInBetween, **THREADS),
    *of("founding_never_misses_the_folder_that_a_delete_emptied", RemovesFoldersInBetween, **FORK),
    *of("racing_puts_each_return_the_version_of_their_own_bytes", ReadsTheVersionAfterThePut, **THREADS),
    *of("racing_puts_each_return_the_version_of_their_own_bytes", PutsFilesWithoutTheLock, **FORK),
    *of("creators_and_updaters_on_two_hosts_have_one_winner", IsAloneOnItsHost),
    *of("readers_beside_a_writer_never_see_half_an_object", WritesInPlace, WritesFilesInPlace),
    *of("readers_beside_a_writer_never_see_half_an_object", ReadsTheVersionBeforeTheBytes, LeavesStagingObjects),
    *of("a_pickled_copy_works", LosesItsSettingsInThePickle, DoesNotPickle),
    *of("a_pickled_copy_of_a_copy_in_a_new_process_sees_the_same_objects", StatesProcessesWithoutReason),
    *of("a_forked_child_can_use_what_its_parent_has_used", BindsItselfToItsProcess, StatesProcessesWithoutReason),
    *of("a_child_forked_while_threads_are_busy_can_use_it", KeepsALockThroughForks),
    *of("sixteen_threads_can_use_it_at_once", FailsWhenItsThreadsAreMany),
    *of("it_can_be_used_inside_a_running_event_loop", RunsItsOwnEventLoop),
    *of("where_it_is_asynchronous_every_verb_lets_the_event_loop_run", BlocksTheLoop),
    *of("where_it_is_asynchronous_calls_of_one_loop_never_wait_for_each_other_for_ever", WaitsForItself),
    *of("it_can_be_used_again_after_it_was_closed", IsClosedForEver),
    *of("every_verb_says_when_the_place_is_out_of_reach", HidesErrorsOfGetMany, HidesErrorsOfList),
]


class SuiteOfTheBroken(BackendSuite):
    secrets = ("hush",)


def fails(bite: Bite, folder: Path) -> bool:
    """Does the test fail on the broken backend? A test that is skipped did not fail."""
    tests = SuiteOfTheBroken()
    if issubclass(bite.broken, LocalBackend):
        tests.has_folders = True  # type: ignore[misc]
        backend: Backend = bite.broken(folder)
        witness: Witness = FolderWitness(folder)
    else:
        backend = bite.broken()
        witness = MemoryWitness(backend.name)
    known = {"backend": backend, "witness": witness, "unreachable": backend, **bite.arguments}
    if "elsewhere" in signature(bite.test):
        known["elsewhere"] = bite.broken(backend.name)
    test = getattr(tests, bite.test)
    try:
        test(**{name: known[name] for name in signature(bite.test)})
    except (Exception, pytest.fail.Exception):  # noqa: BLE001  # broken backends fail in all ways
        return True
    return False


def signature(test: str) -> list[str]:
    return [name for name in inspect.signature(getattr(BackendSuite, test)).parameters if name != "self"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs here hangs on purpose."""
    monkeypatch.setattr(suite, "WATCHDOG_SECONDS", 1.0)


@pytest.mark.parametrize(
    "bite",
    BITES,
    ids=["-".join([bite.broken.__name__, bite.test, *map(str, bite.arguments.values())]) for bite in BITES],
)
def test_the_suite_catches(bite: Bite, tmp_path: Path) -> None:
    # Races are a matter of luck; one that sees the fault in nine of ten runs is good enough, and is given four.
    chances = range(4 if "crew" in bite.arguments else 1)
    assert any(fails(bite, tmp_path / str(chance)) for chance in chances), (
        f"{bite.test} does not see what is wrong with {bite.broken.__name__}"
    )


def test_every_test_of_the_suite_is_known_to_catch_something() -> None:
    tests = {name for name in vars(BackendSuite) if name.startswith("test_")}
    assert tests == {bite.test for bite in BITES}


def test_a_backend_out_of_reach_that_says_so_passes() -> None:
    SuiteOfTheBroken().test_every_verb_says_when_the_place_is_out_of_reach(OutOfReach("gone"))
