"""Steps of uniform and hybrid diffusion: route every position, and noise a clean canvas."""

import torch

from . import redraw as again
from . import transition, validate
from .commit import committed_tokens, count, write_
from .cutoff import Filters
from .draw import draw_other, filtered, row_law, row_uniform
from .geometry import candidate_rows, dense_rows, of_schedule, per_request, rows_on, slabs, token_at
from .params import Drawing, Sweep, Trace
from .philox import STREAM_DRAW, STREAM_FORWARD_NOISE, STREAM_FORWARD_ROUTE, STREAM_NOISE, STREAM_ROUTE
from .transition import MASK, MODEL, NOISE, STAY


def transition_step_(
    x,
    logits,
    temperature,
    seed,
    step,
    coefficients,
    *,
    mask_id=-1,
    tempered="before",
    redraw="none",
    level=0.0,
    window_start=0,
    window_stop=-1,
    frozen=None,
    start=None,
    rows=None,
    shift=0,
    suppress=None,
    uncond_logits=None,
    cfg_scale=0.0,
    top_k=None,
    top_p=None,
    min_p=None,
    filter_order="top_k_first",
    drop_crossing=False,
    keep_ties=False,
    uniform=None,
    trace=None,
    trace_steps=None,
):
    """One reverse step of the uniform, hybrid or absorbing family, in place.

    Every position of the window that is not frozen takes a route (``transition.py``): it stays, or becomes a draw from the law
    without its token, a uniform token, or the mask; with ``redraw``, a draw from weights of all tokens (``redraw.py``). Returns
    row-shaped (tokens like x, route uint8, p_current, confidence float32), then num_changed and num_bad, int64 [B]. p_current
    and confidence are the law's probabilities of the token before and after, 0 for the mask; the law is that at the
    temperature, or at 1 where that is 0. Rows that are not read, and bad ones: the canvas token (-1 for padding), stay, 0, -inf.
    """
    validate.transition_step(**locals())
    coefficients = coefficients.to(x.device)
    guided = redraw == "guidance"  # the posteriors are combined, not the logits
    filters = Filters(top_k, top_p, min_p, filter_order, drop_crossing, keep_ties)
    between = None if guided else uncond_logits
    own = Sweep(logits, temperature, between, cfg_scale, suppress, shift=shift, filters=filters)
    other = own._replace(logits=uncond_logits, uncond_logits=None) if guided else None
    drawing, note = Drawing(seed, step, uniform), Trace(trace, trace_steps, step)
    support = transition.noise_support(logits.shape[-1], mask_id)
    places = rows_on(x, logits, start, rows)
    candidate = candidate_rows(x, places, None, window_start, window_stop, frozen)
    before, committed = token_at(x, places), committed_tokens(note, places)

    after, route = before.clone(), torch.full_like(before, STAY, dtype=torch.uint8)
    p_current = torch.zeros(before.shape, device=x.device)
    confidence, gain = torch.full_like(p_current, -torch.inf), torch.zeros_like(p_current)
    bad = torch.zeros_like(candidate)
    for index in slabs(candidate, logits.shape[-1]):
        batch, position, current = places.batch[index], places.position[index], before[index].long()
        row = of_schedule(coefficients, batch, position)
        t = per_request(temperature, batch).double()
        law = filtered(row_law(own, index, torch.where(t == 0, 1.0, t)), t, batch, filters)
        good = law.good
        u_route, u_draw, u_noise = (
            row_uniform(drawing, index, batch, position, stream, column)
            for column, stream in enumerate((STREAM_ROUTE, STREAM_DRAW, STREAM_NOISE))
        )

        if redraw == "none":
            certain = torch.where(current == law.stats.argmax, 0.0, torch.inf)
            odds = torch.where(t == 0, certain, law.odds(current))
            way = transition.choose_route(row, odds, current, law.temperature, u_route, tempered, support, mask_id)
            drawn, exists = draw_other(law.z, law.stats, t, u_draw, current)
            way = torch.where((way == MODEL) & ~exists, STAY, way)
            token = torch.where(way == MODEL, drawn, current)
            token = torch.where(way == NOISE, transition.noise_token(u_noise, support, mask_id), token)
            token = torch.where(way == MASK, mask_id, token)
        else:
            rival = filtered(row_law(other, index, law.temperature), t, batch, filters) if guided else None
            good = good & rival.good if guided else good
            posteriors = _posteriors(law, rival, redraw, row, current, tempered, support, mask_id)
            weights = again.weigh(redraw, level, row, law.log_probabilities().exp(), current, support, *posteriors)
            way, token = again.draw_again(*weights, current, mask_id, u_route, u_draw)
            way = again.tell_noise(way, token, u_noise, *posteriors[:1])

        p = lambda token, law=law: torch.where(transition.is_mask(token, mask_id), 0.0, 1 / (1 + law.odds(token)))
        bad[index] = candidate[index] & ~good
        good = candidate[index] & good
        after[index] = torch.where(good, token.to(x.dtype), before[index])
        route[index] = torch.where(good, way, STAY).to(torch.uint8)
        p_current[index] = torch.where(good, p(current), 0.0).float()
        confidence[index] = torch.where(good, p(token), -torch.inf).float()
        if committed is not None:
            gain[index] = (law.logprob(token) - law.logprob(committed[index])).float()

    moved = route == MODEL
    now = torch.where(moved, after.long(), -1)
    write_(x, places, candidate & ~bad, after, note, by_noise=~moved, committed=now, gain=gain)
    return after, route, p_current, confidence, count(x, places, after != before), count(x, places, bad)


def _posteriors(law, rival, redraw, row, current, tempered, support, mask_id):
    """Of the law, and of its rival where there is one; SEDD's redraw has none."""
    posteriors = []
    for side in () if redraw == "score" else (law,) if rival is None else (law, rival):
        odds = side.odds(current)
        shifted = transition.shifted_odds(row, odds, side.temperature, tempered, support)
        posteriors.append(again.posterior(row, side.log_probabilities(), odds, shifted, current, support, mask_id))
    return posteriors


def q_sample(x, rates, seed, step, *, vocab_size, mask_id=-1, frozen=None, uniform=None):
    """Forward noising: every position that is not frozen becomes a uniform token or the mask with probabilities ``rates``,
    float64 [1, 2], [B, 2] or [B, L, 2]. Returns (x_t like x, route uint8)."""
    validate.q_sample(**locals())
    places = dense_rows(*x.shape, None, x.device)
    batch, position = places.batch.flatten(), places.position.flatten()
    drawing = Drawing(seed, step, uniform)
    u_route, u_noise = (
        row_uniform(drawing, (batch, position), batch, position, stream, column)
        for column, stream in enumerate((STREAM_FORWARD_ROUTE, STREAM_FORWARD_NOISE))
    )
    route = transition.noising_route(of_schedule(rates, batch, position), u_route).reshape(x.shape)
    if frozen is not None:
        route = torch.where(frozen, STAY, route)
    noise = transition.noise_token(u_noise, transition.noise_support(vocab_size, mask_id), mask_id).reshape(x.shape)
    x_t = torch.where(route == NOISE, noise.to(x.dtype), x)
    return torch.where(route == MASK, mask_id, x_t).contiguous(), route.to(torch.uint8)
