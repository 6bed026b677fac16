"""What a revision trace has seen, in numbers, from the arrays that the ops update: ``RevisionTrace.summary`` documents them. In
NumPy, for tensors and for arrays: never imports torch.
"""

from __future__ import annotations

import numpy as np

# The layout of ``dlm_kernels.reference.trace``, which imports torch; a test compares the two.
FIELDS = ("first", "cur", "prev", "older", "revisions", "round_trips", "returns", "same", "model_flips", "noise_flips",
          "first_step", "last_step")  # fmt: skip
COLUMNS = ("model_flips", "noise_flips", "first_commits", "revisions", "round_trips", "returns", "same", "gain")
NEVER = 0xFFFF
GAIN_UNIT = 2.0**-20

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


def unpack(words):
    """int64 arrays [...] by the names of ``FIELDS``, of int32 [..., 8]."""
    halves = np.ascontiguousarray(words[..., 4:]).view(
        np.uint16
    )  # the first in the low half, as on every machine we run on
    return dict(zip(FIELDS, np.moveaxis(np.concatenate([words[..., :4], halves], -1, dtype=np.int64), -1, 0)))


def summarise(mode, positions, steps, reference=None, walk=None):
    """The summary of a trace: of its arrays and, in mode "full", the ``Walk`` through its history, of arrays too."""
    state = unpack(positions)
    first, last = (np.where(step == NEVER, -1, step) for step in (state["first_step"], state["last_step"]))
    sums, curves = _counted(state, steps, reference), _curves(first, last, steps)
    if walk is not None:
        of_history, agreement = _remembered(walk, len(curves["committed"]), reference)
        sums, curves = {**sums, **of_history}, {**curves, "agreement": agreement}

    coverage = first.max(-1)
    total = {name: value.sum(0, keepdims=True) for name, value in sums.items()}
    together = {name: value.sum(-1, keepdims=True) for name, value in curves.items()}
    return {
        "mode": mode,
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
    events = dict(zip(COLUMNS, table.sum(0).T))
    committed = state["cur"] >= 0
    sums = {
        **{name: events[name] for name in COLUMNS if name not in ("first_commits", "gain")},
        "logprob_gain": events["gain"] * GAIN_UNIT,
        "positions": committed.sum(-1),
        "revised_positions": (state["revisions"] > 0).sum(-1),
        "survivors": (committed & (state["first"] == state["cur"])).sum(-1),
        "first_step": np.where(committed, state["first_step"], 0).sum(-1),
        "last_step": np.where(committed, state["last_step"], 0).sum(-1),
    }
    if reference is not None:
        sums["correct_first"] = (committed & (state["first"] == reference)).sum(-1)
        sums["correct_last"] = (committed & (state["cur"] == reference)).sum(-1)
    return sums


def _curves(first, last, table):
    """Events of each step, and how many positions have committed by it and are past their last change."""
    busy = (table != 0).any((1, 2)).nonzero()[0]
    n = int(busy[-1]) + 1 if len(busy) else 0
    curves = dict(zip(COLUMNS, np.moveaxis(table[:n], -1, 0)))
    curves["logprob_gain"] = curves.pop("gain") * GAIN_UNIT
    for name, step in (("committed", first), ("stability", last)):
        row = np.where(step < 0, len(table), step.clip(max=len(table) - 1))  # never: behind the table
        arrived = np.zeros((len(table) + 1, len(step)), np.int64)
        np.add.at(arrived, (row, np.arange(len(step))[:, None]), 1)
        curves[name] = arrived[:n].cumsum(0)
    return curves


def _remembered(walk, n, reference):
    """(sums, how many positions have their final token by each of n steps) that only the history knows."""
    tokens, final = walk.tokens, walk.tokens[-1]
    ever = final >= 0
    covered = np.where(ever, (tokens < 0).sum(0), 0).max(-1)  # index into tokens: the first time that all are there
    at_coverage = tokens[covered, np.arange(len(covered))]
    late = (np.arange(len(walk.revision))[:, None] >= covered)[..., None]  # entry t leads from tokens[t] to t + 1
    ordered = np.sort(tokens, 0)
    different = (ordered[1:] != ordered[:-1]).sum(0)  # beside the -1 of tokens[0]
    sums = {
        "displaced": (ever & (final != at_coverage)).sum(-1),
        "post_coverage_revisions": (walk.revision & late).sum((0, 2)),
        "post_coverage_round_trips": (walk.round_trip & late).sum((0, 2)),
        # A revision is a return unless its token is new there, and all different ones but the first came by a revision.
        "all_returns": (walk.revision.sum(0) - (different - 1).clip(min=0)).sum(-1),
    }
    if reference is not None:
        right = tokens == reference
        sums["correct_coverage"] = (ever & (at_coverage == reference)).sum(-1)
        sums["gains"] = (walk.revision & late & right[1:]).sum((0, 2))
        sums["losses"] = (walk.revision & late & right[:-1]).sum((0, 2))
    # Entries up to a step; were steps to run backwards, an entry is as late as the latest before it.
    entries = np.searchsorted(np.maximum.accumulate(walk.clock), np.arange(n), side="right")
    return sums, (ever & (tokens == final)).sum(-1)[entries]


# ---- what follows from sums, whether of a sequence or of all ---------------------------------------------------------


def _share(part, whole):
    """part / whole, NaN where whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return part / whole


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
        "round_trip_rate": sums["round_trips"] / revisions.clip(min=1),
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
        out["post_coverage_round_trip_rate"] = sums["post_coverage_round_trips"] / late.clip(min=1)
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
