"""KL(p || q) between the laws of two rows, in fp64 and by its definition: how much a position's law moved between two steps."""

import torch

from . import validate
from .geometry import per_request, slabs


def divergence(z, y, temperature):
    """KL in nats between softmax(z / T) and softmax(y / T), float64 [n], and whether it can be told, bool [n].

    ``z`` and ``y`` [n, V] of any float dtype, ``temperature`` float64 [n], > 0. Infinite where q lacks a token that p has.
    """
    z, y = z.double(), y.double()
    good = ~((torch.isnan(z) | torch.isnan(y) | (z == torch.inf) | (y == torch.inf)).any(-1))
    good &= (z > -torch.inf).any(-1) & (y > -torch.inf).any(-1)
    z, y = (torch.where(good[:, None], row, 0.0) / temperature[:, None] for row in (z, y))
    log_p, log_q = z.log_softmax(-1), y.log_softmax(-1)
    terms = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0)
    terms = torch.where((log_p > -torch.inf) & (log_q == -torch.inf), torch.inf, terms)
    return torch.where(good, terms.sum(-1).clamp(min=0), torch.inf), good


def row_kl(logits, previous, temperature, *, wanted=None):
    """KL between the laws of the same row in ``logits`` and ``previous``, [B, W, V] or [R, V] both.

    ``temperature`` float32 [1], [B] or [R], > 0; ``wanted`` bool row-shaped: rows to read. Returns row-shaped (kl float32, bad
    bool): inf for bad rows, 0 for those not read.
    """
    validate.row_kl(**locals())
    shape = logits.shape[:-1]
    kl = torch.zeros(shape, device=logits.device)
    bad = torch.zeros(shape, dtype=torch.bool, device=logits.device)
    wanted = torch.ones_like(bad) if wanted is None else wanted
    for index in slabs(wanted, logits.shape[-1]):
        found, good = divergence(logits[index], previous[index], per_request(temperature, index[0]).double())
        kl[index] = torch.where(wanted[index], found, 0.0).float()
        bad[index] = wanted[index] & ~good
    return kl, bad
