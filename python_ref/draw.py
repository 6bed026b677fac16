"""One token per row from one uniform number: invert the CDF of softmax(z / T) in index order. Then it is scored."""

from typing import NamedTuple

import torch

from .confidence import Current, law_temperature, score, stochastic_key
from .confidence import demote as demote_
from .cutoff import keep
from .geometry import per_request, read_rows, slabs
from .philox import STREAM_DRAW, STREAM_RANK, draw_uniform, rank_uniform
from .row_stats import RowStats, effective_logits, logit_of, sweep


def draw(z, stats, temperature, uniform):
    """The drawn token of each row, int64 [n].

    ``z`` float32 [n, V] effective logits without bad rows, ``stats`` their RowStats (only max and argmax are used),
    ``temperature`` float64 [n], ``uniform`` float64 [n] in [0, 1). The token is the first index whose cumulative mass
    exceeds uniform * total, hence never one of mass zero. Temperature 0 takes the argmax and no random number.
    """
    greedy = temperature == 0
    scale = torch.where(greedy, 1.0, temperature)[:, None]
    cdf = torch.exp((z.double() - stats.max[:, None]) / scale).cumsum(-1)
    total = cdf[:, -1:].contiguous()
    token = torch.searchsorted(cdf, uniform[:, None] * total, right=True)
    # uniform * total may round up to total; the last index that added mass is the answer then.
    token = torch.minimum(token, torch.searchsorted(cdf, total))
    return torch.where(greedy, stats.argmax, token[:, 0])


class RowLaw(NamedTuple):
    """softmax(z / temperature) of n rows."""

    z: torch.Tensor  # float32 [n, V]: effective logits
    temperature: torch.Tensor  # float64 [n], > 0
    stats: RowStats
    good: torch.Tensor  # bool [n]; others are computed as if uniform, and what comes of them is dropped

    def odds(self, token):
        """Against ``token``, float64 [n]; inf for what is no token of the vocabulary."""
        return self.stats.rest_of(token, logit_of(self.z, token), self.temperature)

    def logprob(self, token):
        """float64 [n]; -inf for what is no token of the vocabulary."""
        return self.stats.logprob_of(logit_of(self.z, token), self.temperature)

    def log_probabilities(self):
        """float64 [n, V]."""
        d = (self.z.double() - self.stats.max[:, None]) / self.temperature[:, None]
        return d - torch.log1p(self.stats.rest[:, None])


def row_law(params, index, temperature):
    """RowLaw of the rows ``index`` of ``params`` (Sweep)."""
    uncond = None if params.uncond_logits is None else read_rows(params.uncond_logits, index, params.shift)
    z = read_rows(params.logits, index, params.shift)
    z = effective_logits(z, uncond, params.cfg_scale, params.suppress, params.softcap)
    stats = sweep(z, temperature)
    good = ~stats.unusable
    z = torch.where(good[:, None], z, 0.0)
    top, argmax = torch.where(good, stats.max, 0.0), torch.where(good, stats.argmax, 0)
    return RowLaw(z, temperature, stats._replace(max=top, argmax=argmax), good)


def filtered(law, temperature, batch, filters):
    """``law`` over the tokens that ``filters`` leave of it at the ``temperature`` drawn with (float64 [n])."""
    z = keep(law.z, temperature, batch, filters)
    return law if z is law.z else law._replace(z=z, stats=sweep(z, law.temperature))


def draw_other(z, stats, temperature, uniform, current):
    """The same from the law without the token ``current`` (int64 [n]; no token of the vocabulary: the whole law).

    Returns (token, whether there is another). A law of temperature 0 has its argmax alone.
    """
    greedy = temperature == 0
    known = (current >= 0) & (current < z.shape[-1])
    at = current.clamp(0, z.shape[-1] - 1)[:, None]
    others = z.scatter(-1, at, torch.where(known[:, None], -torch.inf, z.gather(-1, at)))
    left = sweep(others, torch.where(greedy, 1.0, temperature))
    token = draw(others, left._replace(max=torch.where(left.unusable, 0.0, left.max)), temperature, uniform)
    return token.clamp(0, z.shape[-1] - 1), ~left.unusable & ~(greedy & (stats.argmax == current))


def keyed_uniform(drawing, batch, position, stream):
    """float64 [n] of the positions (batch, position)."""
    return draw_uniform(per_request(drawing.seed, batch), position, drawing.step.reshape(()), stream)


def row_uniform(drawing, index, batch, position, stream=STREAM_DRAW, column=None):
    """The uniform numbers of the rows ``index`` for ``stream``, float64 [n]: the caller's, in this column where a step
    needs several, or those keyed by (seed, position, step)."""
    if drawing.uniform is None:
        return keyed_uniform(drawing, batch, position, stream)
    return drawing.uniform[index] if column is None else drawing.uniform[(*index, column)]


class Draws(NamedTuple):
    """What a sweep and a draw leave behind, row-shaped. Rows that were not read hold what is written here."""

    tokens: torch.Tensor  # int64, -1
    best: torch.Tensor  # int64, -1: the argmax
    value: torch.Tensor  # float64, -inf
    key: torch.Tensor  # float32, -inf
    entropy: torch.Tensor  # float32, 0
    logprob: torch.Tensor  # float64, -inf: of tokens, under the confidence law as all logarithms here
    best_logprob: torch.Tensor  # float64, -inf
    committed_logprob: torch.Tensor  # float64, -inf: of what the trace has committed
    bad: torch.Tensor  # bool, False


def _no_draws(shape, device):
    full = lambda value, dtype: torch.full(shape, value, dtype=dtype, device=device)
    none, token = (-torch.inf, torch.float64), (-1, torch.int64)
    kinds = (token, token, none, (-torch.inf, torch.float32), (0, torch.float32), none, none, none, (False, torch.bool))
    return Draws(*(full(*kind) for kind in kinds))


def draw_rows(wanted, rows, params, drawing, *, current=None, committed=None, probs=None, column=None):
    """Sweep and draw for the rows in ``wanted`` (bool, row-shaped); no other counts.

    ``params`` Sweep; ``current`` and ``committed`` int64 row-shaped: what the positions hold, and what the trace has committed
    there. ``probs`` takes the confidence law of the good rows, ``column`` of ``drawing.uniform`` draws.
    """
    out = _no_draws(wanted.shape, wanted.device)
    for index in slabs(wanted, params.logits.shape[-1]):
        batch, position = rows.batch[index], rows.position[index]
        temperature = per_request(params.temperature, batch).double()
        law = row_law(params, index, law_temperature(temperature, drawing.confidence_from))
        good = wanted[index] & law.good
        left = filtered(law, temperature, batch, params.filters)

        token = draw(left.z, left.stats, temperature, row_uniform(drawing, index, batch, position, column=column))
        law = left if drawing.confidence_from == "sampled" else law
        held = torch.full_like(token, -1) if current is None else current[index]
        value, key = score(
            law.stats,
            token,
            law.odds(token),
            law.temperature,
            drawing.confidence,
            drawing.conf_dtype,
            rank_uniform(per_request(drawing.seed, batch), position, drawing.step.reshape(())),
            Current(held, logit_of(law.z, held)),
        )
        if drawing.rank_temperature > 0:
            key = stochastic_key(value, drawing.rank_temperature, keyed_uniform(drawing, batch, position, STREAM_RANK))
        if drawing.demote is not None:
            value, key = demote_(value, key, torch.isin(token, drawing.demote), drawing.confidence)

        out.bad[index] = wanted[index] & ~law.good
        out.tokens[index] = torch.where(good, token, -1)
        out.best[index] = torch.where(good, law.stats.argmax, -1)
        out.value[index] = torch.where(good, value, -torch.inf)
        out.key[index] = torch.where(good, key, -torch.inf)
        out.entropy[index] = torch.where(good, law.stats.entropy(), 0.0).float()
        out.logprob[index] = torch.where(good, law.logprob(token), -torch.inf)
        out.best_logprob[index] = torch.where(good, law.logprob(law.stats.argmax), -torch.inf)
        if committed is not None:
            out.committed_logprob[index] = torch.where(good, law.logprob(committed[index]), -torch.inf)
        if probs is not None:
            written = probs.detach()  # no op here has a derivative
            written[index] = torch.where(good[:, None], law.log_probabilities().exp().to(probs.dtype), written[index])
    return out
