"""Values on a device come unchecked, since a check would wait for it: kernels survive any. No crash, no NaN, no write where
nothing may change; what the results are is the caller's fault."""

import backends
import pytest
import torch
from backends import ops
from hypothesis import given
from hypothesis import strategies as st
from strategies import step_cases

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


@given(case=step_cases(), duplicates=st.booleans())
def test_any_value_is_survived(device, case, duplicates):
    x, (logits, temperature, seed, step, quota), kwargs = case.build()
    g = torch.Generator().manual_seed(case.seed)
    temperature, seed, step, quota = (wild(g, t) for t in (temperature, seed, step, quota))
    for name in ("rows", "start", "suppress", "demote", "uniform"):
        kwargs[name] = wild(g, kwargs[name])
    if duplicates and kwargs["rows"] is not None and kwargs["rows"].numel():
        kwargs["rows"] = kwargs["rows"][torch.randint(len(kwargs["rows"]), kwargs["rows"].shape, generator=g)]
    before = x.clone()
    out = ops.denoise_step_(x, logits, temperature, seed, step, quota, **kwargs)
    assert not out[1].isnan().any()
    stop = kwargs["window_stop"] if kwargs["window_stop"] >= 0 else x.shape[1]
    position = torch.arange(x.shape[1])
    may_change = (before.long() == kwargs["mask_id"]) & (position >= kwargs["window_start"]) & (position < stop)
    if kwargs["frozen"] is not None:
        may_change &= ~kwargs["frozen"]
    assert bool((x == before)[~may_change].all())
    assert bool((out[3] >= 0).all()) and bool((out[5] >= 0).all())

    where = {n: kwargs[n] for n in ("mask_id", "window_start", "window_stop", "frozen", "start", "rows")}
    tokens = torch.zeros(logits.shape[:-1], dtype=x.dtype)
    ops.topk_unmask_(before, tokens, wild(g, torch.rand(tokens.shape, generator=g)), quota, **where)
    given_tokens = wild(g, torch.zeros(tokens.shape, dtype=torch.int64))
    stats = ops.row_stats(logits, temperature[:1], given=given_tokens, suppress=kwargs["suppress"])
    assert not any(s.isnan().any() for s in stats[1:7] if not temperature[:1].isnan().any())
