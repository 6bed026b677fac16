"""renoise_step_, transition_step_ and q_sample against everything known about the right answer; helpers.py has the band.

Outputs are checked in the order in which they follow from each other, each given what the backend said before: so every
deviation is traced to the first number that left its band.
"""

import torch
from dlm_kernels.reference import confidence as scoring
from dlm_kernels.reference import geometry, philox, transition
from dlm_kernels.reference import trace as tracing
from dlm_kernels.reference.cutoff import keep
from dlm_kernels.reference.row_stats import effective_logits, logit_of
from filter_cases import filters_of, kept_between
from helpers import (
    LEAD,
    A,
    B,
    assert_between,
    assert_equal,
    assert_tokens_in_band,
    check_draws,
    decided,
    draws_for,
    held_by,
    law_of,
    odds_interval,
    places_of,
    restricted,
    rows_of,
    under,
    widen,
)
from uniform_cases import copied

from dlm_kernels import reference

NO_MASS = 2.0**-90  # less than this of the largest term may count as nothing where a token is weighed by itself
ORDER = (transition.NOISE, transition.MASK, transition.MODEL, transition.STAY)


def per_sequence(places, flags, size):
    return torch.bincount(places.batch[flags], minlength=size)[:size]


def laid(canvas, places, flags, values):
    """A copy of ``canvas`` with the row-shaped ``values`` where ``flags`` are set."""
    canvas = canvas.clone()
    canvas[places.batch[flags], places.position[flags]] = values[flags].to(canvas.dtype)
    return canvas


def effective_rows(call, index):
    """Effective logits of the rows ``index``, [n, V]."""
    _, (logits, *_), kwargs = call
    read = lambda t: None if t is None else geometry.read_rows(t, index, kwargs["shift"])
    return effective_logits(read(logits), read(kwargs["uncond_logits"]), kwargs["cfg_scale"], kwargs["suppress"])


def uniforms_of(call, places, index, streams):
    """float64 [n] per stream: what the rows ``index`` draw with."""
    _, (_, _, seed, step, _), kwargs = call
    if kwargs["uniform"] is not None:
        return kwargs["uniform"][index].unbind(-1)
    seed = geometry.per_request(seed, places.batch[index])
    return [philox.draw_uniform(seed, places.position[index], step, stream) for stream in streams]


def settled(call):
    """``call`` with a top_p of which no rounding decides what it keeps; none if all of some are at an edge."""
    x, args, kwargs = call
    filters = filters_of(kwargs)
    if filters is None or filters.top_p is None or not args[0].numel():
        return call
    places = places_of(x, args[0], kwargs["start"], kwargs["rows"])
    index = places.real.nonzero(as_tuple=True)
    batch = places.batch[index]
    t = geometry.per_request(args[1], batch).double()
    law = law_of(effective_rows(call, index), torch.where(t == 0, 1.0, t))
    for top_p in (filters.top_p, *torch.tensor([[0.2347], [0.5671], [0.9123]], dtype=torch.float64), None):
        ends = kept_between(law.z, t, batch, filters._replace(top_p=top_p), law.mass_error)
        if torch.equal(*ends):
            return x, args, {**kwargs, "top_p": top_p}


def kept(law, temperature, batch, kwargs):
    """``law`` over the tokens that the filters of a settled call keep."""
    filters = filters_of(kwargs)
    return law if filters is None else restricted(law, keep(law.z, temperature, batch, filters))


# ---- transition_step_ ----------------------------------------------------------------------------------------------


def check_transition(ops, call):
    """Returns what the op returned."""
    x, args, kwargs = call
    size, vocab, mask_id = x.shape[0], args[0].shape[-1], kwargs["mask_id"]
    want_call, got_call = copied(call), copied(call)
    want = reference.transition_step_(want_call[0], *want_call[1], **want_call[2])
    got = ops.transition_step_(got_call[0], *got_call[1], **got_call[2])
    tokens, route, p_current, confidence, num_changed, num_bad = got

    places = places_of(x, args[0], kwargs["start"], kwargs["rows"])
    before = under(x, places)
    edges = kwargs["window_start"], kwargs["window_stop"]
    candidate = geometry.candidate_rows(x, places, None, *edges, kwargs["frozen"])
    good = want[3] > -torch.inf

    # 1. What no rounding can touch.
    for name, mine, theirs in zip(("tokens", "route", "p_current", "confidence"), got, want):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, name
        assert_equal(f"{name} of skipped and bad rows", mine[~good], theirs[~good])
    assert_equal("x", got_call[0], laid(x, places, good, tokens))
    assert_equal("num_changed", num_changed, per_sequence(places, tokens != before, size))
    assert_equal("num_bad", num_bad, per_sequence(places, candidate & ~good, size))
    assert_equal("bad rows", num_bad, want[5])
    if not good.any():
        return got

    # 2. The route: u lies in its cell, for some odds within the band.
    index = good.nonzero(as_tuple=True)
    batch, position = places.batch[index], places.position[index]
    z = effective_rows(call, index)
    t_draw = geometry.per_request(args[1], batch).double()
    law = kept(law_of(z, torch.where(t_draw == 0, 1.0, t_draw)), t_draw, batch, kwargs)
    current, token, way = before[index].long(), tokens[index].long(), route[index].long()
    streams = (philox.STREAM_ROUTE, philox.STREAM_DRAW, philox.STREAM_NOISE)
    u_route, u_draw, u_noise = uniforms_of(call, places, index, streams)
    support = transition.noise_support(vocab, mask_id)
    coefficients = geometry.of_schedule(args[4], batch, position)
    is_mask = transition.is_mask(current, mask_id)
    edges = []
    for odds in odds_of(law, current):
        certain = torch.where(current == law.stats.argmax, 0.0, torch.inf)
        odds = torch.where(t_draw == 0, certain, odds)
        odds = transition.shifted_odds(coefficients, odds, law.temperature, kwargs["tempered"], support)
        edges.append(transition.route_weights(coefficients, odds, is_mask, support)[:, ORDER].cumsum(-1))
    edges = torch.stack([torch.nn.functional.pad(e, (1, 0)) for e in edges])
    seat = torch.tensor([ORDER.index(r) for r in range(4)])[way][:, None]
    low, high = edges.amin(0).gather(-1, seat)[:, 0], edges.amax(0).gather(-1, seat + 1)[:, 0]
    assert bool((high > low).all()), "took a route without weight"
    assert_between("uniform inside the cell of the route", u_route, low - 1e-14, high + 1e-14)

    # 3. The token, given the route.
    moved = way == transition.MODEL
    noise = transition.noise_token(u_noise, support, mask_id)
    certain = torch.where(way == transition.NOISE, noise, torch.where(way == transition.MASK, mask_id, current))
    assert_equal("tokens that are not drawn", token[~moved], certain[~moved])
    assert bool((token != current)[moved].all())
    greedy, warm = moved & (t_draw == 0), moved & (t_draw > 0)
    assert_equal("greedy tokens", token[greedy], law.stats.argmax[greedy])
    if warm.any():
        known = (current >= 0) & (current < vocab)
        here = torch.where(known, current, vocab)[:, None]
        without = lambda z: torch.nn.functional.pad(z, (0, 1)).scatter(-1, here, -torch.inf)[:, :vocab]
        others = rows_of(restricted(law_of(without(z), law.temperature), without(law.z)), warm)
        assert_tokens_in_band(others, token[warm], u_draw[warm])

    # 4. Its probability, and that of what was there.
    for name, value, of in (("p_current", p_current, current), ("confidence", confidence, token)):
        high, low = (1 / (1 + odds) for odds in odds_of(law, of))
        assert_between(name, value[index], *widen(low, high))

    # 5. The trace.
    if kwargs.get("trace") is not None:
        gain = gains(law, call, places, index, token)
        events = dict(by_noise=~moved, committed=torch.where(moved, token, -1), gain=gain)
        check_trace(call, got_call, batch, position, before=current, after=token, **events)
    return got


def odds_of(law, token):
    """(low, high) odds against tokens; inf for what the law does not have."""
    absent = logit_of(law.z, token) == -torch.inf
    ends = odds_interval(law, torch.where(absent, 0, token))
    return [torch.where(absent, torch.inf, end) for end in ends]


def gains(law, call, places, index, token):
    """log p(token) - log p(what the trace has committed), float64 [n]."""
    old = under(tracing.unpack(call[2]["trace"]).cur, places)[index]
    logprob = lambda token: law.stats.logprob_of(logit_of(law.z, token), law.temperature)
    return logprob(token) - logprob(old)


def check_trace(call, got_call, batch, position, **events):
    """The trace of ``got_call`` is that of ``call`` after one step with these events."""
    step = call[1][3] if len(call[1]) > 3 else call[2]["step"]
    positions, steps = (call[2][name].clone() for name in ("trace", "trace_steps"))
    tracing.record_(positions, steps, step, batch, position, **events)
    assert_equal("trace", got_call[2]["trace"], positions)
    mine = got_call[2]["trace_steps"]
    assert_equal("trace_steps", mine[..., :-1], steps[..., :-1])
    finite = torch.where(events["gain"].isfinite(), events["gain"].abs(), 0.0).clamp(max=1e6)
    allowed = len(finite) + finite.sum() * 2.0**-23 / tracing.GAIN_UNIT  # half a unit and a float's rounding each
    assert bool(((mine - steps)[..., -1].abs() <= allowed).all()), (mine[..., -1], steps[..., -1])


# ---- renoise_step_ -------------------------------------------------------------------------------------------------


def check_renoise(ops, call):
    """Returns what the op returned. Without softcap, whose tanh has no exact answer."""
    x, args, kwargs = call
    size, vocab, mask_id = x.shape[0], args[0].shape[-1], kwargs["mask_id"]
    want_call, got_call = copied(call), copied(call)
    want = reference.renoise_step_(want_call[0], *want_call[1], **want_call[2])
    got = ops.renoise_step_(got_call[0], *got_call[1], **got_call[2])
    tokens, best, entropy, confidence, accepted, num_accepted, num_bad, at_rest = got
    after = got_call[2]

    places = places_of(x, args[0], kwargs["start"], kwargs["rows"])
    before = under(x, places)
    edges = kwargs["window_start"], kwargs["window_stop"], kwargs["frozen"]
    read = geometry.candidate_rows(x, places, None, *edges, kwargs.get("committed"), kwargs.get("done"))
    u_draw = None if kwargs["uniform"] is None else kwargs["uniform"][..., 0].contiguous()
    drawing = {**kwargs, "demote": None, "uniform": u_draw}
    good = read.clone()
    if read.any():
        good &= ~draws_for(reference, x, args, drawing)[5]

    # 1. What no rounding can touch.
    for name, mine, theirs in zip(("tokens", "best", "entropy", "confidence", "accepted"), got, want):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, name
        assert_equal(f"{name} of skipped and bad rows", mine[~good], theirs[~good])
    assert_equal("best", best[good], want[1][good])
    assert_equal("x", got_call[0], laid(x, places, good, tokens))
    assert_equal("num_accepted", num_accepted, per_sequence(places, accepted, size))
    assert_equal("num_bad", num_bad, per_sequence(places, read & ~good, size))
    check_state(call, after, places, read, good, best, entropy, accepted, at_rest)
    if not good.any():
        return got

    # 2. The draws are those of draw_tokens, and the decisions those of the rule.
    draws = draws_for(ops, x, args, drawing)
    assert_equal("fused confidence", confidence[good], draws[1][good])
    assert_equal("fused entropy", entropy[good], draws[4][good])
    check_draws(draws, good, places, args, {**drawing, "given": held_by(x, args, kwargs)})
    quota = args[4].expand(size)
    if kwargs.get("committed") is not None:
        quota = (quota - kwargs["committed"].sum(-1)).clamp(min=0)
    chosen = decided(x, places, good, draws, quota, kwargs)
    if chosen is not None:
        assert_equal("accepted, given the keys", accepted, chosen)
    index = good.nonzero(as_tuple=True)
    _, u_noise = uniforms_of(call, places, index, (philox.STREAM_DRAW, philox.STREAM_NOISE))
    noise = transition.noise_token(u_noise, transition.noise_support(vocab, mask_id), mask_id)
    assert_equal("tokens", tokens[index].long(), torch.where(accepted[index], draws[0][index], noise))

    # 3. The law and the trace.
    z = effective_rows(call, index)
    t_draw = geometry.per_request(args[1], places.batch[index]).double()
    law = law_of(z, scoring.law_temperature(t_draw, kwargs["confidence_from"]))
    if kwargs["confidence_from"] == "sampled":
        law = kept(law, t_draw, places.batch[index], kwargs)
    if kwargs.get("probs") is not None:
        assert_equal("probabilities of rows not read", after["probs"][~good], kwargs["probs"][~good])
        d = (law.z.double() - law.stats.max[:, None]) / law.temperature[:, None]
        p, mine = torch.exp(d) / (1 + law.stats.rest[:, None]), after["probs"][index].double()
        error = torch.where(d > -torch.inf, p * (2.0**-8 + A + B * (LEAD + d.abs().clamp(max=800))) + NO_MASS, 0.0)
        assert_between("probabilities", mine, p - error, p + error)
    if kwargs.get("trace") is not None:
        gain = gains(law, call, places, index, best[index].long())
        events = dict(by_noise=~accepted[index], committed=best[index].long(), gain=gain)
        held = dict(before=before[index].long(), after=tokens[index].long())
        check_trace(call, got_call, places.batch[index], places.position[index], **held, **events)
    return got


def check_state(call, after, places, read, good, best, entropy, accepted, at_rest):
    """argmax, unchanged, done and committed, sequence by sequence."""
    kwargs, size = call[2], call[0].shape[0]
    if kwargs.get("committed") is not None:
        assert_equal(
            "committed", after["committed"], kwargs["committed"] | laid(kwargs["committed"], places, accepted, accepted)
        )
    argmax = None
    if kwargs.get("argmax") is not None:
        argmax = laid(kwargs["argmax"], places, good, best)
        assert_equal("argmax", after["argmax"], argmax)
        assert_equal("at rest", at_rest, after["done"])
    for b in range(size):
        mine, now, was, done = read & (places.batch == b), 0, False, bool(at_rest[b])  # as of a first step
        if argmax is not None:
            old, now = (int(k["unchanged"][b]) for k in (kwargs, after))
            was = bool(kwargs["done"][b])
            same = torch.equal(argmax[b], kwargs["argmax"][b])
            assert now == (old if not mine.any() else old + 1 if same else 0)
        if not mine.any():
            assert done == was
            continue
        mean = entropy[mine].double().mean().item()
        if not good[mine].all() or now < kwargs["stability"]:
            assert not done
        elif abs(mean - kwargs["confident"]) > 1e-9:
            assert done == (mean < kwargs["confident"])


# ---- q_sample ------------------------------------------------------------------------------------------------------


def check_noising(ops, call):
    args, kwargs = call
    before = args[0].clone()
    want, got = reference.q_sample(*args, **kwargs), ops.q_sample(*args, **kwargs)
    assert_equal("x_0", args[0], before)
    for name, mine, theirs in zip(("x_t", "route"), got, want):
        assert_equal(name, mine, theirs)
    return got
