"""A timeline as one HTML page that needs nothing else: no network, no other file, no server.

Names and messages come from anywhere. They are in the page as data only, which its script shows as text; and the page's own
policy lets no other script run, wherever it may have come from.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from typing import Any, Final

from chunkstore.timeline import Span, Timeline

_LONGEST_MESSAGE: Final = 2_000  # characters; ten thousand tracebacks would make a page that no browser opens
_RUNNING: Final = 1
_ASSUMED: Final = 2
_SKEWED: Final = 4


def page_of(timeline: Timeline) -> str:
    """The page: one line for each span, with filter, zoom and details; light or dark as the browser is.

    Characters that would change how their surroundings are read (controls, bidirectional ones) are shown as Python writes them. The
    page tells times in the zone of whoever looks at it. About 200 bytes for each span.
    """
    style, script = _file("timeline_page.css"), _file("timeline_page.js")
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    return _PAGE.format(
        policy=html.escape(policy),
        title=html.escape(_visible(timeline.run_id)),
        spans=f"{len(timeline.spans):,}",
        style=style,
        data=_embedded(_data(timeline)),
        script=script,
    )


_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title} · timeline</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p id="summary">{spans} lines</p>
<ul id="notes"></ul>
<div id="tools">
<input id="filter" type="search" placeholder="filter by name, status or message" aria-label="filter by name, status or message">
<span id="statuses" role="group" aria-label="statuses"></span>
<button id="fold" type="button">fold all</button>
<button id="closer" type="button" aria-label="zoom in">+</button>
<button id="further" type="button" aria-label="zoom out">&minus;</button>
<button id="whole" type="button">whole run</button>
</div>
</header>
<noscript><p>This page draws its timeline by a script of its own, which this browser does not run.</p></noscript>
<main>
<div id="axis" aria-hidden="true"><div id="ticks"></div></div>
<div id="rows" tabindex="0" role="tree" aria-label="timeline"><div id="all"></div></div>
</main>
<footer id="details" aria-live="polite"><p>Click a line for its details, double-click it to zoom to it. Ctrl and the wheel zoom, Shift and the wheel move.</p></footer>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _file(name: str) -> str:
    return resources.files("chunkstore").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What lets this very text run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _embedded(data: Any) -> str:
    """JSON that ends no element, whatever is in it."""
    text = json.dumps(data, separators=(",", ":"))  # in ASCII
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(timeline: Timeline) -> dict[str, Any]:
    start, end = timeline.start, timeline.end
    return {
        "start": None if start is None else round(start.timestamp() * 1000, 3),
        "length": 0 if start is None or end is None else _since(start, end),
        "notes": [_visible(note) for note in timeline.notes],
        "spans": [_row(span, start) for span in timeline.spans],
    }


def _row(span: Span, origin: datetime | None) -> Sequence[object]:
    """In the order in which the script takes it."""
    flags = _RUNNING * span.is_running + _ASSUMED * span.is_start_assumed + _SKEWED * span.is_skewed
    message = span.message.strip()
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}… (cut: {len(message):,} characters)"
    return [
        span.depth,
        span.kind,
        _visible(span.label),
        _visible(span.name),
        _visible(span.status),
        None if span.start is None else _since(origin, span.start),
        None if span.end is None else _since(origin, span.end),
        flags,
        span.attempts,
        "\n".join(map(_visible, message.splitlines())),
    ]


def _since(origin: datetime | None, moment: datetime) -> float:
    """Milliseconds."""
    return 0.0 if origin is None else round((moment - origin).total_seconds() * 1000, 3)


def _visible(text: str) -> str:
    """The text without what would hide or reorder its surroundings."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
