"""Values on a device come unchecked, since a check would wait for it: kernels survive any. No crash, no NaN, no write where
nothing may change; what the results are is the caller's fault."""

import backends
import pytest
import torch
from backends import ops
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from strategies import step_cases
from uniform_cases import noising_call, renoise_call, transition_call

WILD_INTEGERS = torch.tensor([-(2**63), -(2**62), -2, -1, 0, 1, 5, 2**31, 2**32, 2**62, 2**63 - 1])
WILD_FLOATS = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0, -0.0, 0.0, 1e-40, 1.0, 1e30, 3.4e38])
DEVICES = [name for name in backends.names() if "simt" in name or name == "cuda"]


@pytest.fixture(params=DEVICES or [pytest.param("none", marks=pytest.mark.skip(reason="needs g++ or a GPU"))])
def device(request):
    with backends.using_backend(request.param):
        yield request.param


def wild(generator, tensor, share=0.5):
    """``tensor`` with about ``share`` of its values replaced by hostile ones."""
    if tensor is None:
        return None
    choices = (WILD_FLOATS if tensor.is_floating_point() else WILD_INTEGERS).to(tensor.dtype)
    hostile = choices[torch.randint(len(choices), tensor.shape, generator=generator)]
    return torch.where(torch.rand(tensor.shape, generator=generator) < share, hostile, tensor)


REDRAWS = ("none", "none", "min_p", "guidance", "score")
UNCHECKED = (
    *("rows", "start", "suppress", "demote", "uniform", "argmax", "unchanged", "trace", "trace_steps"),
    *("top_k", "top_p", "min_p"),
)


def hostile(generator, kwargs, duplicates):
    """Spoils what a device takes unchecked. duplicates: positions have several rows, and so several writers, which the race
    build would be right to report."""
    for name in UNCHECKED:
        if name in kwargs:
            kwargs[name] = wild(generator, kwargs[name])
    rows = kwargs["rows"]
    if rows is None or not rows.numel():
        return
    if duplicates:
        kwargs["rows"] = rows[torch.randint(len(rows), rows.shape, generator=generator)]
    else:  # hostile values repeat, too
        first = torch.tensor([row not in rows[:i].tolist() for i, row in enumerate(rows.tolist())])
        kwargs["rows"] = torch.where(first, rows, -1)


def assert_tokens(tokens, vocab):
    assert bool(((tokens >= 0) & (tokens < vocab)).all()), tokens


def untouchable(x, kwargs, *flags):
    """[B, L] bool: outside the window, frozen, or flagged."""
    stop = kwargs["window_stop"] if kwargs["window_stop"] >= 0 else x.shape[1]
    position = torch.arange(x.shape[1])
    outside = ((position < kwargs["window_start"]) | (position >= stop)).expand(x.shape)
    for flag in (kwargs["frozen"], *flags):
        if flag is not None:
            outside = outside | flag
    return outside


@given(case=step_cases(), duplicates=st.booleans(), filtered=st.booleans())
def test_any_value_is_survived(device, case, duplicates, filtered):
    x, (logits, temperature, seed, step, quota), kwargs = case.but(filtered=filtered).build()
    g = torch.Generator().manual_seed(case.seed)
    temperature, seed, step, quota = (wild(g, t) for t in (temperature, seed, step, quota))
    hostile(g, kwargs, duplicates and device != "simt_race")
    before = x.clone()
    out = ops.denoise_step_(x, logits, temperature, seed, step, quota, **kwargs)
    assert not out[1].isnan().any()
    closed = None if kwargs["mask_id"] is None else before.long() != kwargs["mask_id"]
    assert_equal("x", *(t[untouchable(x, kwargs, closed)] for t in (x, before)))
    assert bool((out[3] >= 0).all()) and bool((out[5] >= 0).all())

    where = {n: kwargs[n] for n in ("mask_id", "window_start", "window_stop", "frozen", "start", "rows")}
    tokens = torch.zeros(logits.shape[:-1], dtype=x.dtype)
    ops.topk_unmask_(before, tokens, wild(g, torch.rand(tokens.shape, generator=g)), quota, **where)
    given_tokens = wild(g, torch.zeros(tokens.shape, dtype=torch.int64))
    stats = ops.row_stats(logits, temperature[:1], given=given_tokens, suppress=kwargs["suppress"])
    assert not any(s.isnan().any() for s in stats[1:7] if not temperature[:1].isnan().any())


@given(case=step_cases(), duplicates=st.booleans(), trace=st.booleans(), filtered=st.booleans())
def test_any_value_is_survived_by_renoising(device, case, duplicates, trace, filtered):
    x, args, kwargs = renoise_call(case.but(filtered=filtered), committed=True, probs=True, trace=trace)
    logits, temperature, seed, step, quota = args
    g = torch.Generator().manual_seed(case.seed)
    x, temperature, seed, step, quota = (wild(g, t) for t in (x, temperature, seed, step, quota))
    hostile(g, kwargs, duplicates and device != "simt_race")
    before, closed = x.clone(), kwargs["committed"] | kwargs["done"][:, None]
    tokens, best, entropy, confidence, _, num_accepted, num_bad, _ = ops.renoise_step_(
        x, logits, temperature, seed, step, quota, **kwargs
    )
    assert not confidence.isnan().any() and bool((entropy >= 0).all())
    assert_equal("x", *(t[untouchable(x, kwargs, closed)] for t in (x, before)))
    assert_tokens(x[x != before], case.vocab)
    assert bool((num_accepted >= 0).all()) and bool((num_bad >= 0).all())
    assert not kwargs["probs"].isnan().any()


@given(
    case=step_cases(),
    duplicates=st.booleans(),
    trace=st.booleans(),
    filtered=st.booleans(),
    redraw=st.sampled_from(REDRAWS),
)
def test_any_value_is_survived_by_transitions(device, case, duplicates, trace, filtered, redraw):
    x, args, kwargs = transition_call(case.but(filtered=filtered), trace=trace)
    logits, temperature, seed, step, coefficients = args
    g = torch.Generator().manual_seed(case.seed)
    x, temperature, seed, step, coefficients = (wild(g, t) for t in (x, temperature, seed, step, coefficients))
    hostile(g, kwargs, duplicates and device != "simt_race")
    kwargs["redraw"], kwargs["level"] = redraw, 0.5
    if redraw == "guidance":
        kwargs.update(uncond_logits=logits.clone(), cfg_scale=0.0)
    before = x.clone()
    tokens, route, p_current, confidence, num_changed, num_bad = ops.transition_step_(
        x, logits, temperature, seed, step, coefficients, **kwargs
    )
    assert not confidence.isnan().any() and not p_current.isnan().any() and bool((route <= 3).all())
    assert_equal("x", *(t[untouchable(x, kwargs)] for t in (x, before)))
    changed = x[x != before]
    assert_tokens(changed[changed != kwargs["mask_id"]], case.vocab)
    assert bool((num_changed >= 0).all()) and bool((num_bad >= 0).all())


@given(case=step_cases())
def test_any_value_is_survived_by_noising(device, case):
    (x, rates, seed, step), kwargs = noising_call(case)
    g = torch.Generator().manual_seed(case.seed)
    x, rates, seed, step = (wild(g, t) for t in (x, rates, seed, step))
    kwargs["uniform"] = wild(g, kwargs["uniform"])
    x_t, route = ops.q_sample(x, rates, seed, step, **kwargs)
    changed = x_t[x_t != x]
    assert_tokens(changed[changed != kwargs["mask_id"]], case.vocab)
    assert bool((route <= 3).all())
