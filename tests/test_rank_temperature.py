"""rank_temperature: positions drawn without replacement from softmax(confidence / rank_temperature): Dream's alg_temp."""

import itertools
import math

import backends
import numpy as np
import pytest
import torch
from backends import ops
from dlm_kernels.reference import philox
from dlm_kernels.reference.confidence import LAST
from helpers import assert_equal
from test_decide import logits_for

import dlm_kernels as dlm


def many(logits, size, **kwargs):
    """draw_tokens for as many requests that differ in their seed: tokens, confidence and key, [size, n]."""
    seeds = dlm.request_seeds(7, size)
    out = ops.draw_tokens(logits.expand(size, -1, -1), torch.zeros(1), seeds, torch.tensor(3), **kwargs)
    return out[:3]


def draws_without_replacement(weights, k):
    """{(first, second, ...): probability} of k positions in the order drawn."""
    law = {}
    for order in itertools.permutations(range(len(weights)), k):
        left, p = sum(weights), 1.0
        for i in order:
            p *= weights[i] / left
            left -= weights[i]
        law[order] = p
    return law


@pytest.mark.parametrize("confidence, temperature", [("prob", 0.3), ("prob", 0.08), ("neg_entropy", 0.25)])
def test_law(backend, confidence, temperature):
    """The order of four positions by chi-squared: 24 orders, 23 degrees of freedom; 71 is exceeded once in a million times."""
    size = 300 if backends.is_slow(backend) else 40_000
    logits = logits_for([0.9, 0.6, 0.75, 0.5])
    _, value, key = many(logits, size, confidence=confidence, rank_temperature=temperature)
    law = draws_without_replacement([math.exp(v / temperature) for v in value[0].tolist()], 4)
    orders, counts = np.unique(key.sort(dim=-1, descending=True).indices.numpy(), axis=0, return_counts=True)
    seen = {tuple(order): count for order, count in zip(orders.tolist(), counts.tolist())}
    common = {order: size * p for order, p in law.items() if size * p >= 5}
    rare = size - sum(common.values())
    statistic = sum((seen.get(order, 0) - n) ** 2 / n for order, n in common.items())
    if rare > 5:
        statistic += (size - sum(seen.get(order, 0) for order in common) - rare) ** 2 / rare
    assert statistic < 71


def test_step_commits_what_the_keys_say(backend):
    """Two of four: how often each pair is committed, and that the step ranks by the keys of draw_tokens."""
    size, temperature = 200 if backends.is_slow(backend) else 2000, 0.2
    logits = logits_for([0.9, 0.6, 0.75, 0.5])
    tokens, value, key = many(logits, size, rank_temperature=temperature)
    x = torch.full((size, 4), 3)
    zero = torch.zeros(1, dtype=torch.int64)
    out = ops.denoise_step_(
        x,
        logits.expand(size, -1, -1),
        torch.zeros(1),
        dlm.request_seeds(7, size),
        zero[0] + 3,
        zero + 2,
        mask_id=3,
        rule="topk",
        rank_temperature=temperature,
    )
    assert_equal("committed", out[2], key >= key.sort(-1, descending=True).values[:, 1:2])
    assert_equal("confidence", out[1], many(logits, size)[1])  # the plain one
    law = draws_without_replacement([math.exp(v / temperature) for v in value[0].tolist()], 2)
    for pair in itertools.combinations(range(4), 2):
        p = law[pair] + law[pair[::-1]]
        share = out[2][:, pair].all(-1).double().mean()
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / size)


def test_keys_are_value_and_keyed_noise(backend):
    """Whatever batch a request is in; confident values keep their digits; demoted draws still come last."""
    p = [1 - 2.0**-20, 1 - 2.0**-22, 0.5, 0.25]
    logits, t = logits_for(p, vocab=4), 2.0**-20
    tokens, value, key = many(logits, 64, rank_temperature=t)
    u = philox.draw_uniform(dlm.request_seeds(7, 64)[:, None], torch.arange(4)[None], torch.tensor(3), 1)
    wanted = (value.double() - 1) / t - torch.log(-torch.log1p(-u))
    assert bool(((key - wanted).abs() <= 2.0**-22 * wanted.abs()).all())
    assert 0 < int((key[:, 0] > key[:, 1]).sum()) < 32  # e^(3 / 4) to 1
    assert bool((key[:, :2].amin(-1) > key[:, 2:].amax(-1)).all())
    alone = ops.draw_tokens(logits, torch.zeros(1), dlm.request_seeds(7, 64)[9:10], torch.tensor(3), rank_temperature=t)
    assert_equal("key of a request alone", alone[2], key[9:10])
    demoted = many(logits, 64, rank_temperature=t, demote=tokens[0, :1])
    assert bool((demoted[2] == LAST).all())


def test_off(backend):
    logits = logits_for([0.9, 0.6, 0.75])
    plain = many(logits, 5)
    for name, a, b in zip(("tokens", "confidence", "key"), plain, many(logits, 5, rank_temperature=0.0)):
        assert_equal(name, a, b)


def test_public_calls():
    logits, x = logits_for([0.9, 0.6, 0.75, 0.5]).expand(50, -1, -1), torch.full((50, 4), 3)
    step = lambda **kwargs: dlm.denoise_step(x, logits, mask_id=3, rule=dlm.TopK(1), **kwargs).x
    assert torch.equal(step(), step(rank_temperature=None))
    assert torch.equal(step(seed=4, rank_temperature=0.5), step(seed=4, rank_temperature=0.5))
    torch.manual_seed(0)
    assert len({tuple(row) for row in (step(rank_temperature=0.5) == 0).tolist()}) == 4  # fresh seeds, one per sequence
    assert dlm.draw_tokens(logits, seed=1, rank_temperature=0.5).confidence[0, 0] == pytest.approx(0.9)
    with pytest.raises(ValueError, match="^rank_temperature: must be 0 for rule threshold, got 0.5$"):
        dlm.denoise_step(x, logits, mask_id=3, rule=dlm.Threshold(0.5), rank_temperature=0.5)
    with pytest.raises(TypeError, match="^rank_temperature: must be a number, got str$"):
        step(rank_temperature="hot")


@pytest.mark.parametrize("coldest", [1e-30, 1e-40, 1e-300])
def test_the_coldest_ranking_is_the_plain_one(isa, coldest):
    """Not that of positions, to which quotients beyond any float would come down."""
    logits = torch.randn(1, 12, 30, generator=torch.Generator().manual_seed(4))
    for implementation in (ops, dlm.reference):
        args = (logits, torch.zeros(1), torch.tensor([1]), torch.tensor(0))
        _, confidence, key, *_ = implementation.draw_tokens(*args, rank_temperature=coldest)
        assert_equal("order", key.argsort(descending=True), confidence.argsort(descending=True))
