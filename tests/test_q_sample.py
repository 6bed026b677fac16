"""q_sample: forward noising, position by position: a token stays, or becomes a uniform token or the mask."""

import pytest
import torch
from backends import is_slow, ops
from dlm_kernels.reference import transition as routes
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from strategies import step_cases
from uniform_cases import noising_call
from uniform_checks import check_noising

SEED, STEP = torch.tensor([11]), torch.tensor(5)


def rates(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@given(case=step_cases())
def test_noising(backend, case):
    """The very tokens of the reference: there is no rounding between them."""
    args, kwargs = noising_call(case)
    x_t, route = check_noising(ops, (args, kwargs))
    if kwargs["frozen"] is not None:
        assert_equal("frozen", x_t[kwargs["frozen"]], args[0][kwargs["frozen"]])
    assert_equal("stays", x_t[route == routes.STAY], args[0][route == routes.STAY])
    assert x_t[route == routes.MASK].eq(kwargs["mask_id"]).all() and not route.eq(routes.MODEL).any()
    noise = x_t[route == routes.NOISE]
    assert bool(((noise >= 0) & (noise < kwargs["vocab_size"]) & (noise != kwargs["mask_id"])).all())


@pytest.mark.parametrize("mask_id", [2, 6])
def test_the_marginals_are_those_of_the_process(backend, mask_id):
    """q(x_t | x_0) = (1 - n - m) [x_t = x_0] + n uniform + m [mask], at a level per sequence."""
    vocab, n = 6, 2000 if is_slow(backend) else 40_000
    x = torch.zeros(3, n, dtype=torch.int64)
    levels = rates([0.3, 0.2], [1.0, 0.0], [0.0, 0.6])
    x_t, _ = ops.q_sample(x, levels, torch.arange(3), STEP, vocab_size=vocab, mask_id=mask_id)
    for b, (noise, mask) in enumerate(levels.tolist()):
        law = torch.full((max(vocab, mask_id + 1),), noise / routes.noise_support(vocab, mask_id), dtype=torch.float64)
        law[mask_id] = mask
        law[0] += 1 - noise - mask
        counts, possible = torch.bincount(x_t[b], minlength=len(law)), law > 0
        assert not counts[~possible].any()
        assert chisquare(counts[possible].numpy(), (law[possible] * n).numpy()).pvalue > 1e-4


def test_ends(backend):
    """At rate 0 nothing happens, at rate 1 everything; what is outside the vocabulary may stay there."""
    x = torch.tensor([[0, 5, -7, 900], [1, 1, 1, 1]], dtype=torch.int32)
    for level, mask_id, want in (
        ([0.0, 0.0], -1, routes.STAY),
        ([0.0, 1.0], 3, routes.MASK),
        ([1.0, 0.0], -1, routes.NOISE),
    ):
        x_t, route = ops.q_sample(x, rates(level), SEED, STEP, vocab_size=6, mask_id=mask_id)
        assert x_t.dtype == torch.int32 and route.dtype == torch.uint8 and route.eq(want).all()
        if want == routes.STAY:
            assert_equal("x_t", x_t, x)
    x_t, _ = ops.q_sample(x, rates([1.0, 0.0]), SEED, STEP, vocab_size=1)
    assert x_t.eq(0).all()


def test_noise_depends_on_request_position_and_step_only(backend):
    x = torch.zeros(2, 50, dtype=torch.int64)
    draw = lambda x, seeds=(3, 4), step=5: ops.q_sample(
        x, rates([0.5, 0.0]), torch.tensor(seeds), torch.tensor(step), vocab_size=10**6
    )[0]
    both = draw(x)
    assert_equal("alone", draw(x[1:], seeds=(4,)), both[1:])
    assert_equal("shorter", draw(x[:, :20].contiguous()), both[:, :20])
    for other in (draw(x, seeds=(5, 6)), draw(x, step=6), draw(x, seeds=(4, 3))):
        assert not torch.equal(other, both)


@given(seed=st.integers(0, 1000))
def test_one_level_for_all_is_that_level_for_each(backend, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(9, (3, 4), generator=g)
    level = torch.rand(1, 2, generator=g, dtype=torch.float64) / 2
    outcomes = [
        ops.q_sample(x, levels, SEED, STEP, vocab_size=9, mask_id=9)
        for levels in (level, level.expand(3, 2), level.expand(3, 4, 2), level[None].expand(3, 4, 2).contiguous())
    ]
    for x_t, route in outcomes[1:]:
        assert_equal("x_t", x_t, outcomes[0][0])
        assert_equal("route", route, outcomes[0][1])
