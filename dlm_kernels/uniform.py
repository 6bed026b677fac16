"""The public steps of the uniform, hybrid and absorbing families: one reverse step as a route {stay, model, noise, mask}."""

from __future__ import annotations

import functools

import torch
from torch.compiler import is_compiling

from . import transitions
from .arguments import FINITE_ROWS, NAMES, bounds, integer, require, require_type
from .calling import begin, call, filters, seeds, temperatures, token_ids, writing
from .constants import constant
from .results import TransitionResult
from .schedules import Level
from .tensors import movable, tensor

_NAMES = NAMES | {"coefficients": "transition"}


def transition_step_(
    x,
    logits,
    *,
    transition,
    temperature=1.0,
    seed=None,
    step=0,
    generator=None,
    mask_id=None,
    start=None,
    rows=None,
    shift=0,
    window=None,
    frozen=None,
    suppress=None,
    uncond_logits=None,
    cfg_scale=0.0,
    top_k=None,
    top_p=None,
    min_p=None,
    filter_order="top_k_first",
    top_p_crossing="keep",
    top_k_ties="lowest",
    uniform=None,
    check=False,
    trace=None,
):
    """One reverse step x_t -> x_s of a discrete diffusion, in place. Every position that may change goes one of three ways: it
    stays, it takes a draw from the model's law, or it falls back to noise (a uniform token, or the mask), with the exact
    probabilities of the posterior, of which no more is computed than p(x_t). Rare noise is as exact as the rest: the route is
    drawn first, by numbers in float64. Only rows whose route is the model are read again, one chunk or two of them. (The
    transitions that are no such mixture, ``Transition.redraw``, read every row once more.)

    Args:
        x: int64 or int32 [B, L], x_t; written where it changes. Where it may change it must hold tokens of the vocabulary,
            or mask_id.
        logits: float32, float16 or bfloat16, of x_0. Dense [B, W, V]: row (b, i) is for position start_b + i. Packed [R, V] with
            ``rows`` int64 [R]: b * L + position, -1 for padding, no position twice. Any strides, unit stride in V.
        transition: from ``dlm_kernels.transitions``: which step, from which noise level to which.
        temperature: a float >= 0, or float32 [B]. The law is softmax(z / T); 0 is its argmax alone (not with ``redraw``).
        seed, step, generator: as in ``denoise_step_``. Every step of a run needs a number of its own: two steps of one seed and
            one number draw the same noise. Route, draw and noise use streams of their own.
        mask_id: the mask, where there is one. No law and no uniform noise ever draws it; a transition with mask noise needs it.
        suppress: token ids that the law does not have; uniform noise may still be one of them.
        start, rows, shift, window, frozen, uncond_logits, cfg_scale: as in ``denoise_step_``; ``transitions.guided`` takes
            uncond_logits as the other side of its guidance, with cfg_scale 0.
        top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties: as in ``denoise_step_``; the law of x_0 does not have what
            they cut off, so x_t goes if it is that. ``transitions.guided`` filters either side by itself.
        uniform: float64 in [0, 1), row-shaped + [3]: the numbers for route, draw and noise, instead of the keyed ones.
        check: raise if a row that was read is bad, naming the first (b, i), before anything is written. Synchronises.
        trace: a RevisionTrace that takes note of the step, under the number ``step``.

    Returns:
        TransitionResult(tokens, route, p_current, confidence, num_changed, num_bad, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; x is untouched.
    """
    x, logits = tensor("x", x), tensor("logits", logits)
    made = isinstance(transition, transitions.Transition)
    require_type(made, "transition", "must be made by dlm_kernels.transitions", type(transition).__name__)
    if mask_id is not None:
        require(integer("mask_id", mask_id) >= 0, "mask_id", "must be >= 0", mask_id)
    elif transition.needs_mask:
        require(False, "mask_id", f"must be given for {transition.name}", None)
    coefficients = tensor("transition", transition.coefficients)
    if coefficients.device != logits.device:
        coefficients = _on_device(movable("transition", coefficients, logits.device), logits.device)
    seed = seeds(seed, generator, x)
    held, traced, writes = writing(check, trace, ("x",), (x,))
    out = call(
        "transition_step_", _NAMES,
        *held, logits, temperatures(temperature), seed, step, coefficients, -1 if mask_id is None else int(mask_id),
        transition.tempered, transition.redraw, transition.level, *bounds(window), frozen, begin(start), rows, shift,
        without(mask_id, suppress, logits), uncond_logits, cfg_scale,
        *filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties), uniform, *traced,
    )  # fmt: skip
    if writes is not None:
        tokens, route, _, score, _, num_bad = out
        if check:
            writes.check(num_bad, "logits", FINITE_ROWS, score == -torch.inf, x, None, window, frozen, start, rows)
        if writes.keeps_history:
            writes.note(step, start, rows, route > 1, torch.where(route == 1, tokens, -1))
    return TransitionResult(*out, x)


def transition_step(x, logits, **kwargs):
    """``transition_step_`` on a copy of ``x``: the same arguments and result; ``result.x`` is the new canvas."""
    return transition_step_(tensor("x", x).clone(), logits, **kwargs)


def uniform_step_(x, logits, *, alpha_t, alpha_s, prediction="plug_in", tempered="before", **kwargs):
    """One ancestral step of uniform diffusion, in place: ``transition_step_`` with ``transitions.uniform``. Tensors of alpha cost
    some 0.2 ms of small operations each time; ``transitions.uniform(...).steps()`` makes a whole run at once.

    Args:
        alpha_t, alpha_s: how much of the data is left at t and after the step, alpha_s >= alpha_t: numbers in [0, 1], [B] or
            [B, L] float tensors, or ``schedules.Level``, which keep 1 - alpha exact.
        prediction: "plug_in": the law stands for x_0 in the posterior (Sumi, UDLM, Duo). "denoiser": the law is p(x_0 | x_t), as
            networks trained by cross-entropy give it (diffusers' DiscreteDDIM).
        tempered: for "denoiser": the temperature acts "before" or "after" the shift that takes x_t out of the law. At T = 0 the
            law is its argmax either way.
        The others are those of ``transition_step_``.

    Returns:
        TransitionResult(tokens, route, p_current, confidence, num_changed, num_bad, x).

    Raises:
        TypeError, ValueError: as ``transition_step_``; ValueError also for alpha outside [0, 1] and alpha_s < alpha_t.
    """
    make = transitions.uniform
    if _is_constant(alpha_t) and _is_constant(alpha_s) and not is_compiling():
        make = _uniform_of_constants
    return transition_step_(x, logits, transition=make(alpha_t, alpha_s, str(prediction), str(tempered)), **kwargs)


def uniform_step(x, logits, **kwargs):
    """``uniform_step_`` on a copy of ``x``: the same arguments and result; ``result.x`` is the new canvas."""
    return uniform_step_(tensor("x", x).clone(), logits, **kwargs)


# Runs come back to the same schedule.
_uniform_of_constants = functools.lru_cache(maxsize=1024)(transitions.uniform)


def _is_constant(alpha):
    return type(alpha) is float or (isinstance(alpha, Level) and type(alpha.alpha) is type(alpha.noise) is float)


def without(mask_id, suppress, logits):
    """``suppress`` and the mask, where that is in the vocabulary, as an op takes it: what no law may draw."""
    if mask_id is not None and logits.dim() > 0 and mask_id < logits.shape[-1]:
        if not isinstance(suppress, torch.Tensor):
            others = suppress if hasattr(suppress, "__iter__") else [] if suppress is None else [suppress]
            suppress = [int(mask_id), *others]
        elif suppress.dim() == 1 and suppress.dtype == torch.int64 and suppress.device == logits.device:
            return torch.cat([suppress, constant([int(mask_id)], torch.int64, logits.device)])
    return None if suppress is None else token_ids("suppress", suppress, logits.device)


def _on_device(coefficients, device):
    """The step takes a host's row of numbers with it: nothing is copied. A compiled graph is better without a host's tensor."""
    if coefficients.shape[:-1] == (1,) and not is_compiling():
        return coefficients
    return coefficients.to(device, non_blocking=True)
