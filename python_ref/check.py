"""The words of validate.py: what is checked of one argument, whatever the op. Texts and order are those of csrc/core/check.h."""

from .confidence import CONFIDENCES, DTYPES, SOURCES
from .cutoff import ORDERS
from .decide import RULES
from .geometry import candidate_rows, rows_on, token_at
from .overlap import meet, overlaps_itself, share_memory, span
from .redraw import REDRAWS
from .trace import COLUMNS as TRACE_COLUMNS
from .transition import COLUMNS, noise_support

MAX_VOCAB = 2**30
LOGIT_DTYPES = ("float32", "float16", "bfloat16")
TOKEN_DTYPES = ("int64", "int32")
SCORE_DTYPES = ("float32", "float64", "float16", "bfloat16")


# ---- how values are printed ----------------------------------------------------------------------------------------


def dtype_name(tensor):
    return str(tensor.dtype).removeprefix("torch.")


def list_text(numbers):
    """The first five."""
    return f"[{', '.join([*(str(n) for n in numbers[:5]), *['...'] * (len(numbers) > 5)])}]"


def one_of(names):
    """ "a", "a or b", "a, b or c"."""
    *head, last = names
    return f"{', '.join(head)} or {last}" if head else last


# ---- one check each ------------------------------------------------------------------------------------------------


def require(condition, argument, rule, value):
    if not condition:
        raise ValueError(f"{argument}: {rule}, got {value}")


def require_dtype(argument, tensor, names):
    if dtype_name(tensor) not in names:
        raise TypeError(f"{argument}: dtype must be {one_of(names)}, got {dtype_name(tensor)}")


def require_device(argument, tensor, anchor, like):
    require(tensor.device == like.device, argument, f"must be on {like.device} as {anchor}", tensor.device)


def require_shape(argument, tensor, *shapes):
    wanted = one_of(list(dict.fromkeys(list_text(shape) for shape in shapes)))
    require(
        list(tensor.shape) in [list(s) for s in shapes], argument, f"shape must be {wanted}", list_text(tensor.shape)
    )


def require_dims(argument, tensor, names):
    require(
        tensor.dim() == len(names),
        argument,
        f"must be {len(names)}-dimensional, [{', '.join(names)}]",
        list_text(tensor.shape),
    )


def require_unit_stride(argument, tensor):
    require(
        tensor.numel() == 0 or tensor.shape[-1] == 1 or tensor.stride(-1) == 1,
        argument,
        "stride of the last dimension must be 1",
        tensor.stride(-1),
    )


def require_apart(argument, tensor):
    require(not overlaps_itself(tensor), argument, "must not overlap itself", f"strides {list_text(tensor.stride())}")


def require_contiguous(argument, tensor):
    require(tensor.is_contiguous(), argument, "must be contiguous", f"strides {list_text(tensor.stride())}")


def require_name(argument, name, names):
    require(name in names, argument, f"must be {one_of(names)}", name)


def require_values(argument, tensor, good, rule):
    """``good``: a bool tensor. The first offender is named. Only on the CPU."""
    if tensor.device.type == "cpu" and not bool(good.all()):
        value = tensor[~good][0].item()
        raise ValueError(f"{argument}: {rule}, got {value if isinstance(value, int) else format(value, 'g')}")


# ---- one argument each ---------------------------------------------------------------------------------------------


def check_x(x, written=True):
    require_dtype("x", x, TOKEN_DTYPES)
    require_dims("x", x, ["B", "L"])
    if written:
        require_apart("x", x)


def check_logits(logits, packed, x=None):
    """``packed``: whether [R, V] is meant, None for either."""
    require_dtype("logits", logits, LOGIT_DTYPES)
    if x is not None:
        require_device("logits", logits, "x", x)
    if packed is None:
        require(logits.dim() in (2, 3), "logits", "must be [B, W, V] or [R, V]", list_text(logits.shape))
    else:
        require_dims("logits", logits, ["R", "V"] if packed else ["B", "W", "V"])
    require(logits.shape[-1] >= 1, "logits", "the vocabulary must not be empty", list_text(logits.shape))
    require(
        logits.shape[-1] <= MAX_VOCAB, "logits", "the vocabulary must have at most 2^30 tokens", list_text(logits.shape)
    )
    require_unit_stride("logits", logits)
    if x is not None and not packed:
        check_covered("logits", logits, x)


def check_covered(argument, tensor, x):
    """[B, W, ...] must fit the canvas."""
    size, length = x.shape
    require(tensor.shape[0] == size, argument, f"dimension 0 must be {size} as in x", tensor.shape[0])
    require(tensor.shape[1] <= length, argument, f"dimension 1 must be at most {length} as in x", tensor.shape[1])


def check_per_request(argument, tensor, dtype, batch_size, anchor, like):
    """[1] or [B]; ``batch_size`` None: any."""
    require_dtype(argument, tensor, [dtype])
    require_device(argument, tensor, anchor, like)
    if batch_size is None:
        require_dims(argument, tensor, ["B"])
    else:
        require_shape(argument, tensor, [1], [batch_size])


def check_not_empty(argument, tensor, logits):
    """Unless there is nothing to draw."""
    require(tensor.shape[0] >= 1 or logits.shape[0] == 0, argument, "must not be empty", list_text(tensor.shape))


def check_temperature(temperature, batch_size, anchor, like, above_zero=False):
    check_per_request("temperature", temperature, "float32", batch_size, anchor, like)
    finite = temperature.isfinite()
    if above_zero:
        require_values("temperature", temperature, finite & (temperature > 0), "must be finite and > 0")
    else:
        require_values("temperature", temperature, finite & (temperature >= 0), "must be finite and >= 0")


def check_step(step, anchor, like):
    require_dtype("step", step, ["int64"])
    require_device("step", step, anchor, like)
    require(step.numel() == 1 and step.dim() <= 5, "step", "must have one element", list_text(step.shape))


def check_quota(quota, x):
    check_per_request("quota", quota, "int64", x.shape[0], "x", x)
    require_values("quota", quota, quota >= 0, "must be >= 0")


def check_rule(rule, level, low):
    require_name("rule", rule, RULES)
    if rule in ("threshold", "segment_max"):
        for argument, value in (("level", level), ("low", low)):
            require(0 <= value <= 1, argument, f"must be in [0, 1] for {rule}", format(value, "g"))
    elif rule != "topk":
        require(level >= 0, "level", f"must be >= 0 for {rule}", format(level, "g"))


def check_window(window_start, window_stop, length):
    require(0 <= window_start <= length, "window_start", f"must be in [0, {length}]", window_start)
    require(
        window_stop == -1 or window_start <= window_stop <= length,
        "window_stop",
        f"must be -1 or in [{window_start}, {length}]",
        window_stop,
    )


def check_like_canvas(argument, tensor, dtype, shape, x):
    if tensor is not None:
        require_dtype(argument, tensor, [dtype])
        require_device(argument, tensor, "x", x)
        require_shape(argument, tensor, shape)


def check_frozen(frozen, x):
    check_like_canvas("frozen", frozen, "bool", x.shape, x)


def check_state(argument, tensor, dtype, shape, x):
    """What a step carries over and writes."""
    check_like_canvas(argument, tensor, dtype, shape, x)
    if tensor is not None:
        require_apart(argument, tensor)


def check_probs(probs, logits, x):
    if probs is not None:
        require_dtype("probs", probs, ["bfloat16"])
        require_device("probs", probs, "x", x)
        require_shape("probs", probs, logits.shape)
        require_unit_stride("probs", probs)
        require_apart("probs", probs)


def check_ready(a):
    check_like_rows("ready", a.ready, "bool", a.logits)
    only_there = a.ready is None or a.rule == "threshold"
    require(only_there, "ready", "must be given with rule threshold only", a.rule)
    require(a.ready is None or a.low == 0, "ready", "must be given without within", format(a.low, "g"))


def check_editing(a):
    if a.edit is not None:
        require(0 <= a.edit <= 1, "edit", "must be in [0, 1]", format(a.edit, "g"))
        require(a.mask_id is not None, "mask_id", "must be given with edit", "none")
    check_state("edits_left", a.edits_left, "int64", a.x.shape[:1], a.x)
    require(a.edit is not None or a.edits_left is None, "edits_left", "must be given with edit", "without")
    check_like_rows("edited", a.edited, "bool", a.logits)
    if a.edited is not None:
        require_apart("edited", a.edited)
    require(a.edit is not None or a.edited is None, "edited", "must be given with edit", "without")
    check_state("num_edited", a.num_edited, "int64", a.x.shape[:1], a.x)
    require(a.edit is not None or a.num_edited is None, "num_edited", "must be given with edit", "without")


def check_apart(written, read):
    """What a step writes it must not read as something else, and write under one name only. Dicts of tensors or None."""
    written, read = ({name: t for name, t in named.items() if t is not None} for named in (written, read))
    spans = {name: span(t) for name, t in (written | read).items()}
    for i, (name, tensor) in enumerate(written.items()):
        for other, its in (*list(written.items())[:i], *read.items()):
            shared = meet(spans[name], spans[other]) and share_memory(tensor, its)
            require(not shared, name, "must have memory of its own", f"memory of {other}")


def check_trace(trace, steps, x):
    if trace is not None:
        require_dtype("trace", trace, ["int32"])
        require_device("trace", trace, "x", x)
        require_shape("trace", trace, [*x.shape, 8])
        require_contiguous("trace", trace)
    both = (trace is None) == (steps is None)
    require(
        both,
        "trace_steps",
        "must be given with trace, and only then",
        "none" if steps is None else list_text(steps.shape),
    )
    if steps is not None:
        require_dtype("trace_steps", steps, ["int64"])
        require_device("trace_steps", steps, "x", x)
        require_dims("trace_steps", steps, ["S", "B", "8"])
        require(steps.shape[0] >= 1, "trace_steps", "must have a step", list_text(steps.shape))
        require_shape("trace_steps", steps, [steps.shape[0], x.shape[0], len(TRACE_COLUMNS)])
        require_contiguous("trace_steps", steps)


def check_start(start, packed, batch_size, last, anchor, like):
    """``last``: the highest legal start, None for no limit."""
    if start is None:
        return
    check_per_request("start", start, "int64", None if packed else batch_size, anchor, like)
    require(not packed, "start", "must not be given with packed logits [R, V]", list_text(start.shape))
    if last is None:
        require_values("start", start, start >= 0, "must be >= 0")
    else:
        require_values("start", start, (start >= 0) & (start <= last), f"must be in [0, {last}] (L - W)")


def check_rows(rows, count, size, anchor, like):
    """``count``: R; ``size``: B * L, or None for no limit."""
    if rows is None:
        return
    require_dtype("rows", rows, ["int64"])
    require_device("rows", rows, anchor, like)
    require_shape("rows", rows, [count])
    if size is None:
        require_values("rows", rows, rows >= -1, "must be >= -1")
    else:
        require_values("rows", rows, (rows >= -1) & (rows < size), f"must be in [-1, {size})")
    if rows.device.type == "cpu":
        ordered = rows.sort().values
        twice = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)]
        require(twice.numel() == 0, "rows", "must not hold a position twice", twice[0].item() if twice.numel() else 0)


def check_shift(shift, packed):
    if packed:
        require(shift == 0, "shift", "must be 0 with packed logits [R, V]", shift)
    else:
        require(shift in (0, -1), "shift", "must be 0 or -1", shift)


def check_ids(argument, ids, like):
    if ids is not None:
        require_dtype(argument, ids, ["int64"])
        require_device(argument, ids, "logits", like)
        require_dims(argument, ids, ["n"])


def check_previous(previous, logits):
    require_dtype("previous", previous, LOGIT_DTYPES)
    require_device("previous", previous, "logits", logits)
    require_shape("previous", previous, logits.shape)
    require_unit_stride("previous", previous)


def check_guidance(uncond_logits, cfg_scale, logits):
    if uncond_logits is not None:
        require_dtype("uncond_logits", uncond_logits, [dtype_name(logits)])
        require_device("uncond_logits", uncond_logits, "logits", logits)
        require_shape("uncond_logits", uncond_logits, logits.shape)
        require_unit_stride("uncond_logits", uncond_logits)
    finite = cfg_scale - cfg_scale == 0
    require(finite, "cfg_scale", "must be finite", format(cfg_scale, "g"))


def check_filters(a, batch_size, anchor, like):
    if a.top_k is not None:
        check_per_request("top_k", a.top_k, "int64", batch_size, anchor, like)
        require_values("top_k", a.top_k, a.top_k >= 0, "must be >= 0")
    check_share("top_p", a.top_p, batch_size, anchor, like)
    check_share("min_p", a.min_p, batch_size, anchor, like)
    require_name("filter_order", a.filter_order, ORDERS)


def check_share(argument, value, batch_size, anchor, like):
    if value is not None:
        check_per_request(argument, value, "float64", batch_size, anchor, like)
        require_values(argument, value, (value >= 0) & (value <= 1), "must be in [0, 1]")


def check_softcap(softcap):
    in_range = softcap == 0 or 1e-6 <= softcap <= 1e6
    require(in_range, "softcap", "must be 0 (none) or in [1e-6, 1e6]", format(softcap, "g"))


def check_noise_prior(mask_id, vocab, x):
    """Uniform noise must have a token to be, and the canvas be able to hold it and the mask."""
    require(mask_id >= -1, "mask_id", "must be >= -1 (none)", mask_id)
    require(dtype_name(x) == "int64" or mask_id < 2**31, "mask_id", "must fit in int32 as x", mask_id)
    require(noise_support(vocab, mask_id) >= 1, "mask_id", "must leave a token of the vocabulary for noise", mask_id)


def check_of_schedule(argument, numbers, n, x):
    require_dtype(argument, numbers, ["float64"])
    require_shape(argument, numbers, [1, n], [x.shape[0], n], [*x.shape, n])
    require_unit_stride(argument, numbers)


def check_no_way_to_no_mask(argument, chance, mask_id):
    """``chance``: of becoming the mask."""
    if mask_id < 0:
        require_values(argument, chance, chance == 0, "must not lead to the mask without mask_id")


def is_host_row(numbers):
    """Whether numbers of a schedule are the same for all and on the host, where they may stay: a step takes them with it."""
    return numbers.device.type == "cpu" and numbers.dim() == 2 and numbers.shape[0] == 1


def check_coefficients(coefficients, mask_id, x):
    check_of_schedule("coefficients", coefficients, len(COLUMNS), x)
    if not is_host_row(coefficients):
        require_device("coefficients", coefficients, "x", x)
    require_values("coefficients", coefficients, coefficients.isfinite(), "must be finite")
    check_no_way_to_no_mask("coefficients", coefficients[..., COLUMNS.index("token_mask")], mask_id)


def check_rates(rates, mask_id, x):
    check_of_schedule("rates", rates, 2, x)
    require_device("rates", rates, "x", x)
    require_values("rates", rates, (rates >= 0) & (rates <= 1), "must be in [0, 1]")
    total = rates[..., 0] + rates[..., 1]
    require_values("rates", total, total <= 1 + 1e-9, "must sum to at most 1")
    check_no_way_to_no_mask("rates", rates[..., 1], mask_id)


def check_redraw(a):
    require_name("redraw", a.redraw, REDRAWS)
    if a.redraw == "min_p":
        require(0 <= a.level <= 1, "level", "must be in [0, 1] for min_p", format(a.level, "g"))
    elif a.redraw == "guidance":
        require(a.level - a.level == 0, "level", "must be finite for guidance", format(a.level, "g"))
        require(a.uncond_logits is not None, "uncond_logits", "must be given for guidance", "none")
        require(a.cfg_scale == 0, "cfg_scale", "must be 0 for guidance", format(a.cfg_scale, "g"))
    if a.redraw != "none":
        require_values("temperature", a.temperature, a.temperature > 0, "must be > 0 with redraw")


def check_current_tokens(a):
    """What a transition starts from must be a token, or the mask; other ops do not care."""
    places = rows_on(a.x, a.logits, a.start, a.rows)
    token, vocab = token_at(a.x, places).long(), a.logits.shape[-1]
    good = (token >= 0) & (token < vocab)
    if a.mask_id >= 0:
        good |= token == a.mask_id
    good |= ~candidate_rows(a.x, places, None, a.window_start, a.window_stop, a.frozen)
    rule = f"must hold tokens in [0, {vocab}){' or mask_id' if a.mask_id >= 0 else ''} where it may change"
    require_values("x", token, good, rule)


def check_uniform(uniform, shape, anchor, like):
    if uniform is not None:
        require_dtype("uniform", uniform, ["float64"])
        require_device("uniform", uniform, anchor, like)
        require_shape("uniform", uniform, shape)
        require_values("uniform", uniform, (uniform >= 0) & (uniform < 1), "must be in [0, 1)")


def check_like_rows(argument, tensor, dtype, logits):
    if tensor is not None:
        require_dtype(argument, tensor, [dtype])
        require_device(argument, tensor, "logits", logits)
        require_shape(argument, tensor, logits.shape[:-1])


def check_rows_on_canvas(argument, tensor, packed, x):
    require_device(argument, tensor, "x", x)
    require_dims(argument, tensor, ["R"] if packed else ["B", "W"])
    if not packed:
        check_covered(argument, tensor, x)


def check_fits(argument, token, x):
    """A token that is to be written."""
    require(dtype_name(x) == "int64" or -(2**31) <= token < 2**31, argument, "must fit in int32 as x", token)


def check_scoring(confidence, confidence_from, conf_dtype, rank_temperature=0.0):
    require_name("confidence", confidence, CONFIDENCES)
    require_name("confidence_from", confidence_from, SOURCES)
    require_name("conf_dtype", conf_dtype, tuple(DTYPES))
    finite = 0 <= rank_temperature < float("inf")
    require(finite, "rank_temperature", "must be finite and >= 0", format(rank_temperature, "g"))
    useful = rank_temperature == 0 or confidence != "random"
    require(useful, "rank_temperature", "must be 0 for confidence random", format(rank_temperature, "g"))
