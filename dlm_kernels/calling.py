"""From Python values to what the ops take, for every step: numbers become tensors on the device, names are looked up, errors
get their kind back. What may be in the arguments is checked by the op, once, before anything is written.
"""

from __future__ import annotations

import math
import re

import torch
from torch.compiler import is_compiling, is_dynamo_compiling

from . import _ops, eager
from .arguments import (
    NAMES,
    confidence_names,
    edges,
    filter_names,
    flag,
    fraction,
    integer,
    number,
    renamed,
    require,
    require_type,
)
from .constants import constant
from .reference import check as checks
from .reference import validate
from .reference.geometry import candidate_rows, rows_on
from .seeds import fresh_seeds
from .tensors import tensor
from .trace import RevisionTrace

_CONF_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float64: "float64"}
_MARK = re.compile(r"\[dlm_kernels:(\w+)\] (.*?)\[end\]", re.DOTALL)
_ERRORS = {error.__name__: error for error in (ValueError, TypeError, RuntimeError, torch.OutOfMemoryError)}
_FLOAT32_MAX = torch.finfo(torch.float32).max
_STEPS_KEPT = 256  # a denoising run has no more; a trainer's steps would fill the memory


# Arguments that an op takes as a tensor, [1] or [B], though they may be one number for all.
_NUMBERS = dict(
    temperature=torch.float32,
    seed=torch.int64,
    step=torch.int64,
    quota=torch.int64,
    start=torch.int64,
    top_k=torch.int64,
    top_p=torch.float64,
    min_p=torch.float64,
)


def call(name, tensors, arguments, names=None):
    """Run the op ``name`` on its first ``tensors`` and the rest of its arguments, among which there may be the numbers that
    ``per_request`` returns, and None for what is not given. A rejected argument surfaces as the ValueError or TypeError that it
    is, under its public name where ``names`` has another one for it."""
    if is_dynamo_compiling():
        return _dispatched(name, tensors, arguments)
    try:
        out = eager.FUNCTIONS[name](*tensors, arguments)
        return _dispatched(name, tensors, arguments) if out is NotImplemented else out
    except (RuntimeError, ValueError, TypeError) as error:
        raise public_error(error, names) from None


def public_error(error, names=None):
    """What an op raised as the caller shall see it: a rejected argument as ValueError or TypeError, under its public name."""
    kind, text = type(error), str(error)
    if isinstance(error, RuntimeError):
        found = _MARK.search(text)
        if found is None:
            return error
        kind, text = _ERRORS[found[1]], found[2]
    elif not isinstance(error, (ValueError, TypeError)):
        return error
    return kind(renamed(text, names))


def _dispatched(name, tensors, arguments):
    """By the dispatcher. Numbers become tensors on the device; None, which costs as much as anything else there, is left out."""
    device, given = tensors[0].device, {}
    for argument, value in arguments.items():
        if argument in _NUMBERS and value is not None and not isinstance(value, torch.Tensor):
            value = constant([value], _NUMBERS[argument], device, _comes_again(argument, value))
        if value is not None:
            given[argument] = value
    return getattr(_ops, name)(*tensors, **given)


def _comes_again(argument, value):
    if argument == "seed":
        return type(value) is int and value == 0
    return argument != "step" or type(value) is int and 0 <= value < _STEPS_KEPT


# ---- one argument each ---------------------------------------------------------------------------------------------


def optional(argument, value):
    return None if value is None else tensor(argument, value)


def per_request(argument, value, dtype):
    """A number for every sequence alike, or a tensor [1] or [B]."""
    if type(value) is int and dtype is torch.int64:
        return integer(argument, value)
    if isinstance(value, torch.Tensor):
        value = tensor(argument, value)
        return value.reshape(1) if value.dim() == 0 else value
    return number(argument, value) if dtype.is_floating_point else integer(argument, value)


def quotas(argument, value):
    if type(value) is int and 0 <= value < 2**63:
        return value
    require(not isinstance(value, int) or value >= 0, argument, "must be >= 0", value)
    return per_request(argument, value, torch.int64)


def temperatures(value):
    if type(value) is float and abs(value) <= _FLOAT32_MAX:
        return value
    if type(value) in (int, float) and _FLOAT32_MAX < abs(value) < math.inf:
        require(False, "temperature", "must fit in float32", value)
    given = per_request("temperature", value, torch.float32)
    wide = isinstance(given, torch.Tensor) and given.dtype in (torch.float64, torch.float16, torch.bfloat16)
    return given.float() if wide else given


def starts(value, device):
    """``start`` for who looks at it here: None, or a tensor [1] or [B]."""
    if value is None:
        return None
    value = per_request("start", value, torch.int64)
    return value if isinstance(value, torch.Tensor) else constant([value], torch.int64, device)


def token_ids(argument, value, device):
    """A tensor, or ints."""
    if value is None or isinstance(value, torch.Tensor):
        return value
    ids = list(value) if hasattr(value, "__iter__") else [value]
    return constant([integer(argument, i) for i in ids], torch.int64, device)


def noise(seed, step, generator, like, needed=True):
    """Seed and step, numbers or tensors. Seeds that nobody gave are drawn, one for each of ``like`` [B, ...], if any are
    ``needed``: greedy steps spare that."""
    if seed is not None:
        require(generator is None, "generator", "must not be given together with seed", "both")
        seed = per_request("seed", seed, torch.int64)
    else:
        seed = fresh_seeds(like.shape[0] if like.dim() else 1, like.device, generator) if needed else 0
    return {"seed": seed, "step": per_request("step", step, torch.int64)}


# ---- the keyword arguments of several ops --------------------------------------------------------------------------
# All at their defaults: none, at once. That is most calls, and a small step lasts no longer than the checks of its arguments.


def place(start, rows, shift):
    """Which position a row of logits is for."""
    if start is None and rows is None and type(shift) is int and shift == 0:
        return {}
    return dict(
        start=None if start is None else per_request("start", start, torch.int64),
        rows=optional("rows", rows),
        shift=integer("shift", shift),
    )


def law(device, suppress, uncond_logits, cfg_scale, uniform):
    """What is drawn from, and with which numbers."""
    if suppress is None and uncond_logits is None and uniform is None and type(cfg_scale) is float and cfg_scale == 0:
        return {}
    return dict(
        suppress=token_ids("suppress", suppress, device),
        uncond_logits=optional("uncond_logits", uncond_logits),
        cfg_scale=number("cfg_scale", cfg_scale),
        uniform=optional("uniform", uniform),
    )


def filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties):
    """Which tokens may be drawn; what filters nothing is left out."""
    if top_k is None and top_p is None and min_p is None:
        named = type(filter_order) is type(top_p_crossing) is type(top_k_ties) is str  # an array has no truth
        if named and (filter_order, top_p_crossing, top_k_ties) == ("top_k_first", "keep", "lowest"):
            return {}
    how = filter_names(filter_order, top_p_crossing, top_k_ties)
    if not isinstance(top_k, torch.Tensor) and top_k is not None:
        require(integer("top_k", top_k) >= 0, "top_k", "must be >= 0", top_k)
    kinds = (("top_k", top_k, 0, torch.int64), ("top_p", top_p, 1, torch.float64), ("min_p", min_p, 0, torch.float64))
    return dict(
        **{argument: _filter(argument, value, off, dtype) for argument, value, off, dtype in kinds},
        **how,
    )


def _filter(argument, value, off, dtype):
    if isinstance(value, torch.Tensor):
        value = per_request(argument, value, dtype)
        return value.to(dtype) if value.dtype.is_floating_point == dtype.is_floating_point else value
    if value is None:
        return None
    if dtype.is_floating_point:
        fraction(argument, value)
    return None if value == off else per_request(argument, value, dtype)


def scoring(confidence, confidence_from, conf_dtype):
    """How a draw is scored."""
    if type(confidence) is type(confidence_from) is str and conf_dtype is torch.float32:
        return {"confidence": confidence, "confidence_from": confidence_from}
    confidence_names(confidence, confidence_from)
    known = isinstance(conf_dtype, torch.dtype) and conf_dtype in _CONF_DTYPES
    require(known, "conf_dtype", "must be torch.float32, torch.bfloat16 or torch.float64", conf_dtype)
    return dict(confidence=confidence, confidence_from=confidence_from, conf_dtype=_CONF_DTYPES[conf_dtype])


def check_places(x, logits, window, frozen=None, rows=None, **others):
    """For a step that looks at the canvas itself before an op does. Not under torch.compile, which can't branch on values."""
    where = dict(frozen=optional("frozen", frozen), rows=optional("rows", rows), **edges(window))
    if not is_compiling():
        try:
            validate.places(x, logits, **where, **others)
        except (ValueError, TypeError) as error:
            raise public_error(error, NAMES) from None


def check_state(argument, value, shape, x, dtype=None):
    """A tensor that a step carries over and writes; ``dtype`` None: any."""
    value = tensor(argument, value)
    if not is_compiling():
        checks.check_state(argument, value, dtype or checks.dtype_name(value), shape, x)
    return value


def check_apart(written, read):
    """For a step that writes more than its ops do: dicts of tensors."""
    if not is_compiling():
        checks.check_apart(written, read)


# ---- what a step writes --------------------------------------------------------------------------------------------


class Writing:
    """The canvas, the trace and other tensors that a step writes: the caller's own, or copies of them as long as its ``check``
    may still say no."""

    def __init__(self, check, x, trace=None, **others):
        self.x, self.arguments, self.keeps_history = x, others, False  # of the op, its arguments by keyword
        if trace is None and check is False:
            return
        check, self._trace = flag("check", check), trace
        if trace is not None:
            require_type(isinstance(trace, RevisionTrace), "trace", "must be a RevisionTrace", type(trace).__name__)
            others.update(trace=trace.positions, trace_steps=trace.steps)
            self.keeps_history = trace.mode == "full"
        self._before = x.clone() if self.keeps_history else None
        self._own = {"x": x, **others}
        if check:
            self._check_own()
            self.x = x.clone()
            self.arguments = {k: None if v is None else v.clone() for k, v in others.items()}

    def _check_own(self):
        """What the op cannot see of copies."""
        if not is_compiling():
            for name, value in self._own.items():
                if value is not None:
                    checks.require_apart(name, value)
            checks.check_apart(self._own, {})

    def check(self, bad, argument, rule, suspect, x, mask_id, window, frozen, start, rows):
        """If a sequence is ``bad`` [B], raise, naming the first candidate that is ``suspect`` (bool, row-shaped); else let the
        caller's tensors have what was written. Waits for the device."""
        if bool(bad.any()):
            places = self._places(suspect, start, rows)
            candidate = candidate_rows(x, places, mask_id, **edges(window), frozen=frozen)
            found = (candidate & suspect).reshape(-1).nonzero()
            where = (int(places.batch.reshape(-1)[found[0]]), int(places.position.reshape(-1)[found[0]]))
            raise ValueError(f"{argument}: {rule}, got a bad one at (b, i) = {where}")
        for key, value in dict(x=self.x, **self.arguments).items():
            if value is not None:
                self._own[key].copy_(value)

    def note(self, step, start, rows, by_noise, committed):
        """Enter the step into the history: row-shaped by_noise bool and committed token, -1 for none."""
        x, places = self._own["x"], self._places(committed, start, rows)
        flat = torch.where(places.real, places.batch * x.shape[1] + places.position, x.numel()).flatten()
        canvases = []
        for values, nothing in ((by_noise, False), (committed, -1)):
            canvas = torch.full((x.numel() + 1,), nothing, dtype=values.dtype, device=x.device)
            canvases.append(canvas.index_copy_(0, flat, values.flatten())[:-1].view(x.shape))
        self._trace._append(step, self._before, x, *canvases)

    def _places(self, shaped, start, rows):
        x = self._own["x"]
        return rows_on(x, shaped, starts(start, x.device), rows)
