"""RowStats: a commutative monoid, and the op that returns it, against fp64 and against plain Python."""

import math

import core
import pytest
import torch
from backends import ops
from dlm_kernels.reference import chunk
from dlm_kernels.reference.row_stats import RowStats, effective_logits, identity, merge, sweep
from helpers import assert_between, assert_equal, law_of, odds_interval, using_threads, widen
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, VOCABS, make_logits, spoil, strided

from dlm_kernels import reference

LOGIT = st.one_of(st.floats(-300, 300, width=32), st.sampled_from([-math.inf, 0.0, -0.0, 1.0, 300.0, -300.0]))
ROWS = st.lists(LOGIT, min_size=1, max_size=12)
TEMPERATURES = st.sampled_from([0.3, 0.7, 1.0, 2.5])


def brute(row, t):
    """The definitions, read off the page: (max, argmax, second, rest, entropy)."""
    top = max(row)
    argmax = row.index(top)
    others = row[:argmax] + row[argmax + 1 :]
    weights = [math.exp((z - top) / t) for z in row]
    rest = math.fsum(weights[:argmax] + weights[argmax + 1 :])
    ps = [w / (1 + rest) for w in weights]
    entropy = -math.fsum(p * math.log(p) for p in ps if p > 0)
    return top, argmax, max(others, default=-math.inf), rest, entropy


def one_row(stats):
    return [field.item() for field in stats]


# ---- the reference -------------------------------------------------------------------------------------------------


@given(row=ROWS, t=TEMPERATURES)
def test_sweep_is_the_definition(row, t):
    stats = sweep(torch.tensor([row]), torch.tensor([t]).double())
    assert not stats.bad
    if max(row) == -math.inf:
        assert stats.unusable and stats.argmax == -1
        return
    t = torch.tensor(t).item()  # as fp32 holds it
    top, argmax, second, rest, entropy = brute(row, t)
    assert (stats.max.item(), stats.argmax.item(), stats.second.item()) == (top, argmax, second)
    assert stats.rest.item() == pytest.approx(rest, rel=1e-6)
    assert stats.entropy().item() == pytest.approx(entropy, rel=1e-6, abs=1e-14)
    assert stats.logsumexp(torch.tensor([t])).item() == pytest.approx(top / t + math.log1p(rest), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_bad_entries_are_seen_anywhere(value, place):
    row = torch.zeros(1, 10)
    row[0, place] = value
    assert sweep(row, torch.ones(1).double()).unusable


def test_effective_logits():
    inf = math.inf
    cond, uncond = torch.tensor([[1.0, -inf, -inf, 2.0, 5.0]]), torch.tensor([[0.5, -inf, 3.0, -inf, 1.0]])
    z = effective_logits(cond, uncond, 1.0, torch.tensor([4, 5, -1]))
    assert z[0, :3].tolist() == [1.5, -inf, -inf]  # 0.5 + 2 * 0.5; both forbidden; forbidden by cond
    assert z[0, 3].isnan() and z[0, 4] == -inf  # only uncond forbids: no number; suppressed


# ---- the monoid ----------------------------------------------------------------------------------------------------


@given(row=ROWS, t=TEMPERATURES, data=st.data())
def test_merge_of_any_split_in_any_order(native_core, row, t, data):
    """Whatever the parts and their order, the same statistics: in the reference and in csrc/core."""
    temperature = torch.tensor([t]).double()
    beta = 1 / temperature.item()
    owner = data.draw(st.lists(st.integers(0, 3), min_size=len(row), max_size=len(row)))
    order = data.draw(st.permutations(range(4)))
    whole = sweep(torch.tensor([row]), temperature)
    total, parts = identity(1), []
    for part in order:
        members = [i for i, who in enumerate(owner) if who == part]
        if members:
            piece = sweep(torch.tensor([[row[i] for i in members]]), temperature)
            local = piece.argmax.item()
            piece = piece._replace(argmax=torch.tensor([members[local] if local >= 0 else -1]))
        else:
            piece = identity(1)
        total = merge(total, piece, temperature)
        parts.append(core.Stats(piece.max, piece.second, piece.argmax, piece.rest, piece.moment))
    native = native_core.merge(parts, beta)
    for got in (one_row(total), [native.max, native.argmax, native.second, native.rest, native.tilt, False]):
        assert got[:3] == one_row(whole)[:3]
        assert got[3:5] == pytest.approx(one_row(whole)[3:5], rel=1e-6, abs=1e-30)
    if whole.argmax >= 0:
        assert native_core.entropy(native) == pytest.approx(max(0, whole.entropy().item()), rel=1e-6, abs=1e-12)
        assert native_core.log_sum_exp(native, beta) == pytest.approx(whole.logsumexp(temperature).item(), rel=1e-6)
        for token, z in enumerate(row):
            odds = whole.rest_of(torch.tensor([token]), torch.tensor([z]).double(), temperature).item()
            assert native_core.odds_against(native, token, z, beta) == pytest.approx(odds, rel=1e-5, abs=1e-9)
            logprob = whole.logprob_of(torch.tensor([z]).double(), temperature).item()
            assert native_core.log_prob(native, token, z, beta) == pytest.approx(logprob, rel=1e-5, abs=1e-12)


def test_merge_carries_badness():
    one, t = sweep(torch.tensor([[1.0]]), torch.ones(1).double()), torch.ones(1).double()
    bad = sweep(torch.tensor([[math.nan]]), t)
    assert merge(one, bad, t).unusable and merge(bad, one, t).unusable and not merge(one, one, t).unusable


@pytest.mark.parametrize("vocab", VOCABS)
def test_chunks_join_to_the_row(vocab):
    z = make_logits(torch.Generator().manual_seed(vocab), "normal", (3, vocab))
    t = torch.tensor([0.5, 1.0, 2.0]).double()
    total = identity(3)
    for begin, end in chunk.chunk_edges(vocab):
        part = sweep(z[:, begin:end], t)
        total = merge(total, part._replace(argmax=part.argmax + begin), t)
    whole = sweep(z, t)
    assert_equal("argmax", total.argmax, whole.argmax)
    assert_equal("second", total.second, whole.second)
    for name in ("rest", "moment"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name), rtol=1e-12, atol=1e-300)


# ---- the op --------------------------------------------------------------------------------------------------------


def check_row_stats(logits, temperature, **kwargs):
    got = ops.row_stats(logits, temperature, **kwargs)
    want = reference.row_stats(logits, temperature, **kwargs)
    names = ("argmax", "max", "logsumexp", "second", "rest", "entropy", "p_given", "bad")
    for name, mine, theirs in zip(names, got, want):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, name
        assert name in ("argmax", "bad") or not mine.isnan().any(), name
    got, want = dict(zip(names, got)), dict(zip(names, want))
    for name in ("bad", "argmax", "max", "second"):  # no rounding in these
        assert_equal(name, got[name], want[name])
    for name in names:
        assert_equal(f"{name} of bad rows", got[name][want["bad"]], want[name][want["bad"]])

    good = (~want["bad"]).nonzero(as_tuple=True)
    if not good[0].numel():
        return
    uncond = kwargs.get("uncond_logits")
    z = effective_logits(
        logits[good], None if uncond is None else uncond[good], kwargs.get("cfg_scale", 0.0), kwargs.get("suppress")
    )
    t = temperature.expand(logits.shape[0])[good[0]].double()
    law = law_of(z, t)
    rest, lse, h = law.stats.rest, law.stats.logsumexp(t), law.stats.entropy()
    error = law.rest_error * rest + 2.0**-99
    assert_between("rest", got["rest"][good], *widen((rest - error).clamp(min=0), rest + error))
    assert_between("logsumexp", got["logsumexp"][good], *widen(lse - law.mass_error, lse + law.mass_error))
    assert_between("entropy", got["entropy"][good], *widen(h - law.entropy_error, h + law.entropy_error))
    given = kwargs.get("given")
    if given is not None:
        token = given[good]
        known = (token >= 0) & (token < z.shape[-1])
        low, high = odds_interval(law, token.clamp(0, z.shape[-1] - 1))
        low, high = (torch.where(known, 1 / (1 + odds), 0.0) for odds in (high, low))
        assert_between("p_given", got["p_given"][good], *widen(low, high))
        assert bool((got["p_given"][good][~known] == 0).all())


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_suppressed_tokens_wherever_they_lie(backend, dtype, guided):
    """The largest logits, at both ends of chunks, of what a warp reads at once (1024 or 512 logits) and of the row, whose rows
    begin at odd places: none of them counts."""
    vocab, size = 36_000, chunk.chunk_size(36_000)
    edges = [0, 512, 1024, size, size + 512, size + 1024, 2 * size, vocab - size, vocab]
    ids = sorted({e + d for e in edges for d in (-1, 0, 1) if 0 <= e + d < vocab})
    g = torch.Generator().manual_seed(3)
    z, u = (make_logits(g, "normal", (1, 2, vocab + 1)).to(dtype)[..., 1:] for _ in range(2))
    z[..., ids] += 40
    more = dict(uncond_logits=u, cfg_scale=0.5) if guided else {}
    check_row_stats(z, torch.tensor([0.7]), suppress=torch.tensor(ids[::-1]), given=torch.tensor([[5, 1024]]), **more)


@given(
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
    vocab=st.sampled_from(VOCABS),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    packed=st.booleans(),
    gaps=st.booleans(),
    guided=st.booleans(),
    bad_share=st.sampled_from([0.0, 0.3]),
    suppressed=st.sampled_from([None, 0, 2]),
    temperatures=st.sampled_from([[1.0], [0.7], [0.05, 0.7, 1.0, 4.0]]),
)
def test_row_stats_op(
    backend, data, seed, vocab, kind, dtype, packed, gaps, guided, bad_share, suppressed, temperatures
):
    g = torch.Generator().manual_seed(seed)
    limit = max(1, 20_000 // vocab)
    rows = [data.draw(st.integers(0, min(4, limit)))] + ([] if packed else [data.draw(st.integers(0, min(6, limit)))])

    def logits():
        z = spoil(g, make_logits(g, kind, (*rows, vocab)), bad_share).to(getattr(torch, dtype))
        return strided(z) if gaps else z

    per_row = data.draw(st.booleans())
    choices = torch.tensor(temperatures)
    temperature = choices[torch.randint(len(choices), (rows[0] if per_row else 1,), generator=g)]
    check_row_stats(
        logits(),
        temperature,
        given=torch.randint(-1, vocab + 1, rows, generator=g),
        uncond_logits=logits() if guided else None,
        cfg_scale=0.5 if guided else 0.0,
        suppress=None if suppressed is None else torch.randint(-1, vocab + 1, (suppressed,), generator=g),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_real_vocabulary(backend, dtype):
    """LLaDA's 126464: 32 chunks of 3952, with ties across chunks."""
    logits = make_logits(torch.Generator().manual_seed(0), "normal", (3, 126464)).to(dtype)
    logits[0, [5, 4000, 126463]] = 40.0
    logits[1, 126463] = 40.0
    check_row_stats(logits, torch.tensor([1.0, 0.7, 1.3]), given=torch.tensor([4000, 126463, 17]))
    assert ops.row_stats(logits, torch.ones(1))[0][:2].tolist() == [5, 126463]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_16_bit_pattern(backend, dtype):
    """All finite values of a 16-bit dtype, in a row each half: denormals, zeros of both signs, the largest."""
    source = torch.float16 if dtype == torch.float32 else dtype
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(source).float()
    values = values[values.isfinite()].sort().values
    rows = values[: len(values) // 2 * 2].reshape(2, -1).to(dtype)
    check_row_stats(rows, torch.ones(1))
    check_row_stats(rows.flip(-1).contiguous(), torch.tensor([1000.0]))


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-30, 1e-6, 1e6, 1e30, 1e37, 3e38])
@pytest.mark.parametrize("kind", ["normal", "holes", "ties", "large"])
def test_extreme_temperatures(backend, temperature, kind):
    """Legal, if unwise: cold is the argmax with its ties, hot is uniform over what is finite. Never NaN, never bad."""
    logits = make_logits(torch.Generator().manual_seed(1), kind, (4, 3000))
    outputs = ops.row_stats(logits, torch.tensor([temperature]))
    assert not outputs[7].any() and not any(out.isnan().any() for out in outputs)
    finite = logits.isfinite().sum(-1)
    ties = (logits == logits.amax(-1, keepdim=True)).sum(-1)
    want = torch.log((ties if temperature < 1 else finite).double())
    torch.testing.assert_close(outputs[5].double(), want, rtol=1e-4, atol=1e-4)
    assert_equal("argmax", outputs[0], logits.argmax(-1))


def test_threads_do_not_change_a_bit(isa):
    for rows, vocab in [(1, 126464), (3, 40_000), (300, 700)]:
        logits = make_logits(torch.Generator().manual_seed(rows), "normal", (rows, vocab)).bfloat16()
        with using_threads(1):
            alone = ops.row_stats(logits, torch.tensor([0.7]))
        with using_threads(2):
            for name, a, b in zip(
                "argmax max logsumexp second rest entropy".split(), alone, ops.row_stats(logits, torch.tensor([0.7]))
            ):
                assert_equal(f"{name} with {rows} rows", b, a)


def test_stats_named_tuple_is_complete():
    assert RowStats._fields == ("max", "argmax", "second", "rest", "moment", "bad")
