"""Legal calls of every op, and every way to spoil one: op, packed, what is spoilt, the error and its text."""

import math

import torch
from dlm_kernels.reference.decide import RULES

RULE_NAMES = f"{', '.join(RULES[:-1])} or {RULES[-1]}"
B, W, L, V, R = 2, 4, 8, 10, 5
STEPS = ("denoise_step_", "topk_unmask_", "remask_", "renoise_step_", "transition_step_")
OPS = ("row_stats", "row_kl", "draw_tokens", *STEPS, "q_sample")
PACKED = ("draw_tokens", *STEPS)


def i64(*values):
    return torch.tensor(values, dtype=torch.int64)


def schedule(*shape):
    return torch.zeros(shape, dtype=torch.float64)


def state(**changes):
    """What renoise_step_ carries over."""
    canvas, per_request = torch.zeros(B, L, dtype=torch.int64), torch.zeros(B, dtype=torch.int64)
    return {**dict(argmax=canvas, unchanged=per_request, done=per_request.bool()), **changes}


def tracing(**changes):
    return {
        **dict(trace=torch.zeros(B, L, 8, dtype=torch.int32), trace_steps=torch.zeros(3, B, 8, dtype=torch.int64)),
        **changes,
    }


def editing(**changes):
    return dict(edit=0.5) | changes


def call_of(op, packed=False):
    """A legal call as one dict of arguments; tests spoil one of them."""
    x = torch.full((B, L), -1)
    logits = torch.zeros(R, V) if packed else torch.zeros(B, W, V)
    drawing = dict(temperature=torch.zeros(1), seed=i64(0), step=torch.tensor(0))
    rows = dict(rows=torch.arange(R)) if packed else {}
    if op == "row_stats":
        return dict(logits=logits, temperature=torch.ones(1))
    if op == "row_kl":
        return dict(logits=logits, previous=logits.half(), temperature=torch.ones(1))
    if op == "draw_tokens":
        return dict(logits=logits, **drawing, **rows, **(dict(length=L) if packed else {}))
    if op == "denoise_step_":
        return dict(x=x, logits=logits, **drawing, quota=i64(1), mask_id=-1, rule="topk", **rows)
    if op == "renoise_step_":
        return dict(x=x, logits=logits, **drawing, quota=i64(1), rule="topk", **rows)
    if op == "transition_step_":
        return dict(x=x + 1, logits=logits, **drawing, coefficients=schedule(1, 14), **rows)
    if op == "q_sample":
        return dict(x=x, rates=schedule(1, 2), seed=i64(0), step=torch.tensor(0), vocab_size=V)
    tokens = torch.zeros(R, dtype=torch.int64) if packed else torch.zeros(B, W, dtype=torch.int64)
    if op == "remask_":
        return dict(x=x + 1, confidence=torch.zeros(tokens.shape), quota=i64(1), mask_id=-1, below=1.0, **rows)
    return dict(x=x, tokens=tokens, confidence=torch.zeros(tokens.shape), quota=i64(1), mask_id=-1, **rows)


half = torch.zeros(B, W, V, dtype=torch.float16)
meta = lambda tensor: tensor.to("meta")
T, E = TypeError, ValueError

# op, packed, what is spoilt, error, text
CASES = [
    # x
    ("denoise_step_", 0, dict(x=torch.zeros(B, L)), T, "x: dtype must be int64 or int32, got float32"),
    ("topk_unmask_", 0, dict(x=torch.zeros(B, L)), T, "x: dtype must be int64 or int32, got float32"),
    ("denoise_step_", 0, dict(x=i64(1, 2)), E, "x: must be 2-dimensional, [B, L], got [2]"),
    (
        "denoise_step_",
        0,
        dict(x=torch.full((B, 1), -1).expand(B, L)),
        E,
        "x: must not overlap itself (stride 0), got strides [1, 0]",
    ),
    # logits
    (
        "row_stats",
        0,
        dict(logits=torch.zeros(B, W, V).double()),
        T,
        "logits: dtype must be float32, float16 or bfloat16, got float64",
    ),
    (
        "denoise_step_",
        0,
        dict(logits=torch.zeros(B, W, V, dtype=torch.int64)),
        T,
        "logits: dtype must be float32, float16 or bfloat16, got int64",
    ),
    ("row_stats", 0, dict(logits=torch.zeros(V)), E, "logits: must be [B, W, V] or [R, V], got [10]"),
    (
        "draw_tokens",
        0,
        dict(logits=torch.zeros(1, B, W, V)),
        E,
        "logits: must be [B, W, V] or [R, V], got [1, 2, 4, 10]",
    ),
    ("denoise_step_", 0, dict(logits=torch.zeros(R, V)), E, "logits: must be 3-dimensional, [B, W, V], got [5, 10]"),
    ("denoise_step_", 1, dict(logits=torch.zeros(B, W, V)), E, "logits: must be 2-dimensional, [R, V], got [2, 4, 10]"),
    ("draw_tokens", 1, dict(logits=torch.zeros(B, W, V)), E, "logits: must be 2-dimensional, [R, V], got [2, 4, 10]"),
    ("draw_tokens", 0, dict(logits=torch.zeros(B, W, 0)), E, "logits: the vocabulary must not be empty, got [2, 4, 0]"),
    (
        "denoise_step_",
        0,
        dict(logits=torch.zeros(B, W, 2 * V)[..., ::2]),
        E,
        "logits: stride of the last dimension must be 1, got 2",
    ),
    (
        "denoise_step_",
        0,
        dict(logits=torch.zeros(B, V, W).mT),
        E,
        "logits: stride of the last dimension must be 1, got 4",
    ),
    ("denoise_step_", 0, dict(logits=torch.zeros(3, W, V)), E, "logits: dimension 0 must be 2 as in x, got 3"),
    ("denoise_step_", 0, dict(logits=torch.zeros(B, 9, V)), E, "logits: dimension 1 must be at most 8 as in x, got 9"),
    # temperature
    (
        "denoise_step_",
        0,
        dict(temperature=torch.zeros(1).double()),
        T,
        "temperature: dtype must be float32, got float64",
    ),
    ("denoise_step_", 0, dict(temperature=torch.tensor(0.0)), E, "temperature: shape must be [1] or [2], got []"),
    ("denoise_step_", 0, dict(temperature=torch.zeros(3)), E, "temperature: shape must be [1] or [2], got [3]"),
    ("row_stats", 1, dict(temperature=torch.ones(3)), E, "temperature: shape must be [1] or [5], got [3]"),
    ("draw_tokens", 1, dict(temperature=torch.tensor(0.0)), E, "temperature: must be 1-dimensional, [B], got []"),
    ("denoise_step_", 0, dict(temperature=torch.tensor([-0.5])), E, "temperature: must be finite and >= 0, got -0.5"),
    (
        "draw_tokens",
        0,
        dict(temperature=torch.tensor([1.0, math.nan])),
        E,
        "temperature: must be finite and >= 0, got nan",
    ),
    (
        "draw_tokens",
        0,
        dict(temperature=torch.tensor([math.inf, -1.0])),
        E,
        "temperature: must be finite and >= 0, got inf",
    ),
    ("row_stats", 0, dict(temperature=torch.tensor([1.0, 0.0])), E, "temperature: must be finite and > 0, got 0"),
    ("row_stats", 0, dict(temperature=torch.tensor([-1e-7])), E, "temperature: must be finite and > 0, got -1e-07"),
    # given
    ("row_stats", 0, dict(given=torch.zeros(B, W)), T, "given: dtype must be int64, got float32"),
    (
        "row_stats",
        0,
        dict(given=torch.zeros(B, W + 1, dtype=torch.int64)),
        E,
        "given: shape must be [2, 4], got [2, 5]",
    ),
    # seed, step
    ("denoise_step_", 0, dict(seed=torch.zeros(1)), T, "seed: dtype must be int64, got float32"),
    ("denoise_step_", 0, dict(seed=i64(1, 2, 3)), E, "seed: shape must be [1] or [2], got [3]"),
    (
        "draw_tokens",
        1,
        dict(seed=i64(1, 2, 3), temperature=torch.zeros(2)),
        E,
        "seed: shape must be [1] or [2], got [3]",
    ),
    ("draw_tokens", 1, dict(seed=torch.tensor(3)), E, "seed: must be 1-dimensional, [B], got []"),
    ("draw_tokens", 1, dict(temperature=torch.zeros(0)), E, "temperature: must not be empty, got [0]"),
    ("draw_tokens", 1, dict(temperature=torch.ones(1), seed=i64()), E, "seed: must not be empty, got [0]"),
    ("denoise_step_", 0, dict(step=torch.tensor(1.0)), T, "step: dtype must be int64, got float32"),
    ("draw_tokens", 0, dict(step=i64(1, 2)), E, "step: must have one element, got [2]"),
    # quota
    ("denoise_step_", 0, dict(quota=torch.ones(1)), T, "quota: dtype must be int64, got float32"),
    ("topk_unmask_", 0, dict(quota=i64(1, 2, 3)), E, "quota: shape must be [1] or [2], got [3]"),
    ("denoise_step_", 0, dict(quota=i64(3, -2)), E, "quota: must be >= 0, got -2"),
    ("topk_unmask_", 0, dict(quota=i64(-1)), E, "quota: must be >= 0, got -1"),
    # rule
    (
        "denoise_step_",
        0,
        dict(rule="factor", rank_temperature=0.5),
        E,
        "rank_temperature: must be 0 for rule factor, got 0.5",
    ),
    ("denoise_step_", 0, dict(rank_temperature=-0.5), E, "rank_temperature: must be finite and >= 0, got -0.5"),
    ("draw_tokens", 0, dict(rank_temperature=math.nan), E, "rank_temperature: must be finite and >= 0, got nan"),
    ("draw_tokens", 0, dict(rank_temperature=math.inf), E, "rank_temperature: must be finite and >= 0, got inf"),
    (
        "draw_tokens",
        0,
        dict(confidence="random", rank_temperature=0.5),
        E,
        "rank_temperature: must be 0 for confidence random, got 0.5",
    ),
    ("denoise_step_", 0, dict(rule="top_k"), E, f"rule: must be {RULE_NAMES}, got top_k"),
    ("denoise_step_", 0, dict(rule="threshold", level=1.5), E, "level: must be in [0, 1] for threshold, got 1.5"),
    ("denoise_step_", 0, dict(rule="threshold", level=-0.1), E, "level: must be in [0, 1] for threshold, got -0.1"),
    ("denoise_step_", 0, dict(rule="threshold", level=math.nan), E, "level: must be in [0, 1] for threshold, got nan"),
    (
        "denoise_step_",
        0,
        dict(rule="threshold", level=0.5, low=-1e-5),
        E,
        "low: must be in [0, 1] for threshold, got -1e-05",
    ),
    ("denoise_step_", 0, dict(rule="segment_max", level=2.0), E, "level: must be in [0, 1] for segment_max, got 2"),
    ("denoise_step_", 0, dict(rule="segment_max", low=math.nan), E, "low: must be in [0, 1] for segment_max, got nan"),
    (
        "denoise_step_",
        0,
        dict(rule="entropy_threshold", level=-0.5),
        E,
        "level: must be >= 0 for entropy_threshold, got -0.5",
    ),
    ("denoise_step_", 0, dict(rule="factor", level=-1.0), E, "level: must be >= 0 for factor, got -1"),
    (
        "denoise_step_",
        0,
        dict(rule="entropy_budget", level=-0.25),
        E,
        "level: must be >= 0 for entropy_budget, got -0.25",
    ),
    # window, frozen
    ("denoise_step_", 0, dict(window_start=-1), E, "window_start: must be in [0, 8], got -1"),
    ("topk_unmask_", 0, dict(window_start=9), E, "window_start: must be in [0, 8], got 9"),
    ("denoise_step_", 0, dict(window_start=3, window_stop=2), E, "window_stop: must be -1 or in [3, 8], got 2"),
    ("topk_unmask_", 0, dict(window_stop=9), E, "window_stop: must be -1 or in [0, 8], got 9"),
    ("denoise_step_", 0, dict(frozen=torch.zeros(B, L)), T, "frozen: dtype must be bool, got float32"),
    (
        "topk_unmask_",
        0,
        dict(frozen=torch.zeros(B, W, dtype=torch.bool)),
        E,
        "frozen: shape must be [2, 8], got [2, 4]",
    ),
    # start, rows, length, shift
    ("denoise_step_", 0, dict(start=torch.zeros(1)), T, "start: dtype must be int64, got float32"),
    ("denoise_step_", 0, dict(start=i64(1, 2, 3)), E, "start: shape must be [1] or [2], got [3]"),
    ("denoise_step_", 0, dict(start=i64(0, 5)), E, "start: must be in [0, 4] (L - W), got 5"),
    ("topk_unmask_", 0, dict(start=i64(-1)), E, "start: must be in [0, 4] (L - W), got -1"),
    ("draw_tokens", 0, dict(start=i64(-3)), E, "start: must be >= 0, got -3"),
    ("denoise_step_", 1, dict(start=i64(0)), E, "start: must not be given with packed logits [R, V], got [1]"),
    ("draw_tokens", 1, dict(start=i64(0)), E, "start: must not be given with packed logits [R, V], got [1]"),
    ("denoise_step_", 1, dict(rows=torch.arange(R).int()), T, "rows: dtype must be int64, got int32"),
    ("denoise_step_", 1, dict(rows=torch.arange(R - 1)), E, "rows: shape must be [5], got [4]"),
    ("topk_unmask_", 1, dict(rows=torch.arange(R - 1)), E, "rows: shape must be [5], got [4]"),
    ("denoise_step_", 1, dict(rows=i64(0, 1, 2, 3, B * L)), E, "rows: must be in [-1, 16), got 16"),
    ("denoise_step_", 1, dict(rows=i64(0, 1, -2, 3, 4)), E, "rows: must be in [-1, 16), got -2"),
    ("denoise_step_", 1, dict(rows=i64(0, 7, 2, -1, 7)), E, "rows: must not hold a position twice, got 7"),
    ("topk_unmask_", 1, dict(rows=i64(0, -1, -1, 0, 7)), E, "rows: must not hold a position twice, got 0"),
    ("draw_tokens", 1, dict(rows=i64(0, 1, -2, 3, 4)), E, "rows: must be >= -1, got -2"),
    ("draw_tokens", 1, dict(rows=i64(0, 1, 2, 3, 16), seed=i64(1, 2)), E, "rows: must be in [-1, 16), got 16"),
    ("draw_tokens", 1, dict(length=0), E, "length: must be >= 1 with rows, got 0"),
    ("draw_tokens", 0, dict(length=8), E, "length: must be 0 without rows, got 8"),
    ("denoise_step_", 0, dict(shift=1), E, "shift: must be 0 or -1, got 1"),
    ("draw_tokens", 0, dict(shift=-2), E, "shift: must be 0 or -1, got -2"),
    ("denoise_step_", 1, dict(shift=-1), E, "shift: must be 0 with packed logits [R, V], got -1"),
    ("draw_tokens", 1, dict(shift=-1), E, "shift: must be 0 with packed logits [R, V], got -1"),
    # suppress, demote, guidance
    ("row_stats", 0, dict(suppress=torch.zeros(2)), T, "suppress: dtype must be int64, got float32"),
    ("denoise_step_", 0, dict(suppress=torch.tensor(3)), E, "suppress: must be 1-dimensional, [n], got []"),
    ("draw_tokens", 0, dict(demote=torch.zeros(2, dtype=torch.int32)), T, "demote: dtype must be int64, got int32"),
    (
        "denoise_step_",
        0,
        dict(demote=torch.zeros(1, 2, dtype=torch.int64)),
        E,
        "demote: must be 1-dimensional, [n], got [1, 2]",
    ),
    ("denoise_step_", 0, dict(uncond_logits=half), T, "uncond_logits: dtype must be float32, got float16"),
    (
        "row_stats",
        0,
        dict(uncond_logits=torch.zeros(B, W, V + 1)),
        E,
        "uncond_logits: shape must be [2, 4, 10], got [2, 4, 11]",
    ),
    (
        "draw_tokens",
        0,
        dict(uncond_logits=torch.zeros(B, W, 2 * V)[..., ::2]),
        E,
        "uncond_logits: stride of the last dimension must be 1, got 2",
    ),
    ("denoise_step_", 0, dict(cfg_scale=math.inf), E, "cfg_scale: must be finite, got inf"),
    ("row_stats", 0, dict(cfg_scale=-math.inf), E, "cfg_scale: must be finite, got -inf"),
    # filters
    ("denoise_step_", 0, dict(top_k=torch.ones(1)), T, "top_k: dtype must be int64, got float32"),
    ("draw_tokens", 0, dict(top_k=i64(1, 2, 3)), E, "top_k: shape must be [1] or [2], got [3]"),
    ("draw_tokens", 1, dict(top_k=i64(-1)), E, "top_k: must be >= 0, got -1"),
    ("renoise_step_", 0, dict(top_k=i64(2, -3)), E, "top_k: must be >= 0, got -3"),
    ("transition_step_", 0, dict(top_p=torch.ones(1)), T, "top_p: dtype must be float64, got float32"),
    ("denoise_step_", 1, dict(top_p=schedule(3)), E, "top_p: shape must be [1] or [2], got [3]"),
    ("denoise_step_", 0, dict(top_p=schedule(1) + 1.5), E, "top_p: must be in [0, 1], got 1.5"),
    ("draw_tokens", 0, dict(top_p=schedule(B) * math.nan), E, "top_p: must be in [0, 1], got nan"),
    ("transition_step_", 1, dict(min_p=schedule(1) - 0.5), E, "min_p: must be in [0, 1], got -0.5"),
    ("renoise_step_", 0, dict(min_p=torch.zeros(1)), T, "min_p: dtype must be float64, got float32"),
    (
        "denoise_step_",
        0,
        dict(filter_order="min_p_first"),
        E,
        "filter_order: must be top_k_first or top_p_first, got min_p_first",
    ),
    # uniform, scoring
    ("denoise_step_", 0, dict(uniform=torch.zeros(B, W)), T, "uniform: dtype must be float64, got float32"),
    ("draw_tokens", 1, dict(uniform=torch.zeros(R + 1).double()), E, "uniform: shape must be [5], got [6]"),
    ("draw_tokens", 0, dict(uniform=torch.ones(B, W).double()), E, "uniform: must be in [0, 1), got 1"),
    ("denoise_step_", 0, dict(uniform=torch.full((B, W), math.nan).double()), E, "uniform: must be in [0, 1), got nan"),
    (
        "denoise_step_",
        0,
        dict(confidence="probability"),
        E,
        "confidence: must be prob, margin, neg_entropy, random, gain or change, got probability",
    ),
    (
        "draw_tokens",
        0,
        dict(confidence_from="logits"),
        E,
        "confidence_from: must be raw, sampled or tempered, got logits",
    ),
    ("draw_tokens", 0, dict(conf_dtype="float16"), E, "conf_dtype: must be float32, bfloat16 or float64, got float16"),
    # editing
    ("denoise_step_", 0, dict(edit=1.5), E, "edit: must be in [0, 1], got 1.5"),
    ("denoise_step_", 1, dict(edit=math.nan), E, "edit: must be in [0, 1], got nan"),
    ("denoise_step_", 0, dict(edit=0.5, mask_id=None), E, "mask_id: must be given with edit, got none"),
    ("denoise_step_", 0, dict(edits_left=i64(1, 2)), E, "edits_left: must be given with edit, got without"),
    ("denoise_step_", 0, editing(edits_left=i64(1)), E, "edits_left: shape must be [2], got [1]"),
    ("denoise_step_", 0, editing(edits_left=torch.ones(B)), T, "edits_left: dtype must be int64, got float32"),
    (
        "denoise_step_",
        0,
        editing(edits_left=i64(1).expand(B)),
        E,
        "edits_left: must not overlap itself (stride 0), got strides [0]",
    ),
    ("denoise_step_", 1, editing(edited=torch.zeros(B, W).bool()), E, "edited: shape must be [5], got [2, 4]"),
    ("denoise_step_", 0, editing(edited=torch.zeros(B, W)), T, "edited: dtype must be bool, got float32"),
    (
        "denoise_step_",
        0,
        editing(edited=torch.zeros(B, 1).bool().expand(B, W)),
        E,
        "edited: must not overlap itself (stride 0), got strides [1, 0]",
    ),
    ("denoise_step_", 0, dict(edited=torch.zeros(B, W).bool()), E, "edited: must be given with edit, got without"),
    ("denoise_step_", 0, editing(num_edited=i64(0)), E, "num_edited: shape must be [2], got [1]"),
    ("denoise_step_", 0, dict(num_edited=i64(0, 0)), E, "num_edited: must be given with edit, got without"),
    # ready
    ("denoise_step_", 0, dict(ready=torch.zeros(B, W)), T, "ready: dtype must be bool, got float32"),
    ("denoise_step_", 1, dict(ready=torch.zeros(B, W).bool()), E, "ready: shape must be [5], got [2, 4]"),
    (
        "denoise_step_",
        0,
        dict(ready=torch.zeros(B, W).bool()),
        E,
        "ready: must be given with rule threshold only, got topk",
    ),
    (
        "denoise_step_",
        0,
        dict(ready=torch.zeros(B, W).bool(), rule="threshold", low=0.25),
        E,
        "ready: must be given without within, got 0.25",
    ),
    # row_kl's own
    ("row_kl", 0, dict(logits=torch.zeros(V)), E, "logits: must be [B, W, V] or [R, V], got [10]"),
    (
        "row_kl",
        0,
        dict(previous=torch.zeros(B, W, V).double()),
        T,
        "previous: dtype must be float32, float16 or bfloat16, got float64",
    ),
    ("row_kl", 1, dict(previous=torch.zeros(R, V - 1)), E, "previous: shape must be [5, 10], got [5, 9]"),
    (
        "row_kl",
        0,
        dict(previous=torch.zeros(B, V, W).mT),
        E,
        "previous: stride of the last dimension must be 1, got 4",
    ),
    ("row_kl", 0, dict(temperature=torch.zeros(1)), E, "temperature: must be finite and > 0, got 0"),
    ("row_kl", 0, dict(wanted=torch.zeros(B, W)), T, "wanted: dtype must be bool, got float32"),
    ("row_kl", 0, dict(wanted=torch.zeros(W).bool()), E, "wanted: shape must be [2, 4], got [4]"),
    # remask_'s own
    ("remask_", 0, dict(confidence=torch.zeros(R)), E, "confidence: must be 2-dimensional, [B, W], got [5]"),
    ("remask_", 1, dict(confidence=torch.zeros(B, W)), E, "confidence: must be 1-dimensional, [R], got [2, 4]"),
    ("remask_", 0, dict(confidence=torch.zeros(3, W)), E, "confidence: dimension 0 must be 2 as in x, got 3"),
    (
        "remask_",
        0,
        dict(confidence=i64(0)),
        T,
        "confidence: dtype must be float32, float64, float16 or bfloat16, got int64",
    ),
    ("remask_", 0, dict(quota=i64(-1)), E, "quota: must be >= 0, got -1"),
    ("remask_", 0, dict(below=math.nan), E, "below: must not be NaN, got nan"),
    (
        "remask_",
        0,
        dict(x=torch.zeros(B, L, dtype=torch.int32), mask_id=-(2**31) - 1),
        E,
        "mask_id: must fit in int32 as x, got -2147483649",
    ),
    ("remask_", 0, dict(start=i64(9)), E, "start: must be in [0, 4] (L - W), got 9"),
    ("remask_", 1, dict(rows=i64(0, -1, -1, 0, 7)), E, "rows: must not hold a position twice, got 0"),
    ("remask_", 0, tracing(), E, "step: must be given with trace, got none"),
    # topk_unmask_'s own
    ("topk_unmask_", 0, dict(tokens=torch.zeros(B, W).int()), T, "tokens: dtype must be int64, got int32"),
    ("topk_unmask_", 0, dict(tokens=i64(1, 2)), E, "tokens: must be 2-dimensional, [B, W], got [2]"),
    (
        "topk_unmask_",
        1,
        dict(tokens=torch.zeros(B, W, dtype=torch.int64)),
        E,
        "tokens: must be 1-dimensional, [R], got [2, 4]",
    ),
    (
        "topk_unmask_",
        0,
        dict(tokens=torch.zeros(B, 9, dtype=torch.int64)),
        E,
        "tokens: dimension 1 must be at most 8 as in x, got 9",
    ),
    (
        "topk_unmask_",
        0,
        dict(tokens=torch.zeros(3, W, dtype=torch.int64)),
        E,
        "tokens: dimension 0 must be 2 as in x, got 3",
    ),
    (
        "topk_unmask_",
        0,
        dict(confidence=torch.zeros(B, W).long()),
        T,
        "confidence: dtype must be float32, float64, float16 or bfloat16, got int64",
    ),
    ("topk_unmask_", 0, dict(confidence=torch.zeros(B, W + 1)), E, "confidence: shape must be [2, 4], got [2, 5]"),
    # what a confidence compares with
    ("draw_tokens", 0, dict(confidence="gain"), E, "given: must be given for confidence gain, got none"),
    ("draw_tokens", 1, dict(confidence="change"), E, "given: must be given for confidence change, got none"),
    ("draw_tokens", 0, dict(given=torch.zeros(B, W)), T, "given: dtype must be int64, got float32"),
    ("draw_tokens", 1, dict(given=i64(1, 2)), E, "given: shape must be [5], got [2]"),
    # trace
    ("denoise_step_", 0, tracing(trace=torch.zeros(B, L, 8)), T, "trace: dtype must be int32, got float32"),
    (
        "renoise_step_",
        0,
        tracing(trace=torch.zeros(B, W, 8, dtype=torch.int32)),
        E,
        "trace: shape must be [2, 8, 8], got [2, 4, 8]",
    ),
    (
        "transition_step_",
        0,
        tracing(trace=torch.zeros(B, 8, L, dtype=torch.int32).mT),
        E,
        "trace: must be contiguous, got strides [64, 1, 8]",
    ),
    (
        "denoise_step_",
        0,
        tracing(trace_steps=None),
        E,
        "trace_steps: must be given with trace, and only then, got none",
    ),
    (
        "topk_unmask_",
        0,
        tracing(trace=None),
        E,
        "trace_steps: must be given with trace, and only then, got [3, 2, 8]",
    ),
    (
        "denoise_step_",
        0,
        tracing(trace_steps=torch.zeros(3, B, 8, dtype=torch.int32)),
        T,
        "trace_steps: dtype must be int64, got int32",
    ),
    (
        "denoise_step_",
        0,
        tracing(trace_steps=torch.zeros(B, 8, dtype=torch.int64)),
        E,
        "trace_steps: must be 3-dimensional, [S, B, 8], got [2, 8]",
    ),
    (
        "renoise_step_",
        0,
        tracing(trace_steps=torch.zeros(0, B, 8, dtype=torch.int64)),
        E,
        "trace_steps: must have a step, got [0, 2, 8]",
    ),
    (
        "transition_step_",
        0,
        tracing(trace_steps=torch.zeros(3, 5, 8, dtype=torch.int64)),
        E,
        "trace_steps: shape must be [3, 2, 8], got [3, 5, 8]",
    ),
    (
        "denoise_step_",
        0,
        tracing(trace_steps=torch.zeros(3, B, 16, dtype=torch.int64)[..., ::2]),
        E,
        "trace_steps: must be contiguous, got strides [32, 16, 2]",
    ),
    ("topk_unmask_", 0, tracing(), E, "step: must be given with trace, got none"),
    ("topk_unmask_", 0, tracing(step=torch.tensor(1.0)), T, "step: dtype must be int64, got float32"),
    ("topk_unmask_", 0, dict(step=i64(1, 2)), E, "step: must have one element, got [2]"),
    # renoise_step_'s own
    ("renoise_step_", 0, dict(mask_id=-2), E, "mask_id: must be >= -1 (none), got -2"),
    (
        "renoise_step_",
        0,
        dict(logits=torch.zeros(B, W, 1), mask_id=0),
        E,
        "mask_id: must leave a token of the vocabulary for noise, got 0",
    ),
    ("renoise_step_", 0, dict(committed=torch.zeros(B, L)), T, "committed: dtype must be bool, got float32"),
    ("renoise_step_", 0, dict(committed=torch.zeros(L).bool()), E, "committed: shape must be [2, 8], got [8]"),
    (
        "renoise_step_",
        0,
        dict(committed=torch.zeros(1, L).bool().expand(B, L)),
        E,
        "committed: must not overlap itself (stride 0), got strides [0, 1]",
    ),
    ("renoise_step_", 0, state(argmax=torch.zeros(B, L).int()), T, "argmax: dtype must be int64, got int32"),
    ("renoise_step_", 0, state(argmax=i64(1)), E, "argmax: shape must be [2, 8], got [1]"),
    ("renoise_step_", 0, state(unchanged=torch.zeros(B)), T, "unchanged: dtype must be int64, got float32"),
    ("renoise_step_", 0, state(unchanged=i64(0)), E, "unchanged: shape must be [2], got [1]"),
    ("renoise_step_", 0, state(argmax=None, done=None), E, "unchanged: must be given with argmax, got without"),
    ("renoise_step_", 0, state(done=i64(0, 0)), T, "done: dtype must be bool, got int64"),
    ("renoise_step_", 0, state(done=i64(0).bool()), E, "done: shape must be [2], got [1]"),
    (
        "renoise_step_",
        0,
        state(done=i64(0).bool().expand(B)),
        E,
        "done: must not overlap itself (stride 0), got strides [0]",
    ),
    ("renoise_step_", 0, state(unchanged=None), E, "done: must be given with argmax and unchanged, got without"),
    ("renoise_step_", 0, dict(probs=torch.zeros(B, W, V)), T, "probs: dtype must be bfloat16, got float32"),
    (
        "renoise_step_",
        1,
        dict(probs=torch.zeros(B, W, V).bfloat16()),
        E,
        "probs: shape must be [5, 10], got [2, 4, 10]",
    ),
    (
        "renoise_step_",
        0,
        dict(probs=torch.zeros(B, V, W).bfloat16().mT),
        E,
        "probs: stride of the last dimension must be 1, got 4",
    ),
    (
        "renoise_step_",
        0,
        dict(probs=torch.zeros(B, 1, V).bfloat16().expand(B, W, V)),
        E,
        "probs: must not overlap itself (stride 0), got strides [10, 0, 1]",
    ),
    ("renoise_step_", 0, dict(stability=-1), E, "stability: must be >= 0, got -1"),
    ("renoise_step_", 0, dict(confident=-0.5), E, "confident: must be >= 0, got -0.5"),
    ("renoise_step_", 0, dict(confident=math.nan), E, "confident: must be >= 0, got nan"),
    (
        "transition_step_",
        0,
        dict(x=torch.zeros(B, L, dtype=torch.int32), mask_id=2**31),
        E,
        "mask_id: must fit in int32 as x, got 2147483648",
    ),
    (
        "q_sample",
        0,
        dict(x=torch.zeros(B, L, dtype=torch.int32), vocab_size=2**31 + 1),
        E,
        "vocab_size: must fit in int32 as x, got 2147483649",
    ),
    ("renoise_step_", 0, dict(softcap=-1.0), E, "softcap: must be 0 (none) or in [1e-6, 1e6], got -1"),
    ("renoise_step_", 0, dict(softcap=math.inf), E, "softcap: must be 0 (none) or in [1e-6, 1e6], got inf"),
    ("renoise_step_", 0, dict(uniform=schedule(B, W)), E, "uniform: shape must be [2, 4, 2], got [2, 4]"),
    ("renoise_step_", 1, dict(uniform=schedule(R, 2) + 1), E, "uniform: must be in [0, 1), got 1"),
    ("renoise_step_", 0, dict(rule="best"), E, f"rule: must be {RULE_NAMES}, got best"),
    ("renoise_step_", 0, dict(quota=i64(-1)), E, "quota: must be >= 0, got -1"),
    # transition_step_'s own
    (
        "transition_step_",
        0,
        dict(coefficients=torch.zeros(1, 14)),
        T,
        "coefficients: dtype must be float64, got float32",
    ),
    (
        "transition_step_",
        0,
        dict(coefficients=schedule(B, W, 14)),
        E,
        "coefficients: shape must be [1, 14], [2, 14] or [2, 8, 14], got [2, 4, 14]",
    ),
    (
        "transition_step_",
        0,
        dict(coefficients=schedule(1, 28)[:, ::2]),
        E,
        "coefficients: stride of the last dimension must be 1, got 2",
    ),
    (
        "transition_step_",
        0,
        dict(coefficients=schedule(B, L, 14).index_fill(1, i64(3), math.inf)),
        E,
        "coefficients: must be finite, got inf",
    ),
    (
        "transition_step_",
        0,
        dict(coefficients=schedule(B, 14).index_fill(1, i64(7), 0.25)),
        E,
        "coefficients: must not lead to the mask without mask_id, got 0.25",
    ),
    ("transition_step_", 0, dict(mask_id=-7), E, "mask_id: must be >= -1 (none), got -7"),
    ("transition_step_", 0, dict(tempered="never"), E, "tempered: must be before or after, got never"),
    ("transition_step_", 0, dict(uniform=schedule(B, W, 2)), E, "uniform: shape must be [2, 4, 3], got [2, 4, 2]"),
    (
        "transition_step_",
        0,
        dict(x=torch.full((B, L), V)),
        E,
        "x: must hold tokens in [0, 10) where it may change, got 10",
    ),
    (
        "transition_step_",
        1,
        dict(x=torch.full((B, L), -1), mask_id=3),
        E,
        "x: must hold tokens in [0, 10) or mask_id where it may change, got -1",
    ),
    (
        "transition_step_",
        0,
        dict(redraw="top_p"),
        E,
        "redraw: must be none, min_p, guidance or score, got top_p",
    ),
    ("transition_step_", 0, dict(redraw="min_p", level=1.5), E, "level: must be in [0, 1] for min_p, got 1.5"),
    ("transition_step_", 0, dict(redraw="guidance", level=math.inf), E, "level: must be finite for guidance, got inf"),
    ("transition_step_", 1, dict(redraw="guidance"), E, "uncond_logits: must be given for guidance, got none"),
    (
        "transition_step_",
        0,
        dict(redraw="guidance", uncond_logits=torch.zeros(B, W, V), cfg_scale=0.5),
        E,
        "cfg_scale: must be 0 for guidance, got 0.5",
    ),
    ("transition_step_", 0, dict(redraw="score"), E, "temperature: must be > 0 with redraw, got 0"),
    # q_sample's own
    ("q_sample", 0, dict(rates=torch.zeros(1, 2)), T, "rates: dtype must be float64, got float32"),
    ("q_sample", 0, dict(rates=schedule(2)), E, "rates: shape must be [1, 2], [2, 2] or [2, 8, 2], got [2]"),
    ("q_sample", 0, dict(rates=schedule(B, L, 2) - 0.5), E, "rates: must be in [0, 1], got -0.5"),
    ("q_sample", 0, dict(rates=schedule(B, 2) + 0.75), E, "rates: must sum to at most 1, got 1.5"),
    (
        "q_sample",
        0,
        dict(rates=schedule(B, L, 2) + 0.125),
        E,
        "rates: must not lead to the mask without mask_id, got 0.125",
    ),
    ("q_sample", 0, dict(seed=i64(1, 2, 3)), E, "seed: shape must be [1] or [2], got [3]"),
    ("q_sample", 0, dict(vocab_size=0), E, "vocab_size: must be >= 1, got 0"),
    (
        "q_sample",
        0,
        dict(vocab_size=1, mask_id=0),
        E,
        "mask_id: must leave a token of the vocabulary for noise, got 0",
    ),
    ("q_sample", 0, dict(frozen=torch.zeros(B, W).bool()), E, "frozen: shape must be [2, 8], got [2, 4]"),
    ("q_sample", 0, dict(uniform=schedule(B, L)), E, "uniform: shape must be [2, 8, 2], got [2, 8]"),
]
