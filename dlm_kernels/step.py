"""The public steps of the masked family: ``denoise_step`` (sweep, draw, decide, commit in one) and its parts.

This layer turns Python values into the tensors the ops take and names into arguments; what may be in them is checked by
the op, once, before anything is written.
"""

from __future__ import annotations

import re

import torch

from . import _ops
from .arguments import integer, number, require, require_type, tensor
from .constants import constant
from .reference.geometry import candidate_rows, dense_rows, packed_rows
from .results import Draw, RowStats, StepResult, UnmaskResult
from .rules import Rule
from .seeds import fresh_seeds

_CONF_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float64: "float64"}
_MARK = re.compile(r"\[dlm_kernels:(ValueError|TypeError|RuntimeError)\] (.*?)\[end\]", re.DOTALL)
_ERRORS = {"ValueError": ValueError, "TypeError": TypeError, "RuntimeError": RuntimeError}


def _call(op, *args, **kwargs):
    """Run ``op``; a rejected argument surfaces as the ValueError or TypeError that it is."""
    if torch.compiler.is_compiling():
        return op(*args, **kwargs)
    try:
        return op(*args, **kwargs)
    except RuntimeError as error:
        found = _MARK.search(str(error))
        if found is None:
            raise
        raise _ERRORS[found[1]](found[2]) from None


def _optional(argument, value):
    return None if value is None else tensor(argument, value)


def _per_request(argument, value, dtype, device, keep=True):
    """A number for every sequence alike -> [1]; a tensor -> itself, [1] or [B]."""
    if isinstance(value, torch.Tensor):
        return value.reshape(1) if value.dim() == 0 else value
    convert = number if dtype.is_floating_point else integer
    return constant([convert(argument, value)], dtype, device, keep)


def _quota(argument, value, device):
    require(not isinstance(value, int) or value >= 0, argument, "must be >= 0", value)
    return _per_request(argument, value, torch.int64, device)


def _temperature(value, device):
    given = _per_request("temperature", value, torch.float32, device)
    return given.float() if given.dtype in (torch.float64, torch.float16, torch.bfloat16) else given


def _ids(argument, value, device):
    """Token ids: a tensor, or ints."""
    if value is None or isinstance(value, torch.Tensor):
        return value
    ids = [value] if isinstance(value, int) else list(value)
    return constant([integer(argument, i) for i in ids], torch.int64, device)


def _noise(seed, step, generator, batch_size, device):
    """(seed [1] or [B], step [1]) on the device."""
    if seed is None:
        seeds = fresh_seeds(batch_size, device, generator)
    else:
        require(generator is None, "generator", "must not be given together with seed", "both")
        seeds = _per_request("seed", seed, torch.int64, device, keep=type(seed) is int and seed == 0)
    return seeds, _per_request("step", step, torch.int64, device, keep=False)


def _needs_noise(temperature, confidence):
    """Whether anything random is used: greedy steps spare the draw of a seed."""
    return confidence == "random" or isinstance(temperature, torch.Tensor) or temperature != 0


def _name(argument, value):
    require_type(isinstance(value, str), argument, "must be a str", type(value).__name__)
    return value


def _conf_dtype(value):
    require(value in _CONF_DTYPES, "conf_dtype", "must be torch.float32, torch.bfloat16 or torch.float64", value)
    return _CONF_DTYPES[value]


def _drawing(
    device,
    *,
    suppress,
    demote,
    uncond_logits,
    cfg_scale,
    uniform,
    shift,
    start,
    rows,
    confidence,
    confidence_from,
    conf_dtype,
):
    """The keyword arguments that every drawing op shares."""
    return dict(
        start=None if start is None else _per_request("start", start, torch.int64, device),
        rows=_optional("rows", rows),
        shift=integer("shift", shift),
        suppress=_ids("suppress", suppress, device),
        demote=_ids("demote", demote, device),
        uncond_logits=_optional("uncond_logits", uncond_logits),
        cfg_scale=number("cfg_scale", cfg_scale),
        uniform=_optional("uniform", uniform),
        confidence=_name("confidence", confidence),
        confidence_from=_name("confidence_from", confidence_from),
        conf_dtype=_conf_dtype(conf_dtype),
    )


def _window(window):
    """(start, stop) or None -> the op's pair; -1 stands for the canvas length."""
    if window is None:
        return dict(window_start=0, window_stop=-1)
    require_type(isinstance(window, (tuple, list)) and len(window) == 2, "window", "must be (start, stop)", window)
    start, stop = (integer("window", edge) for edge in window)
    require(0 <= start <= stop, "window", "must be (start, stop) with 0 <= start <= stop", f"({start}, {stop})")
    return dict(window_start=start, window_stop=stop)


_FINITE_ROWS = "must hold a finite value and no NaN or +inf in every row that is read"


def _raise_first(argument, rule, suspect, x, mask_id, window, frozen, start, rows):
    """Name the first (sequence, position) among the candidates that ``suspect`` marks: the way out of a failed check."""
    places = dense_rows(*suspect.shape, start, x.device) if rows is None else packed_rows(rows, x.shape[1])
    edges = _window(window)
    candidate = candidate_rows(x, places, mask_id, edges["window_start"], edges["window_stop"], frozen)
    found = (candidate & suspect).reshape(-1).nonzero()
    where = (int(places.batch.reshape(-1)[found[0]]), int(places.position.reshape(-1)[found[0]]))
    raise ValueError(f"{argument}: {rule}, got a bad one at (b, i) = {where}")


def row_stats(logits, *, temperature=1.0, given=None, uncond_logits=None, cfg_scale=0.0, suppress=None):
    """Statistics of the law softmax(z / T) of every row, in one read of the logits.

    Args:
        logits: float32, float16 or bfloat16, [B, W, V] or [R, V]; any strides but unit stride in V.
        temperature: T > 0, a float or float32 [B] ([R] for [R, V] logits).
        given: int64, logits' leading shape: tokens whose probability is wanted, -1 for none.
        uncond_logits, cfg_scale: like logits; z = u + (w + 1) (c - u), classifier-free guidance as LLaDA writes it.
        suppress: token ids whose logit counts as -inf.

    Returns:
        RowStats(argmax, max, logsumexp, second, rest, entropy, p_given, bad).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.
    """
    logits = tensor("logits", logits)
    return RowStats(
        *_call(
            _ops.row_stats,
            logits,
            _temperature(temperature, logits.device),
            given=_optional("given", given),
            uncond_logits=_optional("uncond_logits", uncond_logits),
            cfg_scale=number("cfg_scale", cfg_scale),
            suppress=_ids("suppress", suppress, logits.device),
        )
    )


def draw_tokens(
    logits,
    *,
    temperature=0.0,
    seed=None,
    step=0,
    generator=None,
    start=None,
    rows=None,
    length=None,
    shift=0,
    suppress=None,
    demote=None,
    uncond_logits=None,
    cfg_scale=0.0,
    uniform=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype=torch.float32,
    check=False,
):
    """Draw one token per row and score it: the sweep and draw of ``denoise_step``, without a canvas.

    Args:
        logits: float32, float16 or bfloat16: [B, W, V], row (b, i) for canvas position start_b + i; or [R, V], one sequence;
            or packed [R, V] with ``rows`` int64 [R] = b * length + position, -1 for padding.
        length: the canvas length L that ``rows`` refers to.
        The others are those of ``denoise_step_``.

    Returns:
        Draw(tokens, confidence, entropy, logprob, key, bad). The same tokens and confidences ``denoise_step_`` would use.

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; with ``check=True`` also for the first bad row.
    """
    logits = tensor("logits", logits)
    device = logits.device
    temperatures = _temperature(temperature, device)
    batch_size = logits.shape[0] if logits.dim() == 3 else temperatures.shape[0]
    if not _needs_noise(temperature, confidence) and seed is None:
        seed = 0
    seeds, steps = _noise(seed, step, generator, batch_size, device)
    tokens, score, key, logprob, entropy, bad = _call(
        _ops.draw_tokens,
        logits,
        temperatures,
        seeds,
        steps,
        length=0 if length is None else integer("length", length),
        **_drawing(
            device,
            suppress=suppress,
            demote=demote,
            uncond_logits=uncond_logits,
            cfg_scale=cfg_scale,
            uniform=uniform,
            shift=shift,
            start=start,
            rows=rows,
            confidence=confidence,
            confidence_from=confidence_from,
            conf_dtype=conf_dtype,
        ),
    )
    if check and bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"logits: {_FINITE_ROWS}, got a bad one at {'(b, i)' if len(where) > 1 else 'row'} = "
            f"{where if len(where) > 1 else where[0]}"
        )
    return Draw(tokens, score, entropy, logprob, key, bad)


def denoise_step_(
    x,
    logits,
    *,
    mask_id,
    rule,
    temperature=0.0,
    seed=None,
    step=0,
    generator=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype=torch.float32,
    start=None,
    rows=None,
    shift=0,
    window=None,
    frozen=None,
    suppress=None,
    demote=None,
    uncond_logits=None,
    cfg_scale=0.0,
    uniform=None,
    check=False,
):
    """One fused step of masked denoising, in place: draw a token for every open position, score it, commit those the rule
    picks. Only rows that can change are read; nothing synchronises with the host.

    Args:
        x: int64 or int32 [B, L], the canvas; written where committed.
        logits: float32, float16 or bfloat16. Dense [B, W, V]: row (b, i) is for position start_b + i. Packed [R, V] with
            ``rows`` int64 [R]: b * L + position, -1 for padding, no position twice. Any strides, unit stride in V.
        mask_id: the token of an open position; may lie outside the vocabulary.
        rule: TopK(k), Threshold(tau, at_least, strict), Factor(f) or EntropyBudget(bound).
        temperature: >= 0, a float or float32 [B]. 0 is the argmax, lowest index on ties; otherwise an exact draw from
            softmax(z / T).
        seed: int64 [B], one per request; an int is the same seed for every sequence (``request_seeds`` makes different
            ones); None draws fresh ones, from ``generator`` if given. Noise is keyed by (seed, position, step).
        step: int or int64 tensor of one element: another step, other noise.
        confidence: "prob" p(token), "margin" p1 - p2, "neg_entropy", or "random" (keyed noise).
        confidence_from: law of the confidence: "raw" logits at T = 1 (LLaDA, Fast-dLLM, dInfer), or the "sampled" law at T
            (Dream, LLaDA2, diffusers).
        conf_dtype: float32 ranks on the mass left beside the token, which does not tie at p = 1; bfloat16 and float64 rank
            on p rounded as codebases computing in that dtype hold it.
        start: int or int64 [B], first position of the logits; default 0.
        shift: -1: position i reads row i - 1, the first row itself (Dream). Dense logits only.
        window: (start, stop): positions that may change. frozen: bool [B, L], True where they may not.
        suppress: token ids never drawn: their logit counts as -inf. demote: ids whose positions rank last.
        uncond_logits, cfg_scale: z = u + (w + 1) (c - u).
        uniform: float64 in [0, 1), row-shaped: the uniforms to draw with, instead of the keyed ones.
        check: raise if a row that was read is bad, naming the first (b, i), before anything is written. Synchronises.

    Returns:
        StepResult(tokens, confidence, committed, num_committed, num_open, num_bad, x). Rows not read: token = x,
        confidence = -inf. A row with NaN, +inf or no finite logit is never committed, and counted in num_bad.

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; x is untouched.
    """
    x, logits = tensor("x", x), tensor("logits", logits)
    require_type(
        isinstance(rule, Rule), "rule", "must be TopK, Threshold, Factor or EntropyBudget", type(rule).__name__
    )
    device = logits.device
    if not _needs_noise(temperature, confidence) and seed is None:
        seed = 0
    seeds, steps = _noise(seed, step, generator, x.shape[0] if x.dim() else 1, device)
    canvas = x.clone() if check else x
    shared = _drawing(
        device,
        suppress=suppress,
        demote=demote,
        uncond_logits=uncond_logits,
        cfg_scale=cfg_scale,
        uniform=uniform,
        shift=shift,
        start=start,
        rows=rows,
        confidence=confidence,
        confidence_from=confidence_from,
        conf_dtype=conf_dtype,
    )
    out = _call(
        _ops.denoise_step_,
        canvas,
        logits,
        _temperature(temperature, device),
        seeds,
        steps,
        _quota("k" if rule.name == "topk" else "at_least", rule.quota, device),
        mask_id=integer("mask_id", mask_id),
        rule=rule.name,
        level=rule.level,
        strict=rule.strict,
        frozen=_optional("frozen", frozen),
        **_window(window),
        **shared,
    )
    if check:
        tokens, score, *_, num_bad = out
        if bool(num_bad.any()):
            # Of the candidates, only a bad row keeps its mask at confidence -inf.
            suspect = (tokens == mask_id) & (score == -torch.inf)
            _raise_first("logits", _FINITE_ROWS, suspect, x, mask_id, window, frozen, shared["start"], rows)
        x.copy_(canvas)
    return StepResult(*out, x)


def denoise_step(x, logits, **kwargs):
    """``denoise_step_`` on a copy of ``x``: the same arguments and result; ``result.x`` is the new canvas."""
    return denoise_step_(tensor("x", x).clone(), logits, **kwargs)


def topk_unmask_(x, tokens, confidence, k, *, mask_id, window=None, frozen=None, start=None, rows=None, check=False):
    """Confidence-ranked top-k unmasking, in place: write the ``k`` most confident ``tokens`` of every sequence.

    Args:
        x: int64 or int32 [B, L], the canvas.
        tokens: dtype of x, [B, W] or packed [R] with ``rows``: what to write.
        confidence: float32, float64, float16 or bfloat16, like tokens. Higher is written first, ties to the lowest
            position. -inf keeps a position out; so does NaN, which is counted in num_bad.
        k: int or int64 [B], quota per sequence; all open positions where fewer are open.
        mask_id, window, frozen, start, rows: as in ``denoise_step_``.
        check: raise if a candidate's confidence is NaN, naming the first (b, i), before anything is written. Synchronises.

    Returns:
        UnmaskResult(committed, num_committed, num_open, num_bad, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; x is untouched.
    """
    x, tokens, confidence = tensor("x", x), tensor("tokens", tokens), tensor("confidence", confidence)
    canvas = x.clone() if check else x
    start = None if start is None else _per_request("start", start, torch.int64, x.device)
    out = _call(
        _ops.topk_unmask_,
        canvas,
        tokens,
        confidence,
        _quota("k", k, x.device),
        mask_id=integer("mask_id", mask_id),
        frozen=_optional("frozen", frozen),
        start=start,
        rows=_optional("rows", rows),
        **_window(window),
    )
    if check:
        if bool(out[3].any()):
            _raise_first(
                "confidence",
                "must not be NaN at a candidate",
                confidence.isnan(),
                x,
                mask_id,
                window,
                frozen,
                start,
                rows,
            )
        x.copy_(canvas)
    return UnmaskResult(*out, x)


def topk_unmask(x, tokens, confidence, k, **kwargs):
    """``topk_unmask_`` on a copy of ``x``: the same arguments and result; ``result.x`` is the new canvas."""
    return topk_unmask_(tensor("x", x).clone(), tokens, confidence, k, **kwargs)
