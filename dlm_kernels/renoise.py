"""The public step that accepts what the model is sure of and renoises the rest: DiffusionGemma, block refinement."""

from __future__ import annotations

import functools

import torch
from torch.compiler import is_dynamo_compiling

from . import state as carried
from .arguments import FINITE_ROWS, NAMES, bounds, integer, number, require, require_type
from .calling import begin, call, deciding, filters, scoring, seeds, temperatures, writing
from .results import RenoiseResult
from .rules import EntropyBudget
from .tensors import tensor
from .uniform import without

_NAMES_OF_OTHERS = NAMES | dict(quota="at_least", stability="stability_threshold", confident="confidence_threshold")
_WRITTEN = ("x", "committed", "argmax", "unchanged", "done")
_NAMES_OF_TOPK = _NAMES_OF_OTHERS | dict(quota="k")


class RenoiseState(carried.RenoiseState):
    """What ``renoise_step_`` carries from step to step, in place. Make one by ``start``."""

    @classmethod
    def start(cls, x, keep_accepted=False):
        """Of a run that begins with the canvas ``x`` [B, L]. ``keep_accepted``: what is accepted stays (block refinement);
        without it everything is decided again in every step (DiffusionGemma)."""
        x = tensor("x", x)
        return cls(
            x.clone(),
            torch.full(x.shape[:1], -1, dtype=torch.int64, device=x.device),
            torch.zeros(x.shape[0], dtype=torch.bool, device=x.device),
            torch.zeros(x.shape, dtype=torch.bool, device=x.device) if keep_accepted else None,
        )


def renoise_step_(
    x,
    logits,
    *,
    entropy_bound=0.1,
    rule=None,
    temperature=1.0,
    softcap=None,
    state=None,
    stability_threshold=1,
    confidence_threshold=0.005,
    probs=None,
    seed=None,
    step=0,
    generator=None,
    confidence="prob",
    confidence_from="sampled",
    conf_dtype=torch.float32,
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
    """Draw a token for every position, accept those of lowest entropy, and let all others fall back to uniform noise, in place.

    DiffusionGemma's step: transformers' ``EntropyBoundSampler`` and ``StableAndConfidentStoppingCriteria``, vLLM, sglang, and
    diffusers' ``EntropyBoundScheduler``. With another rule and ``RenoiseState.start(x, keep_accepted=True)`` it is diffusers'
    block refinement without a mask.

    Args:
        x: int64 or int32 [B, L], the canvas; written everywhere that is read.
        logits: float32, float16 or bfloat16, dense [B, W, V] or packed [R, V] with ``rows``, as in ``denoise_step_``.
        entropy_bound: accept from the lowest entropy up, as long as the entropies before the position sum to at most this (nats).
        rule: accept by this rule instead. With keep_accepted its quota counts all that was ever accepted: TopK(k) and
            Threshold(tau, at_least=k) take k over the whole run so far.
        confidence_from: the law of entropy, confidence and probs: "sampled" at the temperature (T = 1 where that is 0) and
            filtered, "tempered" without the filters, or "raw" at T = 1.
        softcap: c in [1e-6, 1e6]: the logits are c tanh(z / c), before anything else.
        state: a RenoiseState, brought up to date: sequences that come to rest are left alone from then on. None: a first step.
        stability_threshold, confidence_threshold: a sequence is at rest when its argmax was the same for so many steps and its
            mean entropy, in nats, is below that.
        probs: bfloat16, like logits, unit stride in V: gets softmax of the law for every row that is read and not bad, for
            self-conditioning; before ``check`` looks.
        mask_id: a token that is never drawn, neither by the law nor as noise.
        uniform: float64 in [0, 1), row-shaped + [2]: the numbers for draw and noise, instead of the keyed ones.
        check: raise if a row that was read is bad, naming the first (b, i), before x or state is written. Synchronises.
        trace: a RevisionTrace that takes note of the step, under the number ``step``. It follows the argmax.
        The others are those of ``denoise_step_``.

    Returns:
        RenoiseResult(tokens, argmax, entropy, confidence, accepted, num_accepted, num_bad, done, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; nothing is written.
    """
    x, logits = tensor("x", x), tensor("logits", logits)
    require(number("entropy_bound", entropy_bound) >= 0, "entropy_bound", "must be >= 0", entropy_bound)
    if rule is None and not is_dynamo_compiling():
        quota, rule = _budget(entropy_bound)
    else:
        quota, rule = deciding(EntropyBudget(entropy_bound) if rule is None else rule)
    if mask_id is not None:
        require(integer("mask_id", mask_id) >= 0, "mask_id", "must be >= 0", mask_id)
    if softcap is not None:
        require(number("softcap", softcap) > 0, "softcap", "must be > 0", softcap)
    carried = (None, None, None, None)
    if state is not None:
        require_type(isinstance(state, RenoiseState), "state", "must be a RenoiseState", type(state).__name__)
        carried = state.committed, state.argmax, state.unchanged, state.done
    seed = seeds(seed, generator, x)
    held, traced, writes = writing(check, trace, _WRITTEN, (x, *carried))
    out = call(
        "renoise_step_", _NAMES_OF_TOPK if rule[0] == "topk" else _NAMES_OF_OTHERS,
        held[0], logits, temperatures(temperature), seed, step, quota, -1 if mask_id is None else int(mask_id), *rule,
        *held[1:], probs, stability_threshold, confidence_threshold, *bounds(window), frozen, begin(start), rows, shift,
        without(mask_id, suppress, logits), uncond_logits, cfg_scale,
        *filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties), 0.0 if softcap is None else softcap,
        uniform, *scoring(confidence, confidence_from, conf_dtype), *traced,
    )  # fmt: skip
    if writes is not None:
        _, best, _, score, accepted, _, num_bad, _ = out
        if check:
            suspect, closed = score == -torch.inf, _closed(state, frozen)
            writes.check(num_bad, "logits", FINITE_ROWS, suspect, x, None, window, closed, start, rows)
        if writes.keeps_history:
            good = score > -torch.inf
            writes.note(step, start, rows, good & ~accepted, torch.where(good, best, -1))
    return RenoiseResult(*out, x)


def renoise_step(x, logits, **kwargs):
    """``renoise_step_`` on a copy of ``x``: the same arguments and result; ``result.x`` is the new canvas. ``state``, ``probs``
    and ``trace`` are written all the same."""
    return renoise_step_(tensor("x", x).clone(), logits, **kwargs)


@functools.lru_cache(maxsize=64)  # runs keep their bound
def _budget(entropy_bound):
    return deciding(EntropyBudget(entropy_bound))


def _closed(state, frozen):
    """[B, L]: what the step does not read; None for nothing."""
    if state is None:
        return frozen
    closed = state.done[:, None].expand(state.argmax.shape)
    for more in (frozen, state.committed):
        closed = closed if more is None else closed | more
    return closed
