"""KL between rows: against fp64 within a proved band, on every backend; what must be exact is exact."""

import itertools

import pytest
import torch
from backends import ops
from helpers import FLOOR, A, B, assert_all, assert_equal, law_of, using_threads, widen
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, VOCABS, make_logits, spoil, strided

import dlm_kernels as dlm
from dlm_kernels import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def rows_of(seed, kinds, dtypes, shape, near, bad_share=0.0, gaps=False):
    """(logits, previous): of two kinds, or the second a little moved from the first."""
    g = torch.Generator().manual_seed(seed)
    z = make_logits(g, kinds[0], shape)
    y = z + 0.1 * torch.randn(shape, generator=g) if near else make_logits(g, kinds[1], shape)
    made = (spoil(g, row, bad_share).to(dtype) for row, dtype in zip((z, y), dtypes))
    return tuple(strided(row) if gaps else row for row in made)


def error_of(z, y, temperature):
    """Absolute, of a backend's KL: masses and terms as helpers.py has it; a term's factor is a difference of two distances."""
    p, q = law_of(z.float(), temperature), law_of(y.float(), temperature)
    dz, dy = (((law.z.double() - law.stats.max[:, None]) / temperature.double()[:, None]).abs() for law in (p, q))
    weight = torch.exp(-dz) / (1 + p.stats.rest[:, None])
    reach = torch.where(torch.isfinite(dz) & torch.isfinite(dy), dz + dy, 0.0)
    mean = (weight * reach).sum(-1)
    spread = (weight * reach * torch.where(torch.isfinite(dz), dz, 0.0)).sum(-1)
    return p.mass_error * (1 + 2 * mean) + q.mass_error + B * spread + (A + p.mass_error) * mean + FLOOR


@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    vocab=st.sampled_from(VOCABS),
    size=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    t=st.sampled_from([1.0, 0.5, 2.0]),
    near=st.booleans(),
    packed=st.booleans(),
    some=st.booleans(),
    gaps=st.booleans(),
    bad_share=st.sampled_from([0.0, 0.0, 0.2]),
)
def test_row_kl(backend, seed, kinds, dtypes, vocab, size, t, near, packed, some, gaps, bad_share):
    shape = (size[0] * size[1], vocab) if packed else (*size, vocab)
    z, y = rows_of(seed, kinds, dtypes, shape, near, bad_share, gaps)
    g = torch.Generator().manual_seed(seed + 1)
    temperature = torch.full((shape[0] if seed % 2 else 1,), t)
    wanted = torch.rand(shape[:-1], generator=g) < 0.6 if some else None
    want, want_bad = reference.row_kl(z, y, temperature, wanted=wanted)
    kl, bad = ops.row_kl(z, y, temperature, wanted=wanted)
    assert_equal("bad", bad, want_bad)
    plain = ~bad & want.isfinite() & (torch.ones_like(bad) if wanted is None else wanted)
    assert_equal("infinite, bad or not wanted", kl[~plain], want[~plain])
    if plain.any():
        exact, _ = reference.divergence.divergence(z[plain], y[plain], torch.full((int(plain.sum()),), t).double())
        allowed = error_of(z[plain], y[plain], torch.full((int(plain.sum()),), t))
        low, high = widen((exact - allowed).clamp(min=0), exact + allowed)
        got = kl[plain].double()
        assert_all("kl", (low <= got) & (got <= high), got, (low, high), "in the proved band")


@pytest.mark.parametrize("dtypes", itertools.product(DTYPES, DTYPES), ids=str)
def test_real_vocabulary(backend, dtypes):
    z, y = rows_of(1, ("normal", "normal"), dtypes, (1, 2, 126464), near=True)
    want, got = (implementation.row_kl(z, y, torch.ones(1))[0] for implementation in (reference, ops))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_diverge_from_itself(backend, kind):
    z = make_logits(torch.Generator().manual_seed(2), kind, (2, 3, 3000))
    kl, bad = ops.row_kl(z, z.clone(), torch.tensor([1.0, 0.3]))
    assert not bad.any() and bool((kl == 0).all())
    shifted = ops.row_kl(z, (z + 4.0), torch.ones(1))[0]  # the same law
    assert bool((shifted < 1e-4).all())


def test_tokens_that_vanish(backend):
    """p > 0 where q = 0 is infinite, however small p; q > 0 where p = 0 costs nothing."""
    inf = torch.inf
    z = torch.tensor([[0.0, -200.0, -inf], [0.0, 0.0, -inf], [0.0, -inf, -inf], [0.0, 1.0, 2.0]])
    y = torch.tensor([[0.0, -inf, -inf], [0.0, 0.0, 0.0], [-inf, 0.0, 0.0], [-inf, -inf, -inf]])
    kl, bad = ops.row_kl(z, y, torch.ones(1))
    assert kl[0] == inf and kl[2] == inf and bad.tolist() == [False, False, False, True] and kl[3] == inf
    torch.testing.assert_close(kl[1], torch.tensor(1.5).log(), rtol=1e-6, atol=0)


def test_rows_that_are_not_wanted_are_not_read(backend):
    z, y = rows_of(3, ("normal", "peaked"), (torch.float32, torch.bfloat16), (2, 4, 2000), near=False)
    wanted = torch.tensor([[True, False, True, False]] * 2)
    want = ops.row_kl(z, y, torch.ones(1), wanted=wanted)
    z[~wanted], y[~wanted] = torch.nan, torch.nan
    for mine, theirs in zip(ops.row_kl(z, y, torch.ones(1), wanted=wanted), want):
        assert_equal("with NaN elsewhere", mine, theirs)
    assert bool((want[0][~wanted] == 0).all()) and not want[1].any()


def test_alone_or_in_a_batch_with_any_threads(backend):
    z, y = rows_of(4, ("normal", "normal"), (torch.bfloat16, torch.float32), (3, 5, 4001), near=True)
    whole, _ = ops.row_kl(z, y, torch.ones(1))
    assert_equal("alone", ops.row_kl(z[1:2, 3:4], y[1:2, 3:4], torch.ones(1))[0], whole[1:2, 3:4])
    with using_threads(3):
        assert_equal("three threads", ops.row_kl(z, y, torch.ones(1))[0], whole)


def test_python_function():
    z, y = rows_of(5, ("normal", "normal"), (torch.float32, torch.float32), (2, 3, 50), near=True)
    kl, bad = dlm.row_kl(z, y, temperature=0.7)
    want = torch.nn.functional.kl_div((y / 0.7).log_softmax(-1), (z / 0.7).softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(kl, want, rtol=1e-3, atol=1e-6)
    assert not bad.any()
    with pytest.raises(ValueError, match=r"^previous: shape must be \[2, 3, 50\], got \[2, 3, 49\]$"):
        dlm.row_kl(z, y[..., :49])
