"""The ops of the masked family: sweep -> draw -> decide -> commit. ``renoise.py`` and ``uniform.py`` have the others.

Signatures, shapes and dtypes are those of ``torch.ops.dlm_kernels``; dlm_kernels/_ops.py has the schemas. Arguments are
checked before anything is written (``validate.py``).
"""

import torch

from . import validate
from .commit import committed_tokens, count, write_
from .cutoff import Filters
from .decide import among_ready, decide, first
from .draw import draw_rows
from .edit import choose_edits, spend_
from .geometry import (
    candidate_rows,
    dense_rows,
    holds,
    on_canvas,
    packed_rows,
    per_request,
    rows_on,
    slabs,
    token_at,
    under,
)
from .params import Drawing, Sweep, Trace
from .row_stats import effective_logits, logit_of, sweep


def row_stats(logits, temperature, *, given=None, uncond_logits=None, cfg_scale=0.0, suppress=None):
    """Statistics of softmax(z / T) for every row of ``logits`` [B, W, V] or [R, V].

    ``temperature`` float32 [1], [B] or [R], > 0; ``given`` int64 row-shaped, -1 = none. Returns row-shaped (argmax
    int64, max, logsumexp, second, rest, entropy, p_given float32, bad bool). Bad rows: -1, -inf, -inf, -inf, 0, 0, 0.
    """
    validate.row_stats(**locals())
    shape = logits.shape[:-1]
    argmax = torch.full(shape, -1, dtype=torch.int64, device=logits.device)
    top, logsumexp, second = (torch.full(shape, -torch.inf, device=logits.device) for _ in range(3))
    rest, entropy, p_given = (torch.zeros(shape, device=logits.device) for _ in range(3))
    bad = torch.zeros(shape, dtype=torch.bool, device=logits.device)
    for index in slabs(~bad, logits.shape[-1]):
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
            p = 1 / (1 + stats.rest_of(given[index], logit_of(z, given[index]), t))
            p_given[index] = torch.where(good, p, 0.0).float()
    return argmax, top, logsumexp, second, rest, entropy, p_given, bad


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
    top_k=None,
    top_p=None,
    min_p=None,
    filter_order="top_k_first",
    drop_crossing=False,
    keep_ties=False,
    uniform=None,
    given=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype="float32",
    rank_temperature=0.0,
):
    """Draw one token per row of ``logits`` and score it; ``given`` int64 row-shaped is what its position holds, -1 = none.

    Returns row-shaped (tokens int64, confidence, key, logprob, entropy float32, bad bool). Bad rows and padding hold
    -1, -inf, -inf, -inf, 0; only bad rows are flagged.
    """
    validate.draw_tokens(**locals())
    if rows is not None:
        places = packed_rows(rows, length)
    elif logits.dim() == 2:
        places = packed_rows(torch.arange(logits.shape[0], device=logits.device), logits.shape[0])
    else:
        places = dense_rows(*logits.shape[:2], start, logits.device)
    filters = Filters(top_k, top_p, min_p, filter_order, drop_crossing, keep_ties)
    law = Sweep(logits, temperature, uncond_logits, cfg_scale, suppress, shift=shift, filters=filters)
    drawing = Drawing(seed, step, uniform, demote, confidence, confidence_from, conf_dtype, rank_temperature)
    out = draw_rows(places.real, places, law, drawing, current=given)
    return out.tokens, out.value.float(), out.key, out.logprob.float(), out.entropy, out.bad


def denoise_step_(
    x,
    logits,
    temperature,
    seed,
    step,
    quota,
    *,
    mask_id=None,
    rule,
    level=0.0,
    low=0.0,
    strict=True,
    ready=None,
    edit=None,
    edits_left=None,
    edited=None,
    num_edited=None,
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
    top_k=None,
    top_p=None,
    min_p=None,
    filter_order="top_k_first",
    drop_crossing=False,
    keep_ties=False,
    uniform=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype="float32",
    rank_temperature=0.0,
    trace=None,
    trace_steps=None,
):
    """One step of denoising, in place: draw for every candidate position, commit those that the rule picks.

    Candidates are the masks of the window that are not frozen; without a ``mask_id``, whatever it holds. With ``edit`` filled
    positions are drawn for as well, and overwritten by ``edit.choose_edits``; ``edited`` and ``num_edited`` take which and how
    many. Returns row-shaped (tokens like x, confidence float32, committed bool), then num_committed, num_open and num_bad,
    int64 [B].
    """
    validate.denoise_step(**locals())
    filters = Filters(top_k, top_p, min_p, filter_order, drop_crossing, keep_ties)
    law = Sweep(logits, temperature, uncond_logits, cfg_scale, suppress, shift=shift, filters=filters)
    drawing = Drawing(seed, step, uniform, demote, confidence, confidence_from, conf_dtype, rank_temperature)
    note = Trace(trace, trace_steps, step)
    places = rows_on(x, logits, start, rows)
    read_for = None if edit is not None else mask_id
    candidate = candidate_rows(x, places, read_for, window_start, window_stop, frozen)
    before = token_at(x, places)
    drawn = draw_rows(candidate, places, law, drawing, current=before.long(), committed=committed_tokens(note, places))

    opened = candidate if mask_id is None else candidate & holds(before, mask_id)
    filled = candidate & ~opened
    eligible = opened & ~drawn.bad
    scores = (on_canvas(x, places, eligible, of.double()) for of in (drawn.value, drawn.key, drawn.entropy))
    among, quota = on_canvas(x, places, eligible, eligible), quota.expand(x.shape[0])
    value, key, entropy = scores
    if ready is not None:
        ready = on_canvas(x, places, eligible, eligible & ready)
        rule, among, quota = among_ready(ready, among, value, quota, level, strict, conf_dtype)
    chosen = decide(
        rule, among, value, key, entropy, quota=quota, level=level, low=low, strict=strict, conf_dtype=conf_dtype
    )
    tokens = torch.where(candidate & ~drawn.bad, drawn.tokens.to(x.dtype), before)
    gain = drawn.logprob - drawn.committed_logprob
    if edit is not None:
        edits = choose_edits(x, places, filled, opened, tokens, before, drawn.value, edit, conf_dtype, edits_left)
        spend_(edits_left, x, places, filled, opened)
        _commit_(x, tokens, places, edits, mask_id, note, gain)
        if edited is not None:
            edited.copy_(edits)
        if num_edited is not None:
            num_edited.copy_(count(x, places, edits))
    committed, *counts = _finish(x, tokens, places, candidate, eligible, chosen, drawn.bad, mask_id, note, gain)
    return tokens, drawn.value.float(), committed, *counts


def topk_unmask_(
    x,
    tokens,
    confidence,
    quota,
    *,
    mask_id=None,
    window_start=0,
    window_stop=-1,
    frozen=None,
    start=None,
    rows=None,
    step=None,
    trace=None,
    trace_steps=None,
):
    """Commit, in place, the ``quota`` candidates of highest ``confidence`` per sequence, with their ``tokens``.

    Confidence -inf keeps a position out; NaN does too and is counted. Returns (committed bool row-shaped,
    num_committed, num_open, num_bad int64 [B]).
    """
    validate.topk_unmask(**locals())
    places = rows_on(x, tokens, start, rows)
    candidate = candidate_rows(x, places, mask_id, window_start, window_stop, frozen)
    bad = candidate & torch.isnan(confidence)
    eligible = candidate & ~bad & (confidence != -torch.inf)
    key = on_canvas(x, places, eligible, confidence.double())
    chosen = first(quota.expand(x.shape[0]), key, on_canvas(x, places, eligible, eligible))
    gain = torch.zeros_like(confidence)  # no law, no gain
    note = Trace(trace, trace_steps, step)
    return _finish(x, tokens, places, candidate, eligible, chosen, bad, mask_id, note, gain)


def remask_(
    x,
    confidence,
    quota,
    *,
    mask_id,
    below,
    window_start=0,
    window_stop=-1,
    frozen=None,
    start=None,
    rows=None,
    step=None,
    trace=None,
    trace_steps=None,
):
    """The ``quota`` filled positions of lowest ``confidence`` per sequence, if that is under ``below``, hold ``mask_id`` again.

    Confidence +inf keeps a position as it is; NaN does too and is counted. Returns (remasked bool row-shaped, num_remasked,
    num_open, num_bad int64 [B]).
    """
    validate.remask(**locals())
    below = float(below)  # torch compares no integer beyond 64 bits
    places = rows_on(x, confidence, start, rows)
    candidate = candidate_rows(x, places, None, window_start, window_stop, frozen)
    filled = candidate & ~holds(token_at(x, places), mask_id)
    bad = filled & torch.isnan(confidence)
    eligible = filled & ~bad & (confidence.double() < below)
    key = on_canvas(x, places, eligible, -confidence.double())
    chosen = eligible & under(
        first(quota.expand(x.shape[0]), key, on_canvas(x, places, eligible, eligible)), places, False
    )
    _write_mask_(x, places, chosen, mask_id, Trace(trace, trace_steps, step))
    still_open = candidate & holds(token_at(x, places), mask_id)
    return chosen, *(count(x, places, flags) for flags in (chosen, still_open, bad))


def _write_mask_(x, places, flags, mask_id, trace):
    tokens, none = torch.full_like(flags, mask_id, dtype=x.dtype), torch.full_like(flags, -1, dtype=torch.int64)
    write_(
        x,
        places,
        flags,
        tokens,
        trace,
        by_noise=flags,
        committed=none,
        gain=torch.zeros_like(flags, dtype=torch.float32),
    )


def _commit_(x, tokens, places, flags, mask_id, trace, gain):
    masked = holds(tokens, mask_id)  # a model may draw the mask itself
    now = torch.where(masked, -1, tokens.long())
    write_(x, places, flags, tokens, trace, by_noise=torch.zeros_like(flags), committed=now, gain=gain)


def _finish(x, tokens, places, candidate, eligible, chosen, bad, mask_id, trace, gain):
    """Commit, then count: committed row-shaped, num_committed, num_open, num_bad [B]."""
    committed = eligible & under(chosen, places, False)
    _commit_(x, tokens, places, committed, mask_id, trace, gain)
    still_open = candidate & holds(token_at(x, places), mask_id)
    return committed, *(count(x, places, flags) for flags in (committed, still_open, bad))
