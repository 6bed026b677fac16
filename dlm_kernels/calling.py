"""From Python values to what the ops take, for every step: numbers become tensors on the device, names are looked up, errors
get their kind back. What may be in the arguments is checked by the op, once, before anything is written.
"""

from __future__ import annotations

import math
import re
import sys

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
from .rules import Rule
from .seeds import fresh_seeds
from .tensors import tensor
from .trace import RevisionTrace

_CONF_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float64: "float64"}
_MARK = re.compile(r"\[dlm_kernels:(\w+)\] (.*?)\[end\]", re.DOTALL)
_ERRORS = {error.__name__: error for error in (ValueError, TypeError, RuntimeError, torch.OutOfMemoryError)}
_FLOAT32_MAX = torch.finfo(torch.float32).max
_UNFILTERED = (None, None, None, "top_k_first", False, False)
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


def _parameters(op):
    """What an op takes by position, all of it tensors: [(name, dtype of numbers that become one, or None)]; and by name: [(name,
    that dtype, check of a value by itself or None)] and [default]."""
    checks = {"Tensor": tensor, "int": integer, "float": number}
    by_position, by_name, defaults = [], [], []
    for p in getattr(_ops, op)._schema.arguments:
        dtype = _NUMBERS.get(p.name)
        if not p.kwarg_only:
            by_position.append((p.name, dtype))
            continue
        by_name.append((p.name, dtype, checks.get(str(p.type).removeprefix("Optional[").removesuffix("]"))))
        default = p.default_value if p.has_default_value() else ...
        defaults.append(sys.intern(default) if isinstance(default, str) else default)
    return by_position, by_name, defaults


_PARAMETERS = {op: _parameters(op) for op in _ops.SCHEMAS}


def call(name, names, *arguments):
    """Run the op ``name`` on all its arguments, in the order of its schema, as they came. Where it takes a tensor [1] or [B], a
    number is as good; None is what was not given, and of a seed, what torch shall draw. A rejected argument surfaces as the
    ValueError or TypeError that it is, under its public name where ``names`` has another one for it."""
    try:
        out = NotImplemented if is_dynamo_compiling() else eager.FUNCTIONS[name](*arguments)
        return _dispatched(name, arguments) if out is NotImplemented else out
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


def _dispatched(name, arguments):
    """By the dispatcher. Numbers become tensors on the device; what is at its default, which costs as much as anything else
    there, is left out."""
    by_position, by_name, defaults = _PARAMETERS[name]
    anchor, positional, named = arguments[0], [], {}
    for (argument, dtype), value in zip(by_position, arguments):
        positional.append(value if dtype is None else _as_tensor(argument, value, dtype, anchor))
    rest = arguments[len(positional) :]
    given = [
        (p, value)
        for p, value, default in zip(by_name, rest, defaults)
        if value is not default and (type(value) is not float or value != default)
    ]
    for (argument, dtype, check), value in given:
        if dtype is not None:
            value = _as_tensor(argument, value, dtype, anchor)
        named[argument] = value if check is None else check(argument, value)
    return getattr(_ops, name)(*positional, **named)


def _as_tensor(argument, value, dtype, anchor):
    if value is None and argument == "seed":
        return fresh_seeds(_sequences(anchor), anchor.device)
    value = per_request(argument, value, dtype)
    if isinstance(value, torch.Tensor):
        return value
    return constant([value], dtype, anchor.device, _comes_again(argument, value))


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


def deciding(rule):
    """The quota, and which of the open positions are taken: (name, level, low, strict)."""
    require_type(isinstance(rule, Rule), "rule", "must be a rule, such as TopK(k)", type(rule).__name__)
    arguments = rule.arguments()
    return quotas("k" if arguments[0] == "topk" else "at_least", rule.quota), arguments


def temperatures(value):
    if type(value) is float and abs(value) <= _FLOAT32_MAX:
        return value
    if type(value) in (int, float) and _FLOAT32_MAX < abs(value) < math.inf:
        require(False, "temperature", "must fit in float32", value)
    given = per_request("temperature", value, torch.float32)
    wide = isinstance(given, torch.Tensor) and given.dtype in (torch.float64, torch.float16, torch.bfloat16)
    return given.float() if wide else given


def begin(start):
    """``start`` as an op takes it."""
    return None if start is None else per_request("start", start, torch.int64)


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


def seeds(seed, generator, like, needed=True, count=None):
    """The caller's; or what the ``generator`` draws, one for each of ``like`` [B, ...], or ``count``; or None, for torch's own to
    draw one for each. Greedy steps need none."""
    if seed is not None:
        require(generator is None, "generator", "must not be given together with seed", "both")
        return seed if type(seed) is int else per_request("seed", seed, torch.int64)
    if not needed:
        return 0
    if generator is None and count is None:
        return None
    return fresh_seeds(_sequences(like) if count is None else count, like.device, generator)


def _sequences(like):
    return like.shape[0] if like.dim() else 1


# ---- several arguments, in the order of the schemas ----------------------------------------------------------------
# All at their defaults: at once. That is most calls, and a small step lasts no longer than the checks of its arguments.


def filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties):
    """Which tokens may be drawn; what filters nothing is left out."""
    if top_k is None and top_p is None and min_p is None:
        named = type(filter_order) is type(top_p_crossing) is type(top_k_ties) is str  # an array has no truth
        if named and (filter_order, top_p_crossing, top_k_ties) == ("top_k_first", "keep", "lowest"):
            return _UNFILTERED
    how = filter_names(filter_order, top_p_crossing, top_k_ties)
    if not isinstance(top_k, torch.Tensor) and top_k is not None:
        require(integer("top_k", top_k) >= 0, "top_k", "must be >= 0", top_k)
    kinds = (("top_k", top_k, 0, torch.int64), ("top_p", top_p, 1, torch.float64), ("min_p", min_p, 0, torch.float64))
    return *(_filter(argument, value, off, dtype) for argument, value, off, dtype in kinds), *how.values()


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
        return confidence, confidence_from, "float32"
    confidence_names(confidence, confidence_from)
    known = isinstance(conf_dtype, torch.dtype) and conf_dtype in _CONF_DTYPES
    require(known, "conf_dtype", "must be torch.float32, torch.bfloat16 or torch.float64", conf_dtype)
    return confidence, confidence_from, _CONF_DTYPES[conf_dtype]


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


def writing(check, trace, names, held):
    """What a step writes, ``held`` by ``names``, the canvas "x" first, as the op gets it: the same; the pair of a trace; and a
    ``Writing``, if that has more to do."""
    if trace is None and check is False:
        return held, (None, None), None
    made = Writing(check, trace, names, held)
    return made.held, made.trace, made


class Writing:
    """The canvas, the trace and other tensors that a step writes: the caller's own, or copies of them as long as its ``check``
    may still say no."""

    def __init__(self, check, trace, names, held):
        self.held, self.trace, self.keeps_history = held, (None, None), False
        check, self._trace = flag("check", check), trace
        self._own = {name: optional(name, value) for name, value in zip(names, held)}
        if trace is not None:
            require_type(isinstance(trace, RevisionTrace), "trace", "must be a RevisionTrace", type(trace).__name__)
            self.trace = trace.positions, trace.steps
            self._own.update(trace=trace.positions, trace_steps=trace.steps)
            self.keeps_history = trace.mode == "full"
        self._before = held[0].clone() if self.keeps_history else None
        if check:
            self._check_own()
            copies = [None if value is None else value.clone() for value in self._own.values()]
            self.held, self.trace = copies[: len(held)], copies[len(held) :] or self.trace

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
        for mine, value in zip(self._own.values(), (*self.held, *self.trace)):
            if value is not None:
                mine.copy_(value)

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
