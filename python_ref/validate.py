"""Host checks of the arguments, before anything is written. The same checks, order and texts as csrc/core/validate.h.

Arguments are checked in the order of the signature, each one completely: dtype (TypeError), then device, shape, strides
and range (ValueError). The text is "{argument}: {rule}, got {value}". Values of tensors are checked on the CPU only:
elsewhere that would synchronise with the device, so kernels there must survive any value.
"""

from types import SimpleNamespace

from .confidence import COMPARING, CONFIDENCES, DTYPES, SOURCES
from .cutoff import ORDERS
from .decide import RULES
from .geometry import candidate_rows, rows_on, token_at
from .redraw import REDRAWS
from .trace import COLUMNS as TRACE_COLUMNS
from .transition import COLUMNS, noise_support

LOGIT_DTYPES = ("float32", "float16", "bfloat16")
TOKEN_DTYPES = ("int64", "int32")
SCORE_DTYPES = ("float32", "float64", "float16", "bfloat16")


# ---- how values are printed ----------------------------------------------------------------------------------------


def _dtype(tensor):
    return str(tensor.dtype).removeprefix("torch.")


def _list(numbers):
    return f"[{', '.join(str(n) for n in numbers)}]"


def _one_of(names):
    """ "a", "a or b", "a, b or c"."""
    *head, last = names
    return f"{', '.join(head)} or {last}" if head else last


# ---- one check each ------------------------------------------------------------------------------------------------


def _require(condition, argument, rule, value):
    if not condition:
        raise ValueError(f"{argument}: {rule}, got {value}")


def _require_dtype(argument, tensor, names):
    if _dtype(tensor) not in names:
        raise TypeError(f"{argument}: dtype must be {_one_of(names)}, got {_dtype(tensor)}")


def _require_device(argument, tensor, anchor, like):
    _require(tensor.device == like.device, argument, f"must be on {like.device} as {anchor}", tensor.device)


def _require_shape(argument, tensor, *shapes):
    wanted = _one_of(list(dict.fromkeys(_list(shape) for shape in shapes)))
    _require(list(tensor.shape) in [list(s) for s in shapes], argument, f"shape must be {wanted}", _list(tensor.shape))


def _require_dims(argument, tensor, names):
    _require(
        tensor.dim() == len(names),
        argument,
        f"must be {len(names)}-dimensional, [{', '.join(names)}]",
        _list(tensor.shape),
    )


def _require_unit_stride(argument, tensor):
    _require(
        tensor.numel() == 0 or tensor.shape[-1] == 1 or tensor.stride(-1) == 1,
        argument,
        "stride of the last dimension must be 1",
        tensor.stride(-1),
    )


def _require_apart(argument, tensor):
    overlaps = any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride()))
    _require(not overlaps, argument, "must not overlap itself (stride 0)", f"strides {_list(tensor.stride())}")


def _require_contiguous(argument, tensor):
    _require(tensor.is_contiguous(), argument, "must be contiguous", f"strides {_list(tensor.stride())}")


def _require_name(argument, name, names):
    _require(name in names, argument, f"must be {_one_of(names)}", name)


def _require_values(argument, tensor, good, rule):
    """``good``: a bool tensor. The first offender is named. Only on the CPU."""
    if tensor.device.type == "cpu" and not bool(good.all()):
        value = tensor[~good][0].item()
        raise ValueError(f"{argument}: {rule}, got {value if isinstance(value, int) else format(value, 'g')}")


# ---- one argument each ---------------------------------------------------------------------------------------------


def _x(x, written=True):
    _require_dtype("x", x, TOKEN_DTYPES)
    _require_dims("x", x, ["B", "L"])
    if written:
        _require_apart("x", x)


def _logits(logits, packed, x=None):
    """``packed``: whether [R, V] is meant, None for either."""
    _require_dtype("logits", logits, LOGIT_DTYPES)
    if x is not None:
        _require_device("logits", logits, "x", x)
    if packed is None:
        _require(logits.dim() in (2, 3), "logits", "must be [B, W, V] or [R, V]", _list(logits.shape))
    else:
        _require_dims("logits", logits, ["R", "V"] if packed else ["B", "W", "V"])
    _require(logits.shape[-1] >= 1, "logits", "the vocabulary must not be empty", _list(logits.shape))
    _require_unit_stride("logits", logits)
    if x is not None and not packed:
        _covered("logits", logits, x)


def _covered(argument, tensor, x):
    """[B, W, ...] must fit the canvas."""
    size, length = x.shape
    _require(tensor.shape[0] == size, argument, f"dimension 0 must be {size} as in x", tensor.shape[0])
    _require(tensor.shape[1] <= length, argument, f"dimension 1 must be at most {length} as in x", tensor.shape[1])


def _per_request(argument, tensor, dtype, batch_size, anchor, like):
    """[1] or [B]; ``batch_size`` None: any."""
    _require_dtype(argument, tensor, [dtype])
    _require_device(argument, tensor, anchor, like)
    if batch_size is None:
        _require_dims(argument, tensor, ["B"])
    else:
        _require_shape(argument, tensor, [1], [batch_size])


def _not_empty(argument, tensor, logits):
    """Unless there is nothing to draw."""
    _require(tensor.shape[0] >= 1 or logits.shape[0] == 0, argument, "must not be empty", _list(tensor.shape))


def _temperature(temperature, batch_size, anchor, like, above_zero=False):
    _per_request("temperature", temperature, "float32", batch_size, anchor, like)
    finite = temperature.isfinite()
    if above_zero:
        _require_values("temperature", temperature, finite & (temperature > 0), "must be finite and > 0")
    else:
        _require_values("temperature", temperature, finite & (temperature >= 0), "must be finite and >= 0")


def _step(step, anchor, like):
    _require_dtype("step", step, ["int64"])
    _require_device("step", step, anchor, like)
    _require(step.numel() == 1, "step", "must have one element", _list(step.shape))


def _quota(quota, x):
    _per_request("quota", quota, "int64", x.shape[0], "x", x)
    _require_values("quota", quota, quota >= 0, "must be >= 0")


def _rule(rule, level, low):
    _require_name("rule", rule, RULES)
    if rule in ("threshold", "segment_max"):
        for argument, value in (("level", level), ("low", low)):
            _require(0 <= value <= 1, argument, f"must be in [0, 1] for {rule}", format(value, "g"))
    elif rule != "topk":
        _require(level >= 0, "level", f"must be >= 0 for {rule}", format(level, "g"))


def _window(window_start, window_stop, length):
    _require(0 <= window_start <= length, "window_start", f"must be in [0, {length}]", window_start)
    _require(
        window_stop == -1 or window_start <= window_stop <= length,
        "window_stop",
        f"must be -1 or in [{window_start}, {length}]",
        window_stop,
    )


def _like_canvas(argument, tensor, dtype, shape, x):
    if tensor is not None:
        _require_dtype(argument, tensor, [dtype])
        _require_device(argument, tensor, "x", x)
        _require_shape(argument, tensor, shape)


def _frozen(frozen, x):
    _like_canvas("frozen", frozen, "bool", x.shape, x)


def _state(argument, tensor, dtype, shape, x):
    """What a step carries over and writes."""
    _like_canvas(argument, tensor, dtype, shape, x)
    if tensor is not None:
        _require_apart(argument, tensor)


def _probs(probs, logits, x):
    if probs is not None:
        _require_dtype("probs", probs, ["bfloat16"])
        _require_device("probs", probs, "x", x)
        _require_shape("probs", probs, logits.shape)
        _require_unit_stride("probs", probs)
        _require_apart("probs", probs)


def _ready(a):
    _like_rows("ready", a.ready, "bool", a.logits)
    only_there = a.ready is None or a.rule == "threshold"
    _require(only_there, "ready", "must be given with rule threshold only", a.rule)
    _require(a.ready is None or a.low == 0, "ready", "must be given without within", format(a.low, "g"))


def _editing(a):
    if a.edit is not None:
        _require(0 <= a.edit <= 1, "edit", "must be in [0, 1]", format(a.edit, "g"))
        _require(a.mask_id is not None, "mask_id", "must be given with edit", "none")
    _state("edits_left", a.edits_left, "int64", a.x.shape[:1], a.x)
    _require(a.edit is not None or a.edits_left is None, "edits_left", "must be given with edit", "without")
    _like_rows("edited", a.edited, "bool", a.logits)
    if a.edited is not None:
        _require_apart("edited", a.edited)
    _require(a.edit is not None or a.edited is None, "edited", "must be given with edit", "without")
    _state("num_edited", a.num_edited, "int64", a.x.shape[:1], a.x)
    _require(a.edit is not None or a.num_edited is None, "num_edited", "must be given with edit", "without")


def _trace(trace, steps, x):
    if trace is not None:
        _require_dtype("trace", trace, ["int32"])
        _require_device("trace", trace, "x", x)
        _require_shape("trace", trace, [*x.shape, 8])
        _require_contiguous("trace", trace)
    both = (trace is None) == (steps is None)
    _require(
        both, "trace_steps", "must be given with trace, and only then", "none" if steps is None else _list(steps.shape)
    )
    if steps is not None:
        _require_dtype("trace_steps", steps, ["int64"])
        _require_device("trace_steps", steps, "x", x)
        _require_dims("trace_steps", steps, ["S", "B", "8"])
        _require(steps.shape[0] >= 1, "trace_steps", "must have a step", _list(steps.shape))
        _require_shape("trace_steps", steps, [steps.shape[0], x.shape[0], len(TRACE_COLUMNS)])
        _require_contiguous("trace_steps", steps)


def _start(start, packed, batch_size, last, anchor, like):
    """``last``: the highest legal start, None for no limit."""
    if start is None:
        return
    _per_request("start", start, "int64", None if packed else batch_size, anchor, like)
    _require(not packed, "start", "must not be given with packed logits [R, V]", _list(start.shape))
    if last is None:
        _require_values("start", start, start >= 0, "must be >= 0")
    else:
        _require_values("start", start, (start >= 0) & (start <= last), f"must be in [0, {last}] (L - W)")


def _rows(rows, count, size, anchor, like):
    """``count``: R; ``size``: B * L, or None for no limit."""
    if rows is None:
        return
    _require_dtype("rows", rows, ["int64"])
    _require_device("rows", rows, anchor, like)
    _require_shape("rows", rows, [count])
    if size is None:
        _require_values("rows", rows, rows >= -1, "must be >= -1")
    else:
        _require_values("rows", rows, (rows >= -1) & (rows < size), f"must be in [-1, {size})")
    if rows.device.type == "cpu":
        ordered = rows.sort().values
        twice = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)]
        _require(twice.numel() == 0, "rows", "must not hold a position twice", twice[0].item() if twice.numel() else 0)


def _shift(shift, packed):
    if packed:
        _require(shift == 0, "shift", "must be 0 with packed logits [R, V]", shift)
    else:
        _require(shift in (0, -1), "shift", "must be 0 or -1", shift)


def _ids(argument, ids, like):
    if ids is not None:
        _require_dtype(argument, ids, ["int64"])
        _require_device(argument, ids, "logits", like)
        _require_dims(argument, ids, ["n"])


def _previous(previous, logits):
    _require_dtype("previous", previous, LOGIT_DTYPES)
    _require_device("previous", previous, "logits", logits)
    _require_shape("previous", previous, logits.shape)
    _require_unit_stride("previous", previous)


def _guidance(uncond_logits, cfg_scale, logits):
    if uncond_logits is not None:
        _require_dtype("uncond_logits", uncond_logits, [_dtype(logits)])
        _require_device("uncond_logits", uncond_logits, "logits", logits)
        _require_shape("uncond_logits", uncond_logits, logits.shape)
        _require_unit_stride("uncond_logits", uncond_logits)
    finite = cfg_scale - cfg_scale == 0
    _require(finite, "cfg_scale", "must be finite", format(cfg_scale, "g"))


def _filters(a, batch_size, anchor, like):
    if a.top_k is not None:
        _per_request("top_k", a.top_k, "int64", batch_size, anchor, like)
        _require_values("top_k", a.top_k, a.top_k >= 0, "must be >= 0")
    _share("top_p", a.top_p, batch_size, anchor, like)
    _share("min_p", a.min_p, batch_size, anchor, like)
    _require_name("filter_order", a.filter_order, ORDERS)


def _share(argument, value, batch_size, anchor, like):
    if value is not None:
        _per_request(argument, value, "float64", batch_size, anchor, like)
        _require_values(argument, value, (value >= 0) & (value <= 1), "must be in [0, 1]")


def _softcap(softcap):
    in_range = softcap == 0 or 1e-6 <= softcap <= 1e6
    _require(in_range, "softcap", "must be 0 (none) or in [1e-6, 1e6]", format(softcap, "g"))


def _noise_prior(mask_id, vocab, x):
    """Uniform noise must have a token to be, and the canvas be able to hold it and the mask."""
    _require(mask_id >= -1, "mask_id", "must be >= -1 (none)", mask_id)
    _require(_dtype(x) == "int64" or mask_id < 2**31, "mask_id", "must fit in int32 as x", mask_id)
    _require(noise_support(vocab, mask_id) >= 1, "mask_id", "must leave a token of the vocabulary for noise", mask_id)


def _of_schedule(argument, numbers, n, x):
    _require_dtype(argument, numbers, ["float64"])
    _require_device(argument, numbers, "x", x)
    _require_shape(argument, numbers, [1, n], [x.shape[0], n], [*x.shape, n])
    _require_unit_stride(argument, numbers)


def _no_way_to_no_mask(argument, chance, mask_id):
    """``chance``: of becoming the mask."""
    if mask_id < 0:
        _require_values(argument, chance, chance == 0, "must not lead to the mask without mask_id")


def _coefficients(coefficients, mask_id, x):
    _of_schedule("coefficients", coefficients, len(COLUMNS), x)
    _require_values("coefficients", coefficients, coefficients.isfinite(), "must be finite")
    _no_way_to_no_mask("coefficients", coefficients[..., COLUMNS.index("token_mask")], mask_id)


def _rates(rates, mask_id, x):
    _of_schedule("rates", rates, 2, x)
    _require_values("rates", rates, (rates >= 0) & (rates <= 1), "must be in [0, 1]")
    total = rates[..., 0] + rates[..., 1]
    _require_values("rates", total, total <= 1 + 1e-9, "must sum to at most 1")
    _no_way_to_no_mask("rates", rates[..., 1], mask_id)


def _redraw(a):
    _require_name("redraw", a.redraw, REDRAWS)
    if a.redraw == "min_p":
        _require(0 <= a.level <= 1, "level", "must be in [0, 1] for min_p", format(a.level, "g"))
    elif a.redraw == "guidance":
        _require(a.level - a.level == 0, "level", "must be finite for guidance", format(a.level, "g"))
        _require(a.uncond_logits is not None, "uncond_logits", "must be given for guidance", "none")
        _require(a.cfg_scale == 0, "cfg_scale", "must be 0 for guidance", format(a.cfg_scale, "g"))
    if a.redraw != "none":
        _require_values("temperature", a.temperature, a.temperature > 0, "must be > 0 with redraw")


def _current_tokens(a):
    """What a transition starts from must be a token, or the mask; other ops do not care."""
    places = rows_on(a.x, a.logits, a.start, a.rows)
    token, vocab = token_at(a.x, places).long(), a.logits.shape[-1]
    good = (token >= 0) & (token < vocab)
    if a.mask_id >= 0:
        good |= token == a.mask_id
    good |= ~candidate_rows(a.x, places, None, a.window_start, a.window_stop, a.frozen)
    rule = f"must hold tokens in [0, {vocab}){' or mask_id' if a.mask_id >= 0 else ''} where it may change"
    _require_values("x", token, good, rule)


def _uniform(uniform, shape, anchor, like):
    if uniform is not None:
        _require_dtype("uniform", uniform, ["float64"])
        _require_device("uniform", uniform, anchor, like)
        _require_shape("uniform", uniform, shape)
        _require_values("uniform", uniform, (uniform >= 0) & (uniform < 1), "must be in [0, 1)")


def _like_rows(argument, tensor, dtype, logits):
    if tensor is not None:
        _require_dtype(argument, tensor, [dtype])
        _require_device(argument, tensor, "logits", logits)
        _require_shape(argument, tensor, logits.shape[:-1])


def _rows_on_canvas(argument, tensor, packed, x):
    _require_device(argument, tensor, "x", x)
    _require_dims(argument, tensor, ["R"] if packed else ["B", "W"])
    if not packed:
        _covered(argument, tensor, x)


def _fits(argument, token, x):
    """A token that is to be written."""
    _require(_dtype(x) == "int64" or -(2**31) <= token < 2**31, argument, "must fit in int32 as x", token)


def _scoring(confidence, confidence_from, conf_dtype, rank_temperature=0.0):
    _require_name("confidence", confidence, CONFIDENCES)
    _require_name("confidence_from", confidence_from, SOURCES)
    _require_name("conf_dtype", conf_dtype, tuple(DTYPES))
    finite = 0 <= rank_temperature < float("inf")
    _require(finite, "rank_temperature", "must be finite and >= 0", format(rank_temperature, "g"))
    useful = rank_temperature == 0 or confidence != "random"
    _require(useful, "rank_temperature", "must be 0 for confidence random", format(rank_temperature, "g"))


# ---- one op each: its arguments in the order of the signature ------------------------------------------------------


def row_stats(**arguments):
    a = SimpleNamespace(**arguments)
    _logits(a.logits, packed=None)
    _temperature(a.temperature, a.logits.shape[0], "logits", a.logits, above_zero=True)
    _like_rows("given", a.given, "int64", a.logits)
    _guidance(a.uncond_logits, a.cfg_scale, a.logits)
    _ids("suppress", a.suppress, a.logits)


def row_kl(**arguments):
    a = SimpleNamespace(**arguments)
    _logits(a.logits, packed=None)
    _previous(a.previous, a.logits)
    _temperature(a.temperature, a.logits.shape[0], "logits", a.logits, above_zero=True)
    _like_rows("wanted", a.wanted, "bool", a.logits)


def draw_tokens(**arguments):
    a = SimpleNamespace(**arguments)
    _logits(a.logits, packed=None if a.rows is None else True)
    packed = a.logits.dim() == 2
    if a.rows is None:
        batch_size = 1 if packed else a.logits.shape[0]
        _temperature(a.temperature, batch_size, "logits", a.logits)
        _per_request("seed", a.seed, "int64", batch_size, "logits", a.logits)
    else:  # the per-request tensors say how many sequences there are
        _temperature(a.temperature, None, "logits", a.logits)
        _not_empty("temperature", a.temperature, a.logits)
        batch_size = a.temperature.shape[0]
        _per_request("seed", a.seed, "int64", None if batch_size == 1 else batch_size, "logits", a.logits)
        _not_empty("seed", a.seed, a.logits)
        batch_size = max(batch_size, a.seed.shape[0])
    _step(a.step, "logits", a.logits)
    _start(a.start, packed, batch_size, None, "logits", a.logits)
    if a.rows is not None:
        _require(a.length >= 1, "length", "must be >= 1 with rows", a.length)
        _rows(a.rows, a.logits.shape[0], None if batch_size == 1 else batch_size * a.length, "logits", a.logits)
    else:
        _require(a.length == 0, "length", "must be 0 without rows", a.length)
    _shift(a.shift, packed)
    _ids("suppress", a.suppress, a.logits)
    _ids("demote", a.demote, a.logits)
    _guidance(a.uncond_logits, a.cfg_scale, a.logits)
    _filters(a, batch_size, "logits", a.logits)
    _uniform(a.uniform, a.logits.shape[:-1], "logits", a.logits)
    _like_rows("given", a.given, "int64", a.logits)
    _scoring(a.confidence, a.confidence_from, a.conf_dtype, a.rank_temperature)
    needless = a.confidence not in COMPARING
    _require(needless or a.given is not None, "given", f"must be given for confidence {a.confidence}", "none")


def _sampler(a):
    """What every step that draws begins with."""
    _x(a.x)
    _logits(a.logits, a.rows is not None, a.x)
    _temperature(a.temperature, a.x.shape[0], "x", a.x)
    _per_request("seed", a.seed, "int64", a.x.shape[0], "x", a.x)
    _step(a.step, "x", a.x)


def _places(a, tensor):
    """Where ``tensor`` [B, W, ...] or [R, ...] lies on the canvas, and what of it may change."""
    packed, (size, length) = a.rows is not None, a.x.shape
    _window(a.window_start, a.window_stop, length)
    _frozen(a.frozen, a.x)
    _start(a.start, packed, size, None if packed else length - tensor.shape[1], "x", a.x)
    _rows(a.rows, tensor.shape[0], size * length, "x", a.x)


def denoise_step(**arguments):
    # Any mask_id is legal, also one outside the vocabulary, and both values of strict.
    a = SimpleNamespace(**arguments)
    _sampler(a)
    _quota(a.quota, a.x)
    _rule(a.rule, a.level, a.low)
    _ready(a)
    _editing(a)
    _places(a, a.logits)
    _shift(a.shift, a.rows is not None)
    _ids("suppress", a.suppress, a.logits)
    _ids("demote", a.demote, a.logits)
    _guidance(a.uncond_logits, a.cfg_scale, a.logits)
    _filters(a, a.x.shape[0], "x", a.x)
    _uniform(a.uniform, a.logits.shape[:-1], "logits", a.logits)
    _scoring(a.confidence, a.confidence_from, a.conf_dtype, a.rank_temperature)
    ranked = a.rank_temperature == 0 or a.rule == "topk"
    _require(ranked, "rank_temperature", f"must be 0 for rule {a.rule}", format(a.rank_temperature, "g"))
    _trace(a.trace, a.trace_steps, a.x)


def topk_unmask(**arguments):
    a = SimpleNamespace(**arguments)
    _x(a.x)
    _require_dtype("tokens", a.tokens, [_dtype(a.x)])
    _rows_on_canvas("tokens", a.tokens, a.rows is not None, a.x)
    _require_dtype("confidence", a.confidence, SCORE_DTYPES)
    _require_device("confidence", a.confidence, "x", a.x)
    _require_shape("confidence", a.confidence, a.tokens.shape)
    _quota(a.quota, a.x)
    _places(a, a.tokens)
    _noted(a)


def remask(**arguments):
    a = SimpleNamespace(**arguments)
    _x(a.x)
    _require_dtype("confidence", a.confidence, SCORE_DTYPES)
    _rows_on_canvas("confidence", a.confidence, a.rows is not None, a.x)
    _quota(a.quota, a.x)
    _fits("mask_id", a.mask_id, a.x)
    _require(a.below == a.below, "below", "must not be NaN", format(a.below, "g"))
    _places(a, a.confidence)
    _noted(a)


def _noted(a):
    """By a step that has no other use for its number."""
    if a.step is not None:
        _step(a.step, "x", a.x)
    _require(a.step is not None or a.trace is None, "step", "must be given with trace", "none")
    _trace(a.trace, a.trace_steps, a.x)


def renoise_step(**arguments):
    a = SimpleNamespace(**arguments)
    _sampler(a)
    _quota(a.quota, a.x)
    _noise_prior(a.mask_id, a.logits.shape[-1], a.x)
    _rule(a.rule, a.level, a.low)
    _state("committed", a.committed, "bool", a.x.shape, a.x)
    _state("argmax", a.argmax, _dtype(a.x), a.x.shape, a.x)
    _state("unchanged", a.unchanged, "int64", a.x.shape[:1], a.x)
    _require(a.unchanged is None or a.argmax is not None, "unchanged", "must be given with argmax", "without")
    _state("done", a.done, "bool", a.x.shape[:1], a.x)
    _require(a.done is None or a.unchanged is not None, "done", "must be given with argmax and unchanged", "without")
    _probs(a.probs, a.logits, a.x)
    _require(a.stability >= 0, "stability", "must be >= 0", a.stability)
    _require(a.confident >= 0, "confident", "must be >= 0", format(a.confident, "g"))
    _places(a, a.logits)
    _shift(a.shift, a.rows is not None)
    _ids("suppress", a.suppress, a.logits)
    _guidance(a.uncond_logits, a.cfg_scale, a.logits)
    _filters(a, a.x.shape[0], "x", a.x)
    _softcap(a.softcap)
    _uniform(a.uniform, [*a.logits.shape[:-1], 2], "logits", a.logits)
    _scoring(a.confidence, a.confidence_from, a.conf_dtype)
    _trace(a.trace, a.trace_steps, a.x)


def transition_step(**arguments):
    a = SimpleNamespace(**arguments)
    _sampler(a)
    _coefficients(a.coefficients, a.mask_id, a.x)
    _noise_prior(a.mask_id, a.logits.shape[-1], a.x)
    _require_name("tempered", a.tempered, ("before", "after"))
    _redraw(a)
    _places(a, a.logits)
    _shift(a.shift, a.rows is not None)
    _ids("suppress", a.suppress, a.logits)
    _guidance(a.uncond_logits, a.cfg_scale, a.logits)
    _filters(a, a.x.shape[0], "x", a.x)
    _uniform(a.uniform, [*a.logits.shape[:-1], 3], "logits", a.logits)
    _trace(a.trace, a.trace_steps, a.x)
    _current_tokens(a)


def q_sample(**arguments):
    a = SimpleNamespace(**arguments)
    _x(a.x, written=False)
    _rates(a.rates, a.mask_id, a.x)
    _per_request("seed", a.seed, "int64", a.x.shape[0], "x", a.x)
    _step(a.step, "x", a.x)
    _require(a.vocab_size >= 1, "vocab_size", "must be >= 1", a.vocab_size)
    fits = _dtype(a.x) == "int64" or a.vocab_size <= 2**31
    _require(fits, "vocab_size", "must fit in int32 as x", a.vocab_size)
    _noise_prior(a.mask_id, a.vocab_size, a.x)
    _frozen(a.frozen, a.x)
    _uniform(a.uniform, [*a.x.shape, 2], "x", a.x)
