"""The ops on arrays, without torch: on those of NumPy, of CuPy, and on whatever has ``__dlpack__`` or
``__cuda_array_interface__``, in place. The same kernels, tokens, keywords, defaults, checks and messages as the functions of
``dlm_kernels``; importing this never imports torch.

    import numpy as np
    from dlm_kernels import TopK, array

    out = array.denoise_step_(x, logits, mask_id=126336, rule=TopK(4), temperature=0.7, seed=1, step=3)

What is different:

* Results are new arrays: of NumPy on the CPU, of CuPy on CUDA, where the work goes to CuPy's current stream and no host
  waits. For what another library enqueued on another stream that stream waits, as the two protocols say.
* Numbers per request (temperature, seed, k, ...) are numbers or arrays. Floats of any float dtype are taken; integers are
  int64.
* bfloat16 is ml_dtypes' dtype, DLPack's, or ``bfloat16(bits)`` around a uint16 array, for libraries without it.
* ``conf_dtype`` is a name or a dtype of that name. ``generator`` is a ``numpy.random.Generator``; without one, fresh seeds
  are nobody's choice. ``trace`` is a ``RevisionTrace`` of this module: the counters and their summary, without a history.
* The CPU's threads start and end with a call: ``set_num_threads``. A small step has one.

TypeErrors and ValueErrors name the argument, the rule and the value, and nothing is written then. Among them: a torch tensor
(``dlm_kernels`` itself takes those), a read-only array to write to, a byte order that is not the machine's, a vocabulary
without unit stride.
"""

from __future__ import annotations

import functools
import math
import os
import random

import numpy as np

from . import _array_schedule

try:
    from . import _array
except ImportError as error:
    raise ImportError(
        "dlm_kernels.array has no module for this Python, as in the wheel for every Python (cp310-abi3) and in builds without "
        f"pybind11: install the wheel for this Python, or build where pybind11 is; importing it failed: {error}"
    ) from error
from ._array import get_num_threads, set_num_threads
from ._array_home import library, put
from ._array_schedule import Level
from ._array_state import RenoiseState, RevisionTrace, assign, copied
from .arguments import (
    FINITE_ROWS,
    NAMES,
    bounds,
    confidence_names,
    filter_names,
    integer,
    number,
    renamed,
    require,
    require_type,
)
from .results import Draw, EditResult, RenoiseResult, RowStats, StepResult, TransitionResult, UnmaskResult
from .rules import EntropyBudget, Rule

__all__ = [
    "row_stats", "draw_tokens", "denoise_step_", "topk_unmask_", "uniform_step_", "renoise_step_", "RenoiseState",
    "RevisionTrace", "Level", "bfloat16", "set_num_threads", "get_num_threads",
]  # fmt: skip

_TOPK, _OTHERS = NAMES | {"quota": "k"}, NAMES | {"quota": "at_least"}
_RENOISE = dict(stability="stability_threshold", confident="confidence_threshold")
_UNFILTERED = (None, None, None, "top_k_first", False, False)

set_num_threads(
    int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0] or 0)
    or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
)


class bfloat16:
    """A uint16 array that holds the bits of bfloat16 numbers: ``logits=bfloat16(bits)``. Copies nothing."""

    __slots__ = ("__bfloat16__",)

    def __init__(self, bits):
        self.__bfloat16__ = bits

    @property
    def shape(self):
        return self.__bfloat16__.shape

    @property
    def ndim(self):
        return len(self.shape)


def row_stats(logits, *, temperature=1.0, given=None, uncond_logits=None, cfg_scale=0.0, suppress=None):
    """Statistics of the law softmax(z / T) of every row, in one read of the logits: ``dlm_kernels.row_stats``.

    Args:
        logits: float32, float16 or bfloat16, [B, W, V] or [R, V]; any strides but unit stride in V.
        temperature: T > 0, a float or floats [B] ([R] for [R, V] logits).
        given: int64, logits' leading shape.
        uncond_logits, cfg_scale: like logits; a number.
        suppress: token ids, int64 [n] or a list.

    Returns:
        RowStats(argmax, max, logsumexp, second, rest, entropy, p_given, bad).
    """
    try:
        out = _array.row_stats(
            logits, _floats(temperature), given, uncond_logits, number("cfg_scale", cfg_scale), suppress
        )
    except (TypeError, ValueError) as error:
        raise _public(error, NAMES) from None
    return RowStats(*out)


def draw_tokens(
    logits, *, temperature=0.0, seed=None, step=0, generator=None, start=None, rows=None, length=None, shift=0,
    suppress=None, demote=None, uncond_logits=None, cfg_scale=0.0, top_k=None, top_p=None, min_p=None,
    filter_order="top_k_first", top_p_crossing="keep", top_k_ties="lowest", uniform=None, given=None, confidence="prob",
    confidence_from="raw", conf_dtype="float32", rank_temperature=None, check=False,
):  # fmt: skip
    """Draw one token per row and score it, without a canvas: ``dlm_kernels.draw_tokens``.

    Args:
        logits: float32, float16 or bfloat16: [B, W, V], row (b, i) for canvas position start_b + i; or [R, V], one sequence;
            or packed [R, V] with ``rows`` int64 [R] = b * length + position, -1 for padding.
        The others are those of ``denoise_step_``.

    Returns:
        Draw(tokens, confidence, entropy, logprob, key, bad).
    """
    temperature, ranking = _floats(temperature), _ranking(rank_temperature)
    if seed is None:
        batch = len(logits) if logits.ndim == 3 else getattr(temperature, "size", 1)
        seed = _seed(batch, logits, generator, temperature, confidence, ranking)
    else:
        seed = _vector(seed)
    try:
        tokens, score, key, logprob, entropy, bad = _array.draw_tokens(
            logits, temperature, seed, step, _vector(start), rows,
            0 if length is None else integer("length", length), integer("shift", shift), suppress, demote, uncond_logits,
            number("cfg_scale", cfg_scale), *_filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties),
            uniform, given, *_score(confidence, confidence_from, conf_dtype), ranking,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _public(error, NAMES) from None
    if check and bool(bad.any()):
        where = tuple(int(found[0]) for found in bad.nonzero())
        raise ValueError(f"logits: {FINITE_ROWS}, got a bad one at {_where(where)}")
    return Draw(tokens, score, entropy, logprob, key, bad)


def denoise_step_(
    x, logits, *, mask_id, rule, ready=None, edit=None, edits_left=None, temperature=0.0, seed=None, step=0, generator=None,
    confidence="prob", confidence_from="raw", conf_dtype="float32", rank_temperature=None, start=None, rows=None, shift=0,
    window=None, frozen=None, suppress=None, demote=None, uncond_logits=None, cfg_scale=0.0, top_k=None, top_p=None,
    min_p=None, filter_order="top_k_first", top_p_crossing="keep", top_k_ties="lowest", uniform=None, check=False,
    trace=None,
):  # fmt: skip
    """One fused step of masked denoising, in place: ``dlm_kernels.denoise_step_`` says what every argument means.

    Args:
        x: int64 or int32 [B, L], the canvas; written where committed.
        logits: float32, float16 or bfloat16, [B, W, V] or packed [R, V] with ``rows`` int64 [R]; any strides, unit stride in V.
        mask_id: the token of an open position, or None.
        rule: TopK(k), Threshold(tau), ... of ``dlm_kernels``.
        temperature, top_k, top_p, min_p: numbers or [B].
        seed, start: an int or int64 [B].
        step: an int.
        generator: a ``numpy.random.Generator``.
        frozen: bool [B, L].
        ready: bool, row-shaped.
        edits_left: int64 [B].
        uniform: float64, row-shaped.
        suppress, demote: token ids, int64 [n] or a list.
        trace: a ``RevisionTrace`` that takes note of the step, under the number ``step``.
        The others are those of the torch function.

    Returns:
        StepResult(tokens, confidence, committed, num_committed, num_open, num_bad, x); with ``edit`` an EditResult.
    """
    if check:
        return _rehearsed(denoise_step_, locals(), ("edits_left", "trace"))
    quota, rule = _arguments_of(rule)
    temperature, ranking = _floats(temperature), _ranking(rank_temperature)
    seed = _seed(len(x), x, generator, temperature, confidence, ranking) if seed is None else _vector(seed)
    require(edit is not None or edits_left is None, "edits_left", "must be given with edit", "without")
    edited = num_edited = None
    if edit is not None:
        edit, edited, num_edited = (
            number("edit", edit),
            library(x).empty(logits.shape[:-1], bool),
            library(x).empty(x.shape[:1], np.int64),
        )
    try:
        out = _array.denoise_step_(
            x, logits, temperature, seed, step, quota, mask_id if mask_id is None else integer("mask_id", mask_id), *rule, ready,
            edit, edits_left, edited, num_edited, *bounds(window), frozen, _vector(start), rows, integer("shift", shift),
            suppress, demote, uncond_logits, number("cfg_scale", cfg_scale),
            *_filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties), uniform,
            *_score(confidence, confidence_from, conf_dtype), ranking, *_traced(trace),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _public(error, _TOPK if rule[0] == "topk" else _OTHERS) from None
    return StepResult(*out, x) if edit is None else EditResult(*out, x, edited, num_edited)


def topk_unmask_(
    x, tokens, confidence, k, *, mask_id, window=None, frozen=None, start=None, rows=None, check=False, step=0,
    trace=None,
):  # fmt: skip
    """Confidence-ranked top-k unmasking, in place: ``dlm_kernels.topk_unmask_``.

    Args:
        x: int64 or int32 [B, L], the canvas.
        tokens: dtype of x, [B, W] or packed [R] with ``rows``.
        confidence: floats, like tokens.
        k: an int or int64 [B].
        trace, step: a ``RevisionTrace`` that takes note of the step, and its number.
        The others are those of ``denoise_step_``.

    Returns:
        UnmaskResult(committed, num_committed, num_open, num_bad, x).
    """
    if check:
        return _rehearsed(topk_unmask_, locals(), ("trace",))
    try:
        out = _array.topk_unmask_(
            x, tokens, confidence, _vector(k), mask_id if mask_id is None else integer("mask_id", mask_id), *bounds(window),
            frozen, _vector(start), rows, None if trace is None else step, *_traced(trace),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _public(error, _TOPK) from None
    return UnmaskResult(*out, x)


def uniform_step_(
    x, logits, *, alpha_t, alpha_s, prediction="plug_in", tempered="before", temperature=1.0, seed=None, step=0,
    generator=None, mask_id=None, start=None, rows=None, shift=0, window=None, frozen=None, suppress=None,
    uncond_logits=None, cfg_scale=0.0, top_k=None, top_p=None, min_p=None, filter_order="top_k_first",
    top_p_crossing="keep", top_k_ties="lowest", uniform=None, check=False, trace=None,
):  # fmt: skip
    """One ancestral step of uniform diffusion, in place: ``dlm_kernels.uniform_step_``.

    Args:
        alpha_t, alpha_s: how much of the data is left at t and after the step, alpha_s >= alpha_t: numbers in [0, 1], [B] or
            [B, L] float arrays, or ``Level``, which keeps 1 - alpha exact.
        prediction: "plug_in" (Sumi, UDLM, Duo) or "denoiser" (diffusers' DiscreteDDIM).
        tempered: "before" or "after".
        uniform: float64 in [0, 1), row-shaped + [3].
        The others are those of ``denoise_step_``; x may hold mask_id.

    Returns:
        TransitionResult(tokens, route, p_current, confidence, num_changed, num_bad, x).
    """
    if check:
        return _rehearsed(uniform_step_, locals(), ("trace",))
    coefficients = _array_schedule.uniform(alpha_t, alpha_s, prediction, tempered)
    require(mask_id is None or integer("mask_id", mask_id) >= 0, "mask_id", "must be >= 0", mask_id)
    seed = _fresh(len(x), x, generator) if seed is None else _vector(seed)
    try:
        out = _array.transition_step_(
            x, logits, _floats(temperature), seed, step, put(coefficients, x),
            -1 if mask_id is None else int(mask_id), tempered, "none", 0.0, *bounds(window), frozen, _vector(start), rows,
            integer("shift", shift), _without(mask_id, suppress), uncond_logits, number("cfg_scale", cfg_scale),
            *_filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties), uniform, *_traced(trace),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _public(error, NAMES) from None
    return TransitionResult(*out, x)


def renoise_step_(
    x, logits, *, entropy_bound=0.1, rule=None, temperature=1.0, softcap=None, state=None, stability_threshold=1,
    confidence_threshold=0.005, probs=None, seed=None, step=0, generator=None, confidence="prob", confidence_from="sampled",
    conf_dtype="float32", mask_id=None, start=None, rows=None, shift=0, window=None, frozen=None, suppress=None,
    uncond_logits=None, cfg_scale=0.0, top_k=None, top_p=None, min_p=None, filter_order="top_k_first",
    top_p_crossing="keep", top_k_ties="lowest", uniform=None, check=False, trace=None,
):  # fmt: skip
    """Draw a token for every position, accept those of lowest entropy, and let all others fall back to uniform noise, in place:
    ``dlm_kernels.renoise_step_``.

    Args:
        state: an ``array.RenoiseState``, brought up to date. None: a first step.
        probs: bfloat16, like logits: gets softmax of the law for every row that is read and not bad.
        uniform: float64 in [0, 1), row-shaped + [2].
        The others are those of ``denoise_step_`` and of the torch function.

    Returns:
        RenoiseResult(tokens, argmax, entropy, confidence, accepted, num_accepted, num_bad, done, x).
    """
    if check:
        return _rehearsed(renoise_step_, locals(), ("state", "trace"))
    require(number("entropy_bound", entropy_bound) >= 0, "entropy_bound", "must be >= 0", entropy_bound)
    quota, rule = _budget(entropy_bound) if rule is None else _arguments_of(rule)
    if mask_id is not None:
        require(integer("mask_id", mask_id) >= 0, "mask_id", "must be >= 0", mask_id)
    if softcap is not None:
        require(number("softcap", softcap) > 0, "softcap", "must be > 0", softcap)
    argmax = unchanged = done = committed = None
    if state is not None:
        require_type(isinstance(state, RenoiseState), "state", "must be a RenoiseState", type(state).__name__)
        argmax, unchanged, done, committed = state.argmax, state.unchanged, state.done, state.committed
    seed = _fresh(len(x), x, generator) if seed is None else _vector(seed)
    try:
        out = _array.renoise_step_(
            x, logits, _floats(temperature), seed, step, quota,
            -1 if mask_id is None else int(mask_id), *rule, committed,
            argmax, unchanged, done, probs, integer("stability_threshold", stability_threshold),
            number("confidence_threshold", confidence_threshold), *bounds(window), frozen, _vector(start), rows,
            integer("shift", shift), _without(mask_id, suppress), uncond_logits, number("cfg_scale", cfg_scale),
            *_filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties),
            0.0 if softcap is None else float(softcap), uniform, *_score(confidence, confidence_from, conf_dtype),
            *_traced(trace),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _public(error, (_TOPK if rule[0] == "topk" else _OTHERS) | _RENOISE) from None
    return RenoiseResult(*out, x)


# ---- one argument each; what is at its default passes on few checks, since a small step lasts no longer than those ----------


def _public(error, names):
    """A rejected argument under its public name."""
    return type(error)(renamed(str(error), names))


def _floats(value):
    """A number as it is, floats as float32 [1] or [B]."""
    if type(value) is float or not hasattr(value, "astype"):
        return value
    value = _vector(value)
    return value.astype(np.float32) if value.dtype.kind == "f" and value.dtype != np.float32 else value


def _vector(value):
    """[] as [1]."""
    return value if value is None or type(value) is int or getattr(value, "ndim", 1) != 0 else value.reshape(1)


def _arguments_of(rule):
    """Its quota, and (name, level, low, strict)."""
    require_type(isinstance(rule, Rule), "rule", "must be a rule, such as TopK(k)", type(rule).__name__)
    return _vector(rule.quota), rule.arguments()


@functools.lru_cache(maxsize=64)  # runs keep their bound
def _budget(entropy_bound):
    return _arguments_of(EntropyBudget(entropy_bound))


def _traced(trace):
    if trace is None:
        return None, None
    known = isinstance(trace, RevisionTrace)
    require_type(known, "trace", "must be a RevisionTrace of dlm_kernels.array", type(trace).__name__)
    return trace.positions, trace.steps


def _ranking(rank_temperature):
    return 0.0 if rank_temperature is None else number("rank_temperature", rank_temperature)


def _filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties):
    """What filters nothing is left out."""
    if top_k is None and top_p is None and min_p is None:
        if (filter_order, top_p_crossing, top_k_ties) == ("top_k_first", "keep", "lowest"):
            return _UNFILTERED
    how = filter_names(filter_order, top_p_crossing, top_k_ties)
    kinds = ((top_k, 0, np.int64), (top_p, 1, np.float64), (min_p, 0, np.float64))
    return *(_filter(value, off, dtype) for value, off, dtype in kinds), *how.values()


def _filter(value, off, dtype):
    if not hasattr(value, "astype"):
        return None if type(value) in (int, float) and value == off else value
    value, kind = _vector(value), np.dtype(dtype).kind
    return value.astype(dtype) if value.dtype.kind == kind and value.dtype != dtype else value


def _score(confidence, confidence_from, conf_dtype):
    if type(conf_dtype) is type(confidence) is type(confidence_from) is str:
        return confidence, confidence_from, conf_dtype
    confidence_names(confidence, confidence_from)
    # a name, a dtype, or a scalar type: all have the name
    name = (
        conf_dtype if isinstance(conf_dtype, str) else getattr(conf_dtype, "__name__", getattr(conf_dtype, "name", ""))
    )
    return confidence, confidence_from, name or str(conf_dtype)


def _seed(batch, like, generator, temperature, confidence, ranking):
    """Greedy steps use none."""
    greedy = type(temperature) in (float, int) and temperature == 0 and ranking == 0 and confidence != "random"
    return 0 if greedy else _fresh(batch, like, generator)


_chance = random.Random()  # seeded by the operating system, and in the child of a fork once more
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_chance.seed)


def _fresh(batch, like, generator):
    if generator is None:
        if batch == 1 and isinstance(like, np.ndarray):  # a number; on a GPU numbers are kept
            return _chance.getrandbits(64) - 2**63
        seeds = np.frombuffer(_chance.randbytes(8 * batch), np.int64)
    else:
        seeds = generator.integers(-(2**63), 2**63, batch, np.int64)
    return put(seeds, like)


def _without(mask_id, suppress):
    """``suppress`` and the mask: what no law may draw."""
    if mask_id is None:
        return suppress
    if not hasattr(suppress, "dtype"):
        return [mask_id, *(suppress if hasattr(suppress, "__iter__") else [] if suppress is None else [suppress])]
    good = suppress.ndim == 1 and suppress.dtype == np.int64  # or else the op says what is wrong with it
    return library(suppress).append(suppress, mask_id) if good else suppress


# ---- check=True ------------------------------------------------------------------------------------------------------------


def _rehearsed(step, arguments, written):
    """``step`` on copies of what it writes; the caller's arrays get them if no row was bad. Waits for the device."""
    argument = "confidence" if step is topk_unmask_ else "logits"
    rule = "must not be NaN at a candidate" if step is topk_unmask_ else FINITE_ROWS
    arguments = {**arguments, "check": False}
    mine = {name: arguments[name] for name in ("x", *written)}
    copies = {name: copied(value) for name, value in mine.items()}
    out = step(**{**arguments, **copies})
    if bool(out.num_bad.any()):
        flat = _flat(step, {**arguments, **{name: copied(value) for name, value in mine.items()}})
        nothing = (
            arguments["confidence"] != arguments["confidence"] if step is topk_unmask_ else out.confidence == -math.inf
        )
        first = int((flat & nothing).reshape(-1).nonzero()[0][0])
        raise ValueError(f"{argument}: {rule}, got a bad one at {_where(_place(first, arguments))}")
    for name, value in copies.items():
        assign(mine[name], value)
    return out._replace(x=mine["x"])


def _flat(step, arguments):
    """Row-shaped bool: which rows the step looks at. Over flat logits, those that it scores."""
    x = arguments["x"]
    if step is topk_unmask_:
        zeros = library(x).zeros(arguments["tokens"].shape, np.float32)
        return step(**{**arguments, "confidence": zeros, "k": x.shape[1]}).committed
    shape = arguments["logits"].shape
    plain = dict(logits=library(x).broadcast_to(library(x).zeros(shape[-1], np.float32), shape))
    unused = dict(
        uncond_logits=None, cfg_scale=0.0, suppress=None, probs=None, seed=0, top_k=None, top_p=None, min_p=None
    )
    plain.update((name, value) for name, value in unused.items() if name in arguments)
    return step(**{**arguments, **plain}).confidence > -math.inf


def _place(row, arguments):
    """(b, position) of a row."""
    x, rows, start = arguments["x"], arguments["rows"], arguments["start"]
    if rows is not None:
        return divmod(int(rows[row]), x.shape[1])
    shape = arguments["tokens" if "tokens" in arguments else "logits"].shape
    b, i = divmod(row, shape[1])
    if start is not None:
        start = _vector(start)
        i += int(start if type(start) is int else start[b if len(start) > 1 else 0])
    return b, i


def _where(place):
    return f"(b, i) = {place}" if len(place) > 1 else f"row = {place[0]}"
