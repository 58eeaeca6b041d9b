"""Ray's workers write one map into one run; on several hosts give the URL of a bucket, not a folder of this one."""

import os
import sys
import tempfile

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this process alone, on loopback

import ray

import chunkstore

BRANCHES = 200


@ray.remote
def work(store: chunkstore.ChunkedRunLogStore, number: int) -> str:
    """One branch, as a task writes it."""
    name = f"map.{number}"
    branch = store.create_branch_log(name)
    store.add_branch_log(branch, "r1")
    step = store.create_step_log("train", f"{name}.train")
    step.status = "SUCCESS"
    store.add_step_log(step, "r1")
    store.set_parameters("r1", {"loss": 1 / (number + 1)}, name)
    branch.status = "SUCCESS"
    store.add_branch_log(branch, "r1")
    return name


def main(url: str) -> None:
    """Creates a run, lets the workers write it, and reads it back."""
    store = chunkstore.open(url)
    store.create_run_log("r1", status="PROCESSING")
    store.add_step_log(store.create_step_log("map", "map"), "r1")
    options = {"include_dashboard": False, "log_to_driver": False, "_node_ip_address": "127.0.0.1"}
    ray.init(num_cpus=2, logging_level="ERROR", **options)
    try:
        names = ray.get([work.remote(store, number) for number in range(BRANCHES)])
    finally:
        ray.shutdown()
    store.update_run_log_status("r1", "SUCCESS")
    run = store.get_run_log_by_id("r1")
    branches = run.steps["map"].branches
    print(f"{len(names)} tasks, {len(branches)} branches, {run.status}")
    print(f"best loss {min(branch.parameters['loss'] for branch in branches.values())}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="chunkstore-"))

# 200 tasks, 200 branches, SUCCESS
# best loss 0.005
