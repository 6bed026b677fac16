"""A revision trace to look at: a table (rich) and a picture (matplotlib). Both libraries are imported when asked for."""

from __future__ import annotations

import importlib
import math

import torch

from .reference.trace import NEVER, Positions, unpack
from .trace_walk import walk

ROWS = (
    ("positions", "positions that committed"),
    ("coverage_step", "all of them by step"),
    ("mean_first_commit", "mean step of the first commit"),
    ("mean_last_change", "mean step of the last change"),
    ("model_flips", "flips by the model"),
    ("noise_flips", "flips by noise"),
    ("commits", "commits"),
    ("same", "of the token already there"),
    ("revisions", "revisions"),
    ("revised_positions", "revised positions"),
    ("round_trips", "round trips A -> B -> A"),
    ("round_trip_rate", "share of the revisions"),
    ("returns", "returns to a remembered token"),
    ("effective_revisions", "revisions - 2 round trips"),
    ("post_coverage_revisions", "revisions after all had committed"),
    ("post_coverage_round_trips", "round trips among them"),
    ("displacement", "positions that they changed"),
    ("first_survival", "first tokens that stayed"),
    ("logprob_gain", "gain of the revisions, nats"),
    ("correct_first", "right at first"),
    ("correct_coverage", "right when all had committed"),
    ("correct_last", "right at last"),
    ("net", "net gain of the revisions after that"),
)
SHARES = ("round_trip_rate", "displacement", "first_survival")

# What a position and step may show, in rising order of what is worth a pixel. Told apart by the colour-blind as well.
KINDS = {
    "open": "#ffffff",
    "kept": "#e1e5ea",
    "noise": "#b9a5d8",
    "first commit": "#3d7ab8",
    "revision": "#f0a02f",
    "round trip": "#c22f2b",
}
OPEN, KEPT, NOISE, FIRST, REVISION, ROUND_TRIP = range(len(KINDS))
COLORS = list(KINDS.values())
INK, EDGE = "#30343a", "#b4bac2"
PIXELS = (720, 1080)  # steps and positions that an image has room for


def _library(name, method):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(f"RevisionTrace.{method} needs {package}: pip install {package}") from error


def _text(name, value):
    if math.isnan(value) or value < 0 and name == "coverage_step":
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1%}" if name in SHARES else f"{value:.2f}"


def table(summary, limit=8):
    """A rich table: a column for everything and, if there are several sequences, one for each of the first ``limit``. What is
    not known has no row."""
    rich, box = _library("rich.table", "table"), _library("rich.box", "table")
    of_each = summary["per_sequence"]
    count = len(of_each["positions"])
    shown = range(min(count, limit)) if count > 1 else ()
    out = rich.Table(title="revision trace", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    out.caption = f"and {count - limit} more sequences" if count > limit else None
    out.add_column("")
    for head in ("all", *map(str, shown)):
        out.add_column(head, justify="right")
    for name, text in ROWS:
        if summary[name] is not None:
            cells = (summary[name], *(of_each[name][b].item() for b in shown))
            out.add_row(text, *(_text(name, value) for value in cells))
    return out


def figure(trace, sequences):
    """A matplotlib figure of ``sequences``, one below the other: positions across, steps down, and beside it what happened in
    every step. Touches nothing global."""
    figures, patches = _library("matplotlib.figure", "plot"), _library("matplotlib.patches", "plot")
    full, summary = trace.mode == "full", trace.summary()
    made = figures.Figure(figsize=(9.6, 0.7 + 3 * len(sequences)), dpi=150, layout="constrained", facecolor="white")
    axes = made.subplots(len(sequences), 2, squeeze=False, sharey="row", width_ratios=(7, 1))
    draw = _Image(trace) if full else _Spans(trace, sequences, len(summary["per_step"]["flips"]))
    for (canvas, events), b in zip(axes, sequences):
        _events(events, summary["per_sequence"]["per_step"], b)
        first, last = draw(canvas, b)
        canvas.set_ylim(last + 0.5, first - 0.5)
        canvas.set_title(_title(summary, b), loc="left", fontsize=9, color=INK)
        canvas.set_ylabel("step", fontsize=8, color=INK)
        for ax in (canvas, events):
            _quiet(ax.xaxis, ax.yaxis)
            ax.spines[["top", "right"]].set_visible(False)
            ax.spines[["left", "bottom"]].set_color(EDGE)
        events.tick_params(labelleft=False)
    canvas.set_xlabel("position", fontsize=8, color=INK)
    events.set_xlabel("events", fontsize=8, color=INK)
    if not full:
        draw.explain(made, axes)
    keys = [patches.Patch(facecolor=c, edgecolor=EDGE, linewidth=0.5, label=name) for name, c in KINDS.items()]
    keys = keys if full else keys[NOISE:]
    made.legend(handles=keys, loc="outside upper left", ncols=len(keys), frameon=False, fontsize=8, labelcolor=INK)
    return made


def _quiet(*axes):
    """Small whole numbers at the ticks."""
    for axis in axes:
        axis.set_tick_params(labelsize=8, length=2, color=EDGE, labelcolor=INK)
        axis.get_major_locator().set_params(integer=True)


def _title(summary, b):
    value = {name: summary["per_sequence"][name][b].item() for name in ("positions", "revisions", "round_trips")}
    rate = _text("round_trip_rate", summary["per_sequence"]["round_trip_rate"][b].item())
    of_them = f", {value['round_trips']} of them round trips ({rate})" if value["revisions"] else ""
    return f"sequence {b}: {value['positions']} positions, {value['revisions']} revisions{of_them}"


class _Image:
    """What happened at every step and position."""

    def __init__(self, trace):
        self.history, self.seen = trace.history, walk(trace)

    def kinds(self, b):
        """(int64 [steps, L] of indices into ``KINDS``, the number of the first step) of sequence ``b``: the most telling thing
        that happened there, or else whether a token was committed by then."""
        tokens, clock = self.seen.tokens[:, b], self.seen.clock
        if len(clock) == 0:
            return torch.full((1, tokens.shape[-1]), OPEN), 0
        first = int(clock.min())
        rows = torch.arange(first, int(clock.max()) + 1)
        entries = torch.searchsorted(clock.cummax(0).values, rows, right=True)
        image = torch.where(tokens[entries] >= 0, KEPT, OPEN)
        for t, (step, entry) in enumerate(zip(clock.tolist(), self.history)):
            row = image[step - first]
            for kind, there in (
                (NOISE, ((entry.before[b] != entry.x[b]) & entry.by_noise[b]).cpu()),
                (FIRST, (tokens[t] < 0) & (tokens[t + 1] >= 0)),
                (REVISION, self.seen.revision[t, b]),
                (ROUND_TRIP, self.seen.round_trip[t, b]),
            ):
                row.copy_(torch.where(there, row.clamp(min=kind), row))
        return image, first

    def __call__(self, ax, b):
        colors = _library("matplotlib.colors", "plot")
        image, first = self.kinds(b)
        steps, length = image.shape
        room = [min(n, limit) for n, limit in zip(image.shape, PIXELS)]  # the most telling of what shares a pixel
        ax.imshow(
            torch.nn.functional.adaptive_max_pool2d(image[None].float(), room)[0].byte().numpy(),
            cmap=colors.ListedColormap(COLORS),
            norm=colors.NoNorm(),
            extent=(-0.5, length - 0.5, first + steps - 0.5, first - 0.5),
            aspect="auto",
            interpolation="nearest",
        )
        return first, first + steps - 1


class _Spans:
    """A line for every position, from its first commit down to its last change, darker the more often it was revised."""

    def __init__(self, trace, sequences, steps):
        cm, colors = _library("matplotlib.cm", "plot"), _library("matplotlib.colors", "plot")
        self.state, self.steps = unpack(trace.positions.cpu()), max(steps, 1)
        most = max(int(self.state.revisions[b].max()) for b in sequences)
        greens = colors.LinearSegmentedColormap.from_list("revisions", ["#b7dcae", "#4a9a60", "#0d3b2a"])
        self.scale = cm.ScalarMappable(colors.Normalize(1, max(2, most)), greens)

    def __call__(self, ax, b):
        state = Positions(*(field[b] for field in self.state))
        seat = (state.first_step != NEVER).nonzero()[:, 0]
        at, revisions = seat.numpy(), state.revisions[seat].numpy()
        first, last = (step[seat].clamp(max=self.steps - 1).numpy() for step in (state.first_step, state.last_step))
        width = min(6.0, 330 / len(state.cur))  # in points, of which there are 550
        dot = (1.5 * width) ** 2
        ax.scatter(at, first, s=dot, marker="s", color=COLORS[FIRST], linewidths=0, clip_on=False)
        moved = revisions > 0
        shade = self.scale.to_rgba(revisions[moved])
        ax.vlines(at[moved], first[moved], last[moved], colors=shade, linewidths=width, zorder=0.5)
        ax.scatter(at[moved], last[moved], s=dot, color=shade, linewidths=0, clip_on=False)
        ax.set_xlim(-0.5, len(state.cur) - 0.5)
        return 0, self.steps - 1

    def explain(self, figure, axes):
        """The colours, once for all."""
        bar = figure.colorbar(self.scale, ax=axes, pad=0.01, fraction=0.03, aspect=40)
        bar.set_label("revisions of a position", fontsize=8, color=INK)
        bar.outline.set_visible(False)
        _quiet(bar.ax.yaxis)


def _events(ax, curves, b):
    """A bar for every step: how many of each kind."""
    first_commits, revisions, round_trips, noise = (
        curves[name][:, b] for name in ("first_commits", "revisions", "round_trips", "noise_flips")
    )
    edges, left = torch.arange(len(noise) + 1) - 0.5, torch.zeros_like(noise)
    for kind, count in (
        (FIRST, first_commits),
        (REVISION, revisions - round_trips),
        (ROUND_TRIP, round_trips),
        (NOISE, noise),
    ):
        if len(count):
            bars = dict(baseline=left.numpy(), orientation="horizontal", fill=True, color=COLORS[kind], linewidth=0)
            ax.stairs((left + count).numpy(), edges.numpy(), **bars)
        left = left + count
    ax.set_xlim(0, max(1, int(left.max()) if len(left) else 1))
