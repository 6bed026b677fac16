"""The public steps of the uniform family: what the layer above the ops adds to them."""

import pytest
import torch
from helpers import assert_equal

import dlm_kernels as dlm
from dlm_kernels import schedules, transitions

B, L, V = 2, 12, 41
MASK = 40


def logits(seed=0, dtype=torch.float32):
    return (torch.randn(B, L, V, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def canvas(seed=0, vocab=V):
    return torch.randint(0, vocab, (B, L), generator=torch.Generator().manual_seed(100 + seed))


def uniform(x, z, **kwargs):
    return dlm.uniform_step_(x, z, alpha_t=0.3, alpha_s=0.6, **dict(seed=1, step=2) | kwargs)


def gidd(x, z, **kwargs):
    return dlm.transition_step_(
        x, z, transition=transitions.gidd(0.7, 0.4, 0.3), mask_id=MASK, **dict(seed=1, step=2) | kwargs
    )


def renoise(x, z, **kwargs):
    return dlm.renoise_step_(x, z, entropy_bound=2.0, **dict(seed=1, step=2) | kwargs)


def adaptive(x, z, **kwargs):
    step = dict(mask_id=None, rule=dlm.TopK(3), confidence="gain", temperature=0.5, seed=1, step=2)
    return dlm.denoise_step_(x, z, **step | kwargs)


STEPS = dict(uniform=uniform, gidd=gidd, renoise=renoise, adaptive=adaptive)
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


# ---- values of every kind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alphas",
    [
        (torch.tensor(0.3), torch.tensor(0.6)),
        (torch.full((B,), 0.3, dtype=torch.float64), 0.6),
        (torch.full((B, L), 0.3, dtype=torch.float64), torch.full((B,), 0.6, dtype=torch.float64)),
        (schedules.Level(0.3, 0.7), schedules.Level(0.6, 0.4)),
    ],
    ids=["0-d", "[B]", "[B, L]", "level"],
)
def test_alpha_of_every_kind(alphas):
    x = canvas()
    want = uniform(x.clone(), logits())
    got = dlm.uniform_step(x, logits(), alpha_t=alphas[0], alpha_s=alphas[1], seed=1, step=2)
    # float32 0.3 is another number, but no route here is that narrow
    assert_equal("tokens", got.tokens, want.tokens)
    assert_equal("route", got.route, want.route)


def test_alpha_per_sequence_and_position():
    """Where t = s nothing moves."""
    x, z = canvas(), logits()
    alpha_s = torch.full((B, L), 0.9, dtype=torch.float64)
    alpha_s[0, :5] = 0.1
    out = dlm.uniform_step(x, z, alpha_t=0.1, alpha_s=alpha_s, seed=3)
    assert (out.route[0, :5] == 0).all() and (out.route != 0).any()
    assert_equal("x", out.x[0, :5], x[0, :5])


def test_a_schedule_made_at_once_is_the_same_step_by_step():
    t, s = schedules.consecutive(schedules.sumi(4))
    x, y = canvas(), canvas()
    for i, transition in enumerate(transitions.uniform(t, s).steps()):
        dlm.transition_step_(x, logits(i), transition=transition, seed=5, step=i)
        level_t, level_s = (schedules.Level(v.alpha[i].item(), v.noise[i].item()) for v in (t, s))
        dlm.uniform_step_(y, logits(i), alpha_t=level_t, alpha_s=level_s, seed=5, step=i)
    assert_equal("x", x, y)


def test_no_law_and_no_noise_draws_the_mask():
    z = logits()
    z[..., MASK] = 50.0
    for suppress in (None, 3, [3, 4], torch.tensor([3, 4])):
        x = torch.full((B, L), MASK)
        for i in range(20):
            out = gidd(x, z, step=i, suppress=suppress)
            assert ((out.tokens == MASK) <= ((out.route == 0) | (out.route == 3))).all()
        out = dlm.renoise_step(canvas(vocab=MASK), z, mask_id=MASK, suppress=suppress, entropy_bound=0.5, seed=2)
        assert (out.tokens != MASK).all() and (out.argmax != MASK).all()


@every_step
def test_seeds_and_generators(step):
    fresh = {str(step(canvas(), logits(), seed=None, temperature=5.0).x.tolist()) for _ in range(9)}
    assert len(fresh) > 1
    same = [step(canvas(), logits(), seed=None, generator=torch.Generator().manual_seed(7)).x for _ in range(2)]
    assert_equal("x", *same)


@every_step
def test_the_copy_leaves_the_original(step):
    name = {uniform: "uniform_step", gidd: "transition_step", renoise: "renoise_step", adaptive: "denoise_step"}[step]
    functional = getattr(dlm, name)
    x = canvas()
    before = x.clone()
    extra = {
        uniform: dict(alpha_t=0.3, alpha_s=0.6),
        gidd: dict(transition=transitions.gidd(0.7, 0.4, 0.3), mask_id=MASK),
        renoise: dict(entropy_bound=2.0),
        adaptive: dict(mask_id=None, rule=dlm.TopK(3), confidence="gain", temperature=0.5),
    }[step]
    out = functional(x, logits(), seed=1, step=2, **extra)
    assert_equal("x", x, before)
    assert_equal("new canvas", out.x, step(canvas(), logits()).x)


# ---- check and trace -----------------------------------------------------------------------------------------------


@every_step
def test_a_failed_check_writes_nothing(step):
    z = logits()
    z[1, 7, 3] = torch.nan
    x, trace = canvas(), dlm.RevisionTrace(B, L)
    kept = [v.clone() for v in (x, trace.positions, trace.steps)]
    state = dlm.RenoiseState.start(x, keep_accepted=True)
    states = {k: v.clone() for k, v in vars(state).items()}
    extra = dict(state=state) if step is renoise else {}
    with pytest.raises(ValueError, match=r"logits: must hold a finite value .* at \(b, i\) = \(1, 7\)"):
        step(x, z, check=True, trace=trace, **extra)
    for name, value, before in zip(("x", "positions", "steps"), (x, trace.positions, trace.steps), kept):
        assert_equal(name, value, before)
    for name, before in states.items():
        assert_equal(name, getattr(state, name), before)
    frozen = torch.zeros(B, L, dtype=torch.bool)
    frozen[1, 7] = True
    step(x, z, check=True, trace=trace, frozen=frozen, **extra)
    assert not torch.equal(trace.positions, kept[1])


@every_step
@pytest.mark.parametrize("check", [False, True])
def test_a_history_tells_what_the_counters_tell(step, check):
    full, counters = dlm.RevisionTrace(B, L, mode="full"), dlm.RevisionTrace(B, L)
    x, y = canvas(), canvas()
    z = [logits(i % 3) for i in range(12)]
    for i in range(12):
        rows = dict(frozen=torch.arange(L).expand(B, L) < 2) if i % 2 else dict(window=(1, 9))
        step(x, z[i], step=i, trace=full, check=check, **rows)
        step(y, z[i], step=i, trace=counters, **rows)
    assert_equal("x", x, y)
    assert_equal("positions", full.positions, counters.positions)
    assert_equal("steps", full.steps, counters.steps)
    positions, steps = full.replay()
    assert_equal("replayed positions", positions, full.positions)
    assert_equal("replayed steps", steps[..., :-1], full.steps[..., :-1])
    assert full.steps[..., 0].sum() > 0  # something happened


@pytest.mark.parametrize("layout", ["start", "packed"])
@every_step
def test_the_history_of_a_part_of_the_canvas(step, layout):
    z = logits()[:, 3:8]
    if layout == "packed":
        rows = (torch.arange(B)[:, None] * L + torch.arange(3, 8)).flatten()[torch.randperm(10)]
        where = dict(rows=torch.cat([rows, torch.tensor([-1])]))
        z = torch.cat([logits().flatten(0, 1)[rows], torch.full((1, V), torch.nan)])
    else:
        where = dict(start=3)
    trace, x = dlm.RevisionTrace(B, L, mode="full"), canvas()
    before = x.clone()
    step(x, z, trace=trace, **where)
    assert_equal("positions", trace.replay()[0], trace.positions)
    assert_equal("before", trace.history[0].before.long(), before)
    assert_equal("after", trace.history[0].x.long(), x)
    assert (trace.history[0].committed[:, [0, 1, 2, 8, 9, 10, 11]] == -1).all()


# ---- what is independent of what ------------------------------------------------------------------------------------


def test_a_first_step_draws_other_noise_than_made_its_canvas():
    """One seed and step 0 for both is what everybody writes."""
    n, vocab = 4000, 10
    seeds = dlm.request_seeds(3, 1)
    x = dlm.q_sample(torch.zeros(1, n, dtype=torch.int64), 0.0, vocab_size=vocab, seed=seeds)
    z = torch.zeros(1, n, vocab)
    out = dlm.uniform_step(x, z, alpha_t=0.0, alpha_s=0.5, seed=seeds)
    noise = out.route == 2
    assert 1000 < noise.sum() and abs((out.tokens == x)[noise].double().mean() - 1 / vocab) < 0.03
    out = dlm.renoise_step(x, z, entropy_bound=0.0, seed=seeds)
    assert abs((out.tokens == x)[~out.accepted].double().mean() - 1 / vocab) < 0.03


@pytest.mark.parametrize("gamma", [-0.5, 1.5, 3.0, 20.0])
@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("alpha_s", [0.9, 1.0])
def test_guidance_of_laws_far_apart(gamma, temperature, alpha_s):
    """Posteriors of 1e-100 count as much as any other: what they weigh is a ratio. Against logarithms in float64, on a grid of
    uniforms."""
    n, generator = 2000, torch.Generator().manual_seed(0)
    z, u = (torch.randn(V, generator=generator) * 5 for _ in range(2))
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    uniform = torch.stack([grid, grid.roll(n // 2), grid], -1)[None]
    x_t, alpha_t = 1, 0.5

    def log_posterior(logits):
        log_p = (logits.double() / temperature).log_softmax(-1)
        noise_s = torch.tensor((1 - alpha_s) / V, dtype=torch.float64).log()
        log_q = torch.logaddexp(torch.tensor(alpha_s, dtype=torch.float64).log() + log_p, noise_s)
        between = torch.full((V,), (1 - alpha_t / alpha_s) / V, dtype=torch.float64)
        between[x_t] += alpha_t / alpha_s
        return (log_q + between.log()).log_softmax(-1)

    want = (gamma * log_posterior(z) + (1 - gamma) * log_posterior(u)).softmax(-1)
    transition = transitions.guided(transitions.uniform(alpha_t, alpha_s), gamma)
    logits, uncond = z.expand(1, n, V), u.expand(1, n, V)
    out = dlm.transition_step(
        torch.full((1, n), x_t),
        logits,
        transition=transition,
        temperature=temperature,
        uncond_logits=uncond,
        uniform=uniform,
    )
    stayed = (out.tokens == x_t).double().mean()
    assert abs(stayed - want[x_t]) < 2 / n
    others = want.clone()
    others[x_t] = 0
    if others.sum() > 0.1:
        counts = torch.bincount(out.tokens[0], minlength=V).double()
        counts[x_t] = 0
        assert ((counts / counts.sum() - others / others.sum()).abs() < 0.02).all()


def test_noise_is_told_from_the_model_by_its_share():
    z = torch.full((1, 4000, V), -60.0)
    z[..., 0] = 0
    x = torch.randint(1, V, (1, 4000))
    plain = dlm.uniform_step(x, z, alpha_t=0.0, alpha_s=0.5, seed=1)
    again = dlm.transition_step(
        x, z, transition=transitions.guided(transitions.uniform(0.0, 0.5), 1.0), uncond_logits=z, seed=2
    )
    for route in range(3):
        mine, other = ((out.route == route).double().mean() for out in (plain, again))
        assert abs(mine - other) < 0.04
    assert (again.tokens[again.route == 1] == 0).all()


def test_finished_sequences_keep_their_argmax():
    x, state = canvas(), dlm.RenoiseState.start(canvas())
    for i in range(3):
        out = renoise(x, logits() * 1000, state=state, step=i)
    assert out.done.all()
    before, noisy = out.argmax.clone(), x.clone()
    out = renoise(x, logits(1), state=state, step=9)
    assert_equal("argmax", out.argmax, before)
    assert_equal("tokens", out.tokens, noisy)


# ---- under torch.compile -------------------------------------------------------------------------------------------


@every_step
def test_compiles_without_a_break(step):
    torch._dynamo.reset()

    def loop(x, z, steps, trace):
        for i in range(2):
            out = step(x, z, step=steps + i, trace=trace)
        return out.x, out.tokens

    traces = [dlm.RevisionTrace(B, L) for _ in range(2)]
    want = loop(canvas(), logits(), torch.tensor([4]), traces[0])
    got = torch.compile(loop, fullgraph=True, backend="aot_eager")(canvas(), logits(), torch.tensor([4]), traces[1])
    assert_equal("x", got[0], want[0])
    assert_equal("tokens", got[1], want[1])
    assert_equal("positions", traces[1].positions, traces[0].positions)
    assert_equal("steps", traces[1].steps, traces[0].steps)


def test_q_sample_compiles():
    torch._dynamo.reset()
    noised = lambda x, alpha: dlm.q_sample(x, alpha, vocab_size=V, mask_id=MASK, uniform_share=0.2, seed=3)
    alpha = torch.tensor([0.2, 0.9])
    got = torch.compile(noised, fullgraph=True, backend="aot_eager")(canvas(), alpha)
    assert_equal("x_t", got, noised(canvas(), alpha))


# ---- forward noising -----------------------------------------------------------------------------------------------


def test_default_noise_is_uniform_without_a_mask_and_the_mask_with_one():
    x_0 = canvas()
    _, route = dlm.q_sample(x_0, 0.0, vocab_size=V, seed=1, return_route=True)
    assert (route == 2).all()
    x_t = dlm.q_sample(x_0, 0.0, vocab_size=V, mask_id=V, seed=1)
    assert (x_t == V).all()
    assert_equal("x_0", dlm.q_sample(x_0, 1.0, vocab_size=V, seed=1), x_0)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_hybrid_marginals(t):
    """GIDD's alpha and shares, from its own formulas."""
    level, share = schedules.gidd(t, 0.2)
    c = 2 * 0.2 / 0.8 * (t * (1 - t)) ** 0.5
    assert level.alpha == pytest.approx((1 - t) / (1 + c)) and level.noise * (1 - share) == pytest.approx(t / (1 + c))
    x_0 = torch.full((40, 2000), 7)
    _, route = dlm.q_sample(
        x_0, level, vocab_size=V, mask_id=MASK, uniform_share=float(share), seed=2, return_route=True
    )
    for code, share in ((0, (1 - t) / (1 + c)), (2, c / (1 + c)), (3, t / (1 + c))):
        assert abs((route == code).double().mean().item() - share) < 5 * (share * (1 - share) / 80000) ** 0.5 + 1e-9


def test_the_step_keys_the_noise():
    x_0 = canvas()
    noised = [dlm.q_sample(x_0, 0.5, vocab_size=V, seed=dlm.request_seeds(1, B), step=i) for i in (0, 0, 1)]
    assert_equal("x_t", noised[0], noised[1])
    assert not torch.equal(noised[0], noised[2])


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: uniform(canvas(), logits(), check=True, trace=3), "trace: must be a RevisionTrace, got int"),
        (
            lambda: dlm.uniform_step(canvas(), logits(), alpha_t=0.5, alpha_s=0.4),
            "alpha_s: must be >= alpha_t, got 0.4",
        ),
        (
            lambda: dlm.uniform_step(canvas(), logits(), alpha_t=-0.1, alpha_s=0.4),
            r"alpha_t: must be in \[0, 1\], got -0.1",
        ),
        (
            lambda: dlm.transition_step(canvas(), logits(), transition=transitions.gidd(0.5, 0.4, 0.1)),
            "mask_id: must be given for gidd, got None",
        ),
        (
            lambda: dlm.transition_step(canvas(), logits(), transition="gidd"),
            "transition: must be made by dlm_kernels.transitions, got str",
        ),
        (lambda: uniform(canvas() + 30, logits()), r"x: must hold tokens in \[0, 41\) where it may change, got 4\d"),
        (lambda: uniform(canvas(), logits(), mask_id=-2), "mask_id: must be >= 0, got -2"),
        (
            lambda: dlm.transition_step(
                canvas(), logits(), transition=transitions.guided(transitions.uniform(0.3, 0.6), 2.0)
            ),
            "uncond_logits: must be given for guidance, got none",
        ),
        (
            lambda: dlm.transition_step(
                canvas(), logits(), transition=transitions.sedd_analytic(1.0, 0.5), temperature=0.0
            ),
            "temperature: must be > 0 with redraw, got 0",
        ),
        (lambda: renoise(canvas(), logits(), state=3), "state: must be a RenoiseState, got int"),
        (lambda: renoise(canvas(), logits(), softcap=0.0), "softcap: must be > 0, got 0.0"),
        (lambda: renoise(canvas(), logits(), rule=3), "rule: must be a rule, such as TopK.*, got int"),
        (lambda: dlm.draw_tokens(logits(), confidence="gain"), "given: must be given for confidence gain, got none"),
        (lambda: dlm.q_sample(canvas(), 1.5, vocab_size=V), r"alpha: must be in \[0, 1\], got 1.5"),
        (
            lambda: dlm.q_sample(canvas(), 0.5, vocab_size=V, uniform_share=0.5),
            "uniform_share: must be 1 without mask_id",
        ),
        (
            lambda: dlm.q_sample(canvas().int(), 0.5, vocab_size=V, mask_id=2**40),
            "mask_id: must fit in int32 as x, got 1099511627776",
        ),
        (lambda: dlm.q_sample(canvas().int(), 0.5, vocab_size=2**40), "vocab_size: must fit in int32 as x, got"),
        (lambda: dlm.q_sample(canvas().float(), 0.5, vocab_size=V), "x_0: dtype must be"),
        (lambda: dlm.q_sample(canvas(), torch.full((3,), 0.5), vocab_size=V), "alpha: shape must be"),
        (lambda: dlm.renoise_step(canvas(), logits(), entropy_bound=-1.0), "entropy_bound: must be >= 0, got -1"),
        (lambda: renoise(canvas(), logits(), stability_threshold=-1), "stability_threshold: must be >= 0, got -1"),
        (lambda: uniform(canvas(), logits(), window=(0, 99)), "window: must be -1 or in .*, got 99"),
        (lambda: dlm.uniform_step(canvas(), logits(), alpha_t=torch.full((3,), 0.5), alpha_s=0.6), "transition: shape"),
        (
            lambda: uniform(canvas(), logits(), suppress=torch.tensor(3), mask_id=MASK),
            r"suppress: must be 1-dimensional",
        ),
        (lambda: dlm.q_sample(canvas(), 0.5, vocab_size=0), "vocab_size: must be >= 1, got 0"),
        (lambda: dlm.q_sample(canvas(), 0.5, vocab_size=1, mask_id=0), "mask_id: must leave a token .*, got 0"),
        (lambda: transitions.with_min_p(transitions.uniform(0.3, 0.6), 2.0), r"min_p: must be in \[0, 1\], got 2.0"),
    ],
)
def test_errors(call, text):
    with pytest.raises((ValueError, TypeError), match=text):
        call()
