"""The page of a timeline: it needs nothing else, and nothing that stands in a run can be more than text in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from chunkstore import RunLog, StepAttempt, StepLog
from chunkstore.timeline import Timeline, timeline_of
from chunkstore.timeline_page import page_of

DAY = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOSTILE = [
    "</script><script>alert(1)</script>",
    "</SCRIPT\t>\"'><img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]>&lt;/script&gt;&#60;",
    "{style}{0}%s${data}",
    "\u2028\u2029\x00\x1b[2J\r",
    "\u202egnp.exe\u2066\u200f",
    "\ud800 alone",
    "ordinary, 🎉 and ü",
]


class Page(HTMLParser):
    """What a browser makes of a page, as far as these tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._within: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "input"}:
            self._within.append(f"{tag} {dict(attrs).get('id') or ''}".strip())

    def handle_endtag(self, tag: str) -> None:
        assert self._within.pop().split()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._within:
            self.texts[self._within[-1]] = self.texts.get(self._within[-1], "") + data

    @property
    def data(self) -> Any:
        return json.loads(self.texts["script data"])


def timeline(*names: str, run_id: str = "r", message: str = "") -> Timeline:
    steps = {}
    for number, name in enumerate(names):
        start = DAY + timedelta(seconds=number)
        tries = [
            StepAttempt(
                start_time=start.isoformat(), end_time=(start + timedelta(seconds=1.5)).isoformat(), message=message
            )
        ]
        steps[name] = StepLog(name=name, internal_name=name, status="FAIL", attempts=tries)
    return timeline_of(
        RunLog.model_construct(run_id=run_id, status="FAIL", steps=steps, job=None, created_at=None), now=DAY
    )


PLAIN = Page(page_of(timeline("step")))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_a_name_or_a_message_holds_the_page_has_the_same_elements(hostile: str) -> None:
    text = page_of(timeline(hostile, run_id=hostile, message=hostile))
    page = Page(text)
    assert page.tags == PLAIN.tags
    assert [page.texts[element] for element in ("style", "script")] == [
        PLAIN.texts[element] for element in ("style", "script")
    ]
    assert text.count("<script") == text.count("</script") == 2
    text.encode("utf-8")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_and_messages_are_in_the_data_as_they_would_be_read(hostile: str) -> None:
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in hostile)
    page = Page(page_of(timeline(hostile, run_id=hostile, message=f"first\n{hostile.strip()}")))
    depth, kind, label, name, status, start, end, flags, attempts, message = page.data["spans"][1]
    assert (depth, kind, label, name, status, start, end, flags, attempts) == (
        1,
        "step",
        shown,
        shown,
        "FAIL",
        0,
        1500,
        0,
        1,
    )
    assert message.startswith("first\n")
    assert page.texts["h1"] == shown
    assert page.texts["title"] == f"{shown} · timeline"


def test_no_character_of_the_page_turns_or_hides_what_is_around_it() -> None:
    text = page_of(timeline(*HOSTILE, run_id="".join(HOSTILE), message="".join(HOSTILE)))
    assert {each for each in text if not each.isprintable()} == {"\n"}


def test_it_loads_nothing_and_lets_no_other_script_or_style_run() -> None:
    policy = next(attrs["content"] for tag, attrs in PLAIN.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(rule.split(" ", 1) for rule in (policy or "").split("; "))
    digests = {}
    for element in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(PLAIN.texts[element].encode()).digest()).decode()
        digests[f"{element}-src"] = f"'sha256-{digest}'"
    assert allowed == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", **digests}
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in PLAIN.tags}
    attributes = {name for _, attrs in PLAIN.tags for name in attrs}
    assert not {name for name in attributes if name.startswith("on") or name in {"src", "href", "style", "action"}}


def test_its_script_makes_text_and_never_markup_and_asks_no_network() -> None:
    script = PLAIN.texts["script"]
    assert "textContent" in script
    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|XMLHttp|import|https?:", script
        )
        == []
    )
    assert re.findall(r"@import|url\(|https?:", PLAIN.texts["style"]) == []
    asked = set(re.findall(r'at\("(\w+)"\)', script))
    assert asked <= {attrs.get("id") for _, attrs in PLAIN.tags}


def test_it_is_light_or_dark_as_the_browser_is() -> None:
    assert "color-scheme: light dark" in PLAIN.texts["style"]
    assert "prefers-color-scheme: dark" in PLAIN.texts["style"]


def test_a_message_that_is_very_long_is_cut_and_says_so() -> None:
    message = Page(page_of(timeline("step", message="x" * 100_000))).data["spans"][1][-1]
    assert len(message) < 2_100
    assert message.endswith("… (cut: 100,000 characters)")


def test_thousands_of_steps_are_less_than_two_hundred_bytes_each() -> None:
    text = page_of(timeline(*(f"map.{number}.train" for number in range(2_000))))
    assert len(Page(text).data["spans"]) == 2_001
    assert len(text) < 2_000 * 200


def test_running_assumed_and_unknown_times_are_told_apart() -> None:
    steps = {
        "a": StepLog(name="a", internal_name="a", status="SUCCESS"),
        "b": StepLog(name="b", internal_name="b", status="PROCESSING"),
    }
    run_log = RunLog(run_id="r", status="PROCESSING", steps=steps, created_at=DAY)
    data = Page(page_of(timeline_of(run_log, now=DAY + timedelta(seconds=2)))).data
    assert [(row[5], row[6], row[7]) for row in data["spans"]] == [(0, 2000, 3), (None, None, 0), (0, 2000, 3)]
    assert (data["start"], data["length"]) == (DAY.timestamp() * 1000, 2000)
    assert len(data["notes"]) == 2


def test_a_run_without_times_has_a_page_too() -> None:
    data = Page(page_of(timeline_of(RunLog(run_id="r"), now=DAY))).data
    assert (data["start"], data["length"], len(data["spans"])) == (None, 0, 1)
