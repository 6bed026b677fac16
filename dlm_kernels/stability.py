"""Positions whose law has come to rest: the divergence between two steps, and KLASS, which waits for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .arguments import edges, fraction, integer, number, require, require_type
from .calling import call, check_apart, check_places, check_state, public_error, starts, temperatures
from .reference.geometry import candidate_rows, rows_on
from .rules import Threshold
from .step import denoise_step_
from .tensors import tensor


def row_kl(logits, previous, *, temperature=1.0, wanted=None):
    """KL(p || q) in nats of every row between p = softmax(logits / T) and q = softmax(previous / T), in one read of both.

    Args:
        logits: float32, float16 or bfloat16, [B, W, V] or [R, V]; any strides but unit stride in V.
        previous: like logits, in any of the three dtypes.
        temperature: T > 0, a float or float32 [B] ([R] for [R, V] logits).
        wanted: bool, logits' leading shape: rows to read. None: all.

    Returns:
        (kl float32, bad bool), both of logits' leading shape. kl is inf where q lacks a token that p has, and for bad rows, of
        which either holds NaN, +inf or no finite logit; 0 for rows that are not wanted.

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.
    """
    logits, previous = tensor("logits", logits), tensor("previous", previous)
    return call("row_kl", {}, logits, previous, temperatures(temperature), wanted)


@dataclass
class KlassState:
    """What ``klass_step_`` carries from step to step, in place. Make one by ``start``, for every block anew."""

    previous: torch.Tensor  # logits of the last step
    stable: torch.Tensor  # int64, row-shaped: for how many steps in a row a position's law has stayed

    @classmethod
    def start(cls, logits, dtype=torch.bfloat16):
        """Before the first step with ``logits`` [B, W, V] or [R, V], which are kept in ``dtype``."""
        logits = tensor("logits", logits)
        nothing = torch.full(logits.shape, torch.nan, dtype=dtype, device=logits.device)
        return cls(nothing, torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device))


def klass_step_(
    x,
    logits,
    state,
    *,
    mask_id,
    k=1,
    threshold=0.9,
    kl_threshold=0.01,
    history=2,
    kl_temperature=1.0,
    window=None,
    frozen=None,
    start=None,
    rows=None,
    shift=0,
    **step,
):
    """A step of KLASS (arXiv 2511.05664), in place: of the open positions those are filled whose confidence exceeds ``threshold``
    and whose law has stayed for ``history`` steps; in a sequence that has none, the ``k`` most confident.

    Args:
        x, logits, mask_id, window, frozen, start, rows, shift: as in ``denoise_step_``, which does the rest.
        state: a KlassState of such logits; updated in place.
        k: int or int64 [B].
        threshold: in [0, 1].
        kl_threshold: nats; a law has stayed where KL(this step || the last one) is below.
        history: for how many steps in a row. The first step has nothing to compare with.
        kl_temperature: T > 0 of the laws compared, a float or float32 [B].
        step: other keywords of ``denoise_step_`` but rule and ready.

    Returns:
        What ``denoise_step_`` returns.

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; x and state are untouched.

    The original keeps probabilities of the whole canvas in float64 and adds 1e-12 to them, so that a vanished token costs it some
    nats where here the divergence is infinite; in blocks after the first it also compares with the block before.
    """
    x, logits = tensor("x", x), tensor("logits", logits)
    require_type(isinstance(state, KlassState), "state", "must be a KlassState", type(state).__name__)
    for argument in ("rule", "ready"):
        require(argument not in step, argument, "must not be given to klass_step_", step.get(argument))
    bound, needed = number("kl_threshold", kl_threshold), integer("history", history)
    require(bound == bound, "kl_threshold", "must not be NaN", bound)
    require(needed >= 0, "history", "must be >= 0", needed)
    start = starts(start, x.device)
    where = dict(window=window, frozen=frozen, start=start, rows=rows, shift=integer("shift", shift))
    check_places(x, logits, **where)
    previous = check_state("previous", state.previous, logits.shape, x)
    before = check_state("stable", state.stable, logits.shape[:-1], x, "int64")
    check_apart(dict(x=x, previous=previous, stable=before), dict(logits=logits, frozen=frozen, rows=rows))

    places = rows_on(x, logits, start, rows)
    opened = candidate_rows(x, places, integer("mask_id", mask_id), **edges(window), frozen=frozen)
    try:
        kl, _ = row_kl(logits, previous, temperature=kl_temperature, wanted=_rows_read(opened, shift))
    except (ValueError, TypeError) as error:
        raise public_error(error, dict(temperature="kl_temperature")) from None
    kl = kl if shift == 0 else kl[:, (torch.arange(kl.shape[1], device=kl.device) + shift).clamp(min=0)]
    stable = torch.where(opened & (kl < bound), before + 1, 0)
    rule = Threshold(fraction("threshold", threshold), at_least=k)
    out = denoise_step_(x, logits, mask_id=mask_id, rule=rule, ready=stable >= needed, **where, **step)
    before.copy_(stable)
    previous.copy_(logits)
    return out


def _rows_read(opened, shift):
    """bool, row-shaped: the rows of logits that the positions ``opened`` read."""
    if shift == 0:
        return opened
    read = torch.zeros_like(opened)
    read[:, :-1] = opened[:, 1:]
    read[:, :1] |= opened[:, :1]
    return read


def klass_step(x, logits, state, **kwargs):
    """``klass_step_`` on a copy of ``x``; ``state`` and a trace are written all the same."""
    return klass_step_(tensor("x", x).clone(), logits, state, **kwargs)
