"""Confidence of a drawn token: a value to show and to compare with a threshold, and a key to rank by.

Higher keys rank first. The plain probability is a poor key: in fp32 it ties at 1.0 as soon as the other tokens hold
less than 2^-25 of the mass. The odds against the token, ``rest``, keep their digits there, so they are the fp32 key.
"""

from typing import NamedTuple

import torch

from .philox import gumbel

CONFIDENCES = ("prob", "margin", "neg_entropy", "random", "gain", "change")
COMPARING = ("gain", "change")  # those that look at what the position holds
SOURCES = ("raw", "sampled", "tempered")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

LAST = -torch.finfo(torch.float32).max  # the key of a demoted token: eligible, but after everybody else
LOWEST = -1e38  # the least key of any other token


class Current(NamedTuple):
    """What a position holds."""

    token: torch.Tensor  # int64 [n]
    z: torch.Tensor  # float64 [n]: its logit, -inf for what is no token


def law_temperature(temperature, source):
    """Temperature of the law a confidence is read from, float64 [n]: 1 for "raw", else the one drawn with."""
    raw = torch.ones_like(temperature)
    return raw if source == "raw" else torch.where(temperature == 0, raw, temperature)


def round_to(value, dtype):
    """``value`` float64 as a codebase that computes in the named dtype would hold it, stored as float64 again."""
    return value if dtype == "float64" else value.float().to(DTYPES[dtype]).double()


def score(stats, token, odds, temperature, confidence, dtype, rank_uniform, current=None):
    """(value float64 [n], a number of the named ``dtype``; key float32 [n]).

    ``stats`` RowStats of the confidence law and its ``temperature``; ``odds`` those against the drawn ``token``;
    ``rank_uniform`` float32 [n] for confidence="random"; ``current`` for "gain", p(argmax) - p(current) (Sumi), and
    "change", p(token) where that is another than the current one, which come before all that are the same (GIDD).
    """
    if confidence == "random":
        return rank_uniform.double(), rank_uniform
    if confidence == "neg_entropy":
        value = round_to(-stats.entropy(), dtype)
        return value, value.float()
    if confidence in ("prob", "change"):
        exact = 1 / (1 + odds)
        shortfall = (1 - exact) / exact if dtype == "float64" else odds
    elif confidence in ("margin", "gain"):
        rival = torch.exp(((stats.second if confidence == "margin" else current.z) - stats.max) / temperature)
        exact = (1 - rival) / (1 + stats.rest)
        shortfall = 1 - exact if dtype == "float64" else (stats.rest + rival) / (1 + stats.rest)
    else:
        raise ValueError(f"confidence: must be one of {', '.join(CONFIDENCES)}, got {confidence}")
    value = round_to(exact, dtype)
    key = value if dtype == "bfloat16" else -shortfall
    if confidence == "change":
        same = token == current.token
        value, key = torch.where(same, 0.0, value), torch.where(same, LOWEST, key)
    return value, key.clamp(min=LOWEST).float()


def stochastic_key(value, temperature, uniform):
    """The key that ranks at random, as if drawing without replacement from softmax(value / temperature): float32 [n].

    Gumbel top-k (Kool et al., arXiv 1903.06059), for Dream's alg_temp. 1 is taken off because confident values, which are
    close to it, then keep their digits in a float; the softmax does not notice. Nobody ranks colder than 1e-30.
    """
    return ((value - 1) / max(temperature, 1e-30) + gumbel(uniform)).clamp(min=LOWEST).float()


def demote(value, key, demoted, confidence):
    """The pair with the rows in ``demoted`` (bool [n]) moved behind all others."""
    lowest = -torch.inf if confidence == "neg_entropy" else 0.0
    return torch.where(demoted, lowest, value), torch.where(demoted, LAST, key)
