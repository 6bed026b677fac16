"""Philox: published answers, uniforms strictly inside (0, 1), and noise keyed by meaning."""

import itertools

import pytest
import torch
from dlm_kernels.reference import philox
from hypothesis import given
from hypothesis import strategies as st

# kat_vectors of Random123, philox4x32-10: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
INT64 = st.integers(-(2**63), 2**63 - 1)


def words(text):
    return [int(word, 16) for word in text.split()]


def reference_words(seed, position, step, stream):
    tensors = (torch.tensor([v], dtype=torch.int64) for v in (seed, position, step))
    return [int(word) for word in philox.keyed_words(*tensors, stream)]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers(native_core, counter, key, answer):
    assert native_core.philox(words(counter), words(key)) == words(answer)
    got = philox.philox4x32(tuple(map(torch.tensor, words(counter))), tuple(map(torch.tensor, words(key))))
    assert [int(word) for word in got] == words(answer)


@given(seed=INT64, position=st.integers(0, 2**40), step=INT64, stream=st.integers(0, 3))
def test_keys_are_assembled_alike(native_core, seed, position, step, stream):
    assert native_core.noise(seed, position, step, stream) == reference_words(seed, position, step, stream)


def test_key_layout(native_core):
    """key = (seed low, seed high), counter = (position, step low, step high, stream): spelled out once."""
    seed, position, step, stream = -0x123456789ABCDEF, 0x7654321, 0x0FEDCBA987654321, 1
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    counter = [position, step & 0xFFFFFFFF, step >> 32, stream]
    assert native_core.noise(seed, position, step, stream) == native_core.philox(counter, [low, high])


@pytest.mark.parametrize("high, low", list(itertools.product([0, 1, 2**31, 2**32 - 1], repeat=2)))
def test_uniforms_are_strictly_inside(native_core, monkeypatch, high, low):
    word = [high, low, 0, 0]
    draw, rank = native_core.uniform_52(word), native_core.uniform_23(word)
    assert 0.0 < draw < 1.0 and 0.0 < rank < 1.0
    assert draw == (((high << 32 | low) >> 12) + 0.5) / 2**52
    assert rank == ((high >> 9) + 0.5) / 2**23

    monkeypatch.setattr(philox, "philox4x32", lambda counter, key: tuple(map(torch.tensor, word)))
    zero = torch.tensor(0)
    assert philox.draw_uniform(zero, zero, zero).item() == draw
    assert philox.rank_uniform(zero, zero, zero).item() == rank


def test_noise_keys_are_distinct():
    """Every (seed, position, step, stream) has its own words; a key that forgot one of the four would collide."""
    seeds, positions, steps = torch.tensor([0, 1, 2, 2**32, -1]), torch.arange(300), torch.tensor([0, 1, 2, 2**32])
    grid = torch.cartesian_prod(seeds, positions, steps)
    keys = []
    for stream in (philox.STREAM_DRAW, philox.STREAM_RANK, philox.STREAM_ROUTE, philox.STREAM_NOISE):
        w0, w1, _, _ = philox.keyed_words(*grid.T, stream)
        keys.append((w0 << 20) ^ w1)
    keys = torch.cat(keys)
    assert keys.unique().numel() == keys.numel()


def test_uniforms_are_uniform_and_independent_across_streams():
    position = torch.arange(100_000)
    seed, step = torch.tensor(7), torch.tensor(3)
    draw, rank = philox.draw_uniform(seed, position, step), philox.rank_uniform(seed, position, step).double()
    for u in (draw, rank):
        counts = torch.histc(u, bins=64, min=0, max=1)
        chi_squared = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi_squared < 115.0  # 63 degrees of freedom: p = 7e-5
    assert abs(torch.corrcoef(torch.stack([draw, rank]))[0, 1]) < 4 / 100_000**0.5
