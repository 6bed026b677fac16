"""Redraws: steps that act on the posterior itself, against that posterior as a whole."""

import dense_posteriors as dense
import pytest
import torch
from backends import is_slow, ops
from helpers import LEAD, A, B, assert_between, assert_equal
from strategies import make_logits
from transition_cases import KINDS, NO_MASK, Numbers, rows
from transition_laws import SEED, STEP, check_law

from dlm_kernels import reference, schedules, transitions


@pytest.mark.parametrize("name", ["sumi", "discrete_ddim", "gidd", "remdm"])
@pytest.mark.parametrize("redraw", ["min_p", "guidance"])
def test_the_law_of_what_acts_on_the_posterior(backend, redraw, name):
    """GIDD's min_p drops tokens by their posterior, UDLM's guidance is a product of powers of two posteriors."""
    kind, vocab, n = KINDS[name], 7, 1000 if is_slow(backend) else 30_000
    mask_id = 3 if kind.mask else NO_MASK
    (logits, x_t), (uncond, _) = (rows(seed, 4, vocab, 1.5, mask_id) for seed in (2, 3))
    if kind.mask:
        x_t[:2] = mask_id
    numbers = kind.numbers(Numbers(1, 4, tame=True))
    cond, other = (
        kind.original(z.float().double().softmax(-1), x_t, *numbers, mask_id=mask_id) for z in (logits, uncond)
    )
    if redraw == "min_p":
        transition, want, uncond = (
            transitions.with_min_p(kind.make(*numbers), 0.1),
            torch.where(cond >= 0.1, cond, 0.0),
            None,
        )
    else:
        transition = transitions.guided(kind.make(*numbers), 1.7)
        want = torch.where(cond > 0, cond**1.7 * other.clamp(min=1e-300) ** -0.7, 0.0)
    check_law(ops, x_t, logits, transition, want / want.sum(-1, keepdim=True), n, mask_id, uncond=uncond)


def test_the_law_of_sedds_analytic_step(backend):
    """Staggered score times transposed transition, its negative entries never drawn."""
    vocab, n = 7, 1000 if is_slow(backend) else 30_000
    logits, x_t = rows(6, 4, vocab, 1.0, NO_MASK)
    sigma = torch.tensor([0.3, 1.0, 2.0, 0.05], dtype=torch.float64)
    kept = torch.exp(-sigma)[:, None]
    score = logits.float().double().softmax(-1)
    score = score / score.gather(-1, x_t[:, None])
    staggered = (score - (1 - kept) / vocab * score.sum(-1, keepdim=True)) / kept
    want = staggered.clamp(min=0) * ((1 - kept) / vocab + kept * dense.one_hot(x_t, score))
    assert bool((staggered < 0).any()) and bool((want.sum(-1) > 0).all())
    transition = transitions.sedd_analytic(sigma, torch.zeros_like(sigma))
    check_law(ops, x_t, logits, transition, want / want.sum(-1, keepdim=True), n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("redraw", ["min_p", "guidance", "score"])
def test_redraws_of_a_large_vocabulary(backend, redraw, dtype):
    """The tokens of the reference: 80 uniforms of this seed keep away from every edge of a cell."""
    vocab, g = 2500, torch.Generator().manual_seed(7)
    cond, uncond = (make_logits(g, "normal", (2, 40, vocab)).to(dtype) for _ in range(2))
    noised = torch.randint(vocab, (2, 40), generator=g)
    transition = transitions.uniform(0.3, 0.6)
    transition = {
        "min_p": lambda: transitions.with_min_p(transition, 1e-3),
        "guidance": lambda: transitions.guided(transition, 1.5),
        "score": lambda: transitions.sedd_analytic(2.0, 1.0),
    }[redraw]()
    guidance = dict(uncond_logits=uncond) if redraw == "guidance" else {}
    outcomes = []
    for implementation in (ops, reference):
        x, more = noised.clone(), dict(redraw=transition.redraw, level=transition.level, **guidance)
        args = (torch.tensor([0.8]), SEED, STEP, transition.coefficients)
        outcomes.append((x, *implementation.transition_step_(x, cond, *args, **more)))
    for i, (mine, theirs) in enumerate(zip(*outcomes)):
        if mine.is_floating_point():
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-9)
        else:
            assert_equal(f"output {i}", mine, theirs)
    assert len(outcomes[0][2].unique()) > 1


@pytest.mark.parametrize("gamma", [-0.5, 1.7, 14.0, 40.0])
@pytest.mark.parametrize("spread, noise", [(3, 0.1), (3, 1e-5), (40, 1e-35), (40, 0.0)])
def test_guided_draws_lie_in_their_cells(backend, spread, noise, gamma):
    """On a grid of uniforms. In posteriors with next to no noise, or none, probabilities count that no float holds.

    The band, as in helpers.py, where d is a token's distance from the largest logit in nats: a posterior has the relative errors
    of its term, at most A + B (LEAD + |d|), and of its law's mass. Its logarithm l, |l| <= |d| or the noise's, has those and
    B |l|, and a power makes |gamma| times that of it. Twice, as there: once for the partial sum, once for the total.
    """
    vocab, n, temperature = 41, 200 if is_slow(backend) else 4000, 0.8
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(vocab, generator=generator) * spread
    u = (gamma * z - torch.randn(vocab, generator=generator)) / (gamma - 1)  # so that many tokens weigh much
    laws = [(logits.double() / temperature).log_softmax(-1) for logits in (z, u)]
    share, part = torch.tensor(1 - noise).double().log(), torch.tensor(noise / vocab).double().log()
    cond, uncond = (torch.logaddexp(share + law, part) for law in laws)
    weights = gamma * cond + (1 - gamma) * uncond
    x_t = int(weights.argmin())
    weights[x_t] = -torch.inf
    edges = torch.nn.functional.pad(weights.softmax(-1).cumsum(-1), (1, 0))

    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    uniform = torch.stack([torch.full_like(grid, 1e-9), grid, grid], -1)[None]  # x_t is noise, and leaves
    levels = schedules.Level(torch.tensor(0.0), torch.tensor(1.0)), schedules.Level(1 - noise, noise)
    transition = transitions.guided(transitions.uniform(*levels), gamma)
    more = dict(redraw=transition.redraw, level=transition.level, uncond_logits=u.expand(1, n, -1), uniform=uniform)
    x, t = torch.full((1, n), x_t), torch.tensor([temperature])
    tokens, route, *_ = ops.transition_step_(x, z.expand(1, n, -1), t, SEED, STEP, transition.coefficients, **more)
    assert bool((route > 0).all()) and len(tokens.unique()) > 1
    far = max(float(-law.min()) for law in laws)
    band = 2 * (abs(gamma) + abs(1 - gamma)) * (2 * A + B * (2 * LEAD + 2 * far))
    assert_between("uniform inside the cell of the token", grid, edges[tokens[0]] - band, edges[tokens[0] + 1] + band)
    assert bool((weights[tokens[0]] > -torch.inf).all())
