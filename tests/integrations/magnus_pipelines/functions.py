"""The tasks of the pipelines for magnus."""

import math
import os
import time
from pathlib import Path

from magnus import get_run_log, set_parameter, track_this
from pydantic import BaseModel, ConfigDict

DEADLINE = 60.0


class Given(BaseModel):
    """Whatever a task returns."""

    model_config = ConfigDict(extra="allow")


def give() -> Given:
    Path("table.csv").write_text("a,b\n1,2\n")
    track_this(rows=2, share={"value": 0.25, "unit": None})
    return Given(parts=["eu", "us"], number=1.5, nested={"kind": "json", "value": [1, None, "ü 😀"]}, shared="as given")


def double(part: str, number: float) -> Given:
    return Given(**{f"doubled_{part}": number * 2})


def check(part: str) -> None:
    track_this(checked=part)


def measure() -> None:
    for step in range(3):
        track_this(step=step, loss=1 / (step + 1))
    track_this(worst=math.nan, nothing=None)
    set_parameter(limit=math.inf, big=2**70, small=-0.0, text="ü 😀 \n\x1b[31m[red]</script>")


def use(limit: float, big: int, text: str) -> Given:
    return Given(same=[limit == math.inf, big == 2**70, text == "ü 😀 \n\x1b[31m[red]</script>"])


def fails() -> None:
    raise ValueError("this step fails: [red]no[/red] <b>")


def needs_a_file() -> None:
    if not Path("mended").exists():
        raise FileNotFoundError("mended is not there yet")


def race(part: str) -> Given:
    """One branch sets `shared` while another, which read it before, is still at work; and looks at the run in between."""
    if part == "slow":
        Path("slow began").touch()
        wait_for("quick set it")
        assert get_run_log().parameters["shared"] == "set by quick"
        return Given(worker_slow=os.getpid())
    if part == "quick":
        wait_for("slow began")
        return Given(worker_quick=os.getpid(), shared="set by quick")
    return Given(**{f"worker_{part}": os.getpid()})


def tell(part: str) -> None:
    if part == "quick":
        Path("quick set it").touch()


def racers() -> Given:
    return Given(parts=["slow", "quick", *(f"n{number}" for number in range(4))], shared="as given", parent=os.getpid())


def slow() -> Given:
    Path("slow began").touch()
    wait_for("quick set it")
    return Given(slow=os.getpid())


def quick() -> Given:
    wait_for("slow began")
    return Given(quick=os.getpid(), shared="set by quick")


def done() -> None:
    Path("quick set it").touch()


def wait_for(name: str) -> None:
    end = time.monotonic() + DEADLINE
    while not Path(name).exists():
        assert time.monotonic() < end, f"nobody made {name!r}"
        time.sleep(0.01)
