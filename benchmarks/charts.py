"""Draws the charts of docs/performance.md from the committed results, and writes its tables. It measures nothing.

python benchmarks/charts.py             # charts (needs matplotlib) and tables
python benchmarks/charts.py --tables    # the tables alone
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE / "results"
PAGE: Final = HERE.parent / "docs" / "performance.md"
CHARTS: Final = HERE.parent / "docs" / "charts"

Row = Mapping[str, Any]

OURS: Final = "chunkstore"


def rows_of(benchmark: str, **wanted: Any) -> list[Row]:
    """The committed numbers of a benchmark for which all that is given holds."""
    found = json.loads((RESULTS / f"{benchmark}.json").read_text(encoding="utf-8"))["rows"]
    return [row for row in found if all(row.get(key) == value for key, value in wanted.items())]


def facts_of(benchmark: str) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = json.loads((RESULTS / f"{benchmark}.json").read_text(encoding="utf-8"))["facts"]
    return facts


# The charts. One grey for words and lines that can be read on white and on black; our line in a colour of its own.

_INK: Final = "#7b848e"
_ACCENT: Final = "#e8590c"
_COLOURS: Final = {
    "runnable chunked-fs": "#9a6fd6",
    "runnable chunked-minio": "#9a6fd6",
    "MLflow files": "#2f9e8f",
    "MLflow sqlite": "#3b8fd6",
    "Optuna journal": "#c2912b",
    "sqlite": "#d6589a",
}
_NAMES: Final = {
    "chunkstore barrier": OURS,
    "chunkstore power": "chunkstore, synced",
    "sqlite process": "sqlite alone",
    "sqlite": "sqlite alone",
    "floor process": "floor: bare files",
    "floor": "floor: bare files",
}
_OTHERS: Final = ("Optuna journal", "MLflow files", "MLflow sqlite", "runnable chunked-fs")


def _colour(contestant: str) -> str:
    if contestant.startswith(OURS):
        return _ACCENT
    return next((colour for name, colour in _COLOURS.items() if contestant.startswith(name)), _INK)


def _name(contestant: str) -> str:
    return _NAMES.get(contestant, contestant)


def write_chart(figures: Any) -> Any:
    """What the Nth step costs, against N."""
    shown = ("chunkstore barrier", "chunkstore power", "floor process", "sqlite process", *_OTHERS)
    return _against_n(figures, "Adding the Nth step of a run, ms", "write", dict.fromkeys(shown, "add root step"))


def read_chart(figures: Any) -> Any:
    """What a full read costs, against N."""
    shown = dict.fromkeys((OURS, "floor", "sqlite", *_OTHERS), "full read")
    return _against_n(figures, "Reading a whole run of N steps, ms", "read", shown, again=OURS)


def _against_n(figures: Any, title: str, benchmark: str, shown: Mapping[str, str], again: str = "") -> Any:
    """Disk to the left, memory to the right, where the names stand."""
    figure, both = figures.subplots(1, 2, figsize=(8.2, 4.0), sharey=True)
    ends: dict[str, float] = {}
    for axes, place in zip(both, ("disk", "memory"), strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        for name, action in shown.items():
            _line(axes, name, rows_of(benchmark, place=place, action=action, contestant=name), ends)
        if again:
            rows = rows_of(benchmark, place=place, action="full read again, unchanged", contestant=again)
            _line(axes, f"{again}, again", rows, ends)
        axes.set_title({"disk": "on disk", "memory": "in memory"}[place], color=_INK, loc="left", fontsize=9.5)
        axes.set_xlabel("N: steps in the run", color=_INK)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _plain(axes)
        axes.grid(axis="y", color=_INK, alpha=0.25, linewidth=0.6)
    figure.subplots_adjust(left=0.02, right=0.8, top=0.84, bottom=0.02, wspace=0.1)
    figure.suptitle(title, color=_INK, x=0.02, ha="left", fontweight="bold")
    figure.canvas.draw()
    _label_ends(axes, ends)
    return figure


def _line(axes: Any, name: str, rows: Sequence[Row], ends: dict[str, float]) -> None:
    if not rows:
        return
    numbers, times = [row["n"] for row in rows], [row["median"] for row in rows]
    ours = name.startswith(OURS)
    axes.plot(
        numbers,
        times,
        color=_colour(name),
        linewidth=3 if ours else 1.5,
        linestyle="--" if name.startswith("floor") or name.endswith(("again", "power")) else "-",
        marker="o",
        markersize=5 if ours else 3.5,
        zorder=3 if ours else 2,
    )
    axes.set_xticks(numbers)
    ends[name] = times[-1]


def _label_ends(axes: Any, ends: Mapping[str, float]) -> None:
    """A name behind each line's end; those that would overlap are moved apart."""
    low, high = (axes.transData.transform((1, value))[1] for value in axes.get_ylim())
    at = low - 100.0
    for name, value in sorted(ends.items(), key=lambda end: end[1]):
        wanted = axes.transData.transform((1, value))[1]
        at = max(wanted, at + 15.0)
        dashed = " (dashed)" if name.endswith(("power", "again")) else ""
        axes.annotate(
            f"{_name(name)}{dashed}",
            (1.02, (at - low) / (high - low)),
            xycoords="axes fraction",
            color=_colour(name),
            va="center",
            fontsize=9,
            fontweight="bold" if name.startswith(OURS) else "normal",
        )


_ASKED: Final = {
    "create a run": "create a run",
    "add a step": "add a step",
    "update a step just added": "update a step",
    "set 1 parameter": "set a parameter",
    "set the status": "set the status",
    "get a step": "get a step",
    "full read, cold": "read a whole run",
    "full read again, unchanged": "read it again, unchanged",
}


def requests_chart(figures: Any) -> Any:
    """How many requests each action sends."""
    figure, axes = figures.subplots(figsize=(7.2, 3.8))
    shown = {OURS: "o", "s3fs as it comes": "s", "runnable chunked-minio": "D"}
    actions = [*_ASKED][::-1]
    for height, action in enumerate(actions):
        counts = {name: rows_of("requests", action=action, contestant=name) for name in shown}
        found = {name: rows[0]["requests"] for name, rows in counts.items() if rows}
        axes.plot([min(found.values()), max(found.values())], [height, height], color=_INK, alpha=0.4, zorder=1)
        for name, count in found.items():
            ours = name == OURS
            same = ours and count in [other for label, other in found.items() if label != OURS]
            axes.plot(
                count,
                height,
                shown[name],
                color=_colour(name),
                markersize=11 if same else 9 if ours else 7,
                markerfacecolor="none" if same else _colour(name),
                markeredgewidth=2,
                zorder=3,
                label=name if not height else None,
            )
    axes.set_xscale("log")
    axes.set_yticks(range(len(actions)), [_ASKED[action] for action in actions])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("requests to the S3 server", color=_INK)
    axes.set_title("Requests for each action", color=_INK, loc="left", fontweight="bold")
    _plain(axes)
    axes.grid(axis="x", color=_INK, alpha=0.25, linewidth=0.6)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=3, frameon=False, labelcolor=_INK, fontsize=9)
    return figure


def contention_chart(figures: Any) -> Any:
    """Acknowledged writes per second of eight processes, beside a reader."""
    figure, both = figures.subplots(1, 2, figsize=(7.6, 3.4))
    for axes, durability in zip(both, ("power", "process"), strict=True):
        rows = [
            row
            for name in _of_durability(durability)
            for row in rows_of("contention", place="disk", action="branches, beside a reader", contestant=name)
            if "writes_per_second" in row
        ]
        bars = []
        for row in rows:
            name = _name(re.sub(r" (process|power)$", "", row["contestant"]))
            label = f"{name}  {row['writes_per_second']:,.0f}{_faults(row)}"
            bars.append((label, row["writes_per_second"], row["contestant"]))
        title = {"power": "synced before it is acknowledged", "process": "survives a kill, not a power cut"}[durability]
        _bars(axes, title, bars)
    _title(figure, "Acknowledged writes per second, 8 processes and a reader, on disk")
    return figure


def _bars(axes: Any, title: str, bars: Sequence[tuple[str, float, str]]) -> None:
    """A label above each bar, and no axis: the label has the number."""
    for place, (label, value, contestant) in enumerate(bars):
        height = len(bars) - place
        axes.barh(height, value, height=0.36, color=_colour(contestant))
        weight = "bold" if contestant.startswith(OURS) else "normal"
        axes.text(0, height + 0.24, label, color=_INK, fontsize=8.5, va="bottom", fontweight=weight)
    axes.set_ylim(0.6, len(bars) + 0.75)
    axes.set_xlim(left=0)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.set_title(title, color=_INK, loc="left", fontsize=9.5)
    _plain(axes)
    axes.spines["bottom"].set_visible(False)


def _title(figure: Any, title: str) -> None:
    figure.subplots_adjust(left=0.02, right=0.98, top=0.84, bottom=0.02, wspace=0.08)
    figure.suptitle(title, color=_INK, x=0.02, ha="left", fontweight="bold")


def _of_durability(durability: str) -> tuple[str, ...]:
    own = f"chunkstore {durability}", f"sqlite {durability}", f"floor {durability}"
    peers = ("Optuna journal", "MLflow sqlite") if durability == "power" else ("runnable chunked-fs", "MLflow files")
    return own[0], *peers, *own[1:]


def _faults(row: Row) -> str:
    words = []
    if row["lost"] or row["unreadable"]:
        words.append(f"{row['lost']:,} lost")
    if row.get("reads_failed"):
        share = row["reads_failed"] / (row["reads_ok"] + row["reads_failed"])
        words.append(f"{share:.0%} of reads failed")
    return f"  ({', '.join(words)})" if words else ""


def s3_chart(figures: Any) -> Any:
    """A whole run from S3, plain and with 20 ms."""
    figure, both = figures.subplots(1, 2, figsize=(7.6, 3.8))
    names = {
        "chunkstore, again, unchanged": "chunkstore, again",
        "chunkstore, cold": OURS,
        "chunkstore with s3fs, cold": "chunkstore with s3fs",
        "obstore, raw bytes": "floor: obstore, bytes only",
        "s3fs as it comes, raw bytes": "s3fs, bytes only",
        "runnable chunked-minio": "runnable chunked-minio",
    }
    for axes, (latency, title) in zip(both, ((0.0, "server beside it"), (20.0, "+ 20 ms for each reply")), strict=True):
        found = rows_of("read", place="S3", action=_s3_action(), latency=latency)
        rows = [row for name in names for row in found if row["contestant"] == name]
        bars = [
            (f"{names[row['contestant']]}  {row['median']:,.0f} ms", row["median"], row["contestant"]) for row in rows
        ]
        _bars(axes, title, bars)
    _title(figure, f"S3: {_s3_action()}, milliseconds")
    return figure


def _s3_action() -> str:
    """The run with the most in it."""
    return [str(row["action"]) for row in rows_of("read", place="S3") if "bare" not in row["action"]][-1]


def _plain(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.tick_params(which="both", colors=_INK, length=0, labelsize=9)
    axes.minorticks_off()


DRAWN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "write": write_chart,
    "read": read_chart,
    "requests": requests_chart,
    "contention": contention_chart,
    "s3": s3_chart,
}


def draw(folder: Path, kind: str) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    # The same numbers make the same file, and words stay words.
    mpl.rcParams |= {"svg.hashsalt": "chunkstore", "svg.fonttype": "none", "font.family": "sans-serif"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in DRAWN.items():
        figure = drawn(plt)
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(folder / f"{name}.{kind}", transparent=True, bbox_inches="tight", metadata=metadata, dpi=110)
        plt.close(figure)


# The tables.


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{_number(value)} x"


def _ratio(shown: str) -> float:
    return float(shown.removesuffix(" x").replace(",", ""))


def machine_table() -> str:
    facts = facts_of("write")
    rows = [["CPUs", facts["cpus"]], ["platform", facts["platform"]]]
    rows += [["file systems", ", ".join(f"{name}: {kind}" for name, kind in facts["file systems"].items())]]
    there = [one for one in [*facts["versions"], *facts_of("requests")["versions"][-1:]] if "not installed" not in one]
    rows += [["versions", ", ".join(dict.fromkeys(there))]]
    rows += [
        [f"{name}", f"`{facts_of(name)['command']}`, {facts_of(name)['date']}, load {facts_of(name)['load']}"]
        for name in _BENCHMARKS
    ]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)])


_BENCHMARKS: Final = ("write", "read", "requests", "contention", "engines", "packs", "runs", "memory", "databases")


def growth_table() -> str:
    rows = []
    every = rows_of("write", action="add root step", place="disk")
    numbers = list(dict.fromkeys(row["n"] for row in every))
    for name in ("chunkstore barrier", "chunkstore power", "floor process", "sqlite process", *_OTHERS):
        cells = []
        for place in ("disk", "memory"):
            found = rows_of("write", place=place, action="add root step", contestant=name)
            medians = {row["n"]: row["median"] for row in found}
            grown = rows_of("write", place=place, action="growth", contestant=name)
            cells += [_number(medians.get(n)) for n in numbers] + [_times(grown[0]["ratio"] if grown else None)]
        rows.append([_bold(_name(name)), *cells])
    head = ["ms, median", f"disk, N = {numbers[0]:,}", *(f"{n:,}" for n in numbers[1:]), "last to first"]
    head += [f"memory, N = {numbers[0]:,}", *(f"{n:,}" for n in numbers[1:]), "last to first"]
    return _table(head, rows)


def _bold(name: str) -> str:
    return f"**{name}**" if name.startswith(OURS) else name


def goals_table() -> str:
    """What we set out to reach, and what the committed results say."""
    rows = []

    def goal(asked: str, place: str, value: float | None, *, most: float = 0.0, least: float = 0.0) -> None:
        reached = value is not None and (value <= most if most else value >= least)
        rows.append([asked, place, _times(value), "yes" if reached else "no"])

    for place in ("disk", "memory"):
        grown = rows_of("write", place=place, action="growth", contestant="chunkstore barrier")
        floor = rows_of("write", place=place, action="growth", contestant="floor process")[0]
        same = f"adding a step costs the same at N = {floor['n']:,} as at {floor['n_first']:,} (within 1.3 x"
        goal(f"{same}; the bare floor itself, beside it: {_times(floor['ratio'])})", place, grown[0]["ratio"], most=1.3)
        added = rows_of("write", place=place, action="add root step", contestant="chunkstore process")
        added = [row for row in added if row["n"] == 100] or added
        goal("a new step: at most 1.3 x the bare floor", place, added[0]["to_floor"], most=1.3)
        goal("a new step: at most 1.3 x the exclusive floor", place, added[0]["to_exclusive_floor"], most=1.3)
        for action, which in (("full read", "cold"), ("full read again, unchanged", "again")):
            read = rows_of("read", place=place, action=action, contestant=OURS)[-1]
            goal(f"a full read, {which}: at most 1.3 x the bare floor", place, read["to_floor"], most=1.3)
        for row in rows_of("contention", place=place, action="branches"):
            if row.get("against") == "product":
                asked = f"eight processes, `{row['contestant'].split()[1]}`: at least 5 x the best safe product ({row['best']})"
                goal(asked, place, row["ratio"], least=5.0)
    for row in rows_of("engines", contestant="engine obstore"):
        goal(
            f"{row['action']} through obstore: at least 0.7 x raw obstore",
            _without_unit(row["table"]),
            1 / _ratio(row["to raw"]),
            least=0.7,
        )
    for row in rows_of("packs", action="full read, cold", contestant="packed"):
        if "20 ms" in row["table"]:
            goal(
                "a full read of a packed run: 20 x faster than loose",
                _without_unit(row["table"]),
                _ratio(row["faster than loose"]),
                least=20.0,
            )
    return _table(["goal", "place", "measured", "reached"], rows)


def _as_shown(benchmark: str, columns: Mapping[str, str]) -> list[list[str]]:
    """The printed tables of a benchmark that have these columns (by the names that they get here), the title first.

    Of the local places the disk, and S3 with latency: the others tell the same.
    """
    every = [
        row
        for row in rows_of(benchmark)
        if all(name in row for name in columns)
        and not row["table"].startswith("memory")
        and "minio, plain" not in row["table"]
    ]
    return [[_without_unit(row["table"]), *(row[name] for name in columns)] for row in every]


def _without_unit(title: str) -> str:
    return title.removesuffix(" for all of them").removesuffix(", milliseconds")


def engines_table() -> str:
    columns = {
        "action": "",
        "contestant": "",
        "median": "ms for all",
        "objects a second": "a second",
        "to raw": "time to raw obstore's",
    }
    return _table(["", *columns.values()], _as_shown("engines", columns))


def packs_table() -> str:
    columns = {
        "action": "",
        "contestant": "",
        "requests": "requests",
        "median": "ms",
        "faster than loose": "faster than loose",
    }
    return _table(["", *columns.values()], _as_shown("packs", columns))


def runs_table() -> str:
    columns = {"action": "", "contestant": "", "requests": "requests", "median": "ms"}
    return _table(["", *columns.values()], _as_shown("runs", columns))


_PLACES: Final = {
    "local barrier": "local disk",
    "sqlite barrier": "SQLite",
    "postgres": "PostgreSQL",
    "S3": "S3",
    "local power": "local disk, `power`",
    "sqlite power": "SQLite, `power`",
}


def databases_table() -> str:
    """A row for each action, a column for each place: milliseconds, and how many times its floor; writes a second of eight processes."""
    alone = dict.fromkeys(str(row["action"]) for row in rows_of("databases") if "to_floor" in row)
    rows = [[action, *(_of_place(action, place) for place in _PLACES)] for action in alone]
    together = [rows_of("databases", action="many processes", contestant=f"chunkstore {one}")[0] for one in _PLACES]
    per_second = ["8 processes: writes a second", *(_number(row["writes_per_second"]) for row in together)]
    return _table(["ms", *_PLACES.values()], [*rows, per_second])


def _of_place(action: str, place: str) -> str:
    row = rows_of("databases", action=action, contestant=f"chunkstore {place}")[0]
    floor = "" if row["to_floor"] is None else f" ({_times(row['to_floor'])} its floor)"
    return f"{_number(row['median'])}{floor}"


def floors_table() -> str:
    actions = ("add root step", "set a new parameter", "update a known step", "change a parameter", "set the status")
    rows = []
    for action in (*actions, "update a step after a barrier"):
        for durability in ("process", "barrier", "power"):
            cells = []
            for place in ("disk", "memory"):
                found = rows_of("write", place=place, action=action, contestant=f"chunkstore {durability}")
                row = next((one for one in found if one["n"] == 100), found[-1] if found else None)
                cells += (
                    [_number(row["median"]), _times(row["to_floor"]), _times(row["to_exclusive_floor"])]
                    if row
                    else ["-"] * 3
                )
            rows.append([f"{action}, `{durability}`", *cells])
    return _table(
        ["", "disk, ms", "to bare floor", "to exclusive floor", "memory, ms", "to bare floor", "to exclusive floor"],
        rows,
    )


def reads_table() -> str:
    head = ["", "N"]
    names = (OURS, "sqlite", *_OTHERS)
    rows = []
    for action in ("full read", "full read again, unchanged", "one step"):
        for n in dict.fromkeys(row["n"] for row in rows_of("read", place="disk", action=action)):
            found = {row["contestant"]: row for row in rows_of("read", place="disk", action=action, n=n)}
            cells = [_times(found[name]["to_floor"]) if name in found else "-" for name in names]
            rows.append([action, f"{n:,}", _number(found["floor"]["median"]), *cells])
    return _table([*head, "floor, ms", *(_bold(_name(name)) for name in names)], rows)


def requests_table() -> str:
    names = (OURS, "s3fs tuned", "s3fs as it comes", "runnable chunked-minio")
    rows = []
    for action in dict.fromkeys(row["action"] for row in rows_of("requests")):
        found = {row["contestant"]: row for row in rows_of("requests", action=action)}
        cells = [
            f"{found[name]['requests']:,.0f} / {_number(found[name]['median'])}" for name in names if name in found
        ]
        rows.append([action, *cells])
    return _table(["requests / ms with 20 ms latency", *map(_bold, names)], rows)


def contention_table() -> str:
    rows = []
    for durability in ("power", "process"):
        for name in _of_durability(durability):
            cells = []
            for place in ("disk", "memory"):
                alone = rows_of("contention", place=place, action="branches", contestant=name)[:1]
                beside = rows_of("contention", place=place, action="branches, beside a reader", contestant=name)[:1]
                cells += [f"{row['writes_per_second']:,.0f}" for row in (*alone, *beside)] if alone else ["-", "-"]
            every = [row for row in rows_of("contention", contestant=name) if "lost" in row]
            cells.append(f"{sum(row['acknowledged'] for row in every):,}" if every else "-")
            cells.append(f"{sum(row['lost'] for row in every):,}" if every else "-")
            cells.append(f"{sum(row['refused'] for row in every):,}" if every else "-")
            cells.append(f"{sum(row.get('reads_failed', 0) for row in every):,}" if every else "-")
            rows.append([f"{_bold(name.removesuffix(f' {durability}'))}, `{durability}`", *cells])
    head = ["writes a second", "disk", "beside a reader", "memory", "beside a reader"]
    return _table([*head, "acknowledged", "lost", "refused", "reads failed"], rows)


def against_table() -> str:
    rows = [
        [row["title"], row["place"], row["contestant"], row["best"], _times(row["ratio"])]
        for row in rows_of("contention")
        if "against" in row and row["action"].startswith("branches")
    ]
    return _table(["", "place", "ours", "best safe one that promises as much", "writes a second, to it"], rows)


def s3_table() -> str:
    rows = []
    for action in dict.fromkeys(row["action"] for row in rows_of("read", place="S3")):
        for latency in (0.0, 20.0):
            found = rows_of("read", place="S3", action=action, latency=latency)
            rows += [
                [
                    f"{action}, {'+ 20 ms' if latency else 'plain'}",
                    _bold(row["contestant"]),
                    _number(row["requests"]),
                    _number(row["median"]),
                    _times(row["to_floor"]),
                ]
                for row in found
            ]
    return _table(["", "", "requests", "ms", "to obstore, bytes only"], rows)


def memory_table() -> str:
    rows = [
        [
            row["action"],
            row["contestant"],
            f"{row['count']:,}",
            _number(row["peak_bytes"] / 1e6),
            f"{row['bytes_each']:,.0f}",
            _number(row["seconds"]),
        ]
        for row in rows_of("memory")
    ]
    return _table(["", "", "chunks or runs", "peak, MB", "bytes each", "seconds"], rows)


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "machine": machine_table,
    "goals": goals_table,
    "growth": growth_table,
    "floors": floors_table,
    "reads": reads_table,
    "requests": requests_table,
    "contention": contention_table,
    "against": against_table,
    "s3": s3_table,
    "engines": engines_table,
    "packs": packs_table,
    "runs": runs_table,
    "memory": memory_table,
    "databases": databases_table,
}


def with_tables(page: str) -> str:
    """The page with each table between its two marks made anew from the committed results."""

    def filled(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- table: {name} -->\n\n{TABLES[name]()}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", filled, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tables", action="store_true", help="the tables alone, without charts")
    parser.add_argument("--png", type=Path, help="a folder for the charts as PNG, to look at; nothing else is done")
    given = parser.parse_args()
    if given.png:
        draw(given.png, "png")
        return
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    if not given.tables:
        draw(CHARTS, "svg")


if __name__ == "__main__":
    main()
