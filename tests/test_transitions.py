"""Constructors of transitions: precision near the ends, drawn laws, the rare re-noise mass, shapes and errors."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from dlm_kernels.reference import transition as reference
from dlm_kernels.reference.draw import draw
from dlm_kernels.reference.row_stats import sweep
from scipy import stats
from transition_cases import KINDS, NO_MASK, Numbers, odds_against, rows, weights_of

import dlm_kernels as dlm
from dlm_kernels import schedules, transitions
from dlm_kernels.schedules import Level

getcontext().prec = 60


# ---- precision -----------------------------------------------------------------------------------------------------


def exact_levels(log_snr):
    """(alpha, 1 - alpha) to 60 digits."""
    odds = Decimal(log_snr).exp()
    return odds / (1 + odds), 1 / (1 + odds)


def weights(transition, odds, vocab, is_mask=False, mask_id=NO_MASK):
    odds = torch.tensor([odds], dtype=torch.float64)
    return weights_of(transition, odds, torch.tensor([is_mask]), vocab, mask_id)[0].tolist()


@pytest.mark.parametrize(
    "log_snr_t, step", [(-30.0, 1.0), (-9.0, 1e-3), (0.0, 1e-6), (9.0, 1e-3), (30.0, 1.0), (33.0, 0.25)]
)
@pytest.mark.parametrize("odds", [1e-12, 1.0, 1e12])
def test_uniform_keeps_its_digits_at_both_ends(log_snr_t, step, odds):
    """At log-SNR 33, 1 - alpha is 5e-15: a difference from alpha would keep one digit of it."""
    vocab, log_snr_s = 100_278, log_snr_t + step
    (at, nt), (as_, ns) = exact_levels(log_snr_t), exact_levels(log_snr_s)
    p = 1 / (1 + Decimal(odds))
    ratio, whole = at / as_, at * vocab * p + nt
    model = (as_ - at) * (1 - p) / whole
    noise = (1 - ratio) * ns / whole
    stay = (at * vocab * p + ratio - at + (as_ - at) * p) / whole
    levels = (schedules.from_log_snr(v, -50, 50) for v in (log_snr_t, log_snr_s))
    got = weights(transitions.uniform(*levels), odds, vocab)
    # alpha_s - alpha_t itself loses what the step is smaller than the level
    assert got[1:3] == pytest.approx([float(model), float(noise)], rel=1e-15 / min(step, 1) + 1e-14, abs=0)
    assert got[0] == pytest.approx(float(stay), rel=1e-14)


@pytest.mark.parametrize("t, step", [(1e-9, 1e-10), (0.3, 1e-12), (0.5, 0.25), (1 - 1e-9, 1e-10)])
@pytest.mark.parametrize("is_mask", [False, True])
def test_gidd_keeps_its_digits_in_short_steps(t, step, is_mask):
    vocab, share, odds = 1000, 0.2, 50.0
    s = t - step
    b = Decimal(2 * share / (1 - share))
    c = lambda v: b * (v * (1 - v)).sqrt()
    dt, ds = Decimal(t), Decimal(s)
    alpha_t, alpha_s = (1 - dt) / (1 + c(dt)), (1 - ds) / (1 + c(ds))
    prior = lambda v: v / (1 + c(v)) if is_mask else c(v) / (1 + c(v)) / (vocab - 1)
    p = Decimal(0) if is_mask else 1 / (1 + Decimal(odds))
    leave = prior(dt) - alpha_t / alpha_s * prior(ds)
    whole = alpha_t * p + prior(dt)
    want = [float(leave * v / whole) for v in (alpha_s * (1 - p), c(ds) / (1 + c(ds)))]
    got = weights(transitions.gidd(t, s, share), odds, vocab, is_mask, mask_id=3)
    assert got[1:3] == pytest.approx(want, rel=1e-13, abs=0)


@pytest.mark.parametrize(
    "log_snr_t, step, shift", [(-9.0, 1e-9, 0.0), (8.0, 0.5, 30.0), (0.0, 1e-3, -30.0), (8.0, 1e-6, -9.0)]
)
@pytest.mark.parametrize("is_mask", [False, True])
def test_gidd_snr_keeps_its_digits(log_snr_t, step, shift, is_mask):
    vocab, odds, log_snr_s = 1000, 50.0, log_snr_t + step
    (at, nt), (as_, ns) = exact_levels(log_snr_t), exact_levels(log_snr_s)
    (ut, mt), (us, ms) = (exact_levels(Decimal(v) + Decimal(shift)) for v in (log_snr_t, log_snr_s))
    prior_t, prior_s = (nt * mt, ns * ms) if is_mask else (nt * ut / (vocab - 1), ns * us / (vocab - 1))
    p = Decimal(0) if is_mask else 1 / (1 + Decimal(odds))
    leave, whole = prior_t - at / as_ * prior_s, at * p + prior_t
    want = [float(leave * v / whole) for v in (as_ * (1 - p), ns * us)]
    got = weights(transitions.gidd_snr(log_snr_t, log_snr_s, shift), odds, vocab, is_mask, mask_id=3)
    assert got[1:3] == pytest.approx(want, rel=1e-13, abs=0)


# ---- the law that is drawn -----------------------------------------------------------------------------------------


def route_then_draw(weights, logits, x_t, mask_id, g):
    """Tokens and routes of n positions, each with three numbers of its own: route, token of the model, token of noise."""
    n, vocab = logits.shape
    uniform = torch.rand(3, n, generator=g, dtype=torch.float64).clamp(2**-53, 1 - 2**-53)
    route = reference.pick_route(weights, uniform[0])
    others = logits.scatter(-1, x_t[:, None], -torch.inf).float()
    one = torch.ones(n, dtype=torch.float64)
    noise = reference.noise_token(uniform[2], reference.noise_support(vocab, mask_id), None if mask_id < 0 else mask_id)
    choices = torch.stack(
        [x_t, draw(others, sweep(others, one), one, uniform[1]), noise, torch.full_like(x_t, mask_id)], -1
    )
    return choices.gather(-1, route[:, None])[:, 0], route


@pytest.mark.parametrize("name", KINDS)
def test_routes_and_draws_follow_the_posterior(name):
    """Chi-squared over 1e5 draws for each of several positions."""
    kind, n, vocab, draws = KINDS[name], 6, 11, 100_000
    mask_id = 4 if kind.mask else NO_MASK
    logits, x_t = rows(1, n, vocab, 1.5, mask_id)
    logits = logits.float().double()
    if kind.mask:
        x_t[0], x_t[1] = mask_id, (x_t[1] + (x_t[1] == mask_id)) % vocab
    numbers = kind.numbers(Numbers(5, n, tame=True))
    weights = weights_of(kind.make(*numbers), odds_against(logits, x_t), x_t == mask_id, vocab, mask_id)
    want = kind.original(logits.softmax(-1), x_t, *numbers, mask_id=mask_id)
    g = torch.Generator().manual_seed(7)
    repeat = lambda v, i: v[i : i + 1].expand(draws, *v.shape[1:])
    for i in range(n):
        tokens, routes = route_then_draw(*(repeat(v, i) for v in (weights, logits, x_t)), mask_id, g)
        assert_follows(tokens, want[i])
        assert_follows(routes, weights[i])


def assert_follows(drawn, law):
    counts = torch.bincount(drawn, minlength=len(law))
    possible = law > 1e-15
    assert counts[~possible].sum() == 0
    expected = law[possible] / law[possible].sum() * len(drawn)
    if possible.sum() > 1:
        assert stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-5, law


def float32_race(noise, stay, vocab, trials, g):
    """How often a float32 exponential race, which is what torch.multinomial runs on CUDA, draws noise instead of x_t:
    argmax of p / E with E = -log u, u uniform on the multiples of 2^-24 near 1, and u = 1 replaced by 1 - 2^-24.

    Of V equally likely tokens of noise the one with the smallest E counts, E = -log(1 - k 2^-24). Its k is drawn directly:
    a token's is at least k with probability 1 - (k - 1/2) 2^-24.
    """
    u = torch.rand(trials, generator=g, dtype=torch.float64)
    k = (-torch.expm1(torch.log(u) / vocab) * 2**24 + 0.5).floor().clamp(min=1)
    smallest = (-torch.log1p(-k * 2.0**-24)).float()
    of_x_t = -torch.rand(trials, generator=g, dtype=torch.float64).float().clamp(max=1 - 2.0**-24).log()
    p = torch.tensor([noise / vocab, stay], dtype=torch.float64).float()
    return (p[0] / smallest > p[1] / of_x_t).sum().item()


def test_the_rare_renoise_mass_is_exact():
    """N = 1000 steps, alpha = 1/2, V = 100278, an x_t the model thinks implausible. A token of the noise has 2e-8 of x_t's
    probability, and a float32 race has no number below 2^-24 = 6e-8 to let it win with: it draws a quarter of that mass. A
    route is one number per row and misses nothing."""
    vocab, trials, g = 100_278, 1_000_000, torch.Generator().manual_seed(3)
    alpha_t, alpha_s = 0.5, 0.501
    stay, _, noise, _ = weights(transitions.uniform(alpha_t, alpha_s), 1e30, vocab)
    exact = float((1 - Decimal(alpha_t) / Decimal(alpha_s)) * (1 - Decimal(alpha_s)) / (1 - Decimal(alpha_t)))
    assert noise == pytest.approx(exact, rel=1e-12)
    sigma = math.sqrt(exact * (1 - exact) * trials)

    routes = torch.tensor([[stay, 1 - stay - noise, noise, 0.0]], dtype=torch.float64).expand(trials, 4)
    routed = (
        reference.pick_route(routes, torch.rand(trials, generator=g, dtype=torch.float64)) == reference.NOISE
    ).sum()
    assert abs(routed.item() - exact * trials) < 3 * sigma

    raced = float32_race(noise, stay, vocab, trials, g)
    assert 0.15 * exact * trials < raced < 0.35 * exact * trials
    # The emulation is not at fault: where noise is frequent, the race is right.
    often = float32_race(0.2, 0.8, vocab, trials, g)
    assert abs(often - 0.2 * trials) < 0.01 * trials


# ---- shapes and errors ---------------------------------------------------------------------------------------------


def test_shapes():
    """Numbers make one row for all, [B] a row per sequence, [B, L] one per position; they mix."""
    one, per_sequence, per_position = 0.5, torch.tensor([0.5, 0.25]), torch.full((2, 3), 0.5, dtype=torch.bfloat16)
    assert transitions.uniform(one, 0.75).coefficients.shape == (1, 14)
    assert transitions.uniform(per_sequence, 0.75).coefficients.shape == (2, 14)
    assert transitions.uniform(one, per_position).coefficients.shape == (2, 3, 14)
    mixed = transitions.uniform(per_sequence, torch.full((2, 3), 0.75)).coefficients
    assert mixed.shape == (2, 3, 14) and mixed.dtype == torch.float64 and mixed.is_contiguous()
    assert torch.equal(mixed[1, 2], transitions.uniform(0.25, 0.75).coefficients[0])
    assert transitions.remdm(0.5, 0.75, torch.zeros(2, 3)).coefficients.shape == (2, 3, 14)
    assert transitions.gidd_snr(-1.0, torch.zeros(2), 0.0).coefficients.shape == (2, 14)
    level = schedules.from_log_snr(torch.zeros(2))
    assert transitions.duo_psi(level, schedules.linear(0.25), torch.ones(2, 3)).coefficients.shape == (2, 3, 14)


def test_all_steps_of_a_run():
    t, s = schedules.consecutive(schedules.sumi(16, "cosine"))
    steps = transitions.uniform(t, s, prediction="denoiser", tempered="after").to("cpu").steps()
    assert len(steps) == 16 and all(step.coefficients.shape == (1, 14) for step in steps)
    alone = transitions.uniform(
        Level(t.alpha[5].item(), t.noise[5].item()), Level(s.alpha[5].item(), s.noise[5].item())
    )
    assert torch.equal(steps[5].coefficients[:, 2:], alone.coefficients[:, 2:])
    assert steps[5].tempered == "after" and steps[5].name == "uniform"


def test_columns_and_flags():
    assert len(reference.COLUMNS) == 14
    row = dict(zip(reference.COLUMNS, transitions.uniform(0.25, 0.5, prediction="denoiser").coefficients[0].tolist()))
    assert row["evidence"] == 1 / 3 and row["fresh"] == 0 and row["token_model"] == 0.5
    needs = {name for name in KINDS if KINDS[name].mask}
    for name, kind in KINDS.items():
        transition = kind.make(*kind.numbers(Numbers(0, 4)))
        assert transition.needs_mask == (name in needs) and transition.tempered == "before"
        leaving = transition.coefficients[:, [5, 6, 7]].sum(-1), transition.coefficients[:, [11, 12, 13]].sum(-1)
        assert all(torch.allclose(v, torch.ones_like(v), atol=1e-14, rtol=0) for v in leaving)
    assert dlm.transitions is transitions and dlm.schedules is schedules


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: transitions.uniform(1.5, 1.0), r"alpha_t: must be in \[0, 1\], got 1.5"),
        (lambda: transitions.uniform(0.5, -0.1), r"alpha_s: must be in \[0, 1\], got -0.1"),
        (lambda: transitions.uniform(math.nan, 0.5), r"alpha_t: must be in \[0, 1\], got nan"),
        (lambda: transitions.uniform(0.5, 0.25), r"alpha_s: must be >= alpha_t, got 0.25"),
        (lambda: transitions.absorbing(0.5, 0.25), r"alpha_s: must be >= alpha_t, got 0.25"),
        (lambda: transitions.uniform(torch.tensor([0.1, 0.6]), 0.5), r"alpha_s: must be >= alpha_t, got 0.5"),
        (lambda: transitions.uniform(torch.tensor([0.1, 2.0]), 1.0), r"alpha_t: must be in \[0, 1\], got 2"),
        (lambda: transitions.uniform(Level(0.5, 0.4), 1.0), r"alpha_t: alpha \+ noise must be 1, got 0.9"),
        (lambda: transitions.uniform(Level(0.5, 1.4), 1.0), r"alpha_t.noise: must be in \[0, 1\], got 1.4"),
        (
            lambda: transitions.uniform(0.1, 0.2, prediction="x0"),
            "prediction: must be one of plug_in, denoiser, got x0",
        ),
        (lambda: transitions.uniform(0.1, 0.2, tempered="never"), "tempered: must be one of before, after, got never"),
        (lambda: transitions.duo_psi(0.1, 0.2, 1.01), r"kappa: must be in \[0, 1\], got 1.01"),
        (lambda: transitions.remdm(0.5, 0.75, 0.6), r"sigma: must be at most \(1 - alpha_s\) / alpha_t, got 0.6"),
        (lambda: transitions.remdm(0.5, 0.75, -0.1), r"sigma: must be in \[0, 1\], got -0.1"),
        (lambda: transitions.gidd(0.2, 0.5, 0.1), "s: must be <= t, got 0.5"),
        (lambda: transitions.gidd(0.5, 0.2, 1.0), r"p_uniform: must be in \[0, 1\), got 1.0"),
        (lambda: transitions.gidd_snr(1.0, 0.5, 0.0), "log_snr_s: must be >= log_snr_t, got 0.5"),
        (lambda: transitions.sedd_euler(-0.1, 1.0), r"step_size: must be in \[0, .*\], got -0.1"),
        (lambda: transitions.sedd_euler(0.1, math.inf), r"rate: must be in \[0, .*\], got inf"),
        (
            lambda: transitions.uniform(torch.zeros(2), torch.ones(3)),
            r"schedule values: must be numbers, \[B\] or .*\[3\]",
        ),
        (
            lambda: transitions.uniform(torch.zeros(2), torch.ones(2, device="meta")),
            "schedule values: must be on one device, got cpu, meta",
        ),
        (
            lambda: transitions.uniform(torch.zeros(1, 2, 3), 1.0),
            r"alpha_t: must be a number, \[B\] .*, got \[1, 2, 3\]",
        ),
    ],
)
def test_values_out_of_range(call, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        call()


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: transitions.uniform("half", 1.0), "alpha_t: must be a number, got str"),
        (lambda: transitions.uniform(True, 1.0), "alpha_t: must be a number, got bool"),
        (
            lambda: transitions.uniform(0.5, torch.ones(2, dtype=torch.int64)),
            "alpha_s: dtype must be a float dtype, got torch.int64",
        ),
    ],
)
def test_values_of_another_type(call, text):
    with pytest.raises(TypeError, match=f"^{text}"):
        call()


def test_tensors_of_a_compiled_region_need_no_break():
    """Schedule numbers as tensors: one graph, and the values go unread."""

    def step(alpha_t, alpha_s):
        return transitions.uniform(alpha_t, alpha_s, prediction="denoiser").coefficients

    args = (torch.tensor([0.25, 0.5]), torch.tensor([0.5, 0.75]))
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*args), step(*args))
