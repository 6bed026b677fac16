"""The four ops: sweep -> draw -> decide -> commit.

Signatures, shapes and dtypes are those of ``torch.ops.dlm_kernels``; csrc/torch has the schemas. Arguments are checked
before anything is written (``validate.py``).
"""

from typing import NamedTuple

import torch

from . import validate
from .commit import commit_, count
from .confidence import demote as demote_
from .confidence import law_temperature, score
from .decide import decide, first
from .draw import draw
from .geometry import candidate_rows, dense_rows, holds, packed_rows, per_request, read_rows
from .philox import draw_uniform, rank_uniform
from .row_stats import effective_logits, sweep

SLAB = 2**22  # logits in flight: bounds the fp64 temporaries to a few times 32 MiB


def _slabs(flags, vocab):
    """Index tuples of the set ``flags``, a bounded number of rows at a time."""
    index = flags.nonzero(as_tuple=True)
    return zip(*(i.split(max(1, SLAB // vocab)) for i in index)) if index[0].numel() else ()


def row_stats(logits, temperature, *, given=None, uncond_logits=None, cfg_scale=0.0, suppress=None):
    """Statistics of softmax(z / T) for every row of ``logits`` [B, W, V] or [R, V].

    ``temperature`` float32 [1], [B] or [R], > 0; ``given`` int64 row-shaped, -1 = none. Returns row-shaped (argmax
    int64, max, logsumexp, second, rest, entropy, p_given float32, bad bool). Bad rows: -1, -inf, -inf, -inf, 0, 0, 0.
    """
    validate.row_stats(logits, temperature, given, uncond_logits, cfg_scale, suppress)
    shape, vocab = logits.shape[:-1], logits.shape[-1]
    argmax = torch.full(shape, -1, dtype=torch.int64, device=logits.device)
    top, logsumexp, second = (torch.full(shape, -torch.inf, device=logits.device) for _ in range(3))
    rest, entropy, p_given = (torch.zeros(shape, device=logits.device) for _ in range(3))
    bad = torch.zeros(shape, dtype=torch.bool, device=logits.device)
    for index in _slabs(~bad, vocab):
        uncond = None if uncond_logits is None else uncond_logits[index]
        z = effective_logits(logits[index], uncond, cfg_scale, suppress)
        t = per_request(temperature, index[0]).double()
        stats = sweep(z, t)
        good = ~stats.unusable
        bad[index] = ~good
        argmax[index] = torch.where(good, stats.argmax, -1)
        top[index] = torch.where(good, stats.max, -torch.inf).float()
        logsumexp[index] = torch.where(good, stats.logsumexp(t), -torch.inf).float()
        second[index] = torch.where(good, stats.second, -torch.inf).float()
        rest[index] = torch.where(good, stats.rest, 0.0).float()
        entropy[index] = torch.where(good, stats.entropy(), 0.0).float()
        if given is not None:
            token = given[index]
            known = good & (token >= 0) & (token < vocab)
            token = token.clamp(0, vocab - 1)
            z_given = z.gather(-1, token[:, None])[:, 0].double()
            p = 1 / (1 + stats.rest_of(token, z_given, t))
            p_given[index] = torch.where(known, p, 0.0).float()
    return argmax, top, logsumexp, second, rest, entropy, p_given, bad


class Draws(NamedTuple):
    """What a sweep and a draw leave behind, row-shaped. Rows that were not read hold what is written here."""

    tokens: torch.Tensor  # int64, -1
    value: torch.Tensor  # float64, -inf
    key: torch.Tensor  # float32, -inf
    logprob: torch.Tensor  # float32, -inf
    entropy: torch.Tensor  # float32, 0
    bad: torch.Tensor  # bool, False


def _draw_rows(
    wanted,
    rows,
    logits,
    temperature,
    seed,
    step,
    *,
    shift,
    suppress,
    demote,
    uncond_logits,
    cfg_scale,
    uniform,
    confidence,
    confidence_from,
    conf_dtype,
):
    """Sweep and draw for the rows in ``wanted`` (bool, row-shaped); no other row is read."""
    shape, device = wanted.shape, wanted.device
    nothing = torch.full(shape, -torch.inf, device=device)
    out = Draws(
        tokens=torch.full(shape, -1, dtype=torch.int64, device=device),
        value=nothing.double(),
        key=nothing,
        logprob=nothing.clone(),
        entropy=torch.zeros(shape, device=device),
        bad=torch.zeros(shape, dtype=torch.bool, device=device),
    )
    for index in _slabs(wanted, logits.shape[-1]):
        uncond = None if uncond_logits is None else read_rows(uncond_logits, index, shift)
        z = effective_logits(read_rows(logits, index, shift), uncond, cfg_scale, suppress)
        batch, position = rows.batch[index], rows.position[index]
        t_draw = per_request(temperature, batch).double()
        t_law = law_temperature(t_draw, confidence_from)
        stats = sweep(z, t_law)

        good = ~stats.unusable
        out.bad[index] = ~good
        z = torch.where(good[:, None], z, 0.0)  # bad rows are computed as if uniform, and dropped
        stats = stats._replace(max=torch.where(good, stats.max, 0.0))

        request_seed = per_request(seed, batch)
        u = draw_uniform(request_seed, position, step.reshape(())) if uniform is None else uniform[index]
        token = draw(z, stats, t_draw, u)
        z_token = z.gather(-1, token.clamp(min=0)[:, None])[:, 0].double()
        u_rank = rank_uniform(request_seed, position, step.reshape(()))
        value, key = score(stats, stats.rest_of(token, z_token, t_law), t_law, confidence, conf_dtype, u_rank)
        if demote is not None:
            value, key = demote_(value, key, torch.isin(token, demote), confidence)

        out.tokens[index] = torch.where(good, token, -1)
        out.value[index] = torch.where(good, value, -torch.inf)
        out.key[index] = torch.where(good, key, -torch.inf)
        out.logprob[index] = torch.where(good, stats.logprob_of(z_token, t_law), -torch.inf).float()
        out.entropy[index] = torch.where(good, stats.entropy(), 0.0).float()
    return out


def draw_tokens(
    logits,
    temperature,
    seed,
    step,
    *,
    start=None,
    rows=None,
    length=0,
    shift=0,
    suppress=None,
    demote=None,
    uncond_logits=None,
    cfg_scale=0.0,
    uniform=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype="float32",
):
    """Draw one token per row of ``logits`` and score it.

    Returns row-shaped (tokens int64, confidence, key, logprob, entropy float32, bad bool). Bad rows and padding hold
    -1, -inf, -inf, -inf, 0; only bad rows are flagged.
    """
    validate.draw_tokens(
        logits,
        temperature,
        seed,
        step,
        start,
        rows,
        length,
        shift,
        suppress,
        demote,
        uncond_logits,
        cfg_scale,
        uniform,
        confidence,
        confidence_from,
        conf_dtype,
    )
    if rows is not None:
        places = packed_rows(rows, length)
    elif logits.dim() == 2:
        places = packed_rows(torch.arange(logits.shape[0], device=logits.device), logits.shape[0])
    else:
        places = dense_rows(*logits.shape[:2], start, logits.device)
    out = _draw_rows(
        places.real,
        places,
        logits,
        temperature,
        seed,
        step,
        shift=shift,
        suppress=suppress,
        demote=demote,
        uncond_logits=uncond_logits,
        cfg_scale=cfg_scale,
        uniform=uniform,
        confidence=confidence,
        confidence_from=confidence_from,
        conf_dtype=conf_dtype,
    )
    return out.tokens, out.value.float(), out.key, out.logprob, out.entropy, out.bad


def denoise_step_(
    x,
    logits,
    temperature,
    seed,
    step,
    quota,
    *,
    mask_id,
    rule,
    level=0.0,
    strict=True,
    window_start=0,
    window_stop=-1,
    frozen=None,
    start=None,
    rows=None,
    shift=0,
    suppress=None,
    demote=None,
    uncond_logits=None,
    cfg_scale=0.0,
    uniform=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype="float32",
):
    """One step of masked denoising, in place: draw for every candidate position, commit those that the rule picks.

    Returns row-shaped (tokens like x, confidence float32, committed bool), then num_committed, num_open and num_bad,
    int64 [B].
    """
    validate.denoise_step(
        x,
        logits,
        temperature,
        seed,
        step,
        quota,
        mask_id,
        rule,
        level,
        strict,
        window_start,
        window_stop,
        frozen,
        start,
        rows,
        shift,
        suppress,
        demote,
        uncond_logits,
        cfg_scale,
        uniform,
        confidence,
        confidence_from,
        conf_dtype,
    )
    places = dense_rows(*logits.shape[:2], start, x.device) if rows is None else packed_rows(rows, x.shape[1])
    candidate = candidate_rows(x, places, mask_id, window_start, window_stop, frozen)
    drawn = _draw_rows(
        candidate,
        places,
        logits,
        temperature,
        seed,
        step,
        shift=shift,
        suppress=suppress,
        demote=demote,
        uncond_logits=uncond_logits,
        cfg_scale=cfg_scale,
        uniform=uniform,
        confidence=confidence,
        confidence_from=confidence_from,
        conf_dtype=conf_dtype,
    )

    eligible = candidate & ~drawn.bad
    scores = (_canvas(x, places, eligible, of) for of in (eligible, drawn.value, drawn.key, drawn.entropy))
    chosen = decide(rule, *scores, quota=quota.expand(x.shape[0]), level=level, strict=strict, conf_dtype=conf_dtype)
    tokens = torch.where(eligible, drawn.tokens.to(x.dtype), _tokens_of(x, places))
    return tokens, drawn.value.float(), *_finish(x, tokens, places, candidate, eligible, chosen, drawn.bad, mask_id)


def topk_unmask_(
    x, tokens, confidence, quota, *, mask_id, window_start=0, window_stop=-1, frozen=None, start=None, rows=None
):
    """Commit, in place, the ``quota`` candidates of highest ``confidence`` per sequence, with their ``tokens``.

    Confidence -inf keeps a position out; NaN does too and is counted. Returns (committed bool row-shaped,
    num_committed, num_open, num_bad int64 [B]).
    """
    validate.topk_unmask(x, tokens, confidence, quota, mask_id, window_start, window_stop, frozen, start, rows)
    places = dense_rows(*tokens.shape, start, x.device) if rows is None else packed_rows(rows, x.shape[1])
    candidate = candidate_rows(x, places, mask_id, window_start, window_stop, frozen)
    bad = candidate & torch.isnan(confidence)
    eligible = candidate & ~bad & (confidence != -torch.inf)
    key = _canvas(x, places, eligible, confidence)
    chosen = first(quota.expand(x.shape[0]), key, _canvas(x, places, eligible, eligible))
    return _finish(x, tokens, places, candidate, eligible, chosen, bad, mask_id)


def _canvas(x, places, where, values):
    """Row-shaped ``values`` laid out on the canvas [B, L]: float64 or bool; 0 or False elsewhere."""
    values = values if values.dtype == torch.bool else values.double()
    canvas = torch.zeros(x.shape, dtype=values.dtype, device=x.device)
    canvas[places.batch[where], places.position[where]] = values[where]
    return canvas


def _tokens_of(x, places):
    """The canvas under the rows, row-shaped; -1 under padding."""
    if x.numel() == 0 or places.real.numel() == 0:
        return torch.full(places.real.shape, -1, dtype=x.dtype, device=x.device)
    return torch.where(places.real, x[places.batch, places.position], -1)


def _finish(x, tokens, places, candidate, eligible, chosen, bad, mask_id):
    """Commit, then count: committed row-shaped, num_committed, num_open, num_bad [B]."""
    committed = torch.zeros_like(eligible)
    committed[eligible] = chosen[places.batch[eligible], places.position[eligible]]
    commit_(x, tokens, places, committed)
    still_open = candidate & holds(_tokens_of(x, places), mask_id)
    return committed, *(count(places, flags, x.shape[0]) for flags in (committed, still_open, bad))
