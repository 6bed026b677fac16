"""The revision trace: what became of every position, and which of all those changes were worth their step.

Samplers of the uniform family may change any token at any step, and most of what they change is no progress: forward noise
flips a token that the model sets back, and revisions are often round trips A -> B -> A. A trace counts them apart:

    flip         the canvas changed, by the model or by noise (a uniform token, a remask)
    commit       the model wrote a token: it moved there, it was selected, or (DiffusionGemma) it is the argmax
    revision     a commit of another token than the one committed before. Noise between two equal commits revises nothing
    round trip   a revision to the token before: A -> B -> A
    return       a revision to a token that the trace remembers, the first one and the last three distinct ones: at most all
                 returns, and exactly those while a position has had no more than three different tokens

The random start is no commit, and frozen positions have none.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch

from .arguments import integer, require, require_type
from .reference.trace import COLUMNS, LAST, NEVER, Positions, fresh, pack, record_
from .tensors import tensor
from .trace_summary import summarise
from .trace_walk import Walk, walk

MODES = ("counters", "full")


class Entry(NamedTuple):
    """What one step did: a line of the history. Tensors [B, L] on the trace's device."""

    step: Any  # int, or int64 of one element
    before: torch.Tensor  # int32, the canvas
    x: torch.Tensor  # int32, the canvas after it
    committed: torch.Tensor  # int32, -1 where nothing was committed
    by_noise: torch.Tensor  # bool: where before and x differ, noise or a remask did it


class RevisionTrace:
    """Counts what happens to the positions of a canvas [B, L]: 32 bytes per position, and no waiting for the device.

    Pass it as ``trace=`` to the steps, or call ``record(x, step=s)`` after each step of a loop that uses other code; one or the
    other. Steps are numbered over the whole run, not anew in every block.

    Args:
        B, L: shape of the canvas.
        mode: "counters", or "full", which keeps every canvas as well (13 B L bytes per step) and answers more.
        mask_id: what ``record`` takes for an open position; None: there is no mask, the run starts from random tokens.
        max_steps: rows of the table of steps; whatever happens later is counted in its last row.
        reference: int64 or int32 [B, L], the right tokens, if they are known.
        device: of the counters; ``to`` moves them.

    Attributes: ``positions`` int32 [B, L, 8] and ``steps`` int64 [max_steps, B, 8] are what the ops update
    (``dlm_kernels.reference.trace`` has their layout); ``history``, a list of ``Entry``, empty in mode "counters".

    Raises: TypeError, ValueError: naming the argument, the rule and the value.
    """

    def __init__(self, B, L, mode="counters", mask_id=None, *, max_steps=1024, reference=None, device="cpu"):
        B, L, max_steps = (integer(name, v) for name, v in (("B", B), ("L", L), ("max_steps", max_steps)))
        for name, value in (("B", B), ("L", L), ("max_steps", max_steps)):
            require(value >= 1, name, "must be >= 1", value)
        require(mode in MODES, "mode", f"must be {' or '.join(MODES)}", mode)
        self.mode = mode
        self.mask_id = None if mask_id is None else integer("mask_id", mask_id)
        self.positions, self.steps = fresh(B, L, max_steps, device)
        self.reference = None
        if reference is not None:
            reference = tensor("reference", reference)
            self._check("reference", reference, (torch.int64, torch.int32), anywhere=True)
            self.reference = reference.to(self.positions.device, torch.int64, copy=True)
        self.history = []
        self._canvas = None  # of the last record

    def to(self, device):
        """Move everything to ``device``; returns the trace itself."""
        for name in ("positions", "steps", "reference", "_canvas"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else value.to(device))
        self.history = [Entry(*(v.to(device) if isinstance(v, torch.Tensor) else v for v in e)) for e in self.history]
        return self

    def reset(self):
        """Back to a run that has not begun, in the same memory: a captured CUDA graph goes on with it."""
        new = fresh(*self._shape, len(self.steps), self.positions.device)
        for kept, value in zip((self.positions, self.steps), new):
            kept.copy_(value)
        self.history, self._canvas = [], None

    def record(self, x, *, step, frozen=None):
        """Enter a canvas, by what changed since the last call. Does not wait for the device.

        Without a mask the first canvas is the random start; from then on every change is a move of the model. With one, a token
        is committed when it first appears and whenever it changes, and a return to the mask is noise.

        Args:
            x: int64 or int32 [B, L], the canvas after the step; tokens below 2^31.
            step: int, or int64 tensor of one element on the device.
            frozen: bool [B, L]: positions of which nothing is counted (prompts).

        Raises: TypeError, ValueError: naming the argument, the rule and the value; nothing is recorded.
        """
        x = tensor("x", x)
        self._check("x", x, (torch.int64, torch.int32))
        if isinstance(step, torch.Tensor):
            require_type(step.dtype == torch.int64, "step", "dtype must be int64", _name(step.dtype))
            require(step.numel() == 1, "step", "must have one element", list(step.shape))
            self._check_device("step", step)
        else:
            step = integer("step", step)
        if frozen is not None:
            self._check("frozen", tensor("frozen", frozen), (torch.bool,))

        x, last = x.to(torch.int64, copy=True), self._canvas
        self._canvas = x
        if last is None:
            if self.mask_id is None:
                return
            last = torch.full_like(x, self.mask_id)
        before = last if frozen is None else torch.where(frozen, x, last)
        by_noise = torch.zeros_like(x, dtype=torch.bool) if self.mask_id is None else x == self.mask_id
        committed = torch.where((x != before) & ~by_noise, x, -1)
        axes = (torch.arange(n, device=x.device) for n in self._shape)
        batch, position = (i.flatten() for i in torch.meshgrid(*axes, indexing="ij"))
        record_(
            self.positions,
            self.steps,
            step,
            batch,
            position,
            before=before.flatten(),
            after=x.flatten(),
            by_noise=by_noise.flatten(),
            committed=committed.flatten(),
            gain=torch.zeros(x.numel(), dtype=torch.float64, device=x.device),
        )
        self._append(step, before, x, by_noise, committed)

    def _append(self, step, before, after, by_noise, committed):
        """Keep what a step did, in mode "full": tensors [B, L], which are copied."""
        if self.mode == "full":
            before, after, committed = (v.to(torch.int32, copy=True) for v in (before, after, committed))
            step = step.clone() if isinstance(step, torch.Tensor) else step
            self.history.append(Entry(step, before, after, committed, by_noise.clone()))

    def summary(self):
        """What the trace has seen, as a dict. The one method that waits for the device.

        Ints and floats of everything; the same of every sequence as [B] tensors in ``["per_sequence"]``:

        positions: that ever committed.
        flips, model_flips, noise_flips: changes of the canvas, of any position.
        commits, same: all commits; those of the token that was committed already.
        revisions, revised_positions: R; positions that had any.
        round_trips, round_trip_rate, returns: round trips; their share of R, 0 where R = 0; returns to a remembered token.
        effective_revisions: R - 2 round trips; negative where these overlap, A -> B -> A -> B being two.
        first_commit, last_change: int64 [B, L], step of the first commit and of the last revision, if any; -1 for never.
        mean_first_commit, mean_last_change: over positions. (Means over no position are NaN.)
        coverage_step: t_c, by which all positions that ever commit had done so, -1 for never; of all: the latest.
        first_survival: share of positions that end with their first token.
        logprob_gain: nats, sum over revisions of log p(new) - log p(old), as far as the steps knew it.
        correct_first, correct_last, net_correct: positions whose first and last tokens are right; last - first.
        all_returns: returns to any earlier token.
        displacement: ND, share of positions that end with another token than they had at t_c.
        post_coverage_revisions, post_coverage_round_trips, post_coverage_round_trip_rate: after t_c.
        gains, losses, neutral: revisions after t_c from wrong to right, from right to wrong, from wrong to wrong.
        correct_coverage, net: positions that are right at t_c; gains - losses = correct_last - correct_coverage.

        And curves over the steps 0 to N - 1, the last in which anything happened: [N] tensors in ``["per_step"]``, [N, B] in
        ``["per_sequence"]["per_step"]``. Events: model_flips, noise_flips, flips, first_commits, revisions, round_trips, returns,
        same, logprob_gain. Shares of positions: ``committed`` by then, ``stability`` S(t): past their last change, ``agreement``
        A(t): with their final token. All tensors are on the CPU.

        None: whatever speaks of right and wrong, without a reference; and in mode "counters" what only the history knows, from
        all_returns on, and ``agreement``.
        """
        host = lambda value: None if value is None else value.cpu().numpy()
        walked = Walk(*map(host, walk(self))) if self.mode == "full" else None
        return _tensors(summarise(self.mode, host(self.positions), host(self.steps), host(self.reference), walked))

    def replay(self):
        """(positions, steps) as they must be by the history and the definitions alone, on the CPU; the gain column is 0.

        Walks through the tokens of every position in plain Python: for tests, and for those who doubt a counter.

        Raises: ValueError: in mode "counters".
        """
        require(self.mode == "full", "mode", "must be full to replay", self.mode)
        positions, steps = fresh(*self._shape, len(self.steps))
        lines = [(int(e.step), *(v.tolist() for v in e[1:])) for e in self.history]
        for b in range(self._shape[0]):
            for p in range(self._shape[1]):
                story = [(step, *(canvas[b][p] for canvas in canvases)) for step, *canvases in lines]
                positions[b, p], events = _by_definition(story)
                for (step, name), n in events.items():
                    steps[min(max(step, 0), len(steps) - 1), b, COLUMNS.index(name)] += n
        return positions, steps

    def table(self):
        """The summary as a ``rich.table.Table``: everything, and the first sequences on their own. Needs rich."""
        from .trace_views import table

        return table(self.summary())

    def plot(self, path=None, *, sequences=None):
        """The run as a ``matplotlib.figure.Figure``: positions across, steps down, events beside it. Needs matplotlib.

        In mode "full" every position and step is coloured by what happened there; in mode "counters" a line leads from the
        first commit of a position to its last change. ``path``: where to save it too, as the suffix says. ``sequences``: which
        ones, default the first four.
        """
        from .trace_views import figure

        chosen = range(min(4, self._shape[0])) if sequences is None else [integer("sequences", b) for b in sequences]
        for b in chosen:
            require(0 <= b < self._shape[0], "sequences", f"must be in [0, {self._shape[0]})", b)
        require(len(chosen) >= 1, "sequences", "must not be empty", list(chosen))
        made = figure(self, chosen)
        if path is not None:
            made.savefig(path)
        return made

    # ---- checks ----------------------------------------------------------------------------------------------------

    @property
    def _shape(self):
        return list(self.positions.shape[:2])

    def _check(self, argument, value, dtypes, anywhere=False):
        names = " or ".join(map(_name, dtypes))
        require_type(value.dtype in dtypes, argument, f"dtype must be {names}", _name(value.dtype))
        require(list(value.shape) == self._shape, argument, f"shape must be {self._shape}", list(value.shape))
        if not anywhere:
            self._check_device(argument, value)

    def _check_device(self, argument, value):
        device = self.positions.device
        require(value.device == device, argument, f"must be on {device} as the trace", value.device)


def _tensors(found):
    """A summary of arrays as one of tensors."""
    if isinstance(found, dict):
        return {name: _tensors(value) for name, value in found.items()}
    return torch.from_numpy(found) if isinstance(found, np.ndarray) else found


def _name(dtype):
    return str(dtype).removeprefix("torch.")


def _by_definition(story):
    """(a row of ``positions``, a Counter of (step, event)) of one position with the story [(step, before, after, token committed
    or -1, by_noise), ...]."""
    tokens, events, changes = [], Counter(), []
    for step, before, after, token, by_noise in story:
        if before != after:
            events[step, "noise_flips" if by_noise else "model_flips"] += 1
        if token < 0:
            continue
        recent = _newest_first(tokens)
        if not recent:
            events[step, "first_commits"] += 1
        elif token == recent[0]:
            events[step, "same"] += 1
        else:
            events[step, "revisions"] += 1
            events[step, "round_trips"] += recent[1:2] == [token]
            events[step, "returns"] += token in (tokens[0], *recent[:3])
        if recent[:1] != [token]:
            changes.append(min(max(step, 0), LAST))
        tokens.append(token)
    remembered = [*tokens[:1], *_newest_first(tokens)[:3]]
    counters = [min(sum(n for (_, e), n in events.items() if e == name), LAST) for name in Positions._fields[4:10]]
    fields = [*remembered, *[-1] * (4 - len(remembered)), *counters, *(changes[:1] + changes[-1:] or [NEVER] * 2)]
    return pack(Positions(*torch.tensor(fields))), events


def _newest_first(tokens):
    """The different ones, by when they were last there."""
    return list(dict.fromkeys(reversed(tokens)))
