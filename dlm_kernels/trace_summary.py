"""What a revision trace has seen, in numbers: ``RevisionTrace.summary`` documents them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .reference.trace import COLUMNS, GAIN_UNIT, NEVER, unpack

# What is None without a reference, without the history (mode "full"), and without both; and the curve ``agreement``.
NEED_REFERENCE = ("correct_first", "correct_last", "net_correct")
NEED_HISTORY = (
    "displacement",
    "post_coverage_revisions",
    "post_coverage_round_trips",
    "post_coverage_round_trip_rate",
    "all_returns",
)
NEED_BOTH = ("correct_coverage", "gains", "losses", "neutral", "net")


def summarise(trace):
    """The summary of a ``RevisionTrace``. Waits for the device."""
    state, table = unpack(trace.positions.cpu()), trace.steps.cpu()
    reference = None if trace.reference is None else trace.reference.cpu()
    first, last = (torch.where(step == NEVER, -1, step) for step in (state.first_step, state.last_step))
    sums, curves = _counted(state, table, reference), _curves(first, last, table)
    if trace.mode == "full":
        of_history, agreement = _remembered(walk(trace), len(curves["committed"]), reference)
        sums, curves = {**sums, **of_history}, {**curves, "agreement": agreement}

    coverage = first.amax(-1)
    total = {name: value.sum(0, keepdim=True) for name, value in sums.items()}
    together = {name: value.sum(-1, keepdim=True) for name, value in curves.items()}
    return {
        "mode": trace.mode,
        **{name: None if value is None else value.item() for name, value in _measures(total).items()},
        "coverage_step": coverage.max().item(),
        "first_commit": first,
        "last_change": last,
        "per_step": {
            name: None if value is None else value[:, 0]
            for name, value in _shares(together, total["positions"]).items()
        },
        "per_sequence": {
            **_measures(sums),
            "coverage_step": coverage,
            "per_step": _shares(curves, sums["positions"]),
        },
    }


# ---- sums over positions, [B], and of every step, [N, B] -------------------------------------------------------------


def _counted(state, table, reference):
    """Sums that the counters know."""
    events = dict(zip(COLUMNS, table.sum(0).unbind(-1)))
    committed = state.cur >= 0
    sums = {
        **{name: events[name] for name in COLUMNS if name not in ("first_commits", "gain")},
        "logprob_gain": events["gain"].double() * GAIN_UNIT,
        "positions": committed.sum(-1),
        "revised_positions": (state.revisions > 0).sum(-1),
        "survivors": (committed & (state.first == state.cur)).sum(-1),
        "first_step": torch.where(committed, state.first_step, 0).sum(-1),
        "last_step": torch.where(committed, state.last_step, 0).sum(-1),
    }
    if reference is not None:
        sums["correct_first"] = (committed & (state.first == reference)).sum(-1)
        sums["correct_last"] = (committed & (state.cur == reference)).sum(-1)
    return sums


def _curves(first, last, table):
    """Events of each step, and how many positions have committed by it and are past their last change."""
    busy = (table != 0).flatten(1).any(-1).nonzero()
    n = int(busy[-1]) + 1 if len(busy) else 0
    curves = dict(zip(COLUMNS, table[:n].unbind(-1)))
    curves["logprob_gain"] = curves.pop("gain").double() * GAIN_UNIT
    for name, step in (("committed", first), ("stability", last)):
        row = torch.where(step < 0, len(table), step.clamp(max=len(table) - 1)).t()  # never: behind the table
        arrived = torch.zeros(len(table) + 1, len(step), dtype=torch.int64).scatter_add_(0, row, torch.ones_like(row))
        curves[name] = arrived[:n].cumsum(0)
    return curves


class Walk(NamedTuple):
    """The history of the committed tokens, on the CPU."""

    tokens: torch.Tensor  # int32 [T + 1, B, L], before every entry and after the last; -1 for none
    revision: torch.Tensor  # bool [T, B, L]
    round_trip: torch.Tensor  # bool [T, B, L]
    clock: torch.Tensor  # int64 [T], the row of the table that counted the entry


def walk(trace):
    """The ``Walk`` of a trace in mode "full"."""
    now = previous = torch.full_like(trace.positions[..., 0], -1)
    tokens, revisions, round_trips = [now], [], []
    for entry in trace.history:
        token = torch.where(entry.committed >= 0, entry.committed, now)
        revision = (now >= 0) & (token != now)
        revisions.append(revision)
        round_trips.append(revision & (token == previous))
        previous, now = torch.where(revision, now, previous), token
        tokens.append(now)
    clock = [min(max(int(entry.step), 0), len(trace.steps) - 1) for entry in trace.history]
    none = torch.zeros(0, *now.shape, dtype=torch.bool)
    stack = lambda events: torch.stack(events).cpu() if events else none
    return Walk(stack(tokens), stack(revisions), stack(round_trips), torch.tensor(clock, dtype=torch.int64))


def _remembered(walk, n, reference):
    """(sums, how many positions have their final token by each of n steps) that only the history knows."""
    tokens, final = walk.tokens, walk.tokens[-1]
    ever = final >= 0
    covered = torch.where(ever, (tokens < 0).sum(0), 0).amax(-1)  # index into tokens: the first time that all are there
    at_coverage = tokens[covered, torch.arange(len(covered))]
    late = (torch.arange(len(walk.revision))[:, None] >= covered)[..., None]  # entry t leads from tokens[t] to t + 1
    ordered = tokens.sort(0).values
    different = (ordered[1:] != ordered[:-1]).sum(0)  # beside the -1 of tokens[0]
    sums = {
        "displaced": (ever & (final != at_coverage)).sum(-1),
        "post_coverage_revisions": (walk.revision & late).sum((0, 2)),
        "post_coverage_round_trips": (walk.round_trip & late).sum((0, 2)),
        # A revision is a return unless its token is new there, and all different ones but the first came by a revision.
        "all_returns": (walk.revision.sum(0) - (different - 1).clamp(min=0)).sum(-1),
    }
    if reference is not None:
        right = tokens == reference
        sums["correct_coverage"] = (ever & (at_coverage == reference)).sum(-1)
        sums["gains"] = (walk.revision & late & right[1:]).sum((0, 2))
        sums["losses"] = (walk.revision & late & right[:-1]).sum((0, 2))
    # Entries up to a step; were steps to run backwards, an entry is as late as the latest before it.
    clock = walk.clock.cummax(0).values if len(walk.clock) else walk.clock
    entries = torch.searchsorted(clock, torch.arange(n), right=True)
    return sums, (ever & (tokens == final)).sum(-1)[entries]


# ---- what follows from sums, whether of a sequence or of all ---------------------------------------------------------


def _share(part, whole):
    """part / whole, NaN where whole is 0."""
    return part.double() / whole.double()


def _measures(sums):
    """Every number of the summary that speaks of positions, from sums over them; None where they are not known."""
    positions, revisions = sums["positions"], sums["revisions"]
    out = {
        "positions": positions,
        "flips": sums["model_flips"] + sums["noise_flips"],
        "model_flips": sums["model_flips"],
        "noise_flips": sums["noise_flips"],
        "commits": positions + revisions + sums["same"],
        "same": sums["same"],
        "revisions": revisions,
        "revised_positions": sums["revised_positions"],
        "round_trips": sums["round_trips"],
        "round_trip_rate": sums["round_trips"] / revisions.clamp(min=1).double(),
        "returns": sums["returns"],
        "effective_revisions": revisions - 2 * sums["round_trips"],
        "mean_first_commit": _share(sums["first_step"], positions),
        "mean_last_change": _share(sums["last_step"], positions),
        "first_survival": _share(sums["survivors"], positions),
        "logprob_gain": sums["logprob_gain"],
        **{name: sums.get(name) for name in (*NEED_REFERENCE, *NEED_HISTORY, *NEED_BOTH)},
    }
    if "correct_last" in sums:
        out["net_correct"] = sums["correct_last"] - sums["correct_first"]
    if "displaced" in sums:
        late = sums["post_coverage_revisions"]
        out["displacement"] = _share(sums["displaced"], positions)
        out["post_coverage_round_trip_rate"] = sums["post_coverage_round_trips"] / late.clamp(min=1).double()
    if "gains" in sums:
        out["neutral"] = sums["post_coverage_revisions"] - sums["gains"] - sums["losses"]
        out["net"] = sums["gains"] - sums["losses"]
    return out


def _shares(curves, positions):
    """Curves of events as they are, those of positions as shares."""
    out = {"flips": curves["model_flips"] + curves["noise_flips"], **curves}
    for name in ("committed", "stability", "agreement"):
        out[name] = _share(curves[name], positions) if name in curves else None
    return out
