"""Rules: which of a sequence's open positions to commit in a step. Confidence names live here too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .arguments import integer, number, require

CONFIDENCES = ("prob", "margin", "neg_entropy", "random", "gain", "change")
SOURCES = ("raw", "sampled", "tempered")


def _check_count(argument, value):
    """An int >= 0, or an int64 tensor [B] (checked by the op, where its values can be read)."""
    if hasattr(value, "dtype") and hasattr(value, "device"):
        return
    require(integer(argument, value) >= 0, argument, "must be >= 0", value)


@dataclass(frozen=True)
class Rule:
    """Base of the rules. ``name``, ``level`` and ``quota`` are what the op takes."""

    name = ""
    strict = True

    @property
    def level(self) -> float:
        return 0.0

    @property
    def quota(self) -> Any:
        return 0


@dataclass(frozen=True)
class TopK(Rule):
    """Commit the ``k`` most confident positions (all, where fewer are open): LLaDA's low-confidence remasking.

    ``k``: int, or int64 [B] for a quota per sequence.
    """

    k: Any
    name = "topk"

    def __post_init__(self):
        _check_count("k", self.k)

    @property
    def quota(self):
        return self.k


@dataclass(frozen=True)
class Threshold(Rule):
    """Commit every position whose confidence is above ``tau`` in [0, 1] (``strict``; else at least ``tau``); if those are
    fewer than ``at_least``, the ``at_least`` most confident instead: Fast-dLLM, LLaDA2, dInfer.

    ``tau`` is compared in ``conf_dtype``, as a tensor of that dtype compares with a Python number.
    """

    tau: float
    at_least: Any = 1
    strict: bool = True
    name = "threshold"

    def __post_init__(self):
        number("tau", self.tau)
        require(0 <= self.tau <= 1, "tau", "must be in [0, 1]", self.tau)
        _check_count("at_least", self.at_least)

    @property
    def level(self):
        return float(self.tau)

    @property
    def quota(self):
        return self.at_least


@dataclass(frozen=True)
class Factor(Rule):
    """Commit the longest run of the ranking in which rank n >= 2 has confidence >= 1 - f / (n + 1), the first always:
    Fast-dLLM's factor rule, without its slip of accepting a failing last rank."""

    f: float
    name = "factor"

    def __post_init__(self):
        number("f", self.f)
        require(self.f >= 0, "f", "must be >= 0", self.f)

    @property
    def level(self):
        return float(self.f)


@dataclass(frozen=True)
class EntropyBudget(Rule):
    """Commit in order of rising entropy while the entropies of those before sum to at most ``bound`` nats: the EB-sampler
    (arXiv 2505.24857). Ranks on entropy whatever ``confidence`` is."""

    bound: float
    name = "entropy_budget"

    def __post_init__(self):
        number("bound", self.bound)
        require(self.bound >= 0, "bound", "must be >= 0", self.bound)

    @property
    def level(self):
        return float(self.bound)
