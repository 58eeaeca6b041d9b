"""A run log without any pipeline tool: a run, steps in a map's branches, parameters; then the whole of it, read back."""

import tempfile

import chunkstore

folder = tempfile.mkdtemp(prefix="chunkstore-")
store = chunkstore.open(folder)

store.create_run_log("r1", tag="demo", status="PROCESSING")
store.set_parameters("r1", {"regions": ["eu/west", "1.5"], "seed": 2**80})
store.add_step_log(store.create_step_log("map", "map"), "r1")

for region in ("eu/west", "1.5"):
    branch = store.create_branch_log(f"map.{region}")
    branch.status = "SUCCESS"
    store.add_branch_log(branch, "r1")
    store.set_parameters("r1", {"accuracy": chunkstore.MetricParameter(value=0.93)}, f"map.{region}")

    step = store.create_step_log("train", f"map.{region}.train")
    step.status = "SUCCESS"
    step.attempts.append(chunkstore.StepAttempt(status="SUCCESS", message="first try"))
    store.add_step_log(step, "r1")

store.update_run_log_status("r1", "SUCCESS")

run = store.get_run_log_by_id("r1")
print(run.run_id, run.tag, run.status, run.parameters)
for branch in run.steps["map"].branches.values():
    for step in branch.steps.values():
        print(
            f"{step.internal_name}: {step.status}, attempts {len(step.attempts)}, {branch.parameters['accuracy'].value}"
        )

# r1 demo SUCCESS {'regions': ['eu/west', '1.5'], 'seed': 1208925819614629174706176}
# map.eu/west.train: SUCCESS, attempts 1, 0.93
# map.1.5.train: SUCCESS, attempts 1, 0.93
