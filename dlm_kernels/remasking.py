"""Samplers that take back what they wrote: WINO, P2 and dInfer's remasking, put together from ``draw_tokens``, ``row_stats``,
``topk_unmask_`` and ``remask_``. Every step reads its rows once, decides on tensors [B, W], and waits for nobody."""

from __future__ import annotations

import torch

from .arguments import edges, integer, number, require, tensor
from .calling import per_request
from .reference.geometry import candidate_rows, dense_rows, holds, token_at
from .results import RemaskStepResult
from .seeds import fresh_seeds
from .step import draw_tokens, needs_noise, remask_, row_stats, topk_unmask_


class _Block:
    """The positions below dense logits: which are open, which are filled, and the writes to them."""

    def __init__(self, x, logits, mask_id, window, frozen, start, trace, step):
        self.x, self.logits, self.mask_id = tensor("x", x), tensor("logits", logits), integer("mask_id", mask_id)
        for argument, value, dims, name in (("x", x, 2, "[B, L]"), ("logits", logits, 3, "[B, W, V]")):
            require(value.dim() == dims, argument, f"must be {dims}-dimensional, {name}", list(value.shape))
        start = None if start is None else per_request("start", start, torch.int64, x.device)
        self.places = dense_rows(*logits.shape[:2], start, x.device)
        candidate = candidate_rows(x, self.places, None, **edges(window), frozen=frozen)
        self.held = token_at(x, self.places)
        self.opened = candidate & holds(self.held, self.mask_id)
        self.filled = candidate & ~self.opened
        self._where = dict(window=window, frozen=frozen, start=start, trace=trace, step=step)

    def draw(self, wanted, seed=None, generator=None, **law):
        """Draw for the rows in ``wanted`` (bool [B, W]); no other is read. Contiguous logits are not copied."""
        size, length = self.x.shape
        ranking = law.get("rank_temperature") or 0.0
        if seed is None and needs_noise(law.get("temperature", 0.0), law.get("confidence", "prob"), ranking):
            seed = fresh_seeds(size, self.x.device, generator)
        rows = torch.where(wanted, self.places.batch * length + self.places.position, -1).flatten()
        step = self._where["step"]
        drawn = draw_tokens(self.logits.flatten(0, 1), rows=rows, length=length, seed=seed, step=step, **law)
        return drawn._make(values.view(wanted.shape) for values in drawn)

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
        law: temperature, seed, generator, suppress, ... of ``draw_tokens``, and its confidence.

    Returns:
        RemaskStepResult(tokens, confidence, committed, remasked, num_committed, num_remasked, num_open, num_bad, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.
    """
    block = _Block(x, logits, mask_id, window, frozen, start, trace, step)
    draw = block.draw(block.opened, **law)
    opened = block.opened & ~draw.bad
    sure = (opened & (draw.confidence > number("threshold", threshold))).sum(-1)
    cap = (block.opened.sum(-1) * 0.7).long().clamp(5, 20)
    wide = opened & _first(torch.where(opened, -draw.key, torch.inf), torch.minimum(sure, cap).clamp(min=1))

    kept = row_stats(
        tensor("shadow_logits", shadow_logits), given=torch.where(block.filled, block.held.long(), -1)
    ).p_given
    narrow = block.filled & (kept < number("shadow_threshold", shadow_threshold))
    written = wide.sum(-1)
    out = block.write(draw, wide, narrow, kept, torch.where(written > 1, accepted - 1, 0).clamp(min=0))
    accepted.copy_(torch.where(block.opened.any(-1), written, accepted))
    return out


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
        law: temperature, seed, generator, suppress, ... of ``draw_tokens``.

    Returns:
        RemaskStepResult(tokens, confidence, committed, remasked, num_committed, num_remasked, num_open, num_bad, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.

    What a position holds is scored under the law at T = 1, as the paper has it; the authors' code scores a fresh draw there. Ties
    at the edge go to the lowest position, where the authors' code masks none of them.
    """
    block = _Block(x, logits, mask_id, window, frozen, start, trace, step)
    draw = block.draw(block.opened, **law)
    stats = row_stats(block.logits, given=torch.where(block.filled, block.held.long(), -1))
    held = stats.p_given.double().log()
    weight = number("eta", eta)
    score = torch.where(block.opened, draw.logprob.double(), held * weight if weight != 0 else 0.0)
    usable = block.opened | (block.filled & ~stats.bad)
    score = torch.where(usable, score, torch.inf)

    positions = (block.opened | block.filled).sum(-1)
    share = kappa.to(x.device) if isinstance(kappa, torch.Tensor) else number("kappa", kappa)
    lowest = _first(score, (positions.float() * (1 - share)).long()) & usable
    return block.write(draw, block.opened & ~lowest, block.filled & lowest, score, score.shape[1])


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
        law: temperature, seed, generator, suppress, ... of ``draw_tokens``, and its confidence.

    Returns:
        RemaskStepResult(tokens, confidence, committed, remasked, num_committed, num_remasked, num_open, num_bad, x); committed
        are all that took their draw.

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.
    """
    block = _Block(x, logits, mask_id, window, frozen, start, trace, step)
    draw = block.draw(block.opened | block.filled, **law)
    confidence = draw.confidence
    low = block.filled & ~draw.bad & (confidence < number("remask_threshold", remask_threshold))
    again = (block.opened & ~draw.bad) | low
    chosen = _best_of_runs(again, confidence)
    if low_threshold is not None:
        chosen &= confidence > number("low_threshold", low_threshold)
    if threshold is not None:
        chosen |= again & (confidence > number("threshold", threshold))
    missing = (low.sum(-1) + 1 - chosen.sum(-1)).clamp(min=0)
    rest = again & ~chosen
    chosen |= rest & _first(torch.where(rest, -draw.key, torch.inf), missing)
    chosen &= draw.tokens != block.mask_id  # a model may draw the mask itself
    return block.write(draw, chosen, low & ~chosen, confidence, confidence.shape[1])


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
