"""RowStats: everything the rules need to know about one row of logits, as a commutative monoid.

The law of a row is softmax(z / T). With top = max z, e_j = exp((z_j - top) / T) and d_j = (z_j - top) / T:

    max     top
    argmax  the lowest index that attains it, -1 for none
    second  the second largest z (= max on ties, -inf if there is none)
    rest    sum of e_j over j != argmax: the mass beside the argmax, which stays exact when p rounds to 1
    moment  sum of e_j d_j, for the entropy
    bad     a NaN or +inf was seen

Everything is fp64, and one entry per row: [n].
"""

from typing import NamedTuple

import torch


class RowStats(NamedTuple):
    max: torch.Tensor  # [n] float64
    argmax: torch.Tensor  # [n] int64
    second: torch.Tensor  # [n] float64
    rest: torch.Tensor  # [n] float64
    moment: torch.Tensor  # [n] float64
    bad: torch.Tensor  # [n] bool

    @property
    def unusable(self):
        """Bad rows: NaN, +inf, or no finite value at all."""
        return self.bad | (self.argmax < 0)

    def logsumexp(self, temperature):
        """log sum_j exp(z_j / T), [n]."""
        return self.max / temperature + torch.log1p(self.rest)

    def entropy(self):
        """In nats, [n]: log S - sum_j p_j d_j with S = 1 + rest."""
        return torch.log1p(self.rest) - self.moment / (1 + self.rest)

    def rest_of(self, token, z_token, temperature):
        """sum_{j != token} exp((z_j - z_token) / T), [n]: the odds against ``token``. May be inf, never NaN."""
        gap = (self.max - z_token) / temperature
        return torch.where(token == self.argmax, self.rest, (1 + self.rest) * torch.exp(gap) - 1)

    def logprob_of(self, z_token, temperature):
        """log p(token), [n] = -log1p(rest_of), in a form that cannot overflow."""
        return -((self.max - z_token) / temperature + torch.log1p(self.rest))


def effective_logits(logits, uncond=None, cfg_scale=0.0, suppress=None, softcap=0.0):
    """The fp32 logits that every law is made of: capped, then guided, then suppressed ids count as -inf.

    ``logits`` and ``uncond`` [n, V] of any float dtype, ``suppress`` int64 [m] (ids outside [0, V) are ignored).
    """
    z = soften(logits.float(), softcap)
    if uncond is not None:
        u = soften(uncond.float(), softcap)
        both = (z == -torch.inf) & (u == -torch.inf)  # (-inf) - (-inf): forbidden by both, so forbidden
        z = torch.where(both, z, u + (cfg_scale + 1.0) * (z - u))
    if suppress is not None:
        vocab = z.shape[-1]
        known = torch.where((suppress >= 0) & (suppress < vocab), suppress, vocab)
        hidden = torch.zeros(vocab + 1, dtype=torch.bool, device=z.device).index_fill(0, known, True)
        z = z.masked_fill(hidden[:vocab], -torch.inf)
    return z


def soften(z, cap):
    """``cap`` tanh(z / ``cap``), if that is not 0; infinities, which say what is forbidden or broken, stay."""
    if cap == 0:
        return z
    return torch.where(z.isinf(), z, (cap * torch.tanh(z.double() / cap)).float())


def logit_of(z, token):
    """z[token], float64 [n]; -inf for what is no token of the vocabulary."""
    known = (token >= 0) & (token < z.shape[-1])
    at = z.gather(-1, token.clamp(0, z.shape[-1] - 1)[:, None])[:, 0]
    return torch.where(known, at.double(), -torch.inf)


def sweep(z, temperature):
    """RowStats of the rows of ``z``: float32 [n, V], V >= 1; ``temperature`` float64 [n], > 0."""
    z = z.double()
    bad = (torch.isnan(z) | (z == torch.inf)).any(-1)
    z = torch.where(bad[:, None], 0.0, z)  # keeps NaN out of the arithmetic below
    argmax = z.argmax(-1)  # the first of equals
    top = z.gather(-1, argmax[:, None])
    others = z.scatter(-1, argmax[:, None], -torch.inf)
    empty = top == -torch.inf
    d = (others - torch.where(empty, 0.0, top)) / temperature[:, None]
    e = torch.exp(d)
    moment = torch.where(e > 0, e * d, 0.0).sum(-1)
    argmax = torch.where(empty[:, 0], -1, argmax)
    return RowStats(top[:, 0], argmax, others.amax(-1), e.sum(-1), moment, bad)


def identity(n, device=None):
    """The neutral element of ``merge``: n rows without any entry."""
    none = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
    zero = torch.zeros_like(none)
    return RowStats(none, torch.full_like(none, -1, dtype=torch.int64), none, zero, zero, zero.bool())


def merge(a, b, temperature):
    """RowStats of two disjoint parts of the same rows, in any order. ``temperature`` float64 [n], > 0."""
    a_wins = (a.max > b.max) | ((a.max == b.max) & (a.argmax < b.argmax))
    winner, loser = (RowStats(*(torch.where(a_wins, p, q) for p, q in zip(*pair))) for pair in ((a, b), (b, a)))
    present = loser.max > -torch.inf
    d = torch.where(present, (loser.max - winner.max) / temperature, 0.0)
    scale = torch.where(present, torch.exp(d), 0.0)
    mass = scale * (1 + loser.rest)
    return RowStats(
        max=winner.max,
        argmax=winner.argmax,
        second=torch.maximum(winner.second, loser.max),
        rest=winner.rest + mass,
        moment=winner.moment + scale * loser.moment + mass * d,
        bad=a.bad | b.bad,
    )
