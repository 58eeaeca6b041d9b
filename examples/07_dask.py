"""Dask's workers write one map into one run; for S3 give a URL, and the workers find credentials in their environment."""

import sys
import tempfile

from distributed import Client, LocalCluster

import chunkstore

BRANCHES = 200


def work(store: chunkstore.ChunkedRunLogStore, number: int) -> str:
    """One branch, as a task writes it. Dask runs a task again when its worker dies: what is done is left as it is."""
    name = f"map.{number}"
    branch = store.create_branch_log(name)
    store.add_branch_log(branch, "r1")
    try:
        step = store.get_step_log(f"{name}.train", "r1")
    except chunkstore.StepLogNotFoundError:
        step = store.create_step_log("train", f"{name}.train")
    if step.status != "SUCCESS":
        attempt = store.create_attempt_log()
        attempt.attempt_number, attempt.status = len(step.attempts) + 1, "SUCCESS"
        step.attempts.append(attempt)
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
    options = {"n_workers": 2, "threads_per_worker": 4, "dashboard_address": "127.0.0.1:0", "silence_logs": "ERROR"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        # Not pure: dask must run each of them, also where it has seen the same arguments before.
        names = client.gather(client.map(work, [store] * BRANCHES, range(BRANCHES), pure=False))
    store.update_run_log_status("r1", "SUCCESS")
    run = store.get_run_log_by_id("r1")
    branches = run.steps["map"].branches
    print(f"{len(names)} tasks, {len(branches)} branches, {run.status}")
    print(f"best loss {min(branch.parameters['loss'] for branch in branches.values())}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="chunkstore-"))

# 200 tasks, 200 branches, SUCCESS
# best loss 0.005
