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
    share = mass / mass.sum(-1, keepdim=True)
    only_noise = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64, device=share.device)
    return (1 - fresh) * share + fresh * only_noise


def pick_route(weights, uniform):
    """int64 [n], an index into ``ROUTES``: the inverse CDF in the order noise, mask, model, stay.

    ``weights`` float64 [n, 4], ``uniform`` float64 [n] in (0, 1), which must not be used again for the token. A route
    of weight 0 is never taken.
    """
    order = torch.tensor([NOISE, MASK, MODEL, STAY], device=weights.device)
    weights = weights[:, order]
    edges = weights.cumsum(-1)
    seat = (uniform[:, None] >= edges).sum(-1)
    # Rounding may leave u beyond the last edge; then the last route that has weight is meant.
    last = torch.where(weights > 0, torch.arange(4, device=weights.device), -1).amax(-1)
    return order[torch.minimum(seat, last)]


def noise_token(uniform, support, mask_id=None):
    """A uniform token, never the mask: int64 [n]. ``uniform`` float64 [n] in (0, 1); ``support`` >= 1."""
    token = (uniform * support).long().clamp(max=support - 1)
    return token if mask_id is None or mask_id < 0 else token + (token >= mask_id)
