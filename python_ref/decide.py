"""Rules: which of the eligible positions of each sequence are committed.

Every rule sees the canvas [B, L] in canvas order and answers with a bool [B, L]. Ranking is by key, highest first,
ties to the lowest position. Positions that are not eligible are never chosen and count for nothing.
"""

import torch

from .confidence import round_to

RULES = ("topk", "threshold", "factor", "entropy_budget")


def decide(rule, eligible, value, key, entropy, *, quota, level=0.0, strict=True, conf_dtype="float32"):
    """Apply the named rule.

    ``eligible`` bool [B, L]; ``value``, ``key``, ``entropy`` float64 [B, L], read where eligible; ``quota`` int64 [B]:
    k of topk, at_least of threshold; ``level``: tau of threshold, f of factor, bound of entropy_budget.
    """
    if rule == "topk":
        return first(quota, key, eligible)
    if rule == "threshold":
        return threshold(level, strict, quota, value, key, eligible, conf_dtype)
    if rule == "factor":
        return factor(level, value, key, eligible, conf_dtype)
    if rule == "entropy_budget":
        return entropy_budget(level, entropy, eligible)
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


def threshold(tau, strict, at_least, value, key, eligible, conf_dtype):
    """All values above tau (rounded like the values), or the first ``at_least`` if those are fewer."""
    tau = round_to(torch.full((), tau, dtype=torch.float64, device=value.device), conf_dtype)
    high = eligible & (value > tau if strict else value >= tau)
    enough = high.sum(-1) >= at_least
    return torch.where(enough[:, None], high, first(at_least, key, eligible))


def factor(f, value, key, eligible, conf_dtype):
    """The longest prefix of the ranking whose r-th value is at least 1 - f / (r + 1) (rounded like the values).

    The first is always in it. Source: Fast-dLLM.
    """
    order = ranking(key, eligible)
    rank = _ranks(order)
    passes = (value.gather(-1, order) >= round_to(1 - f / (rank.double() + 1), conf_dtype)) | (rank == 1)
    return _unrank(passes.cumprod(-1).bool(), order, eligible)


def entropy_budget(bound, entropy, eligible):
    """From the lowest entropy up, as long as the entropies before the position sum to at most ``bound``."""
    order = ranking(-entropy, eligible)
    spent = entropy.masked_fill(~eligible, 0.0).gather(-1, order).cumsum(-1)
    before = torch.nn.functional.pad(spent, (1, 0))[:, :-1]
    return _unrank(before <= bound, order, eligible)
