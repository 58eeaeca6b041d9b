"""Takes one safeguard at a time out of a copy of the package and runs the tests that should notice: `tox -e mutants`.

A safeguard that no test misses is either not needed or not tested. Arguments name the mutants to try; none means all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import chunkstore

PACKAGE: Final = Path(chunkstore.__path__[0])
TESTS: Final = Path(__file__).resolve().parent.parent
AT_ONCE: Final = 2
DEADLINE: Final = 600.0
TESTS_FAILED: Final = 1
"""pytest's exit status for it; any other one says that something else went wrong."""


class Mutant(NamedTuple):
    """A safeguard, the code that is it, what stands there without it, and the tests that should fail then."""

    name: str
    file: str
    code: str
    without: str
    tests: str


LOCAL: Final = "backends/local.py"
SYNCS: Final = "backends/localsync.py"
LOCKS: Final = "backends/hostlock.py"
S3: Final = "backends/s3.py"
S3FS: Final = "backends/s3fsengine.py"
SERVER: Final = "backends/s3server.py"
SQL: Final = "backends/sqlstatements.py"
SQL_DATABASE: Final = "backends/sqldatabase.py"
SQL_FAULTS: Final = "backends/sqlfaults.py"
SQLITE: Final = "backends/sqlitefile.py"
POSTGRES: Final = "backends/postgres.py"
CHUNKS: Final = "chunks.py"
WAITING: Final = "waiting.py"
GREENLETS: Final = "greenlets.py"
PACKS: Final = "packs.py"
UNPACKING: Final = "unpacking.py"
COMPACTION: Final = "compaction.py"
LEASES: Final = "leases.py"
RECORDS: Final = "leaserecords.py"
FENCING: Final = "fencing.py"
SWEEPING: Final = "maintenance/leasekeeping.py"
OF_LEASES: Final = "store/test_leases.py"
IN_PROCESS: Final = "store/test_compaction.py -k not moto and not minio and not rclone and not faults"

MUTANTS: Final = (
    Mutant(
        "on a loop the engine is imported by another thread",
        WAITING,
        "    return work() if carrier is None else carrier.apart(work)\n",
        "    return work()\n",
        "store/test_async_s3.py",
    ),
    Mutant(
        "a bell that was hung up is looked at after it hangs",
        WAITING,
        "        # Looked at again, now that the bell hangs: what came in between rang nothing.\n"
        "        with suppress(queue.Empty):\n"
        "            return self._items.get_nowait()\n"
        "        carrier.wait(bell, timeout)\n",
        "        import time; time.sleep(0.01)\n        carrier.wait(bell, timeout)\n",
        "test_greenlets.py",
    ),
    Mutant(
        "calls that have not begun wait for a place",
        GREENLETS,
        "        if self._free > 0 and not self._inner and not self._outer:\n",
        "        if True:\n",
        "test_greenlets.py store/test_async_s3.py",
    ),
    Mutant(
        "the parts of a call take the place that it gives up",
        GREENLETS,
        "        with self._room.left():\n            number =",
        "        with nullcontext():\n            number =",
        "test_greenlets.py",
    ),
    Mutant(
        "what blocks is done to its end before a cancelled call puts things away",
        GREENLETS,
        "            cancelled = error\n",
        "            raise error\n",
        "test_greenlets.py",
    ),
    Mutant(
        "a call whose loop is gone waits for nothing more",
        GREENLETS,
        "        if self._is_ending:\n            raise GeneratorExit\n",
        "",
        "test_greenlets.py",
    ),
    Mutant(
        "a replaced object is written beside and renamed",
        LOCAL,
        "                os.replace(staging, path)\n",
        "                with open(path, 'r+b') as there, open(staging, 'rb') as new:\n"
        "                    there.truncate()\n"
        "                    there.write(new.read())\n"
        "                os.unlink(staging)\n",
        "backends/test_local.py store/test_concurrency.py store/test_kill.py faults/test_kill_points.py",
    ),
    Mutant(
        "a new object gets its name by link, which one writer can",
        LOCAL,
        '            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)\n',
        "            if os.path.exists(path):\n"
        "                raise FileExistsError(path)\n"
        "            with open(path, 'wb') as there:\n"
        "                there.write(data)\n"
        "            return self._read(path.removeprefix(self.root + '/')).version\n",
        "backends/test_local.py faults/test_create_races.py",
    ),
    Mutant(
        "power: each file is synced",
        SYNCS,
        "        if self.each_write or (over",
        "        if (over",
        "faults/test_power_cuts.py",
    ),
    Mutant(
        "power: the folder of each object is synced",
        SYNCS,
        "            sync_folder(folder)\n        elif barrier",
        "            pass\n        elif barrier",
        "faults/test_power_cuts.py faults/test_failing_syscalls.py",
    ),
    Mutant(
        "barrier: everything is synced at once",
        SYNCS,
        "            if syncfs(fd) != 0:\n",
        "            if False:\n",
        "faults/test_power_cuts.py",
    ),
    Mutant(
        "barrier: what is written over a promised chunk is synced first",
        SYNCS,
        "        return barrier < 0 or self._since_barrier.get(key) != (version, barrier)\n",
        "        return False\n",
        "faults/test_power_cuts.py",
    ),
    Mutant(
        "an update on disk holds the lock while it compares and renames",
        LOCAL,
        "            with self._locks.holding(key):\n                if condition.kind",
        "            with suppress():\n                if condition.kind",
        "backends/test_local.py",
    ),
    Mutant(
        "an update on disk compares the version",
        LOCAL,
        "        if current != version:\n            raise ConflictError",
        "        if False:\n            raise ConflictError",
        "backends/test_local.py",
    ),
    Mutant(
        "an object written within one tick of the clock has a version of its own",
        LOCAL,
        "            os.utime(fd, ns=(now, now))\n",
        "            pass\n",
        "backends/test_local.py store/test_concurrency.py",
    ),
    Mutant(
        "only a run's first object makes its folder",
        LOCAL,
        '            if condition.kind == "absent":\n',
        '            if condition.kind == "absent" and not self._make_folder_of(key):\n',
        "backends/test_local.py store/test_delete.py",
    ),
    Mutant(
        "a staging file goes when its write fails",
        LOCAL,
        "            _remove(staging)\n            raise\n        return version\n\n    def _expect",
        "            raise\n        return version\n\n    def _expect",
        "backends/test_local.py faults/test_failing_syscalls.py",
    ),
    Mutant(
        "a run's folder that is a link is refused",
        LOCAL,
        "    if linked:\n        raise",
        "    if False:\n        raise",
        "faults/test_foreign_things.py",
    ),
    Mutant(
        "the file of a lock that was unlinked meanwhile locks nobody out",
        LOCKS,
        "if lock_descriptor(file[0], blocking=False) and os.fstat(file[0]).st_nlink:",
        "if lock_descriptor(file[0], blocking=False):",
        "backends/test_hostlock.py faults/test_locks.py",
    ),
    Mutant(
        "a forked child does not keep its parent's lock",
        LOCKS,
        "os.register_at_fork(after_in_child=_close_inherited)",
        "_close_inherited()",
        "faults/test_forks.py",
    ),
    Mutant(
        "S3: If-None-Match",
        S3FS,
        '{"IfNoneMatch": "*"}',
        "{}",
        "backends/test_s3.py -k moto",
    ),
    Mutant(
        "S3: If-Match",
        S3FS,
        '{"IfMatch": f\'"{condition.version}"\'}',
        "{}",
        "backends/test_s3.py -k moto",
    ),
    Mutant(
        "S3: a forked child of a process that had obstore loaded does not use it",
        "backends/s3engine.py",
        '    if was_inherited("obstore"):\n',
        "    if False:\n",
        "backends/test_s3_engines.py -k forked",
    ),
    Mutant(
        "obstore: a reply goes by its status, and not by the type of the exception",
        "backends/s3faults.py",
        "    if reply is not None:\n",
        "    if reply is not None and 'already exists' not in text:\n",
        "backends/test_s3_engines.py -k 409",
    ),
    Mutant(
        "S3: a server that ignores conditions is found by a probe",
        S3,
        "        if verdict in EXACT:\n            return True\n",
        "        return True\n",
        "backends/test_s3.py -k rclone",
    ),
    Mutant(
        "S3: a reply that is no listing is no empty listing",
        S3FS,
        '        if "IsTruncated" not in answer:\n',
        "        if False:\n",
        "faults/test_network.py -k listing",
    ),
    Mutant(
        "S3: a write that was acknowledged without a version is read",
        SERVER,
        "            if found.data == data:\n",
        "            if True:\n",
        "faults/test_network.py -k version",
    ),
    Mutant(
        "the last try begins in the first half of the deadline",
        CHUNKS,
        "now + self._timing.deadline / 2",
        "now + self._timing.deadline * 9",
        "faults/test_deadlines.py",
    ),
    Mutant(
        "after a reply that was lost the object is read",
        CHUNKS,
        "                current = self._read_back(key, failure, condition)\n",
        "                raise failure from None\n",
        "store/test_lost_replies.py",
    ),
    Mutant(
        "the object tells which session wrote it last",
        CHUNKS,
        "if current is not None and current.chunk.envelope.writers.get(session.name, 0) >= number:",
        "if current is not None and False:",
        "store/test_lost_replies.py",
    ),
    Mutant(
        "the object tells of all its writers, not of the last alone",
        CHUNKS,
        "    writers = {name: last for name, last in envelope.writers.items() if name != session}\n",
        "    writers: dict[str, int] = {}\n",
        "store/test_lost_replies.py",
    ),
    Mutant(
        "writes that are under way at once belong to different sessions",
        CHUNKS,
        "            session = idle.pop()  # nobody else writes with it until it is put back\n",
        "            session = idle[-1]\n",
        "store/test_concurrency.py -k ThreadsOfOneStore",
    ),
    Mutant(
        "sessions end with a fork",
        CHUNKS,
        "ProcessLocal[list[_Session]] = ProcessLocal(list)",
        "ProcessLocal[list[_Session]] = type('Shared', (), {'get': lambda self, kept=[]: kept})()",
        "store/test_fork.py -k session",
    ),
    Mutant(
        "an object holds the chunk that its key says",
        CHUNKS,
        "        self._check_name(key, chunk.envelope)\n",
        "",
        "store/test_damage.py",
    ),
    Mutant(
        "what a deleted run left is not adopted",
        CHUNKS,
        "        return not founded or (self.known.founding(envelope.run) or founded) == founded\n",
        "        return True\n",
        "store/test_delete.py",
    ),
    Mutant(
        "what one thread reads late does not pass for what another wrote since",
        "known.py",
        "            if self._chunks.get(stored.key) is before:\n",
        "            if True:\n",
        "test_known.py",
    ),
    Mutant(
        "the clock is later than all that was read",
        CHUNKS,
        "        self._clock.saw(stored.chunk.envelope.created_at)\n",
        "",
        "test_chunks.py store/test_api.py faults/test_order.py",
    ),
    Mutant(
        "what another writer changed meanwhile is merged in",
        "writing.py",
        "        return values.encode(merge_objects(before, values.decode(mine), values.decode(theirs)))\n",
        "        return mine\n",
        "store/test_concurrency.py -k local",
    ),
    Mutant(
        "an item of a list is changed where it stands now",
        "merge.py",
        "        places[number] = next(found, number)\n",
        "        places[number] = number\n",
        "test_merge.py",
    ),
    Mutant(
        "what a failed try read does not pass for what the caller saw",
        "writing.py",
        "                    self._origins.note(write.model, Origin(write.change.chunk.key, write.base, tried=True))\n",
        "                    pass\n",
        "faults/test_network.py",
    ),
    Mutant(
        "what was tried by hand and failed is not taken for what was read as it is",
        "writing.py",
        "        read = origin is not None and not origin.tried\n",
        "        read = origin is not None\n",
        "store/test_lost_replies.py",
    ),
    Mutant(
        "a change is sent although this process believes that it stands there already",
        "writing.py",
        "barrier=barrier, always=changed, founding=founding",
        "barrier=barrier, founding=founding",
        "faults/test_whole_api.py -k written_again",
    ),
    Mutant(
        "what did not change since it was read is not written",
        "writing.py",
        "            if mine != before and (",
        "            if True or (",
        "store/test_requests.py -k memory",
    ),
    Mutant(
        "the digest is checked",
        "codec.py",
        " or data[len(_PREFIX) : _DIGEST_END] != digest:",
        ":",
        "test_codec.py",
    ),
    Mutant(
        "no more is unpacked than was announced",
        "codec.py",
        "unpacker.decompress(packed, size + 1)",
        "unpacker.decompress(packed)",
        "test_codec.py",
    ),
    Mutant(
        "a parent that a listing did not show is asked for by name",
        "reading.py",
        "        late = self._complete(run_id, parts, damaged)\n",
        "        late: list[Stored] = []\n",
        "store faults/test_readers_meanwhile.py",
    ),
    Mutant(
        "what is inherited by a fork is never used",
        "process.py",
        "        process = os.getpid()\n",
        "        process = 0\n",
        "test_process.py",
    ),
    Mutant(
        "packing: a chunk is removed in the version that the pack holds and in no other",
        CHUNKS,
        "            self.backend.delete(key, unchanged(version))\n",
        "            self.backend.delete(key)\n",
        IN_PROCESS,
    ),
    Mutant(
        "packing: a pack takes the place of the one that it was made from and of no other",
        COMPACTION,
        "        condition = unchanged(old_version) if old_version else CREATE\n",
        "        condition = unchanged(self._backend.get(key).version) if old_version else CREATE\n",
        IN_PROCESS,
    ),
    Mutant(
        "packing: what was written again after it was packed is not removed any more",
        COMPACTION,
        "                again = member.stays or member.version != members[key].version\n",
        "                again = False\n",
        IN_PROCESS,
    ),
    Mutant(
        "packing: the header is marked before anything is removed",
        CHUNKS,
        "        while not stored.chunk.envelope.packed:\n",
        "        while False:\n",
        IN_PROCESS,
    ),
    Mutant(
        "packing: a run must have ended",
        CHUNKS,
        "        check(stored)\n        while",
        "        while",
        IN_PROCESS,
    ),
    Mutant(
        "packing: what a packer reads does not count as seen",
        CHUNKS,
        "                taken.append((self._decoded(key, blob), blob))\n",
        "                taken.append((self._take(key, blob, self.known.get(key)), blob))\n",
        "faults/test_lost_updates.py -k memory",
    ),
    Mutant(
        "packing: the pack of a run that was deleted meanwhile is taken back",
        COMPACTION,
        "        self._require_that_it_stands(header, made)\n",
        "",
        IN_PROCESS,
    ),
    Mutant(
        "packing: a deletion lists after it has marked the header",
        "store.py",
        "        missing = self._mark_deleted(header)\n",
        "        before = self._rest_of(run_id)\n        missing = self._mark_deleted(header)\n        self._rest_of = lambda _run: before\n",
        IN_PROCESS,
    ),
    Mutant(
        "packing: the pack survives power loss before anything is removed",
        COMPACTION,
        "made.data, condition, barrier=True)",
        "made.data, condition)",
        "faults/test_failing_syscalls.py -k pack",
    ),
    Mutant(
        "packs: what a writer made who knew nothing of the packed chunk is merged with that",
        UNPACKING,
        "        return stored._replace(chunk=_merged(packed, stored), merged=True)\n",
        "        return stored\n",
        IN_PROCESS,
    ),
    Mutant(
        "packs: a chunk that was met and forgotten is read before it is written",
        CHUNKS,
        "        if not change.met:\n",
        "        if True:\n",
        IN_PROCESS,
    ),
    Mutant(
        "packs: what such a writer made is brought back to its place by the next packer",
        COMPACTION,
        "            if stored.merged:\n",
        "            if False:\n",
        IN_PROCESS,
    ),
    Mutant(
        "packs: a writer whose chunk was packed meanwhile goes on from there",
        CHUNKS,
        "                return self._packed_meanwhile(key, condition)\n",
        "                return None\n",
        IN_PROCESS,
    ),
    Mutant(
        "packs: that of a deleted run is not the new one's",
        UNPACKING,
        "        return (self._known.founding(pack.run) or pack.founded) == pack.founded\n",
        "        return True\n",
        IN_PROCESS,
    ),
    Mutant(
        "packs: a reader whose chunks went into a pack meanwhile asks once more",
        CHUNKS,
        "        if self._may_have_been_packed(run_id, listed, scan, pack):\n",
        "        if False:\n",
        IN_PROCESS,
    ),
    Mutant(
        "packs: a listing that misses a chunk comes to the pack later",
        "keys.py",
        'PACK: Final = "whole.pack"\n',
        'PACK: Final = "pack.whole"\n',
        "store/test_compaction.py -k missing",
    ),
    Mutant(
        "packs: a disk's names are taken before any version",
        LOCAL,
        "for entry in list(entries):",
        "for entry in entries:",
        f"{IN_PROCESS} and names",
    ),
    Mutant(
        "packs: the newest one is asked for",
        UNPACKING,
        "        return held.pack if held is not None and version and held.version == version else self.fetch(run_id)\n",
        "        return held.pack if held is not None else self.fetch(run_id)\n",
        IN_PROCESS,
    ),
    Mutant(
        "packs: the digest is checked",
        PACKS,
        " or view[len(_PREFIX) : _DIGEST_END] != _digest(view[_DIGEST_END:]):",
        ":",
        "test_packs.py",
    ),
    Mutant(
        "packs: zstd unpacks no more than was announced",
        PACKS,
        "        if zstd.frame_content_size(packed) != size:\n            return None\n",
        "",
        "test_packs.py",
    ),
    Mutant(
        "packs: gzip unpacks no more than was announced",
        PACKS,
        "unpacker.decompress(packed, size + 1)",
        "unpacker.decompress(packed)",
        "test_packs.py",
    ),
    Mutant(
        "sql: a create leaves what is there",
        SQL,
        "        made = made.on_conflict_do_nothing(index_elements=self._unique, index_where=self._is_ours)\n",
        "        changed = {'attribute_value': bindparam('value'), 'version': bindparam('new')}\n"
        "        made = made.on_conflict_do_update(\n"
        "            index_elements=self._unique, index_where=self._is_ours, set_=changed\n"
        "        )\n",
        "backends/test_sql.py -k TestSqliteBackend and one_wins and threads",
    ),
    Mutant(
        "sql: an update compares the version",
        SQL,
        'update(self.table).where(self._here, self.table.c.version == bindparam("old"))',
        "update(self.table).where(self._here)",
        "backends/test_sql.py -k TestSqliteBackend and updaters and threads",
    ),
    Mutant(
        "sql: a conditional delete compares the version",
        SQL,
        'gone.where(self.table.c.version == bindparam("old"))',
        "gone",
        "backends/test_sql.py -k TestSqliteBackend and conditional_delete",
    ),
    Mutant(
        "sql: a write whose reply was lost is read back, and not sent again",
        SQL_DATABASE,
        "    return fault.resend if request.write else fault.transient\n",
        "    return fault.transient\n",
        "faults/test_sql_wire.py -k sent_again",
    ),
    Mutant(
        "sql: a serialization failure is tried again",
        SQL_FAULTS,
        'way", "Try again.", transient=True, resend=True)',
        'way", "Try again.", transient=True)',
        "faults/test_sql_server.py -k next_try",
    ),
    Mutant(
        "sqlite: a file that was removed is let go",
        SQLITE,
        "        if now != self._seen:\n",
        "        if False:\n",
        "faults/test_sql_file.py -k removed",
    ),
    Mutant(
        "postgres: no answer is waited for beyond the deadline",
        POSTGRES,
        "                if not ready and time.monotonic() > self.until:\n",
        "                if False:\n",
        "faults/test_sql_server.py -k hangs",
    ),
    Mutant(
        "postgres: a connection that the server closed is not used",
        POSTGRES,
        "        silent = not _readable(link.fileno())\n",
        "        silent = True\n",
        "faults/test_sql_server.py -k restarted",
    ),
    Mutant(
        "a run id is escaped",
        "keys.py",
        "    folder = _escape_ends(_escape_all(run_id))\n",
        "    folder = run_id\n",
        "test_keys.py",
    ),
    Mutant(
        "leases: the holder's own clock ends them",
        LEASES,
        "if not self._reason and self._clock.now() >= self._until:",
        "if False:",
        OF_LEASES,
    ),
    Mutant(
        "leases: the holder counts from before it sent the renewal",
        LEASES,
        "        self._held, self._until = there, sent + record.ttl\n",
        "        self._held, self._until = there, self._clock.now() + record.ttl\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: the holder counts from before it sent what took it",
        LEASES,
        "        sent = self._clock.now()\n        there = self._records.write(record, there)\n",
        "        there = self._records.write(record, there)\n        sent = self._clock.now()\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: the waiter begins anew at each renewal",
        LEASES,
        "        if seen.version != self._version:\n",
        "        if not self._version:\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: what was read long ago is not what the waiter saw",
        LEASES,
        "            self._version, self._since = seen.version, now\n",
        "            self._version, self._since = seen.version, now - 5\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: a renewal that met another holder is a loss",
        LEASES,
        "            self._lose(_told(there))\n            raise self._lost_error()\n        self._held,",
        "            there = self._held\n        self._held,",
        OF_LEASES,
    ),
    Mutant(
        "leases: a place where all are on one host is asked at each write",
        LEASES,
        "            if self._records.is_exclusive:\n                self._look()\n",
        "            self._looked = True\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: on one host nobody takes one while something is written under it",
        RECORDS,
        "        with nullcontext() if renewed else self.alone():",
        "        with nullcontext():",
        OF_LEASES,
    ),
    Mutant(
        "leases: a worker asks at each write",
        LEASES,
        "        with self._records.alone(shared=True):\n            self.check()\n            yield\n",
        "        with self._records.alone(shared=True):\n            yield\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: a worker whose write took long looks again",
        LEASES,
        "self._clock.now() - started > self.ttl / 3:",
        "False:",
        OF_LEASES,
    ),
    Mutant(
        "leases: a child does not hold its parent's",
        LEASES,
        "        return os.getpid() != self._process\n",
        "        return False\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: one that nobody has any more is not renewed",
        LEASES,
        "        pause = held._renew_quietly()  # noqa: SLF001 - of this module\n        del held\n",
        "        pause = held._renew_quietly()\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: the loss is noticed while a renewal hangs",
        LEASES,
        "for work in (_renewing, _watching):",
        "for work in (_renewing,):",
        OF_LEASES,
    ),
    Mutant(
        "leases: the end of a block tells of the loss",
        LEASES,
        "        if lost and error is None:\n",
        "        if False:\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: generations go on above those that were taken away",
        LEASES,
        "generation=highest + 1,",
        "generation=1,",
        OF_LEASES,
    ),
    Mutant(
        "leases: the highest generation is asked for once the record stands",
        LEASES,
        "        record = dataclasses.replace(self._record, generation=before + 1 if before else 0)\n",
        "        record = dataclasses.replace(self._record, generation=before + 1)\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: what is swept is told before",
        SWEEPING,
        "        raise_highest(",
        "        (lambda *_: None)(",
        OF_LEASES,
    ),
    Mutant(
        "leases: what is held is not swept",
        SWEEPING,
        "    free = {key: one for key, one in found.items() if not one[0].is_held}\n",
        "    free = dict(found)\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: those of runs that stand are not swept",
        SWEEPING,
        "[key for key in listed if keys.run_of_lease(key) not in runs]",
        "listed",
        OF_LEASES,
    ),
    Mutant(
        "leases: a lost reply is no conflict",
        RECORDS,
        "                    there = self.read()\n                    if there != over:\n                        return there  # ours, after all, or somebody else's\n",
        "                    if isinstance(failure, ConflictError):\n                        return None\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: a put that did not land is sent again",
        RECORDS,
        "                    if pause is None:\n                        raise\n",
        "                    raise\n",
        OF_LEASES,
    ),
    Mutant(
        "leases: the digest of a record is checked",
        RECORDS,
        " or data[len(_START) : end] != _digest(data[end:]):",
        ":",
        OF_LEASES,
    ),
    Mutant(
        "fences: the new holder's generation goes into the header",
        "store.py",
        "            self._chunks.change(Change(header, lambda content: content, always=True))\n        except ObjectNotFoundError:\n            log.debug",
        "            pass\n        except ObjectNotFoundError:\n            log.debug",
        OF_LEASES,
    ),
    Mutant(
        "fences: a run that was copied brings its generations",
        "store.py",
        "            if before > lease.generation:",
        "            if False:",
        OF_LEASES,
    ),
    Mutant(
        "fences: what a later holder wrote is not replaced",
        CHUNKS,
        "            if later > fence.generation:\n",
        "            if False:\n",
        OF_LEASES,
    ),
    Mutant(
        "fences: what a later holder wrote just so is no write of ours",
        CHUNKS,
        "            self._fences(stored)  # a later",
        "            pass  # a later",
        OF_LEASES,
    ),
    Mutant(
        "fences: what was made after the loss is taken back",
        FENCING,
        "                self._take_back(key, version)\n",
        "                pass\n",
        OF_LEASES,
    ),
    Mutant(
        "fences: the lease is checked before a write",
        FENCING,
        "        with self.lease.standing():\n            version =",
        "        if True:\n            version =",
        OF_LEASES,
    ),
    Mutant(
        "fences: the lease is checked before a delete",
        FENCING,
        "        with self.lease.standing():\n            self.inner.delete",
        "        if True:\n            self.inner.delete",
        OF_LEASES,
    ),
    Mutant(
        "fences: other runs are not written",
        FENCING,
        '        if not key.startswith((self._own, ".")):',
        "        if False:",
        OF_LEASES,
    ),
)


def mutate(package: Path, mutant: Mutant) -> None:
    """Take the safeguard out of this copy of the package."""
    file = package / mutant.file
    text = file.read_text(encoding="utf-8")
    assert text.count(mutant.code) == 1, f"{mutant.file} has {text.count(mutant.code)} times:\n{mutant.code}"
    file.write_text(text.replace(mutant.code, mutant.without), encoding="utf-8")


def is_killed(mutant: Mutant, folder: Path) -> tuple[bool, str]:
    """Whether a test fails without the safeguard, and the tests' last words."""
    shutil.copytree(PACKAGE, folder / "chunkstore", ignore=shutil.ignore_patterns("__pycache__"))
    mutate(folder / "chunkstore", mutant)
    paths, *options = mutant.tests.split(" -k ")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--durations=0"]
    command += [str(TESTS / path) for path in paths.split()] + [word for option in options for word in ("-k", option)]
    command += ["--rootdir", str(TESTS.parent), "--basetemp", str(folder / "pytest")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOX_", "COVERAGE_"))}
    environment |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("CHUNKSTORE_TEST_REPORT", None)
    done = subprocess.run(
        # Not where the package lies: Python would import it from there.
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert f"chunkstore: {folder.resolve()}" in done.stdout, f"the mutant was not tested: {done.stdout}{done.stderr}"
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    words = failures or done.stdout.splitlines()[-1:] or done.stderr.splitlines()[-1:]
    return done.returncode == TESTS_FAILED, " ".join(words)[:200]


def report_on(mutant: Mutant) -> bool:
    """Try one, and say what came of it."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        killed, words = is_killed(mutant, Path(folder))
    verdict = "dies" if killed else "LIVES"
    print(f"{verdict:5} {time.monotonic() - start:4.0f} s  without: {mutant.name}\n              {words}", flush=True)  # noqa: T201
    return killed


def main(wanted: Sequence[str]) -> int:
    """Try all whose name contains one of the words; 1 if one of them lives."""
    chosen = [mutant for mutant in MUTANTS if not wanted or any(word in mutant.name for word in wanted)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        killed = list(threads.map(report_on, chosen))
    print(f"{sum(killed)} of {len(killed)} mutants die")  # noqa: T201
    return 0 if all(killed) and killed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
