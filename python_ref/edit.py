"""Token editing, beside the rule that fills masks: a filled position takes its draw where that is another token and confident
enough. LLaDA2.1's T2T, which diffusers' BlockRefinementScheduler and SGLang's JointThreshold have too."""

import torch

from .commit import count
from .confidence import round_to
from .geometry import per_request


def choose_edits(x, rows, filled, opened, tokens, before, value, level, conf_dtype, edits_left):
    """Which ``filled`` rows take their draw, bool row-shaped.

    All row-shaped: ``filled`` and ``opened`` bool, what the candidates hold; ``tokens`` drawn, ``before`` held; ``value``
    float64, NaN or -inf where nothing was drawn. ``edits_left`` int64 [B] or None: a sequence without open positions needs one.
    """
    tau = round_to(torch.full((), level, dtype=torch.float64, device=value.device), conf_dtype)
    chosen = filled & (tokens != before) & (value > tau)
    if edits_left is None:
        return chosen
    allowed = (count(x, rows, opened) > 0) | (edits_left > 0)
    return chosen & per_request(allowed.expand(x.shape[0]), rows.batch) if allowed.numel() else chosen


def spend_(edits_left, x, rows, filled, opened):
    """One step less for the sequences that had positions to edit and none to fill."""
    if edits_left is not None:
        only_edits = (count(x, rows, opened) == 0) & (count(x, rows, filled) > 0)
        edits_left -= (only_edits & (edits_left > 0)).long()
