"""Many processes write one run at the same time, and none of them loses anything of another's."""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

import chunkstore

WORKERS, BRANCHES = 8, 200


def work(url: str, number: int) -> None:
    """One branch of a map, as an executor's worker writes it."""
    store = chunkstore.open(url)
    name = f"map.{number}"
    branch = store.create_branch_log(name)
    branch.status = "SUCCESS"
    store.add_branch_log(branch, "r1")
    step = store.create_step_log("train", f"{name}.train")
    step.status = "SUCCESS"
    store.add_step_log(step, "r1")
    store.set_run_config("r1", {f"worker {number}": "was here"})  # all of them, in the same chunk


def main(url: str) -> None:
    """Creates a run, lets the workers write it, and reads it back."""
    store = chunkstore.open(url)
    store.create_run_log("r1")
    store.add_step_log(store.create_step_log("map", "map"), "r1")
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(work, [url] * BRANCHES, range(BRANCHES)))
    run = store.get_run_log_by_id("r1")
    branches = run.steps["map"].branches
    print(f"{len(branches)} branches, {sum(len(branch.steps) for branch in branches.values())} steps")
    print(f"{len(run.run_config)} workers wrote the header")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="chunkstore-"))

# 200 branches, 200 steps
# 200 workers wrote the header
