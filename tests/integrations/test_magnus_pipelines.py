"""Pipelines of magnus run for real, in processes of their own, and what the store has of them afterwards."""

from __future__ import annotations

import json
import math
import sys
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest

pytest.importorskip("magnus")

from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore
from magnus_runs import MagnusProject, comparable, succeeded
from pipeline_runs import Place, outline

from chunkstore import RunLog
from chunkstore.integrations.magnus import ChunkStoreRunLogStore
from servers import S3Server

BIN = Path(sys.executable).parent
EXAMPLES = Path(__file__).parents[2] / "examples"

NIGHTLY = """\
    give SUCCESS 1
    all parts SUCCESS
      [all parts.eu] SUCCESS
        all parts.eu.double SUCCESS 1
        all parts.eu.sides SUCCESS
          [all parts.eu.sides.left] SUCCESS
            all parts.eu.sides.left.check SUCCESS 1
            all parts.eu.sides.left.success SUCCESS 1
          [all parts.eu.sides.right] SUCCESS
            all parts.eu.sides.right.rest SUCCESS 1
            all parts.eu.sides.right.success SUCCESS 1
        all parts.eu.success SUCCESS 1
      [all parts.us] SUCCESS
        all parts.us.double SUCCESS 1
        all parts.us.sides SUCCESS
          [all parts.us.sides.left] SUCCESS
            all parts.us.sides.left.check SUCCESS 1
            all parts.us.sides.left.success SUCCESS 1
          [all parts.us.sides.right] SUCCESS
            all parts.us.sides.right.rest SUCCESS 1
            all parts.us.sides.right.success SUCCESS 1
        all parts.us.success SUCCESS 1
    Parallel step SUCCESS
      [Parallel step.Branch A] SUCCESS
        Parallel step.Branch A.Child Step SUCCESS 1
        Parallel step.Branch A.success SUCCESS 1
      [Parallel step.Branch B] SUCCESS
        Parallel step.Branch B.second SUCCESS 1
        Parallel step.Branch B.success SUCCESS 1
    inner SUCCESS
      [inner.dag] SUCCESS
        inner.dag.in dag SUCCESS 1
        inner.dag.success SUCCESS 1
    may fail FAIL 1
    tidy up SUCCESS 1
    measure SUCCESS 1
    use SUCCESS 1
    success SUCCESS 1"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> MagnusProject:
    project = MagnusProject(tmp_path_factory.mktemp("project"), Place(str(tmp_path_factory.mktemp("runs"))))
    project.configure("magnus-own", {"log_folder": "own"}, type_="file-system")
    return project


@pytest.fixture(scope="module")
def nightly(project: MagnusProject) -> RunLog:
    succeeded(project.execute("nightly", "nightly", "-p", "given.yaml", "--tag", "nightly"))
    return project.place.read("nightly")


def test_every_step_of_map_parallel_and_dag_is_there_in_first_write_order(nightly: RunLog) -> None:
    assert (nightly.status, nightly.tag) == ("SUCCESS", "nightly")
    assert outline(nightly.steps) == dedent(NIGHTLY)


def test_the_run_log_is_that_of_magnuss_own_store(nightly: RunLog, project: MagnusProject) -> None:
    succeeded(project.execute("nightly", "nightly", "-p", "given.yaml", "--tag", "nightly", config="magnus-own"))
    theirs = FileSystemRunLogstore(log_folder=str(project.folder / "own")).get_run_log_by_id("nightly", full=True)
    plugin = ChunkStoreRunLogStore(url=project.place.url)
    with closing(plugin.store):
        ours = plugin.get_run_log_by_id("nightly", full=True)
    assert comparable_text(ours.model_dump()) == comparable_text(theirs.model_dump())


def comparable_text(dump: dict[str, object]) -> str:
    """As magnus prints it; NaN is equal to itself there."""
    return json.dumps(comparable(dump), indent=1)


def test_parameters_are_exact_and_plain(nightly: RunLog) -> None:
    assert nightly.parameters == {
        "greek": 1,
        "text": "ü 😀 \n\x1b[31m[red]</script>",
        "missing": None,
        "numbered": {"1": "one"},
        "parts": ["eu", "us"],
        "number": 1.5,
        "nested": {"kind": "json", "value": [1, None, "ü 😀"]},  # it looks typed
        "shared": "as given",
        "doubled_eu": 3.0,
        "doubled_us": 3.0,
        "limit": float("inf"),
        "big": 2**70,
        "small": 0.0,
        "same": [True, True, True],
    }
    assert math.copysign(1, nightly.parameters["small"]) == -1


def test_what_tasks_tracked_is_kept_also_over_several_steps(nightly: RunLog) -> None:
    assert nightly.steps["give"].user_defined_metrics == {"rows": 2, "share": {"value": 0.25, "unit": None}}
    measured = nightly.steps["measure"].user_defined_metrics
    assert measured["loss"] == {"0": 1.0, "1": 0.5, "2": 1 / 3}
    assert measured["worst"] != measured["worst"]


def test_a_failed_step_says_why_and_its_on_failure_step_ran(nightly: RunLog) -> None:
    (attempt,) = nightly.steps["may fail"].attempts
    assert attempt.message == "this step fails: [red]no[/red] <b>"
    assert nightly.steps["tidy up"].status == "SUCCESS"


def test_files_of_the_catalog_are_noted(nightly: RunLog) -> None:
    tables = [each for each in nightly.get_data_catalogs_by_stage("put") if each.name == "table.csv"]
    assert [table.catalog_relative_path for table in tables] == ["nightly/table.csv"]
    assert tables[0].data_hash


def test_the_end_of_each_graph_prints_the_run_log(nightly: RunLog, project: MagnusProject) -> None:
    printed = project.outputs[0]
    (whole,) = [at for at in range(len(printed)) if printed.startswith('{\n    "run_id"', at)]
    assert json.JSONDecoder().raw_decode(printed[whole:])[0]["steps"]["give"]["status"] == "SUCCESS"


def test_the_store_itself_is_in_the_run_configuration(nightly: RunLog, project: MagnusProject) -> None:
    store = nightly.run_config["run_log_store"]
    assert (store["service_name"], store["url"]) == ("chunkstore", project.place.url)
    assert nightly.run_config["dag_hash"] == nightly.dag_hash


def test_the_command_line_shows_a_run_of_magnus(nightly: RunLog, project: MagnusProject) -> None:
    shown = project.command([str(BIN / "chunkstore"), "show", "nightly", "--store", project.place.url])
    succeeded(shown)
    assert "Branch A" in shown.output
    assert "doubled_eu" in shown.output


def test_a_run_that_exists_is_not_begun_again(nightly: RunLog, project: MagnusProject) -> None:
    again = project.execute("nightly")
    assert again.code == 1
    assert "RunLogExistsError" in again.output
    assert project.place.read("nightly") == nightly


def test_the_values_of_a_map_may_have_any_name(project: MagnusProject) -> None:
    parts = ["1.5", "eu/west", "a.b.json", "ü 😀", "[red]", "</script>", "x" * 300]
    (project.folder / "parts.yaml").write_text(json.dumps({"parts": parts}))
    succeeded(project.execute("names", "names", "-p", "parts.yaml"))
    branches = project.place.read("names").steps["m"].branches
    assert [(name, list(branch.steps)) for name, branch in branches.items()] == [
        (f"m.{part}", [f"m.{part}.s", f"m.{part}.s-1", f"m.{part}.success"]) for part in parts
    ]


# Again


@pytest.fixture(scope="module")
def failed(project: MagnusProject) -> RunLog:
    assert project.execute("failing").code == 1
    return project.place.read("failing")


def test_a_step_that_fails_in_mid_pipeline_fails_the_run(failed: RunLog) -> None:
    assert failed.status == "FAIL"
    assert outline(failed.steps) == "give SUCCESS 1\nbroken FAIL 1\nfail SUCCESS 1"


def test_a_new_run_goes_on_from_the_step_that_failed(failed: RunLog, project: MagnusProject) -> None:
    """With magnus's own stores it ends with a KeyError or an EntityNotFoundError at the first step that never ran."""
    (project.folder / "mended").touch()
    succeeded(project.execute("failing", "mended", "--use-cached", "failing"))
    mended = project.place.read("mended")
    assert outline(mended.steps) == "give SUCCESS\nbroken SUCCESS 1\nafter SUCCESS 1\nsuccess SUCCESS 1"
    assert [step.mock for step in mended.steps.values()] == [True, False, False, False]
    assert (mended.use_cached, mended.original_run_id) == (True, "failing")
    assert mended.parameters == failed.parameters


def test_a_new_run_after_a_success_runs_nothing_again(nightly: RunLog, project: MagnusProject) -> None:
    succeeded(project.execute("nightly", "again", "--use-cached", "nightly"))
    again = project.place.read("again")
    assert [name for name, step in again.steps.items() if not step.mock] == ["may fail", "success"]
    assert again.steps["all parts"].branches == {}
    assert again.parameters.keys() == nightly.parameters.keys()


def test_an_original_that_is_not_there_is_named(project: MagnusProject) -> None:
    outcome = project.execute("failing", "lost", "--use-cached", "never was")
    assert outcome.code == 1
    assert "run 'never was' is not in" in outcome.output


# In parallel


@pytest.fixture(scope="module")
def raced(project: MagnusProject) -> RunLog:
    """A map whose branches run at the same time, up to where magnus itself stops; then its fan-in, by its own command."""
    config = {"url": project.place.url}
    project.configure("parallel", config, executor={"type": "local", "config": {"enable_parallel": True}})
    outcome = project.execute("racing", config="parallel")
    assert outcome.code == 1
    assert "MapNode.fan_in() got multiple values for keyword argument 'map_variable'" in outcome.output
    succeeded(project.magnus("fan", "racing", "race", "-m", "in", "-f", "racing.yaml", "-c", "parallel.yaml"))
    return project.place.read("racing")


def test_all_that_parallel_branches_wrote_is_there(raced: RunLog) -> None:
    branches = raced.steps["race"].branches
    assert list(branches) == [f"race.{part}" for part in raced.parameters["parts"]]
    for name, branch in branches.items():
        assert (branch.status, list(branch.steps)) == ("SUCCESS", [f"{name}.run", f"{name}.tell", f"{name}.success"])
        assert {step.status for step in branch.steps.values()} == {"SUCCESS"}
    assert raced.steps["race"].status == "SUCCESS"


def test_each_branch_ran_in_a_process_of_its_own(raced: RunLog) -> None:
    workers = {raced.parameters[f"worker_{part}"] for part in raced.parameters["parts"]}
    assert len(workers) == 6
    assert raced.parameters["parent"] not in workers


def test_a_branch_that_gives_back_all_parameters_does_not_undo_those_of_others(raced: RunLog) -> None:
    """The slow branch read `shared` before the quick one set it, and the whole run log after that, and then gave back all it knew."""
    assert raced.parameters["shared"] == "set by quick"


def test_steps_that_an_orchestrator_runs_at_the_same_time_undo_nothing(project: MagnusProject) -> None:
    """As pods of argo do it: fan out, every step in a process of its own, fan in."""
    project.configure("argo", {"url": project.place.url}, executor={"type": "argo", "config": {"image": "any"}})
    (project.folder / "shared.yaml").write_text('shared: "as given"')
    files = ("-f", "pods.yaml", "-c", "argo.yaml", "-p", "shared.yaml")

    def single(*names: str) -> list[list[str]]:
        return [["execute_single_node", "pods", name, *files] for name in names]

    left = single("sides.left.slow", "sides.left.success")
    right = single("sides.right.quick", "sides.right.done", "sides.right.success")
    project.in_turn([["fan", "pods", "sides", "-m", "out", *files]])
    project.at_once([left, right])
    project.in_turn([["fan", "pods", "sides", "-m", "in", *files], *single("success")])
    run_log = project.place.read("pods")
    expected = """\
        sides SUCCESS
          [sides.left] SUCCESS
            sides.left.slow SUCCESS 1
            sides.left.success SUCCESS 1
          [sides.right] SUCCESS
            sides.right.quick SUCCESS 1
            sides.right.done SUCCESS 1
            sides.right.success SUCCESS 1
        success SUCCESS 1"""
    assert (run_log.status, outline(run_log.steps)) == ("SUCCESS", dedent(expected))
    assert run_log.parameters["shared"] == "set by quick"
    assert run_log.parameters["slow"] != run_log.parameters["quick"]


# Elsewhere


def test_a_pipeline_of_the_sdk_returns_its_run_log(project: MagnusProject) -> None:
    outcome = project.command([sys.executable, "-W", "ignore", "sdk.py", str(EXAMPLES / "magnus-local.yaml"), "sdk"])
    succeeded(outcome)
    assert "RETURNED SUCCESS 3.0" in outcome.output
    expected = """\
        give SUCCESS 1
        each SUCCESS
          [each.eu] SUCCESS
            each.eu.double SUCCESS 1
            each.eu.success SUCCESS 1
          [each.us] SUCCESS
            each.us.double SUCCESS 1
            each.us.success SUCCESS 1
        both SUCCESS
          [both.left] SUCCESS
            both.left.rest SUCCESS 1
            both.left.success SUCCESS 1
          [both.right one] SUCCESS
            both.right one.rest SUCCESS 1
            both.right one.success SUCCESS 1
        success SUCCESS 1"""
    assert outline(Place(str(project.folder / "runs")).read("sdk").steps) == dedent(expected)


def test_a_run_in_memory_is_printed_at_its_end_and_nowhere_kept(project: MagnusProject) -> None:
    project.configure("memory", {"url": "memory://runs"})
    before = {path.name for path in project.folder.iterdir()}
    outcome = project.command([sys.executable, "-W", "ignore", "sdk.py", "memory.yaml", "in memory"])
    succeeded(outcome)
    assert '"each.us.double": {' in outcome.output
    after = {path.name for path in project.folder.iterdir()}
    assert after - before <= {"table.csv", ".catalog", "__pycache__"}


def test_a_run_in_memory_is_refused_where_branches_are_processes(project: MagnusProject) -> None:
    executor = {"type": "local", "config": {"enable_parallel": True}}
    project.configure("memory-parallel", {"url": "memory://runs"}, executor=executor)
    outcome = project.execute("racing", "refused", config="memory-parallel")
    assert outcome.code == 1
    assert "memory://runs is the memory of one process" in outcome.output


def test_a_pipeline_on_s3_keeps_its_run_log_there_and_its_secrets_nowhere(
    moto_server: S3Server, tmp_path: Path
) -> None:
    place = Place.on(moto_server)
    secret = "open sesame, moto asks for none"
    project = MagnusProject(tmp_path, Place(place.url, {**place.settings, "secret": secret}))
    succeeded(project.execute("nightly", "nightly", "-p", "given.yaml"))
    run_log = project.place.read("nightly")
    assert outline(run_log.steps) == dedent(NIGHTLY)
    assert run_log.run_config["run_log_store"]["configuration"]["secret"] == "**********"
    assert secret not in project.outputs[0]
    assert secret not in run_log.model_dump_json()
