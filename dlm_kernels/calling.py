"""From Python values to what the ops take, for every step: numbers become tensors on the device, names are looked up, errors
get their kind back. What may be in the arguments is checked by the op, once, before anything is written.
"""

from __future__ import annotations

import math
import re

import torch
from torch.compiler import is_compiling

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
    tensor,
)
from .constants import constant, known
from .reference import check as checks
from .reference import validate
from .reference.geometry import candidate_rows, dense_rows, packed_rows
from .seeds import fresh_seeds
from .trace import RevisionTrace

_CONF_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float64: "float64"}
_MARK = re.compile(r"\[dlm_kernels:(\w+)\] (.*?)\[end\]", re.DOTALL)
_ERRORS = {error.__name__: error for error in (ValueError, TypeError, RuntimeError, torch.OutOfMemoryError)}
_FLOAT32_MAX = torch.finfo(torch.float32).max
_STEPS_KEPT = 256  # a denoising run has no more; a trainer's steps would fill the memory


def call(op, *args, names=None, **kwargs):
    """Run ``op``; a rejected argument surfaces as the ValueError or TypeError that it is, under its public name where ``names``
    has another one for it."""
    # Every one that is not given costs the dispatcher as much as one that is.
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if is_compiling():
        return op(*args, **kwargs)
    try:
        return op(*args, **kwargs)
    except RuntimeError as error:
        found = _MARK.search(str(error))
        if found is None:
            raise
        kind, text = _ERRORS[found[1]], found[2]
    except (ValueError, TypeError) as error:  # of the reference
        kind, text = type(error), str(error)
    raise kind(renamed(text, names)) from None


# ---- one argument each ---------------------------------------------------------------------------------------------


def optional(argument, value):
    return None if value is None else tensor(argument, value)


def per_request(argument, value, dtype, device, keep=True):
    """A number for every sequence alike -> [1]; a tensor -> itself, [1] or [B]."""
    found = known(value, dtype, device)
    if found is not None:
        return found
    if isinstance(value, torch.Tensor):
        value = tensor(argument, value)
        return value.reshape(1) if value.dim() == 0 else value
    convert = number if dtype.is_floating_point else integer
    return constant([convert(argument, value)], dtype, device, keep)


def quotas(argument, value, device):
    require(not isinstance(value, int) or value >= 0, argument, "must be >= 0", value)
    return per_request(argument, value, torch.int64, device)


def temperatures(value, device):
    if type(value) in (int, float) and _FLOAT32_MAX < abs(value) < math.inf:
        require(False, "temperature", "must fit in float32", value)
    given = per_request("temperature", value, torch.float32, device)
    return given.float() if given.dtype in (torch.float64, torch.float16, torch.bfloat16) else given


def token_ids(argument, value, device):
    """A tensor, or ints."""
    if value is None or isinstance(value, torch.Tensor):
        return value
    ids = list(value) if hasattr(value, "__iter__") else [value]
    return constant([integer(argument, i) for i in ids], torch.int64, device)


def noise(seed, step, generator, batch_size, device):
    """(seed [1] or [B], step [1]) on the device."""
    if seed is None:
        seeds = fresh_seeds(batch_size, device, generator)
    else:
        require(generator is None, "generator", "must not be given together with seed", "both")
        seeds = per_request("seed", seed, torch.int64, device, keep=type(seed) is int and seed == 0)
    return seeds, per_request("step", step, torch.int64, device, keep=type(step) is int and 0 <= step < _STEPS_KEPT)


# ---- the keyword arguments of several ops --------------------------------------------------------------------------
# All at their defaults: none, at once. That is most calls, and a small step lasts no longer than the checks of its arguments.


def place(device, start, rows, shift):
    """Which position a row of logits is for."""
    if start is None and rows is None and type(shift) is int and shift == 0:
        return {}
    return dict(
        start=None if start is None else per_request("start", start, torch.int64, device),
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


def filters(device, top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties):
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
        **{argument: _filter(argument, value, off, dtype, device) for argument, value, off, dtype in kinds},
        **how,
    )


def _filter(argument, value, off, dtype, device):
    if isinstance(value, torch.Tensor):
        value = per_request(argument, value, dtype, device)
        return value.to(dtype) if value.dtype.is_floating_point == dtype.is_floating_point else value
    if value is None:
        return None
    if dtype.is_floating_point:
        fraction(argument, value)
    return None if value == off else per_request(argument, value, dtype, device)


def scoring(confidence, confidence_from, conf_dtype):
    named = type(confidence) is type(confidence_from) is str
    if named and (confidence, confidence_from) == ("prob", "raw") and conf_dtype is torch.float32:
        return {}
    confidence_names(confidence, confidence_from)
    known = isinstance(conf_dtype, torch.dtype) and conf_dtype in _CONF_DTYPES
    require(known, "conf_dtype", "must be torch.float32, torch.bfloat16 or torch.float64", conf_dtype)
    return dict(confidence=confidence, confidence_from=confidence_from, conf_dtype=_CONF_DTYPES[conf_dtype])


def check_places(x, logits, window, frozen=None, rows=None, **others):
    """For a step that looks at the canvas itself before an op does. Not under torch.compile, which can't branch on values."""
    where = dict(frozen=optional("frozen", frozen), rows=optional("rows", rows), **edges(window))
    if not is_compiling():
        call(validate.places, x, logits, **where, **others, names=NAMES)


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
        self._trace, self.keeps_history = trace, False
        if trace is not None:
            require_type(isinstance(trace, RevisionTrace), "trace", "must be a RevisionTrace", type(trace).__name__)
            others.update(trace=trace.positions, trace_steps=trace.steps)
            self.keeps_history = trace.mode == "full"
        self._before = x.clone() if self.keeps_history else None
        self._own = {"x": x, **others}
        self.x, self.arguments = x, others  # of the op, the latter by keyword
        if flag("check", check):
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
            places = dense_rows(*suspect.shape, start, x.device) if rows is None else packed_rows(rows, x.shape[1])
            candidate = candidate_rows(x, places, mask_id, **edges(window), frozen=frozen)
            found = (candidate & suspect).reshape(-1).nonzero()
            where = (int(places.batch.reshape(-1)[found[0]]), int(places.position.reshape(-1)[found[0]]))
            raise ValueError(f"{argument}: {rule}, got a bad one at (b, i) = {where}")
        for key, value in dict(x=self.x, **self.arguments).items():
            if value is not None:
                self._own[key].copy_(value)

    def note(self, step, start, rows, by_noise, committed):
        """Enter the step into the history: row-shaped by_noise bool and committed token, -1 for none."""
        x = self._own["x"]
        places = dense_rows(*committed.shape, start, x.device) if rows is None else packed_rows(rows, x.shape[1])
        flat = torch.where(places.real, places.batch * x.shape[1] + places.position, x.numel()).flatten()
        canvases = []
        for values, nothing in ((by_noise, False), (committed, -1)):
            canvas = torch.full((x.numel() + 1,), nothing, dtype=values.dtype, device=x.device)
            canvases.append(canvas.index_copy_(0, flat, values.flatten())[:-1].view(x.shape))
        self._trace._append(step, self._before, x, *canvases)
