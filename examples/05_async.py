"""One event loop writes many branches at the same time and reads them back; on S3 without a thread for each."""

import asyncio
import tempfile

import chunkstore

BRANCHES = 50


async def work(store: chunkstore.AsyncChunkedRunLogStore, number: int) -> str:
    """One branch of a map, as a task of an asynchronous executor writes it."""
    name = f"map.{number}"
    await store.add_branch_log(store.create_branch_log(name), "r1")
    step = store.create_step_log("train", f"{name}.train")
    step.status = "SUCCESS"
    await store.add_step_log(step, "r1")
    await store.set_run_config("r1", {name: "was here"})  # all of them, in the same chunk
    return name


async def main(url: str) -> None:
    """Creates a run, lets all tasks write it, and reads it back."""
    async with chunkstore.open_async(url) as store:  # the same for s3://bucket/prefix, then without any thread
        await store.create_run_log("r1")
        await store.add_step_log(store.create_step_log("map", "map"), "r1")
        names = await asyncio.gather(*(work(store, number) for number in range(BRANCHES)))
        run = await store.get_run_log_by_id("r1")
        branches = run.steps["map"].branches
        print(f"{len(names)} tasks, {len(branches)} branches, {len(run.run_config)} entries in the header")
        async with asyncio.timeout(30):
            await store.update_run_log_status("r1", "SUCCESS")
        print((await store.get_run_log_by_id("r1", full=False)).status)


with tempfile.TemporaryDirectory(prefix="chunkstore-") as folder:
    asyncio.run(main(folder))

# 50 tasks, 50 branches, 50 entries in the header
# SUCCESS
