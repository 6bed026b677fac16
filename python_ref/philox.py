"""Philox4x32-10: random numbers as a function of what they are for.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and its Random123 code,
whose known answers are in tests/test_philox.py. A number depends on (seed of the request, canvas position, step,
stream) and on nothing else, so neither the batch nor the order of the work can change it.
"""

import torch

STREAM_DRAW = 0  # which token
STREAM_RANK = 1  # confidence="random", rank_temperature
STREAM_ROUTE = 2  # stay, model, noise or mask
STREAM_NOISE = 3  # the token of the noise prior
STREAM_FORWARD_ROUTE = 4  # of q_sample, whose canvas a step may take up under the same seed and step
STREAM_FORWARD_NOISE = 5

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter, key, rounds=10):
    """Four random words from four counter words and two key words.

    Words are int64 tensors (any shapes that broadcast) with values in [0, 2^32); so are the four results.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _multiply(a, b):
    # int64 products wrap modulo 2^64, which keeps all 64 bits of the unsigned product; the shift is arithmetic,
    # so the copies of the sign bit are masked away.
    product = a * b
    return (product >> 32) & _MASK, product & _MASK


def _words(value):
    """An int64 as its low and high 32 bits."""
    return value & _MASK, (value >> 32) & _MASK


def keyed_words(seed, position, step, stream):
    """The four words for (seed, position, step, stream): int64 tensors that broadcast; ``stream`` an int."""
    position = position & _MASK
    counter = (position, *_words(step), torch.full_like(position, stream))
    return philox4x32(counter, _words(seed))


def draw_uniform(seed, position, step, stream=STREAM_DRAW):
    """float64, strictly inside (0, 1): 52 random bits and a half, so the nearest to 1 is 1 - 2^-53."""
    w0, w1, _, _ = keyed_words(seed, position, step, stream)
    return (((w0 << 20) | (w1 >> 12)).double() + 0.5) * 2.0**-52


def gumbel(uniform):
    """Gumbel noise, float64, from uniforms in (0, 1)."""
    return -torch.log(-torch.log1p(-uniform))


def rank_uniform(seed, position, step):
    """float32, strictly inside (0, 1): 23 random bits and a half."""
    w0, _, _, _ = keyed_words(seed, position, step, STREAM_RANK)
    return ((w0 >> 9).float() + 0.5) * 2.0**-23
