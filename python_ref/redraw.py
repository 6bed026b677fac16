"""Redraws: steps whose posterior is no finite mixture, because something acts on the posterior itself.

GIDD's ``min_p`` drops the tokens whose posterior is small, UDLM's guidance is a product of powers of two posteriors, and SEDD's
analytic step cuts scores off. Every token is weighed, and the token drawn from those weights. Where nothing has a weight the
position stays.
"""

from typing import NamedTuple

import torch

from .transition import MASK, MODEL, NOISE, STAY, pick_route, route_weights

REDRAWS = ("none", "min_p", "guidance", "score")


class Posterior(NamedTuple):
    """log p(x_s), float64: what powers are taken of must not underflow."""

    tokens: torch.Tensor  # [n, V], without the mask
    mask: torch.Tensor  # [n]
    noise: torch.Tensor  # [n], not a logarithm: the part that uniform noise has in the probability of every token


def posterior(coefficients, log_law, odds, shifted, current, support, mask_id):
    """p(x_s | x_t = current) of every row. ``log_law`` float64 [n, V], ``odds`` against ``current`` under it, ``shifted`` the
    same after the leave-one-out shift."""
    is_mask = (current == mask_id) & (mask_id >= 0)
    weights = route_weights(coefficients, shifted, is_mask, support)
    odds = torch.where(is_mask, torch.inf, odds)
    others = torch.where(odds == torch.inf, 1.0, odds / (1 + odds))
    scale = torch.where(others > 0, weights[:, MODEL] / torch.where(others > 0, others, 1.0), 0.0)
    noise = weights[:, NOISE] / support
    tokens = torch.logaddexp(scale.log()[:, None] + log_law, noise.log()[:, None])
    tokens = _put(tokens, torch.where(is_mask, -1, current), (weights[:, STAY] + noise).log())
    tokens = _put(tokens, torch.full_like(current, mask_id), torch.full_like(noise, -torch.inf))
    return Posterior(tokens, torch.where(is_mask, weights[:, STAY], weights[:, MASK]).log(), noise)


def weigh(kind, level, coefficients, law, current, support, conditional=None, unconditional=None):
    """Weights of every token, float64 [n, V], and of the mask, [n], up to a factor of the row. ``conditional`` and
    ``unconditional``: Posteriors."""
    if kind == "score":
        keep, leave = coefficients[:, 3], coefficients[:, 4]  # e^-dsigma, 1 - e^-dsigma
        floor = (leave / support)[:, None]
        above = (law - floor).clamp(min=0)
        known = ((current >= 0) & (current < law.shape[-1]))[:, None]
        here = above.gather(-1, current.clamp(0, law.shape[-1] - 1)[:, None]) * (floor + keep[:, None])
        return _put(floor * above, current, torch.where(known, here, 0.0)[:, 0]), torch.zeros_like(leave)
    if kind == "min_p":
        probabilities = (conditional.tokens.exp(), conditional.mask.exp())
        return tuple(torch.where(q >= level, q, 0.0) for q in probabilities)
    tokens, mask = (_guided(level, c, u) for c, u in zip(conditional[:2], unconditional[:2]))
    top = torch.maximum(tokens.amax(-1), mask)
    top = torch.where(top == -torch.inf, 0.0, top)
    return (tokens - top[:, None]).exp(), (mask - top).exp()


def _guided(gamma, cond, uncond):
    """gamma cond + (1 - gamma) uncond, logarithms; what either forbids is forbidden."""
    forbidden = (cond == -torch.inf) | (uncond == -torch.inf)
    cond, uncond = (torch.where(forbidden, 0.0, v) for v in (cond, uncond))
    return torch.where(forbidden, -torch.inf, gamma * cond + (1 - gamma) * uncond)


def tell_noise(route, token, uniform, conditional=None):
    """``route`` with NOISE for the drawn tokens that came as noise: of what the (conditional) posterior has for a token, the law
    has a part and noise the rest. SEDD's redraw has no posterior and no parts."""
    if conditional is None:
        return route
    index = token.clamp(0, conditional.tokens.shape[-1] - 1)[:, None]
    whole = conditional.tokens.gather(-1, index)[:, 0].exp()
    return torch.where((route == MODEL) & (uniform * whole < conditional.noise), NOISE, route)


def draw_again(tokens, mask, current, mask_id, u_route, u_draw):
    """(route, token), int64 [n], from the weights of ``tokens`` [n, V] and of the ``mask`` [n]: first whether to stay, by
    ``u_route``, then which other token, by ``u_draw``."""
    is_mask = (current == mask_id) & (mask_id >= 0)
    vocab = tokens.shape[-1]
    known = (current >= 0) & (current < vocab) & ~is_mask
    here = torch.where(known, tokens.gather(-1, current.clamp(0, vocab - 1)[:, None])[:, 0], 0.0)
    stay, mask = here + torch.where(is_mask, mask, 0.0), torch.where(is_mask, 0.0, mask)
    others = _put(tokens, torch.where(known, current, -1), torch.zeros_like(stay))
    cdf = others.cumsum(-1)
    total = cdf[:, -1:].contiguous()
    mass = torch.stack([stay, total[:, 0], torch.zeros_like(stay), mask], -1)
    every = mass.sum(-1, keepdim=True)
    route = pick_route(mass / torch.where(every > 0, every, 1.0), u_route)  # without any weight: stay
    drawn = torch.searchsorted(cdf, u_draw[:, None] * total, right=True)
    drawn = torch.minimum(drawn, torch.searchsorted(cdf, total))[:, 0]
    token = torch.where(route == MODEL, drawn, current)
    return route, torch.where(route == MASK, mask_id, token)


def _put(rows, index, values):
    """``rows`` [n, V] with ``values`` at ``index``, where that is in the vocabulary."""
    known = (index >= 0) & (index < rows.shape[-1])
    index = index.clamp(0, rows.shape[-1] - 1)[:, None]
    return rows.scatter(-1, index, torch.where(known, values, rows.gather(-1, index)[:, 0])[:, None])
