"""Samplers that take back what they wrote: WINO, P2 and dInfer's remasking, put together from ``draw_tokens``, ``row_stats``,
``topk_unmask_`` and ``remask_``. Every step reads its rows once, decides on tensors [B, W], and waits for nobody."""

from __future__ import annotations

import torch

from .arguments import edges, flag, fraction, integer, number, require
from .calling import call, check_apart, check_places, check_state, starts, token_ids
from .reference.geometry import candidate_rows, dense_rows, holds, token_at
from .results import RemaskStepResult
from .seeds import fresh_seeds
from .step import draw_tokens, needs_noise, remask_, require_finite_rows, topk_unmask_
from .tensors import numbers_in, tensor

_PER_SEQUENCE = ("temperature", "seed", "top_k", "top_p", "min_p")
_OF_THE_STEP = ("rows", "length", "shift", "given")  # of draw_tokens, and not the caller's


class _Block:
    """The positions below dense logits: which are open, which are filled, and the writes to them. Whatever may be wrong is found
    before the first of those."""

    def __init__(self, x, logits, mask_id, window, frozen, start, trace, step):
        self.x, self.logits, self.mask_id = tensor("x", x), tensor("logits", logits), integer("mask_id", mask_id)
        for argument, value, dims, name in (("x", x, 2, "[B, L]"), ("logits", logits, 3, "[B, W, V]")):
            require(value.dim() == dims, argument, f"must be {dims}-dimensional, {name}", list(value.shape))
        start = starts(start, x.device)
        check_places(self.x, self.logits, window, mask_id=self.mask_id, frozen=frozen, start=start)
        self.places = dense_rows(*logits.shape[:2], start, x.device)
        candidate = candidate_rows(x, self.places, None, **edges(window), frozen=frozen)
        self.held = token_at(x, self.places)
        self.opened = candidate & holds(self.held, self.mask_id)
        self.filled = candidate & ~self.opened
        self._where = dict(window=window, frozen=frozen, start=start, trace=trace, step=step)

    def draw(self, wanted, seed=None, generator=None, check=False, **law):
        """Draw for the rows in ``wanted`` (bool [B, W]); no other is read. Contiguous logits are not copied."""
        for argument in _OF_THE_STEP:
            require(argument not in law, argument, "must not be given to a remasking step", law.get(argument))
        size, length = self.x.shape
        for argument, value in dict(law, seed=seed).items():  # packed rows say less about how many sequences there are
            per_sequence = argument in _PER_SEQUENCE and isinstance(value, torch.Tensor) and value.dim() == 1
            if per_sequence and value.shape[0] not in (1, size):
                require(False, argument, f"shape must be [1] or [{size}]", list(value.shape))
        if seed is None and needs_noise(
            law.get("temperature", 0.0), law.get("confidence", "prob"), law.get("rank_temperature")
        ):
            seed = fresh_seeds(size, self.x.device, generator)
        law |= {name: self._flat(name, law[name]) for name in ("uncond_logits", "uniform") if law.get(name) is not None}
        rows = torch.where(wanted, self.places.batch * length + self.places.position, -1).flatten()
        given, step = self.held.long().flatten(), self._where["step"]
        logits = self.logits.flatten(0, 1)
        drawn = draw_tokens(logits, rows=rows, length=max(length, 1), given=given, seed=seed, step=step, **law)
        drawn = drawn._make(values.view(wanted.shape) for values in drawn)
        if flag("check", check):
            require_finite_rows(drawn.bad, self.places.position)
        return drawn

    def _flat(self, argument, value):
        """A row-shaped argument as draw_tokens takes it for packed rows."""
        shape = self.logits.shape if argument == "uncond_logits" else self.held.shape
        return self.like_rows(argument, value, shape).flatten(0, 1)

    def like_rows(self, argument, value, shape):
        value = tensor(argument, value)
        if value.shape != shape:
            require(False, argument, f"shape must be {list(shape)}", list(value.shape))
        if value.device != self.logits.device:
            require(False, argument, f"must be on {self.logits.device} as logits", value.device)
        return value

    def held_by(self, argument, logits, uncond_logits=None, cfg_scale=0.0, suppress=None, **_):
        """(p, bad) [B, W]: the probability, at T = 1, of what every filled position holds. ``argument``: what errors call the
        logits."""
        given = torch.where(self.filled, self.held.long(), -1)
        ids = token_ids("suppress", suppress, logits.device)
        *_, p, bad = call("row_stats", {"logits": argument}, logits, 1.0, given, uncond_logits, cfg_scale, ids)
        return p, bad

    def write(self, draw, flags, remask, confidence, k):
        """The draws where ``flags`` are set, whatever is there, and the mask at up to ``k`` of the positions in ``remask``."""
        tokens, width = draw.tokens.to(self.x.dtype), self.held.shape[1]
        flags = flags & ~draw.bad
        some = torch.where(flags, 0.0, -torch.inf)
        wrote = topk_unmask_(self.x, tokens, some, width, mask_id=None, **self._where)
        others = torch.where(remask, confidence, torch.inf)
        undone = remask_(self.x, others, k, mask_id=self.mask_id, **self._where)
        drawn = draw.confidence > -torch.inf
        return RemaskStepResult(
            torch.where(drawn, tokens, self.held),
            draw.confidence,
            wrote.committed,
            undone.remasked,
            wrote.num_committed,
            undone.num_remasked,
            undone.num_open,
            draw.bad.sum(-1),
            self.x,
        )


def _level(argument, value):
    """What confidences are compared with."""
    value = number(argument, value)
    require(value == value, argument, "must not be NaN", value)
    return value


def _first(order, count):
    """bool [B, W]: the ``count`` [B] lowest of ``order`` [B, W], ties to the lowest position."""
    return order.argsort(dim=-1, stable=True).argsort(dim=-1) < count[:, None]


def wino_step_(
    x,
    logits,
    shadow_logits,
    accepted,
    *,
    mask_id,
    threshold=0.6,
    shadow_threshold=0.9,
    window=None,
    frozen=None,
    start=None,
    step=0,
    trace=None,
    **law,
):
    """A step of WINO, wide in and narrow out (arXiv 2507.18578), in place.

    Wide in: open positions whose confidence exceeds ``threshold`` are filled, the most confident at least, and at most seven in
    ten of the open ones, held between 5 and 20. Narrow out, where more than one was filled: of the positions that held a token
    before, those whose token has a probability below ``shadow_threshold`` hold the mask again, the least probable first, fewer
    than the sequence filled in the step before.

    Args:
        x: int64 or int32 [B, L], the canvas.
        logits: float32, float16 or bfloat16 [B, W, V]; row (b, i) is for position start_b + i.
        shadow_logits: likewise: of the shadow of that position, which sees all others but not its token. Only what a filled
            position's shadow says counts. The caller runs the model with shadows in place.
        threshold, shadow_threshold: of the confidence going in, and of the probability going out.
        accepted: int64 [B], updated in place: how many were filled in the step before. Begin with 30, as the original does.
        mask_id, window, frozen, start, step, trace: as in ``denoise_step_``. Prompts must be frozen, or outside the window.
        law: temperature, seed, generator, suppress, filters, ... of ``draw_tokens``, its confidence and ``check``; not its rows,
            length, shift and given.

    Returns:
        RemaskStepResult(tokens, confidence, committed, remasked, num_committed, num_remasked, num_open, num_bad, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.
    """
    tau, shadow_tau = _level("threshold", threshold), _level("shadow_threshold", shadow_threshold)
    block = _Block(x, logits, mask_id, window, frozen, start, trace, step)
    shadow = block.like_rows("shadow_logits", shadow_logits, block.logits.shape)
    accepted = check_state("accepted", accepted, x.shape[:1], x, "int64")
    check_apart(dict(x=block.x, accepted=accepted), dict(logits=block.logits, shadow_logits=shadow, frozen=frozen))
    kept, _ = block.held_by("shadow_logits", shadow)
    draw = block.draw(block.opened, **law)
    opened = block.opened & ~draw.bad
    sure = (opened & (draw.confidence > tau)).sum(-1)
    cap = (block.opened.sum(-1) * 0.7).long().clamp(5, 20)
    wide = opened & _first(torch.where(opened, -draw.key, torch.inf), torch.minimum(sure, cap).clamp(min=1))

    narrow = block.filled & (kept < shadow_tau)
    written = wide.sum(-1)
    out = block.write(draw, wide, narrow, kept, torch.where(written > 1, accepted - 1, 0).clamp(min=0))
    accepted.copy_(torch.where(block.opened.any(-1), written, accepted))
    return out


def wino_step(x, logits, shadow_logits, accepted, **kwargs):
    """``wino_step_`` on a copy of ``x``; ``accepted`` and a trace are written all the same."""
    return wino_step_(tensor("x", x).clone(), logits, shadow_logits, accepted, **kwargs)


def p2_step_(
    x,
    logits,
    *,
    mask_id,
    kappa,
    eta=1.0,
    window=None,
    frozen=None,
    start=None,
    step=0,
    trace=None,
    **law,
):
    """A step of P2, path planning (arXiv 2502.03540), in place: all positions are ranked anew by the log-probability of the token
    that they hold, or would hold; the lowest are masks after the step, the others hold their tokens.

    Args:
        x, logits: as in ``wino_step_``.
        kappa: in [0, 1], a number or float [B]: the share of the positions that hold tokens after this step. floor(N (1 - kappa))
            of the N positions are masks.
        eta: weight of the log-probability of what is held already: above 1 more is taken back, at 0 nothing is.
        mask_id, window, frozen, start, step, trace: as in ``denoise_step_``. Prompts must be frozen, or outside the window.
        law: as of ``wino_step_``; guidance and suppress also hold for what is held.

    Returns:
        RemaskStepResult(tokens, confidence, committed, remasked, num_committed, num_remasked, num_open, num_bad, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.

    What a position holds is scored under the law at T = 1, as the paper has it; the authors' code scores a fresh draw there. Ties
    at the edge go to the lowest position, where the authors' code masks none of them.
    """
    weight = number("eta", eta)
    require(0 <= weight < torch.inf, "eta", "must be finite and >= 0", weight)
    block = _Block(x, logits, mask_id, window, frozen, start, trace, step)
    share = _kept_share(kappa, block.x)
    draw = block.draw(block.opened, **law)
    kept, bad = block.held_by("logits", block.logits, **law)
    held = kept.double().log()
    score = torch.where(block.opened, draw.logprob.double(), held * weight if weight != 0 else 0.0)
    usable = block.opened | (block.filled & ~bad)
    score = torch.where(usable, score, torch.inf)

    positions = (block.opened | block.filled).sum(-1)
    lowest = _first(score, (positions.float() * (1 - share)).long()) & usable
    return block.write(draw, block.opened & ~lowest, block.filled & lowest, score, score.shape[1])


def p2_step(x, logits, **kwargs):
    """``p2_step_`` on a copy of ``x``; a trace is written all the same."""
    return p2_step_(tensor("x", x).clone(), logits, **kwargs)


def _kept_share(kappa, x):
    """P2's, a float or float [1] or [B]."""
    if not isinstance(kappa, torch.Tensor):
        return fraction("kappa", kappa)
    numbers_in("kappa", kappa, 0, 1)
    if kappa.dim() > 1 or kappa.numel() not in (1, x.shape[0]):
        require(False, "kappa", f"shape must be [1] or [{x.shape[0]}]", list(kappa.shape))
    return kappa.detach().to(x.device)


def dinfer_remask_step_(
    x,
    logits,
    *,
    mask_id,
    threshold=None,
    low_threshold=None,
    remask_threshold=0.4,
    window=None,
    frozen=None,
    start=None,
    step=0,
    trace=None,
    **law,
):
    """A step of dInfer's hierarchical decoding with remasking (``get_transfer_index_hierarchy_remask``), in place.

    A filled position counts as open again where the confidence of its draw is below ``remask_threshold``. In every run of such
    and of open positions the most confident takes its draw, if that is above ``low_threshold``; so does all above ``threshold``;
    and the most confident of the rest, until one more is written than counted as open again. Those that counted so and take no
    draw become masks.

    Args:
        x, logits: as in ``wino_step_``.
        threshold, low_threshold: numbers, None for off.
        remask_threshold: below it a filled position counts as open again.
        mask_id, window, frozen, start, step, trace: as in ``denoise_step_``. Prompts must be frozen, or outside the window.
        law: temperature, seed, generator, suppress, filters, ... of ``draw_tokens``, its confidence and ``check``; not its rows,
            length, shift and given.

    Returns:
        RemaskStepResult(tokens, confidence, committed, remasked, num_committed, num_remasked, num_open, num_bad, x); committed
        are all that took their draw.

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.
    """
    floor = _level("remask_threshold", remask_threshold)
    tau, low_tau = (
        None if value is None else _level(argument, value)
        for argument, value in (("threshold", threshold), ("low_threshold", low_threshold))
    )
    block = _Block(x, logits, mask_id, window, frozen, start, trace, step)
    draw = block.draw(block.opened | block.filled, **law)
    confidence = draw.confidence
    low = block.filled & ~draw.bad & (confidence < floor)
    again = (block.opened & ~draw.bad) | low
    chosen = _best_of_runs(again, confidence)
    if low_tau is not None:
        chosen &= confidence > low_tau
    if tau is not None:
        chosen |= again & (confidence > tau)
    missing = (low.sum(-1) + 1 - chosen.sum(-1)).clamp(min=0)
    rest = again & ~chosen
    chosen |= rest & _first(torch.where(rest, -draw.key, torch.inf), missing)
    chosen &= draw.tokens != block.mask_id  # a model may draw the mask itself
    return block.write(draw, chosen, low & ~chosen, confidence, confidence.shape[1])


def dinfer_remask_step(x, logits, **kwargs):
    """``dinfer_remask_step_`` on a copy of ``x``; a trace is written all the same."""
    return dinfer_remask_step_(tensor("x", x).clone(), logits, **kwargs)


def _best_of_runs(flags, value):
    """bool [B, W]: in every run of neighbouring ``flags`` the first that has the largest ``value``."""
    begins = flags & ~torch.nn.functional.pad(flags, (1, 0))[:, :-1]
    run = begins.cumsum(-1)
    value = torch.where(flags, value, -torch.inf)
    nothing = torch.full((flags.shape[0], flags.shape[1] + 1), -torch.inf, dtype=value.dtype, device=value.device)
    top = flags & (value == nothing.scatter_reduce(-1, run, value, "amax").gather(-1, run))
    nth = (top & flags).cumsum(-1)
    before = torch.where(begins, nth - top.long(), 0).cummax(-1).values  # how many of the runs before
    return top & (nth - before == 1)
