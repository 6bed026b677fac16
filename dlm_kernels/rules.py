"""Rules: which of a sequence's open positions to commit in a step. Confidence names live here too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .arguments import flag, fraction, integer, number, require

CONFIDENCES = ("prob", "margin", "neg_entropy", "random", "gain", "change")
SOURCES = ("raw", "sampled", "tempered")


def _check_count(argument, value):
    """An int >= 0, or an int64 tensor or array [B] (checked by the op, where its values can be read)."""
    if hasattr(value, "dtype"):
        return
    require(integer(argument, value) >= 0, argument, "must be >= 0", value)


def _check_nats(argument, value):
    require(number(argument, value) >= 0, argument, "must be >= 0", value)


@dataclass(frozen=True)
class Rule:
    """Base of the rules. ``name``, ``level``, ``low`` and ``quota`` are what the op takes."""

    name = ""
    strict = True

    @property
    def level(self) -> float:
        return 0.0

    @property
    def low(self) -> float:
        return 0.0

    @property
    def quota(self) -> Any:
        return 0

    def arguments(self) -> tuple[str, float, float, bool]:
        """Of the op, besides the quota."""
        return self.name, self.level, self.low, self.strict


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

    ``tau`` is compared in ``conf_dtype``, as a tensor of that dtype compares with a Python number. ``within`` > 0
    makes the level min(tau, best - within), best being the sequence's highest confidence, so that everything so close to it is
    committed, too; 0 is off. dInfer's decoders are ``Threshold(tau, strict=False, within=1e-5)``. ``at_least`` is 1 for Fast-dLLM
    and dInfer, and the step's quota, an int or int64 [B], for LLaDA2 and diffusers.
    """

    tau: float
    at_least: Any = 1
    strict: bool = True
    within: float = 0.0
    name = "threshold"

    def __post_init__(self):
        fraction("tau", self.tau)
        _check_count("at_least", self.at_least)
        flag("strict", self.strict)
        fraction("within", self.within)

    @property
    def level(self):
        return float(self.tau)

    @property
    def low(self):
        return float(self.within)

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
        require(number("f", self.f) >= 0, "f", "must be >= 0", self.f)

    @property
    def level(self):
        return float(self.f)


@dataclass(frozen=True)
class EntropyThreshold(Rule):
    """Commit every position whose entropy is below ``bound`` nats; if those are fewer than ``at_least``, the ``at_least`` of
    lowest entropy instead: d3LLM (arXiv 2601.07568). Ranks on entropy whatever ``confidence`` is.

    The entropy is exact; d3LLM's adds 1e-8 to the probabilities inside its logarithm.
    """

    bound: float
    at_least: Any = 1
    name = "entropy_threshold"

    def __post_init__(self):
        _check_nats("bound", self.bound)
        _check_count("at_least", self.at_least)

    @property
    def level(self):
        return float(self.bound)

    @property
    def quota(self):
        return self.at_least


@dataclass(frozen=True)
class EntropyBudget(Rule):
    """Commit along a ranking while the entropies of what is committed sum to at most ``bound`` nats, the largest not counted:
    the EB-sampler (arXiv 2505.24857).

    ``order`` is its error proxy: "entropy" ranks the lowest entropy first, whatever ``confidence`` is; "confidence" ranks by the
    ``confidence`` in use ("prob" and "margin" are the paper's others). The first of the ranking is always committed.
    """

    bound: float
    order: str = "entropy"

    def __post_init__(self):
        _check_nats("bound", self.bound)
        require(self.order in ("entropy", "confidence"), "order", "must be entropy or confidence", self.order)

    @property
    def name(self):
        return "entropy_budget" if self.order == "entropy" else "entropy_budget_by_confidence"

    @property
    def level(self):
        return float(self.bound)


@dataclass(frozen=True)
class SegmentMax(Rule):
    """Commit, of every run of neighbouring open positions, those that hold its highest confidence, if that is above ``low``;
    also every position above ``tau``, and in any case the best of the sequence: dInfer's HierarchyDecoder.

    ``tau`` and ``low`` in [0, 1] are compared in ``conf_dtype``, both strictly; ``tau`` None: nobody is above. Positions of one
    run that tie for its highest confidence, as ``conf_dtype`` rounds it, are all committed, as in dInfer; the best of the
    sequence is one, the first of the ranking. What is not open, outside the window, or bad ends a run.
    """

    tau: float | None = None
    low: float = 0.4
    name = "segment_max"

    def __post_init__(self):
        if self.tau is not None:
            fraction("tau", self.tau)
        fraction("low", self.low)

    @property
    def level(self):
        return 1.0 if self.tau is None else float(self.tau)
