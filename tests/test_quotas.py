"""Quotas against the codebases' formulas, written again one number at a time, and against what their code was seen to answer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dlm_kernels as dlm
from dlm_kernels import quotas

COUNTS, STEPS = st.lists(st.integers(0, 200), min_size=0, max_size=4), st.integers(1, 40)


def test_known_plans():
    assert quotas.even(32, 5) == [7, 7, 6, 6, 6]
    assert quotas.dllm(32, 5) == [6, 6, 7, 6, 7]
    assert quotas.even(3, 5) == [1, 1, 1, 0, 0]
    assert quotas.dllm(3, 5) == [1, 1, 1]
    assert quotas.dllm(0, 5) == []
    assert quotas.even(0, 2) == quotas.dream(0, 2) == [0, 0]


@pytest.mark.parametrize("n", [8, 32, 128])
def test_dream_with_as_many_steps_as_tokens(n):
    plan = quotas.dream(n, n)
    assert plan[0] == 0 and plan[-1] == 2 and sum(plan) == n and max(plan[:-1]) == 1


@given(COUNTS, STEPS)
def test_even(counts, steps):
    plan = quotas.even(torch.tensor(counts, dtype=torch.int64), steps)
    assert plan.dtype == torch.int64 and plan.shape == (len(counts), steps)
    for row, n in zip(plan.tolist(), counts):
        assert row == [n // steps + 1] * (n % steps) + [n // steps] * (steps - n % steps) == quotas.even(n, steps)


def dllm_plan(n, steps, masked):
    """The original's loop, in NumPy's float32."""
    plan = []
    for j in range(steps):
        t, s = (masked(np.float32((steps - j - k) / steps)) for k in (0, 1))
        take = min(round(n * (1 - float(s / t))), n)  # Python rounds half to even, as torch does
        n -= take
        plan.append(take)
    return [k for k in plan if k > 0]


def linear(t):
    return np.float32(1) - (np.float32(1) - t)


@given(COUNTS, STEPS)
def test_dllm_linear(counts, steps):
    plan = quotas.dllm(torch.tensor(counts, dtype=torch.int64), steps)
    wanted = [dllm_plan(n, steps, linear) for n in counts]
    assert plan.shape == (len(counts), max(map(len, wanted), default=0))
    for row, n, want in zip(plan.tolist(), counts, wanted):
        assert row == want + [0] * (len(row) - len(want))
        assert want == quotas.dllm(n, steps) and sum(want) == n


def test_dllm_cosine_and_schedules_of_ones_own():
    """Cosine clears little at first: in two of four steps of 1000 tokens 1 - cos(pi / 4)."""
    plan = quotas.dllm(1000, 4, "cosine")
    left = [1000 * math.cos(math.pi / 2 * k / 4) for k in range(5)]
    assert all(abs(sum(plan[:k]) - (1000 - left[k])) < 2 for k in range(5))
    assert sum(plan) == 1000 and plan == sorted(plan)
    assert quotas.dllm(1000, 4, lambda t: 1 - torch.cos((math.pi / 2) * (1 - t))) == plan
    assert quotas.dllm(16, 2, lambda t: 1 - t**2) == [12, 4]


@given(st.integers(0, 300), STEPS, st.sampled_from([1e-3, 0.1]))
def test_dream(n, steps, eps):
    times = torch.linspace(1, eps, steps + 1)
    left, wanted = n, []
    for i in range(steps):
        t, s = times[i], times[i + 1]
        wanted.append(int(torch.tensor(float(left)) * (1 - s / t)) if i < steps - 1 else left)
        left -= wanted[-1]
    assert quotas.dream(n, steps, eps) == wanted
    assert quotas.dream(torch.tensor([n, 7]), steps, eps)[0].tolist() == wanted


@pytest.mark.parametrize("plan", [quotas.dllm, quotas.dream])
def test_chance(plan):
    """Binomial steps of the linear schedule: every token is as likely in one as in another."""
    count = torch.full((4000,), 12)
    g = lambda: torch.Generator().manual_seed(5)
    drawn = plan(count, 4, stochastic=True, generator=g())
    assert torch.equal(drawn, plan(count, 4, stochastic=True, generator=g()))
    assert bool((drawn.sum(-1) == 12).all())
    if plan is quotas.dream:  # dllm leaves steps of nothing out, which shifts the columns
        mean, variance = drawn.double().mean(0), drawn.double().var(0)
        assert bool(((mean - 3).abs() < 5 * math.sqrt(12 * 3 / 16 / 4000)).all())
        assert bool(((variance / (12 * 3 / 16) - 1).abs() < 0.15).all())
    else:
        empty = (drawn == 0).any(-1).double().mean()  # 4 steps, each empty with probability (3/4)^12
        assert abs(empty - 4 * 0.75**12) < 0.03
        assert bool((drawn[:, :-1] >= (drawn[:, 1:] > 0)).all())


def test_a_plan_drives_a_run():
    x, g = torch.full((3, 12), 9), torch.Generator().manual_seed(0)
    x[1, :5] = 1
    plan = quotas.even((x == 9).sum(-1), 5)
    for step in range(5):
        logits = torch.randn(3, 12, 9, generator=g)
        out = dlm.denoise_step_(x, logits, mask_id=9, rule=dlm.TopK(plan[:, step]))
        assert torch.equal(out.num_committed, plan[:, step])
    assert not bool((x == 9).any())


def test_falling_threshold():
    assert [quotas.falling_threshold(i, 0.9) for i in (0, 1, 5, 50)] == [1.0, 0.98, 0.9, 0.9]


@pytest.mark.parametrize(
    "call, kind, text",
    [
        (lambda: quotas.even(-1, 4), ValueError, "count: must be >= 0, got -1"),
        (lambda: quotas.even(4, 0), ValueError, "steps: must be >= 1, got 0"),
        (lambda: quotas.even(4.0, 2), TypeError, "count: must be an int, got float"),
        (lambda: quotas.even(torch.tensor([4.0]), 2), TypeError, "count: dtype must be int64, got float32"),
        (lambda: quotas.even(torch.tensor(4), 2), ValueError, r"count: must be 1-dimensional, \[B\], got \[\]"),
        (lambda: quotas.even(torch.tensor([4, -2]), 2), ValueError, "count: must be >= 0, got -2"),
        (lambda: quotas.dllm(4, 2, "square"), ValueError, "schedule: must be linear, cosine or a function, got square"),
        (lambda: quotas.dream(4, 2, 0.0), ValueError, r"eps: must be in \(0, 1\), got 0.0"),
        (lambda: quotas.falling_threshold(-1, 0.9), ValueError, "iteration: must be >= 0, got -1"),
    ],
)
def test_bad_input(call, kind, text):
    with pytest.raises(kind, match=f"^{text}$"):
        call()
