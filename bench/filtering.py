"""Draws from a filtered law as eager code makes them, and the law itself in fp64, by which check.py judges all of them."""

from __future__ import annotations

import torch

from .cases import Case
from .uniform_peers import multinomial


def top_p_by_sorting(logits: torch.Tensor, case: Case) -> torch.Tensor:
    """LLaDA2 and diffusers' BlockRefinementScheduler: sort, softmax, cumsum, scatter. The token that crosses top_p stays."""
    ordered, index = torch.sort(logits, descending=True, dim=-1)
    cut = ordered.softmax(-1).cumsum(-1) > case.top_p
    cut[..., 1:] = cut[..., :-1].clone()
    cut[..., 0] = False
    return logits.masked_fill(cut.scatter(-1, index, cut), -torch.inf)


def top_k_or_min_p(logits: torch.Tensor, case: Case) -> torch.Tensor:
    """transformers' warpers: what is below the k-th logit, or below min_p of the best probability, goes."""
    if case.top_k:
        return logits.masked_fill(logits < logits.topk(case.top_k).values[..., -1:], -torch.inf)
    prob = logits.softmax(-1)
    return logits.masked_fill(prob < case.min_p * prob.amax(-1, keepdim=True), -torch.inf)


def draw(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, their probabilities) of softmax(logits) `[..., V]`."""
    prob = logits.softmax(-1)
    tokens = multinomial(prob)
    return tokens, prob.gather(-1, tokens[..., None]).squeeze(-1)


def kept(z: torch.Tensor, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """fp64 logits `[r, V]` with -inf for what is cut off, and per row what one token more or less at the edge would change, where
    rounding may decide about that: of top_p."""
    exact = torch.zeros(len(z), dtype=z.dtype, device=z.device)
    if case.top_k:  # ties with the last stay
        return z.masked_fill(z < z.topk(case.top_k).values[:, -1:], -torch.inf), exact
    if case.min_p:
        return z.masked_fill((z - z.amax(-1, keepdim=True)).exp() < case.min_p, -torch.inf), exact
    ordered, index = z.sort(dim=-1, descending=True, stable=True)
    prob = ordered.softmax(-1)
    inside = prob.cumsum(-1) - prob <= case.top_p
    last = inside.sum(-1, keepdim=True) - 1
    cut = torch.zeros_like(inside).scatter(-1, index, ~inside)
    return z.masked_fill(cut, -torch.inf), 2 * prob.gather(-1, last)[:, 0]
