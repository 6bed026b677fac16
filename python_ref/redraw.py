"""Redraws: steps whose posterior is no finite mixture, because something acts on the posterior itself.

GIDD's ``min_p`` drops the tokens whose posterior is small, UDLM's guidance is a product of powers of two posteriors, and SEDD's
analytic step cuts scores off. Every token is weighed, and the token drawn from those weights. Where nothing has a weight the
position stays.
"""

import torch

from .transition import MASK, MODEL, NOISE, STAY, pick_route, route_weights

REDRAWS = ("none", "min_p", "guidance", "score")


def posterior(coefficients, law, odds, shifted, current, support, mask_id):
    """p(x_s) of every token, float64 [n, V], and of the mask, [n], which the former leaves out.

    ``law`` float64 [n, V], ``odds`` against ``current`` under it, ``shifted`` the same after the leave-one-out shift.
    """
    is_mask = (current == mask_id) & (mask_id >= 0)
    weights = route_weights(coefficients, shifted, is_mask, support)
    odds = torch.where(is_mask, torch.inf, odds)
    others = torch.where(odds == torch.inf, 1.0, odds / (1 + odds))
    scale = torch.where(others > 0, weights[:, MODEL] / torch.where(others > 0, others, 1.0), 0.0)
    noise = weights[:, NOISE] / support
    out = scale[:, None] * law + noise[:, None]
    out = _put(out, torch.where(is_mask, -1, current), weights[:, STAY] + noise)
    out = _put(out, torch.full_like(current, mask_id), torch.zeros_like(noise))
    return out, torch.where(is_mask, weights[:, STAY], weights[:, MASK])


def weigh(kind, level, coefficients, law, current, support, conditional=None, unconditional=None):
    """Weights of every token, float64 [n, V], and of the mask, [n]. ``conditional`` and ``unconditional``: as ``posterior``
    gives them."""
    if kind == "score":
        keep, leave = coefficients[:, 3], coefficients[:, 4]  # e^-dsigma, 1 - e^-dsigma
        floor = (leave / support)[:, None]
        above = (law - floor).clamp(min=0)
        known = ((current >= 0) & (current < law.shape[-1]))[:, None]
        here = above.gather(-1, current.clamp(0, law.shape[-1] - 1)[:, None]) * (floor + keep[:, None])
        return _put(floor * above, current, torch.where(known, here, 0.0)[:, 0]), torch.zeros_like(leave)
    if kind == "min_p":
        return tuple(torch.where(q >= level, q, 0.0) for q in conditional)
    return tuple(_guided(level, c, u) for c, u in zip(conditional, unconditional))


def _guided(gamma, cond, uncond):
    least = torch.finfo(torch.float64).tiny
    power = gamma * cond.clamp(min=least).log() + (1 - gamma) * uncond.clamp(min=least).log()
    return torch.where(cond > 0, power.exp(), 0.0)


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
