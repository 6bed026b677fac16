"""Confidence: values within 2e-6 of fp64, keys that keep ranking where the values have collapsed."""

import math

import core
import numpy as np
import pytest
import torch
from backends import is_slow, ops
from dlm_kernels.reference import confidence as scoring
from dlm_kernels.reference.row_stats import RowStats
from helpers import assert_equal, law_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_logits

SEED, STEP = torch.tensor([11]), torch.tensor([5])
ODDS = st.one_of(st.sampled_from([0.0, 1e-40, 1e-20, 1e-9, 1.0, 1e20, 1e39, 1e300, math.inf]), st.floats(0, 100))


# ---- formulas: csrc/core against the reference ---------------------------------------------------------------------


@given(
    kind=st.sampled_from(scoring.CONFIDENCES),
    dtype=st.sampled_from(sorted(scoring.DTYPES)),
    odds=ODDS,
    rest=st.one_of(st.sampled_from([0.0, 1e-40, 1e-12]), st.floats(0, 1e5)),
    gap=st.floats(0, 500),
    moment=st.floats(-5, 0),
    t=st.sampled_from([0.5, 1.0, 2.0]),
    u=st.floats(2.0**-20, 1 - 2.0**-20, width=32),
    token=st.integers(0, 2),
    held=st.sampled_from([(-1, math.inf), (7, math.inf), (0, 0.0), (1, 0.5), (2, 300.0), (1, math.inf)]),
)
def test_score(native_core, kind, dtype, odds, rest, gap, moment, t, u, token, held):
    """``held``: the token of the position, and how far its logit lies below the maximum."""
    top = 3.0
    gap = float(np.float32(top) - np.float32(top - gap))
    double = lambda v: torch.tensor([v], dtype=torch.float64)
    stats = RowStats(*(double(v) for v in (top, 0, top - gap, rest, moment)), torch.tensor([False]))
    current = scoring.Current(torch.tensor([held[0]]), double(top - held[1]))
    value, key = scoring.score(
        stats, torch.tensor([token]), double(odds), double(t), kind, dtype, torch.tensor([u]), current
    )
    native = core.Stats(top, top - gap, 0, rest, moment)
    got_value, got_key = native_core.score(kind, dtype, native, token, odds, 1 / t, u, (held[0], top - held[1]))
    rel = 1e-2 if dtype == "bfloat16" else 1e-6 if dtype == "float32" else 1e-12
    if kind == "neg_entropy" and moment / (1 + rest) > math.log1p(rest):
        return  # no law has such statistics
    assert got_value == pytest.approx(value.item(), rel=rel, abs=1e-13)
    assert got_key == pytest.approx(key.item(), rel=max(rel, 1e-6), abs=1e-13)
    assert got_key >= np.float32(-1e38) > scoring.LAST


@pytest.mark.parametrize("half", [False, True])
def test_every_16_bit_float_widens_exactly(native_core, half):
    bits = np.arange(2**16, dtype=np.uint16)
    got = torch.from_numpy(native_core.widen(bits, half))
    want = torch.from_numpy(bits.view(np.int16)).view(torch.float16 if half else torch.bfloat16).float()
    assert_equal("widened", got, want)


@given(values=st.lists(st.floats(allow_nan=True, width=64), min_size=1, max_size=50))
def test_rounding_is_that_of_a_cast(native_core, values):
    with np.errstate(over="ignore"):
        for name in scoring.DTYPES:
            got = torch.from_numpy(native_core.round_to(values, name))
            assert_equal(name, got, scoring.round_to(torch.tensor(values, dtype=torch.float64), name))


# ---- the op --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature, source", [(0.0, "raw"), (0.7, "sampled"), (0.7, "raw")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["normal", "peaked", "huge"])
def test_within_two_millionths_of_fp64(backend, kind, dtype, temperature, source):
    """Also at |logit| = 300, where an unrounded maximum costs 1e-5, and at T = 0.7, where logits are scaled first."""
    if kind == "huge":
        logits = make_logits(torch.Generator().manual_seed(5), "normal", (1, 6, 50_000))
        logits = torch.cat([logits + 290, logits - 290, (100 * logits).clamp(-300, 300)], 1).to(dtype)
    else:
        logits = make_logits(torch.Generator().manual_seed(6), kind, (1, 12, 126464)).to(dtype)
    if is_slow(backend):
        logits = logits[..., :20_000].contiguous()
    tokens, confidence, key, logprob, _, bad = ops.draw_tokens(
        logits, torch.tensor([temperature]), SEED, STEP, confidence_from=source
    )
    assert not bad.any()
    z = logits[0].float()
    t = torch.full((len(z),), temperature if source == "sampled" else 1.0)
    law = law_of(z, t)
    odds = law.stats.rest_of(tokens[0], z.gather(-1, tokens[0, :, None])[:, 0].double(), law.temperature)
    want = 1 / (1 + odds)
    error = ((confidence[0].double() - want) / want).abs()
    assert error.max() <= 2e-6, error
    favourite = tokens[0] == law.stats.argmax
    rest = odds[favourite]
    error = ((-key[0][favourite].double() - rest) / rest.clamp(min=1e-30))[rest > 1e-30].abs()
    assert error.numel() == 0 or error.max() <= 2e-5, error  # the rest of a saturated row is all tails
    assert bool(((logprob[0].double() + torch.log1p(odds)).abs() <= 2e-6 * (1 + torch.log1p(odds))).all())


def test_ranking_survives_saturation(backend):
    """256 positions that all round to p = 1.0: their keys still rank as fp64 does."""
    rows, vocab = 256, 3000
    logits = make_logits(torch.Generator().manual_seed(8), "normal", (1, rows, vocab)) / 3
    logits[0, :, 17] = 30 + torch.arange(rows)[torch.randperm(rows, generator=torch.Generator().manual_seed(9))] / 16.0
    tokens, confidence, key, _, _, _ = ops.draw_tokens(logits, torch.zeros(1), SEED, STEP)
    assert bool((confidence == 1.0).all()) and bool((tokens == 17).all())
    assert key.unique().numel() == rows
    stats = law_of(logits[0], torch.ones(rows)).stats
    assert_equal("ranking", key[0].argsort(descending=True), stats.rest.argsort())

    x = torch.full((1, rows), -1)
    committed = ops.denoise_step_(x, logits, torch.zeros(1), SEED, STEP, torch.tensor([20]), mask_id=-1, rule="topk")[2]
    assert_equal("the twenty best", committed[0].nonzero()[:, 0], stats.rest.argsort()[:20].sort().values)


@pytest.mark.parametrize("confidence", ["prob", "margin"])
def test_bfloat16_ties_go_to_the_lowest_position(backend, confidence):
    """As in a codebase that ranks bf16 probabilities, except that it leaves the order of ties to chance."""
    logits = torch.zeros(1, 6, 9)
    logits[0, :, 4] = torch.tensor([4.0, 12.0, 12.5, 13.0, 3.0, 14.0])  # p of four of them is 1.0 in bf16
    kwargs = dict(confidence=confidence, conf_dtype="bfloat16", mask_id=-1, rule="topk")
    x = torch.full((1, 6), -1)
    committed = ops.denoise_step_(x, logits, torch.zeros(1), SEED, STEP, torch.tensor([2]), **kwargs)[2]
    assert committed[0].tolist() == [False, True, True, False, False, False]
    x = torch.full((1, 6), -1)
    kwargs.update(conf_dtype="float32")
    committed = ops.denoise_step_(x, logits, torch.zeros(1), SEED, STEP, torch.tensor([2]), **kwargs)[2]
    assert committed[0].tolist() == [False, False, False, True, False, True]


def test_margin_and_entropy_by_hand(backend):
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]]]))
    for name, want in [
        ("prob", [0.5, 0.7, 1.0]),
        ("margin", [0.25, 0.5, 1.0]),
        ("neg_entropy", [-1.5 * math.log(2), 0.1 * math.log(0.1) + 0.2 * math.log(0.2) + 0.7 * math.log(0.7), 0.0]),
    ]:
        got = ops.draw_tokens(logits, torch.zeros(1), SEED, STEP, confidence=name)[1]
        torch.testing.assert_close(got[0].double(), torch.tensor(want, dtype=torch.float64), rtol=2e-6, atol=1e-7)


def test_gain_and_change_by_hand(backend):
    """Sumi's p(argmax) - p(current), GIDD's p(draw) of what would change; -1 and ids past the end are no tokens."""
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])).expand(1, 2, 3)
    rows = lambda *v: torch.tensor([v])
    for held, gain, change in [
        (rows(0, 0), [0.0, 0.6], [0.0, 0.7]),
        (rows(1, 2), [0.25, 0.0], [0.5, 0.0]),
        (rows(-1, 3), [0.5, 0.7], [0.5, 0.7]),
    ]:
        for name, want in (("gain", gain), ("change", change)):
            got = ops.draw_tokens(logits, torch.zeros(1), SEED, STEP, confidence=name, given=held)[1]
            torch.testing.assert_close(got[0].double(), torch.tensor(want).double(), rtol=2e-6, atol=1e-7)
            x = held.clone()
            kwargs = dict(confidence=name, rule="topk", mask_id=None)
            out = ops.denoise_step_(x, logits, torch.zeros(1), SEED, STEP, torch.tensor([1]), **kwargs)
            assert_equal("the canvas is what is compared with", out[1], got)
            best = max(range(2), key=lambda p: want[p])
            assert out[2][0].tolist() == [best == 0, best == 1] and out[4].item() == 0


def test_a_draw_that_changes_nothing_ranks_behind_all_that_do(backend):
    logits = torch.tensor([[[40.0, 0.0, 0.0], [0.0, 0.0, -80.0]]])
    uniform = torch.tensor([[0.5, 1 - 1e-16]], dtype=torch.float64)  # the second row draws a most unlikely token
    kwargs = dict(confidence="change", rule="topk", mask_id=None, uniform=uniform)
    x = torch.tensor([[0, 0]])
    out = ops.denoise_step_(x, logits, torch.ones(1), SEED, STEP, torch.tensor([1]), **kwargs)
    assert out[2].tolist() == [[False, True]] and out[1][0, 0] == 0


def test_ranking_by_gain_survives_saturation(backend):
    """Positions that would all gain 1.0 still rank by what is left beside it, and bfloat16 ties go low."""
    logits = torch.zeros(1, 4, 3)
    logits[0, :, 2] = torch.tensor([30.0, 33.0, 31.0, 34.0])
    logits[0, :, 0] = -40.0
    for conf_dtype, want in (("float32", [1, 3]), ("bfloat16", [0, 1]), ("float64", [1, 3])):
        x = torch.zeros(1, 4, dtype=torch.int64)
        kwargs = dict(confidence="gain", conf_dtype=conf_dtype, rule="topk", mask_id=None)
        out = ops.denoise_step_(x, logits, torch.zeros(1), SEED, STEP, torch.tensor([2]), **kwargs)
        assert bool((out[1] == 1.0).all()) and out[2][0].nonzero()[:, 0].tolist() == want


def test_vocabulary_of_one(backend):
    held = torch.tensor([[-1, -1, -1]])
    for name, value in [("prob", 1.0), ("margin", 1.0), ("neg_entropy", 0.0), ("gain", 1.0), ("change", 1.0)]:
        tokens, confidence, key, logprob, entropy, bad = ops.draw_tokens(
            torch.randn(1, 3, 1), torch.ones(1), SEED, STEP, confidence=name, given=held
        )
        assert tokens.eq(0).all() and confidence.eq(value).all() and logprob.eq(0).all() and entropy.eq(0).all()
        assert not bad.any() and key.isfinite().all()


def test_random_depends_on_request_position_and_step_only(backend):
    def ranks(logits, seed=3, step=4, start=0):
        return ops.draw_tokens(
            logits,
            torch.ones(1),
            torch.tensor([seed]),
            torch.tensor(step),
            start=torch.tensor([start]),
            confidence="random",
        )[1]

    a, b = torch.randn(2, 50, 30), torch.randn(2, 50, 30)
    assert_equal("logits do not matter", ranks(a), ranks(b))
    assert_equal("the row does not matter", ranks(a)[0, 10:], ranks(a[:, 10:].contiguous(), start=10)[0])
    assert ranks(a).unique().numel() == 50  # both sequences have the same seed
    for other in (ranks(a, seed=4), ranks(a, step=5), ranks(a, start=1)):
        assert bool((other != ranks(a)).all())
    assert bool(((ranks(a) > 0) & (ranks(a) < 1)).all())


@pytest.mark.parametrize("name", scoring.CONFIDENCES)
def test_demoted_tokens_rank_last_but_remain_eligible(backend, name):
    logits = torch.zeros(1, 4, 10)
    logits[0, :, 2] = torch.tensor([9.0, 8.0, 20.0, 7.0])
    logits[0, 2, 2], logits[0, 2, 3] = 0.0, 20.0
    kwargs = dict(mask_id=-1, rule="topk", confidence=name, demote=torch.tensor([3, 99, -4]))
    for k in range(5):
        x = torch.full((1, 4), -1)
        committed = ops.denoise_step_(x, logits, torch.zeros(1), SEED, STEP, torch.tensor([k]), **kwargs)[2]
        assert committed.sum() == k and bool(committed[0, 2]) == (k == 4)
