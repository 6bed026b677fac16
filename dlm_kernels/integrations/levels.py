"""A client's noise levels, tensors on the device with a number per sequence, as what ``dlm_kernels.transitions`` takes."""

from __future__ import annotations

import functools

import torch

from .transfer import Refused, refuse


def per_sequence(value, batch):
    """``value``, a number or a tensor [], [B], [B, 1] or [B, 1, 1]: a float where it is the same for all sequences and can be
    read without a wait, else float64 [B] or [1]. Refuses a number per position."""
    if not isinstance(value, torch.Tensor):
        return float(value)
    flat = value.detach().reshape(-1)
    fits = flat.numel() == 1 or (flat.numel() == batch and value.shape[0] == batch)
    refuse(not fits, f"noise levels: must be one for each of {batch} sequences, got {list(value.shape)}")
    if flat.device.type != "cpu" or not flat.numel():
        return flat.double()
    first = flat[0].item()
    return first if flat.numel() == 1 or bool((flat == first).all()) else flat.double()


def transition_of(make, *numbers):
    """``make(*numbers)``, remembered where all are floats: runs come back to the same schedule. Refuses numbers that
    make no step."""
    try:
        return (_remembered if all(type(n) is float for n in numbers) else _made)(make, *numbers)
    except ValueError as why:
        raise Refused(str(why)) from None


def _made(make, *numbers):
    return make(*numbers)


_remembered = functools.lru_cache(maxsize=4096)(_made)
