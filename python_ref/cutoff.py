"""Top-k, top-p and min-p: which tokens of a row's law may be drawn, found by sorting.

Each filter keeps a prefix of one total order of the tokens, logit descending and then index ascending; together they keep the
shortest of their prefixes. The law that is drawn from is the one at the temperature, over the tokens kept, renormalised.
"""

from typing import NamedTuple

import torch

from .geometry import per_request

ORDERS = ("top_k_first", "top_p_first")


class Filters(NamedTuple):
    """What the ops take: tensors [1] or [B], None for off."""

    top_k: torch.Tensor | None = None  # int64, 0 = off
    top_p: torch.Tensor | None = None  # float64, 1 = off
    min_p: torch.Tensor | None = None  # float64, 0 = off: of the largest probability
    order: str = "top_k_first"  # top_p counts the mass that top_k left (transformers); else all of it (Dream)
    drop_crossing: bool = False  # ReMDM: the token whose mass crosses top_p goes too, unless it is the first
    keep_ties: bool = False  # transformers: all that tie with the k-th largest logit stay

    def of(self, batch):
        """(top_k, top_p, min_p) of the sequences ``batch`` (int64 [n]), each [n]."""
        kinds = ((self.top_k, 0, torch.int64), (self.top_p, 1.0, torch.float64), (self.min_p, 0.0, torch.float64))
        return tuple(
            torch.full_like(batch, off, dtype=dtype) if value is None else per_request(value, batch)
            for value, off, dtype in kinds
        )


def keep(z, temperature, batch, filters):
    """``z`` float32 [n, V], no row bad, with -inf for what is cut off. ``temperature`` float64 [n]; where that is 0 the filters
    see T = 1."""
    if filters.top_k is None and filters.top_p is None and filters.min_p is None:
        return z
    top_k, top_p, min_p = (value[:, None] for value in filters.of(batch))
    temperature = torch.where(temperature == 0, 1.0, temperature)[:, None]
    ordered, index = z.double().sort(dim=-1, descending=True, stable=True)
    top = ordered[:, :1]
    mass = torch.exp((ordered - top) / temperature)
    rank = torch.arange(z.shape[-1], device=z.device)

    by_k = (rank < top_k) | (top_k <= 0)
    if filters.keep_ties:
        kth = ordered.gather(-1, (top_k - 1).clamp(0, z.shape[-1] - 1))
        by_k = by_k | (ordered == kth)
    counted = torch.where(by_k, mass, 0.0) if filters.order == "top_k_first" else mass
    through = counted.cumsum(-1)
    before = torch.nn.functional.pad(through, (1, 0))[:, :-1]
    reached = through if filters.drop_crossing else before
    by_p = (reached <= top_p * through[:, -1:]) | (rank == 0) | (top_p >= 1)
    by_min = ((ordered - top) / temperature >= min_p.log()) | (rank == 0) | (min_p <= 0)
    kept = torch.zeros_like(by_k).scatter(-1, index, by_k & by_p & by_min)
    return torch.where(kept, z, -torch.inf)
