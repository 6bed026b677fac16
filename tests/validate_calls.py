"""Legal calls of every op, for validate_cases.py to spoil."""

import torch

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
