"""Comparing a backend with the reference: exactly where that is possible, inside a proved band elsewhere.

The band. A backend sums fp32 terms e_j ~ exp((z_j - ref) / T), ref being any logit of the row at most 64 log2 units
(LEAD nats) below the maximum; the row-level formulas after that are in double. With d_j = (z_j - max) / T:

* one term has a relative error of at most A + B (|d_j| + lead): A = 2^-21 for the polynomial (2e-7) and the roundings
  of its evaluation, B = 2^-22 for the four fp32 roundings that the exponent passes (difference, scale, product,
  fraction), each of which moves it by at most 2^-24 of its size. lead = min(LEAD, spread of the finite d_j).
* a chunk is added up in at least 16 lanes of fp32, so summation adds at most C = ceil(chunk / 16) 2^-24.
* hence a sum of terms has a relative error of at most A + C + B (lead + mean |d|), the mean weighted by the terms:
  ``Law.mass_error`` for the whole mass, ``Law.rest_error`` for the mass beside the argmax (summed without it).
* terms below 2^-100 of the largest may be dropped or added whole: FLOOR.

All this is evaluated per row in fp64. A token then differs legitimately only if its own CDF interval reaches u within
twice the mass error (once for the partial sum, once for the total). Values and keys must lie in the interval that the
errors allow, widened by one unit in the last place for the final rounding. Given a backend's own keys there is no
tolerance at all: its decisions must equal those of the reference's rules on them. So every deviation is traced to a key
inside its proved band.
"""

import contextlib
from typing import NamedTuple

import torch
from dlm_kernels.reference import chunk, decide, geometry, philox
from dlm_kernels.reference import confidence as scoring
from dlm_kernels.reference.row_stats import RowStats, effective_logits, logit_of, sweep
from filter_cases import FILTERS, filters_of, kept_between, upto

from dlm_kernels import reference

A, B, LEAD, FLOOR = 2.0**-21, 2.0**-22, 64 * 0.6931471805599453, 2.0**-99


@contextlib.contextmanager
def using_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- exact ---------------------------------------------------------------------------------------------------------


def assert_equal(name, got, want):
    """Bitwise (NaN equals NaN), naming the first difference."""
    assert got.dtype == want.dtype, f"{name}: {got.dtype} is not {want.dtype}"
    assert got.shape == want.shape, f"{name}: {list(got.shape)} is not {list(want.shape)}"
    same = (got == want) | ((got != got) & (want != want))
    assert_all(name, same, got, want, "equal")


def assert_all(name, good, got, want, rule):
    """Fails with the first index, its coordinate and both values."""
    if bool(good.all()):
        return
    wrong = (~good).nonzero()
    at = tuple(wrong[0].tolist())
    flat = int((~good).flatten().nonzero()[0])
    wanted = want[at].tolist() if isinstance(want, torch.Tensor) else [w[at].tolist() for w in want]
    raise AssertionError(
        f"{name}: {len(wrong)} of {good.numel()} not {rule}, first at index {flat}, coordinate {at}: "
        f"got {got[at].tolist()!r}, want {wanted!r}"
    )


def assert_between(name, got, low, high):
    got = got.double()
    assert_all(name, (low <= got) & (got <= high), got, (low, high), "in the proved band")


# ---- the proved band -----------------------------------------------------------------------------------------------


class Law(NamedTuple):
    """Rows of effective logits under one temperature, in fp64, with the errors a backend may make on them."""

    z: torch.Tensor  # [n, V] float32, bad rows zeroed
    temperature: torch.Tensor  # [n] float64, > 0
    stats: RowStats
    mass_error: torch.Tensor  # [n] relative, of the whole mass and of any partial sum over it
    rest_error: torch.Tensor  # [n] relative, of the mass beside the argmax
    entropy_error: torch.Tensor  # [n] absolute


def law_of(z, temperature):
    """``z`` [n, V] effective float32 logits, ``temperature`` [n] > 0."""
    bad = sweep(z, temperature.double()).unusable
    z = torch.where(bad[:, None], 0.0, z)
    temperature = temperature.double()
    stats = sweep(z, temperature)
    d = ((z.double() - stats.max[:, None]) / temperature[:, None]).abs()
    e = torch.exp(-d)
    finite = d.isfinite()
    spread = torch.where(finite, d, 0.0).amax(-1)
    weighted = torch.where(finite, e * d, 0.0)
    mean = weighted.sum(-1) / e.sum(-1)
    mean_square = torch.where(finite, weighted * d, 0.0).sum(-1) / e.sum(-1)
    mean_rest = torch.where(stats.rest > 0, weighted.sum(-1) / stats.rest, 0.0)
    lead = spread.clamp(max=LEAD)
    adds = -(-chunk.chunk_size(z.shape[-1]) // 16) * 2.0**-24
    mass_error = A + adds + B * (lead + mean)
    return Law(
        z=z,
        temperature=temperature,
        stats=stats,
        mass_error=mass_error,
        rest_error=A + adds + B * (lead + mean_rest),
        # H = log S - (sum e d) / S: S to mass_error; the sum's terms and their factors d to the errors above, about ref
        entropy_error=mass_error * (1 + mean)
        + (A + adds) * (mean + lead)
        + B * (mean_square + 2 * lead * mean + lead**2),
    )


def widen(low, high):
    """By one float32 ulp on either side: the final rounding of a backend and of fp64 may differ by that."""
    down = torch.nextafter(low.float(), torch.tensor(-torch.inf)).double()
    up = torch.nextafter(high.float(), torch.tensor(torch.inf)).double()
    return torch.minimum(low, down), torch.maximum(high, up)


def restricted(law, z):
    """``law`` over fewer of its tokens, ``z`` with -inf for the others. Its errors are those of the whole, which are no smaller:
    they grow with the mean distance from the maximum."""
    return law._replace(z=z, stats=sweep(z, law.temperature))


def rows_of(law, rows):
    """Those of ``law`` in ``rows``, bool [n]."""
    cut = lambda part: part[rows]
    return Law(*map(cut, law[:2]), RowStats(*map(cut, law.stats)), *map(cut, law[3:]))


def assert_tokens_in_band(law, tokens, uniform, fewer=None):
    """Tokens drawn from ``law`` with ``uniform``: the cell of each must reach u within the band, and have mass. ``fewer``: the
    law may be any between that and ``law``, which has more tokens."""
    at, (cdf, least) = (
        tokens[:, None],
        (
            torch.exp((z.double() - law.stats.max[:, None]) / law.temperature[:, None]).cumsum(-1)
            for z in (law.z, law.z if fewer is None else fewer.z)
        ),
    )
    high = cdf.gather(-1, at)[:, 0] / least[:, -1]
    low = torch.where(tokens > 0, least.gather(-1, (at - 1).clamp(min=0))[:, 0], 0.0) / cdf[:, -1]
    band = 2 * law.mass_error
    assert_between("uniform inside the cell of the token", uniform, low - band, high + band)
    assert bool((law.z.gather(-1, at) > -torch.inf).all()), "drew a token of mass zero"


def odds_interval(law, tokens):
    """[low, high] for sum_{j != t} exp((z_j - z_t) / T)."""
    z_token = law.z.gather(-1, tokens[:, None])[:, 0].double()
    odds = law.stats.rest_of(tokens, z_token, law.temperature)
    favourite = tokens == law.stats.argmax
    return tuple(
        torch.where(favourite, odds * (1 + sign * law.rest_error), (1 + odds) * (1 + sign * law.mass_error) - 1)
        .add(sign * FLOOR)
        .clamp(min=0)
        for sign in (-1, 1)
    )


def score_interval(law, tokens, confidence, conf_dtype, rank_uniform, demoted, held):
    """((value low, high), (key low, high)) as float64. ``held`` [n]: what the positions hold."""
    stats, t = law.stats, law.temperature
    if confidence == "neg_entropy":
        h = stats.entropy()
        ends = [scoring.round_to(-(h + sign * law.entropy_error), conf_dtype) for sign in (1, -1)]
        pairs = [(ends[0], ends[1]), (ends[0], ends[1])]
    else:
        odds = odds_interval(law, tokens)
        rest_error = law.rest_error * stats.rest + FLOOR
        rest = [(stats.rest - rest_error).clamp(min=0), stats.rest + rest_error]
        current = scoring.Current(held, logit_of(law.z, held))
        best, worst = (
            scoring.score(
                stats._replace(rest=rest[i]), tokens, odds[i], t, confidence, conf_dtype, rank_uniform, current
            )
            for i in (0, 1)
        )
        pairs = [(worst[0].double(), best[0].double()), (worst[1].double(), best[1].double())]
    if confidence != "random":
        pairs = [widen(*pair) for pair in pairs]
    value, key = pairs
    ends = [scoring.demote(v, k.float(), demoted, confidence) for v, k in zip(value, key)]
    return [end[0] for end in ends], [end[1].double() for end in ends]


# ---- the whole step ------------------------------------------------------------------------------------------------

DRAW_KEYWORDS = (
    "start",
    "rows",
    "shift",
    "suppress",
    "demote",
    "uncond_logits",
    "cfg_scale",
    "uniform",
    "confidence",
    "confidence_from",
    "conf_dtype",
    "rank_temperature",
)


def clone(x):
    """A copy with the same strides, and other memory between them."""
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype).copy_(x)


def places_of(x, logits, start, rows):
    """geometry.Rows: which canvas position each row speaks for."""
    if rows is None:
        return geometry.dense_rows(x.shape[0], logits.shape[1], start, x.device)
    return geometry.packed_rows(rows, x.shape[1])


def under(x, places):
    """The canvas below the rows; -1 below padding."""
    if x.numel() == 0 or places.real.numel() == 0:
        return torch.full(places.real.shape, -1, dtype=x.dtype)
    return torch.where(places.real, x[places.batch, places.position], -1)


def draws_for(ops, x, args, kwargs):
    """draw_tokens with the arguments of a denoise_step_."""
    more = {} if kwargs["rows"] is None else dict(length=x.shape[1])
    if kwargs["confidence"] in scoring.COMPARING:
        more["given"] = held_by(x, args, kwargs)
    drawing = {name: value for name, value in kwargs.items() if name in (*DRAW_KEYWORDS, *FILTERS)}
    return ops.draw_tokens(*args[:4], **drawing, **more)


def held_by(x, args, kwargs):
    """What the positions of the rows hold, int64 row-shaped."""
    return under(x, places_of(x, args[0], kwargs["start"], kwargs["rows"])).long()


def check_step(ops, case):
    """One case of denoise_step_ against everything known about the right answer; returns what it returned."""
    x, args, kwargs = case.build()
    want_x, got_x = clone(x), clone(x)
    want = reference.denoise_step_(want_x, *args, **kwargs)
    got = ops.denoise_step_(got_x, *args, **kwargs)
    tokens, confidence, committed, num_committed, num_open, num_bad = got

    places = places_of(x, args[0], kwargs["start"], kwargs["rows"])
    candidate = geometry.candidate_rows(
        x, places, kwargs["mask_id"], kwargs["window_start"], kwargs["window_stop"], kwargs["frozen"]
    )
    good = candidate.clone()
    if candidate.any():
        good &= ~draws_for(reference, x, args, kwargs)[5]

    def per_sequence(flags):
        return torch.bincount(places.batch[flags], minlength=x.shape[0])[: x.shape[0]]

    # 1. What no rounding can touch: rows that are skipped or bad, and the accounts.
    for name, mine, theirs in zip(("tokens", "confidence", "committed"), got, want):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, name
        assert_equal(f"{name} of skipped and bad rows", mine[~good], theirs[~good])
    assert not confidence.isnan().any()
    replay = clone(x)
    replay[places.batch[committed], places.position[committed]] = tokens[committed]
    assert_equal("x with the committed tokens", got_x, replay)
    assert_equal("num_bad", num_bad, per_sequence(candidate & ~good))
    assert_equal("num_committed", num_committed, per_sequence(committed))
    assert_equal("num_open", num_open, per_sequence(candidate & (under(got_x, places) == kwargs["mask_id"])))
    if not candidate.any():
        return got

    # 2. The same rows through draw_tokens: the same bits, and within the band of the fp64 laws.
    draws = draws_for(ops, x, args, kwargs)
    assert_equal("bad rows", draws[5][candidate], ~good[candidate])
    assert_equal("fused tokens", tokens[good].long(), draws[0][good])
    assert_equal("fused confidence", confidence[good], draws[1][good])
    check_draws(draws, good, places, args, {**kwargs, "given": held_by(x, args, kwargs)})

    # 3. Given the backend's own keys there is no band: its decisions are the rule's.
    want = decided(x, places, good, draws, args[4].expand(x.shape[0]), kwargs)
    if want is not None:
        assert_equal("committed, given the keys", committed, want)
    return got


def decided(x, places, good, draws, quota, kwargs):
    """What the rule makes of the ``draws`` of draw_tokens: bool, row-shaped; None if they cannot tell."""

    def on_canvas(values):
        canvas = torch.zeros(x.shape, dtype=torch.float64)
        canvas[places.batch[good], places.position[good]] = values[good].double()
        return canvas

    def chosen(value):
        answer = decide.decide(
            kwargs["rule"],
            on_canvas(good).bool(),
            on_canvas(value),
            on_canvas(draws[2]),
            on_canvas(draws[4]),
            quota=quota,
            level=kwargs["level"],
            low=kwargs["low"],
            strict=kwargs["strict"],
            conf_dtype=kwargs["conf_dtype"],
        )
        return answer[places.batch, places.position] & good

    if kwargs["conf_dtype"] == "float64" and (kwargs["rule"] == "segment_max" or kwargs["low"] > 0):
        return None  # it compared values with each other, too
    if kwargs["conf_dtype"] == "float64" and kwargs["rule"] in ("threshold", "factor"):
        # The rule compared 53 bits of the value and 24 were returned, so all it must be is possible.
        down, up = (torch.nextafter(draws[1], torch.tensor(end)) for end in (-torch.inf, torch.inf))
        if not torch.equal(chosen(down), chosen(up)):
            return None
    if kwargs["conf_dtype"] == "float64" and kwargs["rule"] == "segment_max":
        return None  # values that tie in 24 bits need not tie in 53
    return chosen(draws[1])


def check_draws(draws, rows, places, args, kwargs):
    """draw_tokens on ``rows`` (bool, row-shaped) against the fp64 laws of those rows."""
    index = rows.nonzero(as_tuple=True)
    if not index[0].numel():
        return
    tokens, confidence, key, logprob, entropy, _ = (output[index] for output in draws)
    logits, temperature, seed, step = args[:4]
    shift, uncond = kwargs["shift"], kwargs["uncond_logits"]
    z = effective_logits(
        geometry.read_rows(logits, index, shift),
        None if uncond is None else geometry.read_rows(uncond, index, shift),
        kwargs["cfg_scale"],
        kwargs["suppress"],
    )
    batch, position = places.batch[index], places.position[index]
    seed = geometry.per_request(seed, batch)
    t_draw = geometry.per_request(temperature, batch).double()
    law = law_of(z, scoring.law_temperature(t_draw, kwargs["confidence_from"]))

    warm, filters = t_draw > 0, filters_of(kwargs)
    assert_equal("greedy tokens", tokens[~warm], law.stats.argmax[~warm])
    drawn_from = [law_of(z, torch.where(warm, t_draw, 1.0))]  # or two laws between which it lies
    if filters is not None:
        ends = kept_between(z, t_draw, batch, filters, drawn_from[0].mass_error)
        drawn_from = [restricted(drawn_from[0], left) for left in ends]
    if warm.any():
        u = philox.draw_uniform(seed, position, step) if kwargs["uniform"] is None else kwargs["uniform"][index]
        fewer, more = (rows_of(end, warm) for end in (drawn_from[0], drawn_from[-1]))
        assert_tokens_in_band(more, tokens[warm], u[warm], fewer)

    laws = [law]
    if filters is not None and kwargs["confidence_from"] == "sampled":
        fewer, more = drawn_from  # what is kept has the token, so it has all that come before it
        laws = [restricted(fewer, torch.where(upto(z, tokens), more.z, fewer.z)), more]
    demoted = torch.zeros_like(warm) if kwargs["demote"] is None else torch.isin(tokens, kwargs["demote"])
    rank = philox.rank_uniform(seed, position, step)
    held = torch.full_like(tokens, -1) if kwargs.get("given") is None else kwargs["given"][index]

    def scored(law):
        value, key = score_interval(law, tokens, kwargs["confidence"], kwargs["conf_dtype"], rank, demoted, held)
        if kwargs.get("rank_temperature"):
            u = philox.draw_uniform(seed, position, step, philox.STREAM_RANK)
            ends = (scoring.stochastic_key(v, kwargs["rank_temperature"], u).double() for v in value)
            key = [torch.where(demoted, k, end) for k, end in zip(key, widen(*ends))]
        return value, key

    bands = [
        [
            *scored(law),
            logprob_interval(law, tokens),
            widen(law.stats.entropy() - law.entropy_error, law.stats.entropy() + law.entropy_error),
        ]
        for law in laws
    ]
    # All four are monotone in how many tokens there are.
    for name, mine, *intervals in zip(
        ("confidence", "key", "logprob", "entropy"), (confidence, key, logprob, entropy), *bands
    ):
        low, high = (torch.stack(edges) for edges in zip(*intervals))
        assert_between(name, mine, low.amin(0), high.amax(0))


def logprob_interval(law, tokens):
    """[low, high] for log p(t)."""
    z_token = law.z.gather(-1, tokens[:, None])[:, 0].double()
    exact = law.stats.logprob_of(z_token, law.temperature)
    favourite = tokens == law.stats.argmax
    low, high = (-torch.log1p(odds) for odds in reversed(odds_interval(law, tokens)))
    low = torch.where(favourite, low, exact - law.mass_error)
    high = torch.where(favourite, high, exact + law.mass_error)
    return widen(low, high)
