"""Rules: which of the eligible positions of each sequence are committed.

Every rule sees the canvas [B, L] in canvas order and answers with a bool [B, L]. Ranking is by key, highest first,
ties to the lowest position. Positions that are not eligible are never chosen and count for nothing.
"""

import torch

from .confidence import round_to

RULES = (
    "topk",
    "threshold",
    "factor",
    "entropy_budget",
    "entropy_threshold",
    "entropy_budget_by_confidence",
    "segment_max",
)


def decide(rule, eligible, value, key, entropy, *, quota, level=0.0, low=0.0, strict=True, conf_dtype="float32"):
    """Apply the named rule.

    ``eligible`` bool [B, L]; ``value``, ``key``, ``entropy`` float64 [B, L], read where eligible; ``quota`` int64 [B]:
    k of topk, at_least of the thresholds; ``level``: tau of threshold and segment_max, f of factor, bound of the others;
    ``low``: within of threshold, low of segment_max.
    """
    if rule == "topk":
        return first(quota, key, eligible)
    if rule == "threshold":
        return threshold(level, low, strict, quota, value, key, eligible, conf_dtype)
    if rule == "factor":
        return factor(level, value, key, eligible, conf_dtype)
    if rule == "entropy_budget":
        return entropy_budget(level, entropy, -entropy, eligible)
    if rule == "entropy_threshold":
        return at_least(quota, entropy < level if strict else entropy <= level, -entropy, eligible)
    if rule == "entropy_budget_by_confidence":
        return entropy_budget(level, entropy, key, eligible)
    if rule == "segment_max":
        return segment_max(level, low, value, key, eligible, conf_dtype)
    raise ValueError(f"rule: must be one of {', '.join(RULES)}, got {rule}")


def ranking(key, eligible):
    """[B, L] positions from the highest key to the lowest, those not eligible last; keys are never -inf."""
    return key.masked_fill(~eligible, -torch.inf).sort(dim=-1, descending=True, stable=True).indices


def _unrank(chosen, order, eligible):
    """Back from ranks to positions."""
    return torch.zeros_like(eligible).scatter(-1, order, chosen) & eligible


def _ranks(order):
    """1, 2, ..., L as [1, L]."""
    return torch.arange(1, order.shape[-1] + 1, device=order.device)[None]


def first(count, key, eligible):
    """The ``count`` (int64 [B]) highest keys, or all eligible positions if there are fewer."""
    order = ranking(key, eligible)
    return _unrank(_ranks(order) <= count[:, None], order, eligible)


def at_least(count, high, key, eligible):
    """Those that are ``high`` (bool [B, L]), or the first ``count`` if those are fewer."""
    high = eligible & high
    enough = high.sum(-1) >= count
    return torch.where(enough[:, None], high, first(count, key, eligible))


def threshold(tau, within, strict, quota, value, key, eligible, conf_dtype):
    """All values above tau (rounded like the values), or the first ``quota`` if those are fewer.

    ``within`` > 0 lowers tau to at most so much below the best value. Source: dInfer, whose 1e-5 a torch op in the dtype of
    the values takes off.
    """
    tau = _level(tau, value, conf_dtype)
    if within > 0:
        best = torch.nn.functional.pad(value.masked_fill(~eligible, -torch.inf), (0, 1), value=-torch.inf).amax(
            -1, True
        )
        scalar = _level(within, value, "float64" if conf_dtype == "float64" else "float32")
        tau = torch.minimum(tau, round_to(best - scalar, conf_dtype))
    return at_least(quota, value > tau if strict else value >= tau, key, eligible)


def _level(level, value, conf_dtype):
    """A Python scalar as a tensor of that dtype compares with it."""
    return round_to(torch.full((), level, dtype=torch.float64, device=value.device), conf_dtype)


def among_ready(ready, eligible, value, count, level, strict, conf_dtype):
    """A threshold that counts only ``ready`` positions, as the (rule, eligible, quota) that it comes down to: top-k of all those
    above tau, or where a sequence has none, of ``count`` among the eligible (KLASS)."""
    tau = _level(level, value, conf_dtype)
    sure = ready & (value > tau if strict else value >= tau)
    any_sure = sure.any(-1)
    return "topk", torch.where(any_sure[:, None], sure, eligible), torch.where(any_sure, sure.sum(-1), count)


def factor(f, value, key, eligible, conf_dtype):
    """The longest prefix of the ranking whose r-th value is at least 1 - f / (r + 1) (rounded like the values).

    The first is always in it. Source: Fast-dLLM.
    """
    order = ranking(key, eligible)
    rank = _ranks(order)
    passes = (value.gather(-1, order) >= round_to(1 - f / (rank.double() + 1), conf_dtype)) | (rank == 1)
    return _unrank(passes.cumprod(-1).bool(), order, eligible)


def entropy_budget(bound, entropy, key, eligible):
    """The longest prefix of the ranking by ``key`` whose entropies without the largest sum to at most ``bound``.

    Source: the EB-sampler (arXiv 2505.24857), whose error proxy the key is.
    """
    order = ranking(key, eligible)
    ranked = entropy.masked_fill(~eligible, 0.0).gather(-1, order)
    before = lambda running: torch.nn.functional.pad(running, (1, 0))[:, :-1]
    spent = before(ranked.cumsum(-1))
    largest = before(ranked.cummax(-1).values)
    joins = torch.where(ranked >= largest, spent, spent + ranked - largest) <= bound
    return _unrank(joins.cumprod(-1).bool(), order, eligible)


def segment_max(tau, low, value, key, eligible, conf_dtype):
    """Of every run of neighbouring eligible positions those that hold its largest value, if above ``low``; also all above
    tau; and the first of the ranking. Source: dInfer's HierarchyDecoder.
    """
    begins = eligible & ~torch.nn.functional.pad(eligible, (1, 0))[:, :-1]
    run = begins.cumsum(-1)  # 1, 2, ...; positions between runs are never asked
    value = value.masked_fill(~eligible, -torch.inf)
    peaks = torch.full_like(torch.nn.functional.pad(value, (1, 0)), -torch.inf)
    peaks = peaks.scatter_reduce(-1, run, value, "amax")
    peak = value == peaks.gather(-1, run)
    chosen = (value > _level(tau, value, conf_dtype)) | (peak & (value > _level(low, value, conf_dtype)))
    return eligible & (chosen | first(run.new_ones(len(run)), key, eligible))
