"""Schedules against 60-digit arithmetic, their conventions and their errors."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlm_kernels import schedules
from dlm_kernels.schedules import Level

getcontext().prec = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")

times = st.one_of(st.sampled_from([0.0, 1e-12, 0.5, 1 - 1e-12, 1.0]), st.floats(0, 1))


def sine(x):
    """sin of a Decimal in [0, 2], by its series."""
    term, total, k = x, x, 1
    while abs(term) > Decimal(10) ** -58:
        term *= -x * x / ((k + 1) * (k + 2))
        total, k = total + term, k + 2
    return total


def exact(name, t):
    """alpha to 60 digits."""
    t, eps = Decimal(t), Decimal(1e-3)
    return {
        "linear": lambda: 1 - t,
        "log_linear": lambda: 1 - (1 - eps) * t,
        "squared": lambda: sine(PI / 2 * (1 - t)) ** 2,
        "duo": lambda: 1 - sine(PI / 2 * (1 - eps) * t),
        "mdlm": lambda: eps + (1 - eps) * sine(PI / 2 * (1 - t)),
        "geometric": lambda: (-(Decimal(1e-4).ln() * (1 - t) + Decimal(20).ln() * t).exp()).exp(),
    }[name]()


SCHEDULES = {
    "linear": schedules.linear,
    "log_linear": schedules.log_linear,
    "squared": schedules.cosine,
    "duo": lambda t: schedules.cosine(t, form="duo", eps=1e-3),
    "mdlm": lambda t: schedules.cosine(t, form="mdlm", eps=1e-3),
    "geometric": schedules.geometric,
}


@pytest.mark.parametrize("name", SCHEDULES)
@given(t=times)
def test_alpha_and_noise_keep_their_digits(name, t):
    level = SCHEDULES[name](t)
    assert type(level) is Level and type(level.alpha) is float
    alpha = exact(name, t)
    # exp(-20) has 20 times the error of its argument; 1e-32 is what t as a float64 cannot say beside 1
    rel = 1e-13 if name == "geometric" else 1e-14
    assert level.alpha == pytest.approx(float(alpha), rel=rel, abs=1e-32)
    assert level.noise == pytest.approx(float(1 - alpha), rel=rel, abs=1e-32)


@pytest.mark.parametrize("name", SCHEDULES)
def test_more_noise_later(name):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha, noise = SCHEDULES[name](t)
    assert (alpha.diff() < 0).all() and (noise.diff() > 0).all()
    assert ((0 <= alpha) & (alpha <= 1) & (0 <= noise) & (noise <= 1)).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_tensors_answer_as_numbers_do(name):
    t = torch.tensor([[0.0, 0.25, 0.7], [0.5, 1.0, 0.1]], dtype=torch.float64)
    level = SCHEDULES[name](t)
    assert level.alpha.shape == level.noise.shape == (2, 3) and level.alpha.dtype == torch.float64
    for i in range(2):
        for j in range(3):
            one = SCHEDULES[name](t[i, j].item())
            assert (level.alpha[i, j].item(), level.noise[i, j].item()) == pytest.approx(one, rel=1e-15)
    assert SCHEDULES[name](t.float()).alpha.dtype == torch.float64


def test_ends():
    assert schedules.linear(0) == (1, 0) and schedules.linear(1) == (0, 1)
    assert schedules.cosine(0.0) == (1, 0) and schedules.cosine(1.0) == (0, 1)
    assert schedules.log_linear(1.0).alpha == pytest.approx(1e-3, rel=1e-15)  # UDLM, Duo: a thousandth of data is left
    assert schedules.geometric(0.0).noise == pytest.approx(1e-4, rel=1e-4)  # SEDD: never quite clean
    assert schedules.geometric(1.0).alpha == pytest.approx(math.exp(-20), rel=1e-12)


@pytest.mark.parametrize(
    "schedule, rate",
    [(schedules.geometric, schedules.geometric_rate), (schedules.log_linear, schedules.log_linear_rate)],
)
def test_rates_are_the_derivative_of_minus_log_alpha(schedule, rate):
    for t in (0.1, 0.5, 0.9):
        ahead, behind = (-math.log(schedule(t + h).alpha) for h in (1e-5, -1e-5))
        assert rate(t) == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)


# ---- log-SNR -------------------------------------------------------------------------------------------------------


@given(lam=st.floats(-700, 700))
def test_log_snr_there_and_back(lam):
    level = schedules.from_log_snr(lam, -math.inf, math.inf)
    odds = Decimal(lam).exp()
    assert level.alpha == pytest.approx(float(odds / (1 + odds)), rel=1e-13, abs=0)
    assert level.noise == pytest.approx(float(1 / (1 + odds)), rel=1e-13, abs=0)
    assert schedules.log_snr(level, -math.inf, math.inf) == pytest.approx(lam, rel=1e-12, abs=1e-15)


def test_log_snr_is_clamped():
    assert schedules.from_log_snr(50.0) == schedules.from_log_snr(9.0)
    assert schedules.log_snr(Level(1.0, 0.0)) == 9 and schedules.log_snr(Level(0.0, 1.0)) == -9
    assert schedules.log_snr(0.5) == 0 and schedules.log_snr(1.0, high=math.inf) == math.inf


def test_why_noise_is_not_one_minus_alpha():
    """In float32, at Sumi's and GIDD-SNR's last level, the difference is off by 1e-4 of itself."""
    noise = schedules.from_log_snr(9.0).noise
    late = 1 - torch.sigmoid(torch.tensor(9.0))
    assert noise == pytest.approx(1 / (1 + math.exp(9)), rel=1e-15)
    assert 2e-5 < abs(late.item() - noise) / noise < 1e-3


def test_clamp():
    assert schedules.clamp(1.0) == pytest.approx((1 - 1e-6, 1e-6), rel=1e-15)
    assert schedules.clamp(Level(0.0, 1.0), 0.25) == (0.25, 0.75)
    assert schedules.clamp(Level(0.5, 0.5)) == (0.5, 0.5)
    assert schedules.clamp(torch.tensor([0.0, 0.5, 1.0]), 0.25).alpha.tolist() == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_sumi(schedule):
    """``_make_log_snr_schedule``, in float64."""
    steps = 128
    if schedule == "linear":
        alpha = torch.linspace(1e-4, 1 - 1e-4, steps + 1, dtype=torch.float64)
    else:
        alpha = 0.5 + 0.5 * torch.cos(torch.linspace(1 - 1e-3, 1e-3, steps + 1, dtype=torch.float64) * math.pi)
    alpha = alpha.clamp(1e-6, 1 - 1e-6)
    want = (alpha.log() - torch.log1p(-alpha)).clamp(-9, 9)
    levels = schedules.sumi(steps, schedule)
    assert levels.alpha.shape == levels.noise.shape == (steps + 1,)
    assert (schedules.log_snr(levels) - want).abs().max() < 1e-9
    assert levels.alpha[0].item() == pytest.approx(1.233946e-4, rel=1e-6)
    assert levels.noise[-1].item() == pytest.approx(1.233946e-4, rel=1e-6)


def test_consecutive_levels():
    t, s = schedules.consecutive(schedules.linear(torch.tensor([1.0, 0.75, 0.25])))
    assert t.alpha.tolist() == [0, 0.25] and s.alpha.tolist() == [0.25, 0.75] and s.noise.tolist() == [0.75, 0.25]


# ---- ReMDM ---------------------------------------------------------------------------------------------------------


def test_remasking():
    assert (
        schedules.remask_max(0.5, 0.75) == 0.5
        and schedules.remask_max(0.1, 0.2) == 1
        and schedules.remask_max(0.0, 0.0) == 1
    )
    assert schedules.remask_max(0.9, 1.0) == 0 and schedules.remask_max(0.0, 1.0) == 1
    assert schedules.remask_cap(0.5, 0.75, 0.1) == 0.1 and schedules.remask_cap(0.5, 0.75, 0.9) == 0.5
    assert schedules.remask_rescale(0.5, 0.75, 0.1) == pytest.approx(0.05)
    eta = torch.tensor([[0.0, 0.5], [1.0, 0.25]])
    assert schedules.remask_rescale(0.5, 0.75, eta).tolist() == [[0, 0.25], [0.5, 0.125]]


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: schedules.linear(1.5), r"t: must be in \[0, 1\], got 1.5"),
        (lambda: schedules.cosine(torch.tensor([0.5, -1.0])), r"t: must be in \[0, 1\], got -1"),
        (lambda: schedules.cosine(0.5, form="half"), "form: must be one of squared, duo, mdlm, got half"),
        (lambda: schedules.log_linear(0.5, eps=1.0), r"eps: must be in \[0, 1\), got 1.0"),
        (lambda: schedules.geometric(0.5, sigma_min=0.0), "sigma_min: must be > 0, got 0.0"),
        (lambda: schedules.geometric(0.5, sigma_min=2.0, sigma_max=1.0), "sigma_max: must be > sigma_min = 2, got 1.0"),
        (lambda: schedules.from_log_snr(math.nan), r"log_snr: must be in \[-inf, inf\], got nan"),
        (lambda: schedules.log_snr(2.0), r"level: must be in \[0, 1\], got 2"),
        (lambda: schedules.clamp(0.5, 0.6), r"margin: must be in \[0, 0.5\], got 0.6"),
        (lambda: schedules.sumi(0), "steps: must be >= 1, got 0"),
        (lambda: schedules.sumi(8, "sine"), "schedule: must be linear or cosine, got sine"),
        (lambda: schedules.remask_cap(0.5, 0.75, 2.0), r"eta: must be in \[0, 1\], got 2"),
    ],
)
def test_values_out_of_range(call, text):
    with pytest.raises(ValueError, match=f"^{text}$"):
        call()


def test_a_time_must_be_a_number():
    with pytest.raises(TypeError, match="^t: must be a number, got str$"):
        schedules.linear("now")
