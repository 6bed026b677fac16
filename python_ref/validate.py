"""Host checks of the arguments, before anything is written. The same checks, order and texts as csrc/core/validate.h.

Arguments are checked in the order of the signature, each one completely: dtype (TypeError), then device, shape, strides
and range (ValueError). The text is "{argument}: {rule}, got {value}". Values of tensors are checked on the CPU only:
elsewhere that would synchronise with the device, so kernels there must survive any value.
"""

from .confidence import CONFIDENCES, DTYPES, SOURCES
from .decide import RULES

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


def _require_name(argument, name, names):
    _require(name in names, argument, f"must be {_one_of(names)}", name)


def _require_values(argument, tensor, good, rule):
    """``good``: a bool tensor. The first offender is named. Only on the CPU."""
    if tensor.device.type == "cpu" and not bool(good.all()):
        value = tensor[~good][0].item()
        raise ValueError(f"{argument}: {rule}, got {value if isinstance(value, int) else format(value, 'g')}")


# ---- one argument each ---------------------------------------------------------------------------------------------


def _x(x):
    _require_dtype("x", x, TOKEN_DTYPES)
    _require_dims("x", x, ["B", "L"])
    overlaps = any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride()))
    _require(not overlaps, "x", "must not overlap itself (stride 0)", f"strides {_list(x.stride())}")


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


def _rule(rule, level):
    _require_name("rule", rule, RULES)
    if rule == "threshold":
        _require(0 <= level <= 1, "level", "must be in [0, 1] for threshold", format(level, "g"))
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


def _frozen(frozen, x):
    if frozen is not None:
        _require_dtype("frozen", frozen, ["bool"])
        _require_device("frozen", frozen, "x", x)
        _require_shape("frozen", frozen, x.shape)


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


def _guidance(uncond_logits, cfg_scale, logits):
    if uncond_logits is not None:
        _require_dtype("uncond_logits", uncond_logits, [_dtype(logits)])
        _require_device("uncond_logits", uncond_logits, "logits", logits)
        _require_shape("uncond_logits", uncond_logits, logits.shape)
        _require_unit_stride("uncond_logits", uncond_logits)
    finite = cfg_scale - cfg_scale == 0
    _require(finite, "cfg_scale", "must be finite", format(cfg_scale, "g"))


def _uniform(uniform, logits):
    if uniform is not None:
        _require_dtype("uniform", uniform, ["float64"])
        _require_device("uniform", uniform, "logits", logits)
        _require_shape("uniform", uniform, logits.shape[:-1])
        _require_values("uniform", uniform, (uniform >= 0) & (uniform < 1), "must be in [0, 1)")


def _scoring(confidence, confidence_from, conf_dtype):
    _require_name("confidence", confidence, CONFIDENCES)
    _require_name("confidence_from", confidence_from, SOURCES)
    _require_name("conf_dtype", conf_dtype, tuple(DTYPES))


# ---- one op each: the arguments in the order of the signature ------------------------------------------------------


def row_stats(logits, temperature, given, uncond_logits, cfg_scale, suppress):
    _logits(logits, packed=None)
    _temperature(temperature, logits.shape[0], "logits", logits, above_zero=True)
    if given is not None:
        _require_dtype("given", given, ["int64"])
        _require_device("given", given, "logits", logits)
        _require_shape("given", given, logits.shape[:-1])
    _guidance(uncond_logits, cfg_scale, logits)
    _ids("suppress", suppress, logits)


def draw_tokens(
    logits,
    temperature,
    seed,
    step,
    start,
    rows,
    length,
    shift,
    suppress,
    demote,
    uncond_logits,
    cfg_scale,
    uniform,
    confidence,
    confidence_from,
    conf_dtype,
):
    _logits(logits, packed=None if rows is None else True)
    packed = logits.dim() == 2
    if rows is None:
        batch_size = 1 if packed else logits.shape[0]
        _temperature(temperature, batch_size, "logits", logits)
        _per_request("seed", seed, "int64", batch_size, "logits", logits)
    else:  # the per-request tensors say how many sequences there are
        _temperature(temperature, None, "logits", logits)
        _not_empty("temperature", temperature, logits)
        batch_size = temperature.shape[0]
        _per_request("seed", seed, "int64", None if batch_size == 1 else batch_size, "logits", logits)
        _not_empty("seed", seed, logits)
        batch_size = max(batch_size, seed.shape[0])
    _step(step, "logits", logits)
    _start(start, packed, batch_size, None, "logits", logits)
    if rows is not None:
        _require(length >= 1, "length", "must be >= 1 with rows", length)
        _rows(rows, logits.shape[0], None if batch_size == 1 else batch_size * length, "logits", logits)
    else:
        _require(length == 0, "length", "must be 0 without rows", length)
    _shift(shift, packed)
    _ids("suppress", suppress, logits)
    _ids("demote", demote, logits)
    _guidance(uncond_logits, cfg_scale, logits)
    _uniform(uniform, logits)
    _scoring(confidence, confidence_from, conf_dtype)


def denoise_step(
    x,
    logits,
    temperature,
    seed,
    step,
    quota,
    mask_id,
    rule,
    level,
    strict,
    window_start,
    window_stop,
    frozen,
    start,
    rows,
    shift,
    suppress,
    demote,
    uncond_logits,
    cfg_scale,
    uniform,
    confidence,
    confidence_from,
    conf_dtype,
):
    # Any mask_id is legal, also one outside the vocabulary, and both values of strict.
    packed = rows is not None
    size, length = x.shape if x.dim() == 2 else (0, 0)
    _x(x)
    _logits(logits, packed, x)
    _temperature(temperature, size, "x", x)
    _per_request("seed", seed, "int64", size, "x", x)
    _step(step, "x", x)
    _quota(quota, x)
    _rule(rule, level)
    _window(window_start, window_stop, length)
    _frozen(frozen, x)
    _start(start, packed, size, length - logits.shape[1], "x", x)
    _rows(rows, logits.shape[0], size * length, "x", x)
    _shift(shift, packed)
    _ids("suppress", suppress, logits)
    _ids("demote", demote, logits)
    _guidance(uncond_logits, cfg_scale, logits)
    _uniform(uniform, logits)
    _scoring(confidence, confidence_from, conf_dtype)


def topk_unmask(x, tokens, confidence, quota, mask_id, window_start, window_stop, frozen, start, rows):
    packed = rows is not None
    _x(x)
    _require_dtype("tokens", tokens, [_dtype(x)])
    _require_device("tokens", tokens, "x", x)
    _require_dims("tokens", tokens, ["R"] if packed else ["B", "W"])
    if not packed:
        _covered("tokens", tokens, x)
    _require_dtype("confidence", confidence, SCORE_DTYPES)
    _require_device("confidence", confidence, "x", x)
    _require_shape("confidence", confidence, tokens.shape)
    _quota(quota, x)
    _window(window_start, window_stop, x.shape[1])
    _frozen(frozen, x)
    _start(start, packed, x.shape[0], x.shape[1] - (0 if packed else tokens.shape[1]), "x", x)
    _rows(rows, tokens.shape[0], x.shape[0] * x.shape[1], "x", x)
