"""Real pipelines of runnable in real processes: what they record is all there, in order, and exact."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest

pytest.importorskip("runnable")

from pipeline_runs import Outcome, Place, Project, outline, plain

import chunkstore
from chunkstore import RunLog
from chunkstore.integrations.runnable import ChunkStoreRunLogStore
from servers import S3Server

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent

MAPS = """\
    give SUCCESS 1
    by_number SUCCESS
      [by_number.0.1] SUCCESS
        by_number.0.1.double SUCCESS 1
        by_number.0.1.success SUCCESS 1
      [by_number.1.5] SUCCESS
        by_number.1.5.double SUCCESS 1
        by_number.1.5.success SUCCESS 1
      [by_number.2.5] SUCCESS
        by_number.2.5.double SUCCESS 1
        by_number.2.5.success SUCCESS 1
    by_region SUCCESS
      [by_region.eu/west] SUCCESS
        by_region.eu/west.greet SUCCESS 1
        by_region.eu/west.success SUCCESS 1
      [by_region.a b] SUCCESS
        by_region.a b.greet SUCCESS 1
        by_region.a b.success SUCCESS 1
      [by_region.ü.json] SUCCESS
        by_region.ü.json.greet SUCCESS 1
        by_region.ü.json.success SUCCESS 1
      [by_region.a.b] SUCCESS
        by_region.a.b.greet SUCCESS 1
        by_region.a.b.success SUCCESS 1
    sides SUCCESS
      [sides.left] SUCCESS
        sides.left.weigh SUCCESS 1
        sides.left.success SUCCESS 1
      [sides.right one] SUCCESS
        sides.right one.count SUCCESS 1
        sides.right one.success SUCCESS 1
    success SUCCESS 1"""

NESTED = """\
    begin SUCCESS 1
    outer SUCCESS
      [outer.red] SUCCESS
        outer.red.both SUCCESS
          [outer.red.both.chosen] SUCCESS
            outer.red.both.chosen.choose SUCCESS
              [outer.red.both.chosen.choose.red] SUCCESS
                outer.red.both.chosen.choose.red.paint SUCCESS 1
                outer.red.both.chosen.choose.red.success SUCCESS 1
            outer.red.both.chosen.success SUCCESS 1
          [outer.red.both.climbed] SUCCESS
            outer.red.both.climbed.stairs SUCCESS
              [outer.red.both.climbed.stairs.0] SUCCESS
                outer.red.both.climbed.stairs.0.climb SUCCESS 1
                outer.red.both.climbed.stairs.0.success SUCCESS 1
              [outer.red.both.climbed.stairs.1] SUCCESS
                outer.red.both.climbed.stairs.1.climb SUCCESS 1
                outer.red.both.climbed.stairs.1.success SUCCESS 1
            outer.red.both.climbed.success SUCCESS 1
        outer.red.success SUCCESS 1
    success SUCCESS 1"""


@pytest.fixture(scope="module", params=["local", "minio"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    if request.param == "local":
        return Place(str(tmp_path_factory.mktemp("runs")))
    return Place.on(request.getfixturevalue("minio_server"))


@pytest.fixture(scope="module")
def project(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"), place)


@pytest.fixture(scope="module")
def maps(project: Project) -> RunLog:
    return succeeded(project, "maps")


def test_every_branch_and_step_is_there_in_first_write_order(maps: RunLog) -> None:
    assert maps.status == "SUCCESS"
    assert outline(maps.steps) == dedent(MAPS)


def test_branches_ran_in_other_processes(maps: RunLog) -> None:
    recorded = plain(maps.parameters)
    assert recorded["parent"][1] not in recorded["worker"][1]


def test_parameters_of_every_branch_have_their_kind_and_exact_value(maps: RunLog) -> None:
    numbers = maps.steps["by_number"].branches
    regions = maps.steps["by_region"].branches
    sides = maps.steps["sides"].branches
    assert [plain(branch.parameters)["doubled"] for branch in numbers.values()] == [
        ("json", 0.2),
        ("json", 3.0),
        ("json", 5.0),
    ]
    assert {name: plain(branch.parameters) for name, branch in regions.items()} == {
        f"by_region.{region}": {"greeting": ("json", f"hello {region}")}
        for region in ("eu/west", "a b", "ü.json", "a.b")
    }
    assert plain(sides["sides.left"].parameters) == {"weight": ("metric", 0.25)}
    assert plain(sides["sides.right one"].parameters) == {"counted": ("json", {"rows": 2**70, "none": None})}


def test_what_branches_returned_is_collected_for_the_run(maps: RunLog) -> None:
    recorded = plain(maps.parameters)
    assert list(recorded)[:3] == ["numbers", "regions", "parent"]
    assert recorded["doubled"] == ("json", [0.2, 3.0, 5.0])
    assert recorded["greeting"][1] == ["hello eu/west", "hello a b", "hello ü.json", "hello a.b"]
    assert recorded["weight"] == ("metric", 0.25)


def test_attempts_tell_when_they_ran_and_with_what(maps: RunLog) -> None:
    (attempt,) = maps.steps["by_region"].branches["by_region.a.b"].steps["by_region.a.b.greet"].attempts
    assert plain(attempt.input_parameters) == {"region": ("json", "a.b")}
    assert plain(attempt.output_parameters) == {"greeting": ("json", "hello a.b")}
    assert attempt.elapsed is not None


def test_runnables_own_models_read_the_same(maps: RunLog, place: Place) -> None:
    plugin = ChunkStoreRunLogStore(url=place.url, **place.settings)
    with closing(plugin.store):
        theirs = plugin.get_run_log_by_id("maps", full=True)
    assert outline(theirs.steps) == outline(maps.steps)
    assert plain(theirs.parameters) == plain(maps.parameters)
    assert theirs.dag_hash == maps.dag_hash
    assert theirs.run_config["pipeline_definition_file"] == "maps.main"


@pytest.fixture(scope="module")
def choices(project: Project) -> RunLog:
    return succeeded(project, "choices")


def test_the_branch_that_was_chosen_and_every_round_of_a_loop_are_there(choices: RunLog) -> None:
    expected = """\
        measure SUCCESS 1
        begin SUCCESS 1
        choose SUCCESS
          [choose.red] SUCCESS
            choose.red.paint SUCCESS 1
            choose.red.success SUCCESS 1
        stairs SUCCESS
          [stairs.0] SUCCESS
            stairs.0.climb SUCCESS 1
            stairs.0.success SUCCESS 1
          [stairs.1] SUCCESS
            stairs.1.climb SUCCESS 1
            stairs.1.success SUCCESS 1
          [stairs.2] SUCCESS
            stairs.2.climb SUCCESS 1
            stairs.2.success SUCCESS 1
        pretend SUCCESS 1
        success SUCCESS 1"""
    assert outline(choices.steps) == dedent(expected)


def test_each_round_of_a_loop_has_the_parameters_of_the_round_before(choices: RunLog) -> None:
    rounds = [plain(branch.parameters) for branch in choices.steps["stairs"].branches.values()]
    assert [each["height"] for each in rounds] == [("json", 1), ("json", 2), ("json", 3)]
    assert [each["done"] for each in rounds] == [("json", False), ("json", False), ("json", True)]
    assert all(each["colour"] == ("json", "red") for each in rounds)


def test_json_metric_and_object_parameters_are_exact(choices: RunLog) -> None:
    recorded = plain(choices.parameters)
    assert recorded["nested"] == ("json", {"deep": [1, {"ü": 2**70}]})
    assert recorded["found"] == ("object", "found")
    kind, loss = recorded["loss"]
    assert kind == "metric"
    assert math.isnan(loss)


def test_files_for_the_catalog_are_noted_with_all_fields(choices: RunLog) -> None:
    (table,) = [each for each in choices.get_data_catalogs_by_stage("put") if each.name == "table.csv"]
    assert table.data_hash
    assert table.catalog_relative_path


@pytest.fixture(scope="module")
def retried(project: Project) -> list[RunLog]:
    """A run that fails in a branch, is tried again in vain by an environment variable, then mended and retried."""
    first = project.execute("failing")
    retried = [project.place.read("failing")]
    again = project.execute("failing", RUNNABLE_RETRY_RUN_ID="failing", RUNNABLE_RETRY_INDICATOR="in vain")
    retried.append(project.place.read("failing"))
    (project.folder / "mended").touch()
    last = project.command([str(BIN / "runnable"), "retry", "failing"], RUNNABLE_RETRY_INDICATOR="mended")
    retried.append(project.place.read("failing"))
    assert [first.code, again.code, last.code] == [1, 1, 0], last.output[-4000:]
    return retried


def test_a_failed_step_in_a_branch_is_recorded_as_far_as_it_came(retried: list[RunLog]) -> None:
    expected = """\
        give SUCCESS 1
        m FAIL
          [m.whole] SUCCESS
            m.whole.use SUCCESS 1
            m.whole.success SUCCESS 1
          [m.broken] FAIL
            m.broken.use FAIL 1
            m.broken.fail SUCCESS 1
        fail SUCCESS 1"""
    assert retried[0].status == "FAIL"
    assert outline(retried[0].steps) == dedent(expected)
    (attempt,) = retried[0].steps["m"].branches["m.broken"].steps["m.broken.use"].attempts
    assert attempt.message


def test_a_retry_runs_only_what_failed(retried: list[RunLog]) -> None:
    assert retried[1].status == "FAIL"
    assert len(retried[1].steps["give"].attempts) == 1
    branches = retried[1].steps["m"].branches
    assert len(branches["m.whole"].steps["m.whole.use"].attempts) == 1
    assert len(branches["m.broken"].steps["m.broken.use"].attempts) == 2


def test_steps_keep_their_places_over_retries(retried: list[RunLog]) -> None:
    expected = """\
        give SUCCESS 1
        m SUCCESS
          [m.whole] SUCCESS
            m.whole.use SUCCESS 1
            m.whole.success SUCCESS 3
          [m.broken] SUCCESS
            m.broken.use SUCCESS 3
            m.broken.fail SUCCESS 2
            m.broken.success SUCCESS 1
        fail SUCCESS 2
        after SUCCESS 1
        success SUCCESS 1"""
    assert retried[2].status == "SUCCESS"
    assert outline(retried[2].steps) == dedent(expected)
    assert plain(retried[2].parameters)["total"] == ("json", 11)


def test_attempts_are_numbered_and_say_which_retry_made_them(retried: list[RunLog]) -> None:
    attempts = retried[2].steps["m"].branches["m.broken"].steps["m.broken.use"].attempts
    assert [(each.attempt_number, each.status, each.retry_indicator) for each in attempts] == [
        (1, "FAIL", ""),
        (2, "FAIL", "in vain"),
        (3, "SUCCESS", "mended"),
    ]


def test_a_run_that_exists_is_not_begun_again(retried: list[RunLog], project: Project) -> None:
    assert project.execute("failing").code == 1
    assert "RunLogExistsError" in project.outputs[-1]
    assert project.place.read("failing") == retried[2]


def test_a_job_is_recorded_with_its_attempt_and_its_parameters(project: Project) -> None:
    check_job(succeeded(project, "single_job"))


def test_an_async_pipeline_is_recorded_from_inside_its_event_loop(project: Project) -> None:
    run_log = succeeded(project, "asynchronous")
    assert "EVENTS [1, 2]" in project.outputs[-1]
    assert outline(run_log.steps) == "fetch SUCCESS 1\ntell SUCCESS 1\nsuccess SUCCESS 1"
    assert plain(run_log.parameters) == {"found": ("json", [1, 2]), "told": ("json", 2)}


def test_composite_steps_inside_each_other_are_nested_as_they_ran(project: Project) -> None:
    run_log = succeeded(project, "nested")
    assert outline(run_log.steps) == dedent(NESTED)
    assert plain(run_log.parameters)["height"] == ("json", 2)


def test_an_exported_run_log_is_drawn_by_runnables_timeline(maps: RunLog, project: Project) -> None:
    plugin = ChunkStoreRunLogStore(url=project.place.url, **project.place.settings)
    with closing(plugin.store):
        exported = plugin.get_run_log_by_id(maps.run_id, full=True).model_dump_json()
    (project.folder / "exported.json").write_text(exported)
    drawn = project.command([str(BIN / "runnable"), "timeline", "exported.json", "--no-open"])
    assert drawn.code == 0
    assert "Branch: eu/west" in drawn.output
    assert 'greeting="hello ü.json"' in drawn.output
    assert (project.folder / "exported_timeline.html").exists()


def test_no_secret_is_printed_or_recorded(maps: RunLog, project: Project) -> None:
    secret = project.place.settings.get("secret")
    if secret is None:
        pytest.skip("a folder has no secret")
    assert "ChunkStoreRunLogStore(" in project.outputs[0]
    assert secret not in "".join(project.outputs)
    assert secret not in maps.model_dump_json()


def test_each_step_in_a_process_of_its_own_comes_to_the_same(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", Place(str(tmp_path / "runs")), executor="emulator")
    assert outline(succeeded(project, "nested").steps) == dedent(NESTED)


def test_a_job_in_a_process_of_its_own_comes_to_the_same(tmp_path: Path) -> None:
    check_job(
        succeeded(Project(tmp_path / "project", Place(str(tmp_path / "runs")), executor="emulator"), "single_job")
    )


def test_branches_do_not_hang_on_a_server_that_keeps_connections_open(rclone_server: S3Server, tmp_path: Path) -> None:
    place = Place.on(rclone_server, lock_folder=str(tmp_path / "locks"))
    assert outline(succeeded(Project(tmp_path / "project", place), "maps").steps) == dedent(MAPS)


def test_a_relative_url_is_the_folder_below_the_project(tmp_path: Path) -> None:
    project = Project(tmp_path, Place("runs/"))
    outcome = project.execute("asynchronous")
    assert outcome.code == 0, outcome.output[-4000:]
    with closing(chunkstore.open(tmp_path / "runs")) as store:
        assert store.list_run_ids() == ["asynchronous"]


def succeeded(project: Project, definition: str, **environment: str) -> RunLog:
    """The run log of a definition that must run without an error."""
    outcome = project.execute(definition, **environment)
    check_succeeded(outcome)
    return project.place.read(environment.get("RUNNABLE_RUN_ID", definition))


def check_succeeded(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.output[-4000:]


def check_job(run_log: RunLog) -> None:
    assert run_log.status == "SUCCESS"
    assert run_log.steps == {}
    assert run_log.job is not None
    (attempt,) = run_log.job.attempts
    assert plain(attempt.output_parameters) == {"sum": ("json", 3), "share": ("metric", 0.5)}
    assert plain(run_log.parameters) == {"sum": ("json", 3), "share": ("metric", 0.5)}
    # runnable notes it twice, with any store.
    assert {each.name for each in run_log.job.data_catalog} == {"report.txt"}
