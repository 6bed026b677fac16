"""Forward noising: what training puts in, and what the reverse steps undo."""

from __future__ import annotations

import torch

from .arguments import flag, integer, number, require
from .calling import call, seeds
from .constants import constant
from .schedules import as_level
from .seeds import request_seeds
from .tensors import movable, numbers_in, tensor

_NAMES = dict(x="x_0", rates="alpha")


def q_sample(
    x_0,
    alpha,
    *,
    vocab_size,
    mask_id=None,
    uniform_share=None,
    seed=None,
    step=0,
    generator=None,
    frozen=None,
    uniform=None,
    return_route=False,
):
    """x_t ~ q(x_t | x_0): every token stays with probability alpha, and else becomes a uniform token or the mask. O(L): nothing
    of the size of the vocabulary is made (GIDD's own code makes one-hots, probabilities and their sums).

    Args:
        x_0: int64 or int32 [B, L], clean tokens.
        alpha: a number in [0, 1], [B] or [B, L] float tensors, or a ``schedules.Level``.
        vocab_size: V. Uniform noise is one of V tokens, x_0 itself among them, and never the mask.
        mask_id: the mask; None for uniform noise.
        uniform_share: of the noise, how much is uniform tokens; the rest is the mask. Number in [0, 1], [B] or [B, L]. Default:
            1 without a mask (UDLM, Duo, Sumi), 0 with one (MDLM, LLaDA). Hybrids: ``schedules.gidd``, ``schedules.gidd_snr``.
        seed, step, generator: as in ``denoise_step_``, but that an int makes a seed of its own for every sequence
            (``request_seeds``). One seed for the run and one step per batch make all of its noise reproducible.
        frozen: bool [B, L]: tokens that stay clean (prompts, padding).
        uniform: float64 in [0, 1), [B, L, 2]: the numbers for route and token, instead of the keyed ones.
        return_route: also return uint8 [B, L]: 0 stayed, 2 uniform token, 3 mask.

    Returns:
        x_t like x_0, or (x_t, route). x_0 is untouched.

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.
    """
    x_0 = tensor("x_0", x_0)
    require(mask_id is None or integer("mask_id", mask_id) >= 0, "mask_id", "must be >= 0", mask_id)
    if uniform_share is None:
        uniform_share = 1.0 if mask_id is None else 0.0
    if seed is not None and not isinstance(seed, torch.Tensor):
        require(generator is None, "generator", "must not be given together with seed", "both")
        seed = request_seeds(integer("seed", seed), x_0.shape[0] if x_0.dim() else 1, x_0.device)
    rates = _rates(alpha, uniform_share, mask_id is not None, x_0.device)
    seed = seeds(seed, generator, x_0)
    mask = -1 if mask_id is None else int(mask_id)
    x_t, route = call("q_sample", _NAMES, x_0, rates, seed, step, vocab_size, mask, frozen, uniform)
    return (x_t, route) if flag("return_route", return_route) else x_t


def _rates(alpha, uniform_share, has_mask, device):
    """float64 [1, 2], [B, 2] or [B, L, 2]: probability of a uniform token, and of the mask."""
    left = movable("alpha", as_level("alpha", alpha).noise, device)
    if not isinstance(uniform_share, torch.Tensor):
        share = number("uniform_share", uniform_share)
        require(0 <= share <= 1, "uniform_share", "must be in [0, 1]", uniform_share)
        require(share == 1 or has_mask, "uniform_share", "must be 1 without mask_id", uniform_share)
        if left.dim() == 0:
            rest = float(left)
            return constant([rest * share, rest * (1 - share)], torch.float64, device)[None]
    share = movable("uniform_share", numbers_in("uniform_share", uniform_share, 0, 1), device)
    if left.dim() != share.dim():  # [B] beside [B, L]
        left, share = (v[:, None] if v.dim() == 1 and w.dim() == 2 else v for v, w in ((left, share), (share, left)))
    rates = torch.stack(torch.broadcast_tensors(left * share, left * (1 - share)), -1)
    return (rates[None] if rates.dim() == 1 else rates).to(device, non_blocking=True)
