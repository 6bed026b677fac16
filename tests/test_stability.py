"""A threshold among ready positions, and KLASS, which makes them ready."""

import math
import re

import pytest
import torch
from backends import ops
from dlm_kernels.reference import confidence as scoring
from dlm_kernels.reference import geometry
from helpers import assert_equal, clone, draws_for, places_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import StepCase, make_logits, step_cases

import dlm_kernels as dlm
from dlm_kernels import reference


def check_ready(implementation, case, share, edit):
    x, args, kwargs = case.build()
    g = torch.Generator().manual_seed(case.seed + 1)
    ready = torch.rand(args[0].shape[:-1], generator=g) < share
    kwargs |= dict(ready=ready, edit=edit, low=0.0)
    got_x, plain_x = clone(x), clone(x)
    got = implementation.denoise_step_(got_x, *args, **kwargs)
    plain = implementation.denoise_step_(plain_x, *args, **{**kwargs, "ready": None})
    for name, mine, theirs in zip(("tokens", "confidence"), got, plain):
        assert_equal(name, mine, theirs)
    if not x.numel() or not ready.numel():
        return
    places = places_of(x, args[0], kwargs["start"], kwargs["rows"])
    edges = kwargs["window_start"], kwargs["window_stop"], kwargs["frozen"]
    draws = draws_for(implementation, x, args, kwargs)
    eligible = geometry.candidate_rows(x, places, kwargs["mask_id"], *edges) & ~draws[5]
    tau = scoring.round_to(torch.tensor(case.level, dtype=torch.float64), case.conf_dtype)
    value, key = draws[1].double(), draws[2]
    sure = eligible & ready & (value > tau if case.strict else value >= tau)
    if case.conf_dtype == "float64" and bool(((value - tau).abs() < 1e-6)[eligible].any()):
        return  # 53 bits were compared, and 24 returned
    committed = torch.zeros_like(sure)
    for b in range(x.shape[0]):
        mine = eligible & (places.batch == b)
        chosen = (sure & mine).nonzero().tolist()
        if not chosen:
            ranked = sorted(mine.nonzero().tolist(), key=lambda at: (-key[tuple(at)], int(places.position[tuple(at)])))
            chosen = ranked[: args[4].expand(x.shape[0])[b]]
        for at in chosen:
            committed[tuple(at)] = True
    assert_equal("committed", got[2], committed)
    assert_equal("num_committed", got[3], torch.bincount(places.batch[committed], minlength=x.shape[0]))


@given(
    case=step_cases(rule="threshold"),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    edit=st.sampled_from([None, None, 0.2]),
)
def test_threshold_among_ready(backend, case, share, edit):
    for implementation in (ops, reference):
        check_ready(implementation, case, share, edit)


@pytest.mark.parametrize(
    "shape", [dict(batch=2, length=600, width=590), dict(batch=40, length=3, width=3, packed=True)]
)
def test_many_rows(backend, shape):
    case = StepCase(seed=5, vocab=9, quota=3, rule="threshold", level=0.4, temperature="mixed", bad_share=0.05, **shape)
    for share in (0.0, 0.3):
        check_ready(ops, case, share, None)


def test_all_ready_is_no_restriction():
    x, args, kwargs = StepCase(seed=1, rule="threshold", level=0.2, quota=1, temperature="mixed").build()
    ready_x, ready = clone(x), torch.ones(args[0].shape[:-1], dtype=torch.bool)
    ops.denoise_step_(ready_x, *args, **kwargs, ready=ready)
    ops.denoise_step_(x, *args, **kwargs)
    assert_equal("x", ready_x, x)


# ---- KLASS, told again ---------------------------------------------------------------------------------------------


def klass(x, model, mask_id, steps, k, threshold, kl_threshold, history):
    """stable_confident_decode's loop for alg "klass" over one block, B sequences: the canvas after each step."""
    size, length = x.shape
    kls = [[[] for _ in range(length)] for _ in range(size)]
    previous, canvases = None, []
    for step in range(steps):
        logits = model(x, step).double()
        p = logits.softmax(-1)
        confidence, best = p.max(-1)
        if previous is None:
            kl = torch.full((size, length), torch.inf)
        else:
            kl = (p * ((p + 1e-12).log() - (previous + 1e-12).log())).sum(-1)
        previous, x = p, x.clone()
        for b in range(size):
            masks = [i for i in range(length) if x[b, i] == mask_id]
            for i in range(length):
                kls[b][i].append(kl[b, i])
            chosen = [
                i for i in masks if all(v < kl_threshold for v in kls[b][i][-history:]) and confidence[b, i] > threshold
            ]
            for i in chosen or sorted(masks, key=lambda i: -confidence[b, i])[:k]:
                x[b, i] = best[b, i]
        canvases.append(x)
    return canvases


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3])
def test_klass(seed, k):
    g = torch.Generator().manual_seed(seed)
    base = make_logits(g, "normal", (2, 24, 60)) * torch.where(torch.rand(2, 24, 1, generator=g) < 0.5, 3.0, 1.0)
    noise = [torch.randn(2, 24, 60, generator=g) * 0.5**step for step in range(9)]
    model = lambda x, step: base + noise[step] + 0.01 * (x == 60).sum(-1)[:, None, None] * base.sign()
    x = torch.full((2, 24), 60)
    canvases = klass(x, model, 60, 9, k, 0.6, 0.05, 2)
    state = dlm.KlassState.start(base, dtype=torch.float32)
    by_stability = False
    for step, want in enumerate(canvases):
        how = dict(k=k, threshold=0.6, kl_threshold=0.05, history=2)
        out = dlm.klass_step_(x, model(x, step), state, mask_id=60, **how)
        assert_equal(f"x after step {step}", x, want)
        by_stability |= bool(((out.num_committed != k) & (out.num_open > 0)).any())
    assert by_stability


def test_klass_state():
    """It follows the laws of open positions only, and nothing changes where the step is refused."""
    z = make_logits(torch.Generator().manual_seed(1), "normal", (1, 4, 30))
    x, state = torch.tensor([[9, 30, 30, 30]]), dlm.KlassState.start(z)
    assert state.previous.dtype == torch.bfloat16
    frozen = torch.tensor([[False, False, False, True]])
    for step in range(3):
        dlm.klass_step_(x, z, state, mask_id=30, k=0, threshold=1.0, frozen=frozen, step=step)
        assert state.stable.tolist() == [[0, step, step, 0]]
    assert_equal("previous", state.previous, z.bfloat16())
    before = clone(state.stable)
    with pytest.raises(ValueError, match="^ready: must not be given to klass_step_, got None$"):
        dlm.klass_step_(x, z, state, mask_id=30, ready=None)
    with pytest.raises(ValueError, match="^threshold: must be in"):
        dlm.klass_step_(x, z, state, mask_id=30, threshold=1.5)
    z[0, 1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"\(b, i\) = \(0, 1\)$"):
        dlm.klass_step_(x, z, state, mask_id=30, check=True)
    assert_equal("stable", state.stable, before)
    out = dlm.klass_step_(x, z, state, mask_id=30, threshold=0.0)
    assert out.num_bad.tolist() == [1] and state.stable[0, 1] == 0


def test_klass_of_shifted_logits():
    """Dream: position i reads row i - 1, whose law is the one that must have stayed."""
    g = torch.Generator().manual_seed(3)
    base = make_logits(g, "normal", (2, 12, 40))
    index = torch.tensor([0, *range(11)])
    frozen = torch.rand(2, 12, generator=g) < 0.2
    runs = [torch.full((2, 12), 40) for _ in "ab"]
    states = [dlm.KlassState.start(base, torch.float32) for _ in "ab"]
    filled = 0
    for _ in range(8):
        z = base + 0.02 * torch.randn(base.shape, generator=g)
        z[:, 7] += torch.randn(2, 40, generator=g)  # never at rest
        how = dict(mask_id=40, k=0, threshold=0.5, kl_threshold=0.01, history=2, frozen=frozen)
        shifted = dlm.klass_step_(runs[0], z, states[0], shift=-1, **how)
        plain = dlm.klass_step_(runs[1], z[:, index], states[1], **how)
        assert_equal("x", runs[0], runs[1])
        assert_equal("stable", states[0].stable, states[1].stable)
        assert_equal("committed", shifted.committed, plain.committed)
        filled += int(plain.num_committed.sum())
    assert filled > 0 and bool((runs[0][:, 8] == 40).all())


def test_klass_on_a_copy():
    x, z = torch.full((2, 5), 30), make_logits(torch.Generator().manual_seed(3), "normal", (2, 5, 30))
    state, other = dlm.KlassState.start(z), dlm.KlassState.start(z)
    out = dlm.klass_step(x, z, state, mask_id=30, k=2)
    assert bool((x == 30).all())
    assert_equal("x", out.x, dlm.klass_step_(x, z, other, mask_id=30, k=2).x)
    assert_equal("previous", state.previous, other.previous)


@pytest.mark.parametrize(
    "spoilt, text",
    [
        (dict(logits=torch.zeros(2, 6, 30)), "logits: dimension 1 must be at most 5 as in x, got 6"),
        (dict(x=torch.zeros(5).long()), "x: must be 2-dimensional, [B, L], got [5]"),
        (dict(frozen=torch.zeros(2, 4).bool()), "frozen: shape must be [2, 5], got [2, 4]"),
        (dict(start=1), "start: must be in [0, 0] (L - W), got 1"),
        (dict(shift=1), "shift: must be 0 or -1, got 1"),
        (dict(kl_threshold=math.nan), "kl_threshold: must not be NaN, got nan"),
        (dict(history=-1), "history: must be >= 0, got -1"),
        (dict(stable=torch.zeros(5).long()), "stable: shape must be [2, 5], got [5]"),
        (dict(stable=torch.zeros(2, 5)), "stable: dtype must be int64, got float32"),
        (dict(previous=torch.zeros(2, 5, 29)), "previous: shape must be [2, 5, 30], got [2, 5, 29]"),
        (
            dict(previous=torch.zeros(2, 5, 30).double()),
            "previous: dtype must be float32, float16 or bfloat16, got float64",
        ),
        (
            dict(previous=torch.zeros(1, 5, 30).expand(2, 5, 30)),
            "previous: must not overlap itself, got strides [0, 30, 1]",
        ),
    ],
)
def test_klass_writes_nothing_if_it_refuses(spoilt, text):
    how = dict(x=torch.full((2, 5), 30), logits=torch.zeros(2, 5, 30), mask_id=30)
    state = dlm.KlassState.start(how["logits"])
    for name, value in spoilt.items():
        setattr(state, name, value) if name in ("previous", "stable") else how.update({name: value})
    before = how["x"].clone(), state.previous.clone(), state.stable.clone()
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        dlm.klass_step_(state=state, **how)
    for value, then in zip((how["x"], state.previous, state.stable), before):
        assert torch.equal(value.nan_to_num(7.0), then.nan_to_num(7.0))
