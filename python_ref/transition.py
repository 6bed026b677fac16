"""Transitions: where a position goes in one reverse step of the uniform, hybrid and absorbing families.

Four routes: stay at x_t; ``model``, a draw from the model's law without x_t; ``noise``, a uniform token; ``mask``. With
p = p(x_t) under the model's law, what a transition needs is a row of ``COLUMNS``: numbers of the schedule alone.
``dlm_kernels.transitions`` makes them and tells their sources. For x_t a token (and again for x_t the mask):

    x_t is kept with weight  keep + keep_p * support * p
    it is left with weight   leave,  for a fresh draw of q_s = model * law + noise * uniform + mask * [MASK]

and before all that, with probability ``fresh``, it becomes noise. ``support`` counts the tokens that noise can be. A negative
``keep`` (SEDD's Euler step) counts against the others: kept with weight max(0, keep_p * support * p + keep * (1 - p)).
"""

import torch

ROUTES = ("stay", "model", "noise", "mask")
STAY, MODEL, NOISE, MASK = range(4)
BRIDGE = ("keep_p", "keep", "leave", "model", "noise", "mask")
COLUMNS = ("fresh", "evidence", *(f"token_{name}" for name in BRIDGE), *(f"mask_{name}" for name in BRIDGE))


def noise_support(vocab, mask_id=None):
    """How many tokens uniform noise can be: all but a mask inside the vocabulary."""
    return vocab - 1 if mask_id is not None and 0 <= mask_id < vocab else vocab


def leave_one_out_odds(odds, evidence, support, exponent=1.0):
    """Odds against x_t with its logit lowered by delta = log(1 + V alpha_t / (1 - alpha_t)): float64, broadcasting.

    ``evidence`` = alpha_t / (1 - alpha_t), or 0 for no shift. ``odds`` are those at the temperature T in either case;
    ``exponent`` 1 shifts the tempered law, 1 / T tempers the shifted one. Source: diffusers' DiscreteDDIM, rev_udm.
    """
    factor = (1 + support * evidence) ** exponent
    return torch.where((odds == 0) | (odds == torch.inf), odds, odds * factor)


def route_weights(coefficients, odds, is_mask, support):
    """Probabilities of the four routes, float64 [n, 4] in the order of ``ROUTES``.

    ``coefficients`` float64 [n, 14] (``COLUMNS``); ``odds`` float64 [n] against x_t, inf where the law does not have
    it; ``is_mask`` bool [n]. Where q_t(x_t) = 0, x_s is a fresh draw of q_s.
    """
    fresh = coefficients[:, :1]
    of_token, of_mask = coefficients[:, 2:8], coefficients[:, 8:14]
    keep_p, keep, leave, model, noise, mask = torch.where(is_mask[:, None], of_mask, of_token).unbind(-1)
    odds = torch.where(is_mask, torch.inf, odds)  # no law has the mask
    p = 1 / (1 + odds)
    others = torch.where(odds == torch.inf, 1.0, odds * p)  # 1 - p, without cancellation

    seen = keep_p * support * p
    back = torch.where(is_mask, mask, model * p)  # what leaves x_t only to come back has stayed
    stay = torch.where(keep < 0, (seen + keep * others).clamp(min=0), seen + keep + leave * back)
    either = stay + leave
    impossible = either <= 0
    stay = torch.where(impossible, back, stay / either)
    leave = torch.where(impossible, 1.0, leave / either)

    to_mask = torch.where(is_mask, 0.0, leave * mask)
    mass = torch.stack([stay, leave * model * others, leave * noise, to_mask], -1)
    only_noise = torch.nn.functional.pad(fresh, (NOISE, MASK - NOISE))
    return (1 - fresh) * mass / mass.sum(-1, keepdim=True) + only_noise


def pick_route(weights, uniform):
    """int64 [n], an index into ``ROUTES``: the inverse CDF in the order noise, mask, model, stay.

    ``weights`` float64 [n, 4], ``uniform`` float64 [n] in (0, 1), which must not be used again for the token. A route
    of weight 0 is never taken.
    """
    route = torch.full_like(uniform, STAY, dtype=torch.int64)
    edge, found = torch.zeros_like(uniform), torch.zeros_like(uniform, dtype=torch.bool)
    for candidate in (NOISE, MASK, MODEL, STAY):
        weight = weights[:, candidate]
        edge = edge + weight
        # Rounding may leave u beyond the last edge; then the last route that has weight is meant.
        route = torch.where(~found & (weight > 0), candidate, route)
        found = found | ((weight > 0) & (uniform < edge))
    return route


def shifted_odds(coefficients, odds, temperature, tempered, support):
    """``odds`` under the law at ``temperature``, after the leave-one-out shift if there is one. ``tempered`` "before" or "after":
    whether the temperature acts before or after it."""
    exponent = 1.0 if tempered == "before" else 1 / temperature
    return leave_one_out_odds(odds, coefficients[:, 1], support, exponent)


def choose_route(coefficients, odds, current, temperature, uniform, tempered, support, mask_id=None):
    """The route of positions that hold ``current`` (int64 [n]), from the ``odds`` (float64 [n]) against it: int64 [n]."""
    odds = shifted_odds(coefficients, odds, temperature, tempered, support)
    return pick_route(route_weights(coefficients, odds, is_mask(current, mask_id), support), uniform)


def noising_route(rates, uniform):
    """Forward: what becomes of clean tokens that are uniform noise and the mask with probabilities ``rates``, float64 [n, 2]."""
    noise, mask = rates.unbind(-1)
    stay = (1 - noise - mask).clamp(min=0)
    return pick_route(torch.stack([stay, torch.zeros_like(stay), noise, mask], -1), uniform)


def is_mask(token, mask_id):
    """Where ``token`` is the mask, if there is one: ``mask_id`` None or negative is none."""
    return torch.zeros_like(token, dtype=torch.bool) if mask_id is None or mask_id < 0 else token == mask_id


def noise_token(uniform, support, mask_id=None):
    """A uniform token, never the mask: int64 [n]. ``uniform`` float64 [n] in (0, 1); ``support`` >= 1."""
    token = (uniform * support).long().clamp(max=support - 1)
    return token if mask_id is None or mask_id < 0 else token + (token >= mask_id)
