"""Two executors want to drive one run: one of them does, the other is told; and who was too slow writes nothing more."""

import tempfile

import chunkstore


def drive(store: chunkstore.ChunkedRunLogStore, name: str) -> str:
    """What an executor does: everything under its lease, by a store that refuses to write without it."""
    try:
        with store.lease("nightly-1", "executor", ttl=30, holder=name) as lease:
            run = store.fenced(
                lease
            )  # pickled, or forked, it writes under the same lease: so do the executor's workers
            run.create_run_log("nightly-1")
            for step in ("load", "train"):
                run.add_step_log(run.create_step_log(step, step), "nightly-1")
            print(f"{name} drives;", drive(store, "the second") if name == "the first" else "")
            run.update_run_log_status("nightly-1", "SUCCESS")
    except chunkstore.LeaseHeldError as error:
        return f"{name} does not: {error.holder} has it, generation {error.generation}"
    return f"{name} ended well"


def stand_still(store: chunkstore.ChunkedRunLogStore) -> None:
    """An executor that stands still longer than its lease lasts: stopped, swapped out, its laptop shut."""
    slow = store.lease("nightly-2", ttl=0.2, heartbeat=False, on_loss=print)  # nobody renews it
    run = store.fenced(slow)
    run.create_run_log("nightly-2")
    with store.lease("nightly-2", wait=60) as lease:  # another one, somewhere, once the ttl has passed
        store.fenced(lease).set_run_config("nightly-2", {"driven by": lease.generation})
        try:
            run.set_run_config("nightly-2", {"driven by": slow.generation})
        except chunkstore.LeaseLostError:
            print("the slow one may not write:", store.get_run_config("nightly-2"))


with tempfile.TemporaryDirectory(prefix="chunkstore-") as folder:
    opened = chunkstore.open(folder)  # the same for s3://bucket/prefix, between hosts
    print(drive(opened, "the first"))
    print(sorted(opened.get_run_log_by_id("nightly-1").steps), opened.get_run_log_by_id("nightly-1").status)
    stand_still(opened)

# the first drives; the second does not: the first has it, generation 1
# the first ended well
# ['load', 'train'] SUCCESS
# <Lease 'executor' of run 'nightly-2', generation 1, lost>
# the slow one may not write: {'driven by': 2}
