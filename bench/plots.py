"""Result rows as pictures: time, throughput against the roofline, ratios to the peers, shares of whole loops.

Every picture carries a digest of what it shows, so that a check can tell whether it is up to date without drawing it: two
releases of matplotlib draw the same numbers by other paths.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from . import loops_report, report
from .cases import OURS

_OURS, _PEER, _FLOOR = "#2a7f62", "#9aa7b1", "#c44536"
_DIGEST = re.compile(r"dlm_bench:([0-9a-f]{16})")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture to be drawn. shown: all that it depends on, as JSON has it."""

    name: str
    title: str
    shown: list
    draw: Callable[[object, list], None]  # onto a matplotlib figure

    @property
    def digest(self) -> str:
        text = json.dumps([self.name, self.title, self.shown], sort_keys=True)
        return f"dlm_bench:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def pictures(rows: list[dict]) -> list[Picture]:
    """What can be shown of these rows, of CPUs: of the newest machine, the newest row of each provider on each case, with the
    allocator that spares the peers their page faults where both were measured."""
    ours_alone = f"{OURS}["  # other instruction sets
    timed = [row for row in rows if row.get("us") and not row["provider"]["name"].startswith(ours_alone)]
    timed = [row for row in timed if not row["env"].get("gpu")]
    loops = [row for row in rows if loops_report.of_loops(row) and row["ratio"]]
    found = []
    for machine, here in report.by_machine(timed)[:1]:
        newest = {}
        for row in sorted(here, key=lambda row: row["env"]["allocator"] == "tuned"):
            newest[row["case"]["id"], row["provider"]["name"]] = row
        kept = list(newest.values())
        for name, what, select, draw in (
            ("times", "one step", _times, _draw_times),
            ("ratios", "time of a step / ours", _ratios, _draw_ratios),
            ("throughput", "logits read per second by our step", _throughput, _draw_throughput),
        ):
            if shown := select(kept):
                found.append(Picture(name, f"{what} ({machine})", shown, draw))
    for machine, here in report.by_machine(loops)[:1]:
        shown = _loops(list({row["loop"]["name"]: row for row in here}.values()))
        found.append(Picture("loops", f"a step of whole loops ({machine})", shown, _draw_loops))
    return found


def write(rows: list[dict], folder: Path, suffix: str = "svg", names: set[str] | None = None) -> list[Path]:
    """Draw the pictures, or those of ``names``, into ``folder``; returns their paths. ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in _named(rows, names):
        figure = Figure(figsize=(9, 1 + 0.28 * _lines(picture)), layout="constrained")
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dlm_bench", "font.size": 8}):
            picture.draw(figure, picture.shown)
            figure.suptitle(picture.title, fontsize=8)
            written.append(folder / f"{picture.name}.{suffix}")
            about = (
                {"Description": picture.digest, "Date": None} if suffix == "svg" else {"Description": picture.digest}
            )
            figure.savefig(written[-1], dpi=150, metadata=about)
    return written


def outdated(rows: list[dict], folder: Path, names: set[str] | None = None) -> list[str]:
    """Which SVG pictures, of all or of ``names``, are missing in ``folder`` or show other rows."""
    wanted = _named(rows, names)
    return [picture.name for picture in wanted if _digest_of(folder / f"{picture.name}.svg") != picture.digest]


def _named(rows: list[dict], names: set[str] | None) -> list[Picture]:
    return [picture for picture in pictures(rows) if names is None or picture.name in names]


def _digest_of(path: Path) -> str | None:
    found = _DIGEST.search(path.read_text()) if path.is_file() else None
    return found and found[0]


def _lines(picture: Picture) -> int:
    return sum(len(bars) for _, bars in picture.shown) + len(picture.shown)


# ---- what is shown: [label, bars] each -----------------------------------------------------------------------------


def _label(row: dict) -> str:
    case = row["case"]
    what = "" if case["op"] == "denoise_step" else f"{case['op']} "
    law = f" T={case['temperature']:g}" + (f" top-p {case['top_p']:g}" if case.get("top_p", 1.0) != 1 else "")
    steps = f", 1 of {case['steps']} steps" if case.get("steps") else ""
    return f"{what}{case['model']} {report.shape_text(case)} {case['dtype']}{law} {case['dist']}{steps}"


def _grouped(rows: list[dict], value: Callable[[dict], object]) -> list:
    groups: dict[str, list] = {}
    for row in rows:
        groups.setdefault(_label(row), []).append([row["provider"]["name"], value(row)])
    return [[label, bars] for label, bars in groups.items()]


def _times(rows: list[dict]) -> list:
    return _grouped(rows, lambda row: [round(row["us"][key], 3) for key in ("median", "p10", "p90")])


def _ratios(rows: list[dict]) -> list:
    peers = [row for row in rows if row["provider"]["name"] != OURS and row["ratio"]]
    return _grouped(peers, lambda row: round(row["ratio"]["median"], 3))


def _throughput(rows: list[dict]) -> list:
    def of_floor(row):
        floor = row["roofline"]
        return [round(row["gbps"], 3), round(row["gbps"] / floor["fraction"], 3), floor["bound"]]

    ours = [row for row in rows if row["provider"]["name"] == OURS and row.get("roofline")]
    return _grouped([row for row in ours if row["roofline"]["fraction"] > 0], of_floor)


def _loops(rows: list[dict]) -> list:
    """Bars of [model's part, sampler's part], where all of the loop before is 1, and the time of a step in us."""

    def bar(row, key):
        whole, share = row[key]["median"] / row["before"]["median"], row[key]["share"]
        step = row[key]["median"] * 1e6 / row["loop"]["steps"]
        return [key, [round(whole * (1 - share), 4), round(whole * share, 4), round(step, 1)]]

    return [[row["loop"]["name"], [bar(row, "before"), bar(row, "after")]] for row in rows]


# ---- drawing -------------------------------------------------------------------------------------------------------


def _axes(figure, shown: list, xlabel: str, log: bool = True):
    """Axes with a line per bar under a line with its group's label; yields (line, name, value) of the bars."""
    axes = figure.add_subplot()
    lines, ticks, names = [], [], []
    at = 0
    for label, bars in shown:
        axes.text(0, at, f" {label}", transform=axes.get_yaxis_transform(), va="center", weight="bold")
        at += 1
        for name, value in bars:
            lines.append((at, name, value))
            ticks.append(at)
            names.append(name)
            at += 1
    axes.set_yticks(ticks, names)
    axes.set_ylim(at - 0.4, -0.6)
    axes.set_xlabel(xlabel)
    if log:
        axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    return axes, lines


def _color(name: str) -> str:
    return _OURS if name == OURS else _PEER


def _draw_times(figure, shown) -> None:
    axes, lines = _axes(figure, shown, "us per step: median, p10 to p90")
    for at, name, (median, low, high) in lines:
        axes.hlines(at, low, high, color=_color(name), linewidth=3, alpha=0.5)
        axes.plot(median, at, "o", color=_color(name), markersize=4)


def _draw_ratios(figure, shown) -> None:
    axes, lines = _axes(figure, shown, "times as long as dlm_kernels, in the same run")
    for at, _, ratio in lines:
        axes.barh(at, ratio - 1, left=1, color=_PEER, height=0.7)
        axes.annotate(report.factor_text(ratio), (ratio, at), (3, 0), textcoords="offset points", va="center")
    axes.axvline(1, color=_OURS)


def _draw_throughput(figure, shown) -> None:
    axes, lines = _axes(figure, shown, "GB/s; the red mark is the floor of the same run", log=False)
    for at, name, (reached, floor, bound) in lines:
        axes.barh(at, reached, color=_color(name), height=0.7)
        axes.plot([floor, floor], [at - 0.4, at + 0.4], color=_FLOOR)
        text = f"{reached / floor * 100:.0f} % of the {bound} floor"
        axes.annotate(text, (max(reached, floor), at), (4, 0), textcoords="offset points", va="center")


def _draw_loops(figure, shown) -> None:
    axes, lines = _axes(
        figure, shown, "share of the loop as it was: the model (grey), the sampler before and after", log=False
    )
    for at, name, (model, sampler, step) in lines:
        axes.barh(at, model, color=_PEER, height=0.7)
        axes.barh(at, sampler, left=model, color=_FLOOR if name == "before" else _OURS, height=0.7)
        text = f"{report.time_text(step)} a step"
        axes.annotate(text, (model + sampler, at), (3, 0), textcoords="offset points", va="center")
