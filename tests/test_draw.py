"""The draw: inverse CDF with one uniform, exact at temperature 0 and on a grid of uniforms."""

import math

import pytest
import torch
from backends import is_slow, isas, ops
from dlm_kernels.reference import chunk, geometry
from dlm_kernels.reference.draw import draw
from dlm_kernels.reference.row_stats import sweep
from helpers import assert_all, assert_equal, check_draws, using_threads
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, TEMPERATURES, VOCABS, make_logits, spoil, strided

SEED, STEP = torch.tensor([11]), torch.tensor([5])
GRID = 20_000_000


def draw_row(row, temperature, uniform):
    """Tokens of one row of logits for many uniforms: the row is expanded, never copied."""
    tokens = []
    for u in uniform.split(2**20):
        logits = row[None, None].expand(1, len(u), -1)
        tokens.append(ops.draw_tokens(logits, torch.tensor([temperature]), SEED, STEP, uniform=u[None])[0][0])
    return torch.cat(tokens)


# ---- the reference and csrc/core against the definition ------------------------------------------------------------


@given(
    row=st.lists(st.sampled_from([-math.inf, -40.0, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=20),
    u=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53])),
    t=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
def test_reference_is_the_definition(row, u, t):
    if max(row) == -math.inf:
        return
    z, temperature = torch.tensor([row]), torch.tensor([t]).double()
    token = draw(z, sweep(z, torch.ones(1).double()), temperature, torch.tensor([u]).double()).item()
    if t == 0:
        assert token == row.index(max(row))
        return
    mass = [math.exp((v - max(row)) / t) for v in row]
    assert mass[token] > 0
    before, total = math.fsum(mass[:token]), math.fsum(mass)
    assert before <= u * total * (1 + 1e-12) and u * total * (1 - 1e-12) <= before + mass[token]


@given(
    data=st.data(),
    beta=st.sampled_from([0.5, 1.0, 2.0]),
    u=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([2.0**-53, 1 - 2.0**-53])),
)
def test_pick_chunk_is_the_cdf_of_chunks(native_core, data, beta, u):
    n = data.draw(st.integers(1, 32))
    maxima = data.draw(st.lists(st.sampled_from([-math.inf, -300.0, -2.0, 0.0, 3.0]), min_size=n, max_size=n))
    masses = [0.0 if top == -math.inf else data.draw(st.floats(1, 1024)) for top in maxima]
    if max(maxima) == -math.inf:
        return
    picked, target = native_core.pick_chunk(maxima, masses, beta, u)
    scale = [math.exp((top - max(maxima)) * beta) for top in maxima]
    mass = [s * m for s, m in zip(scale, masses)]
    before, total = math.fsum(mass[:picked]), math.fsum(mass)
    assert mass[picked] > 0 and 0 <= target <= masses[picked]
    assert before <= u * total + 1e-12 * total and u * total <= before + mass[picked] + 1e-12 * total
    assert target * scale[picked] == pytest.approx(u * total - before, abs=1e-12 * total)


# ---- the op --------------------------------------------------------------------------------------------------------


@given(
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
    vocab=st.sampled_from(VOCABS),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    layout=st.sampled_from(["dense", "sequence", "packed"]),
    temperature=st.sampled_from(TEMPERATURES),
    gaps=st.booleans(),
    shift=st.sampled_from([0, -1]),
    source=st.sampled_from(["raw", "sampled"]),
    per_request=st.booleans(),
)
def test_draw_tokens_op(backend, data, seed, vocab, kind, dtype, layout, temperature, gaps, shift, source, per_request):
    """Every layout of rows against the laws; the fused step has the rest of the arguments."""
    g = torch.Generator().manual_seed(seed)
    limit = max(1, 30_000 // vocab)
    size, length = data.draw(st.integers(0, min(3, limit))), data.draw(st.integers(0, min(7, limit)))
    if layout == "sequence":
        size, shape = 1, (length, vocab)
    else:
        shape = (size * length, vocab) if layout == "packed" else (size, length, vocab)
    logits = spoil(g, make_logits(g, kind, shape), 0.1).to(getattr(torch, dtype))
    logits = strided(logits) if gaps else logits
    per = size if per_request else 1
    choices = torch.tensor(
        {"zero": [0.0], "one": [1.0], "low": [0.3], "high": [3.0], "mixed": [0.0, 0.7, 1.3]}[temperature]
    )
    args = (
        logits,
        choices[torch.randint(len(choices), (per,), generator=g)],
        torch.randint(-(2**62), 2**62, (per,), generator=g),
        torch.randint(0, 2**40, (1,), generator=g),
    )
    kwargs = dict(shift=shift, confidence_from=source)
    if layout == "packed":
        room = max(length, 1) + 3
        rows = torch.randperm(max(size, 1) * room, generator=g)[: size * length]
        kwargs.update(rows=torch.where(torch.rand(rows.shape, generator=g) < 0.2, -1, rows), length=room, shift=0)
        places = geometry.packed_rows(kwargs["rows"], room)
    elif layout == "sequence":
        places = geometry.packed_rows(torch.arange(length), max(length, 1))
        kwargs.update(shift=0)
    else:
        kwargs.update(start=torch.randint(0, 1000, (per,), generator=g) if data.draw(st.booleans()) else None)
        places = geometry.dense_rows(size, length, kwargs["start"], None)
    draws = ops.draw_tokens(*args, **kwargs)
    everything = dict(
        uncond_logits=None,
        cfg_scale=0.0,
        suppress=None,
        demote=None,
        uniform=None,
        confidence="prob",
        conf_dtype="float32",
    )
    check_draws(draws, places.real & ~draws[5], places, args, {**everything, **kwargs})
    empty = ~places.real | draws[5]
    for output, nothing in zip(draws, (-1, -math.inf, -math.inf, -math.inf, 0)):
        assert not output.isnan().any() and bool((output[empty] == nothing).all())
    assert not draws[5][~places.real].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 7, 1024, 1025, 126464])
def test_temperature_zero_is_argmax_and_ties_go_low(backend, vocab, dtype):
    g = torch.Generator().manual_seed(vocab)
    logits = make_logits(g, "normal", (1, 4, vocab)).to(dtype)
    logits[0, 1] = torch.where(torch.rand(vocab, generator=g) < 0.01, 50.0, logits[0, 1].float()).to(dtype)
    logits[0, 2] = -2.0
    logits[0, 3, -1] = 60.0
    tokens = ops.draw_tokens(logits, torch.zeros(1), SEED, STEP)[0]
    first = torch.tensor([int((row == row.amax()).nonzero()[0]) for row in logits[0]])
    assert_equal("tokens", tokens[0], first)


def exact(row, temperature):
    """Probabilities and CDF in fp64."""
    weights = torch.exp((row.double() - row.double().amax()) / torch.tensor(temperature).double())
    return weights / weights.sum(), (weights / weights.sum()).cumsum(-1)


def test_grid_counts_are_exact(backend):
    """u = (i + 0.5) / N for N = 2e7: every token is drawn N p times, give or take 8. Chi-squared would not see this."""
    if backend != isas()[0] or backend == "reference":
        pytest.skip("the best instruction set only: half a minute; test_grid_edges does this for all of them")
    row = make_logits(torch.Generator().manual_seed(3), "normal", (1000,))
    counts = torch.zeros(1000, dtype=torch.int64)
    with using_threads(2):
        for begin in range(0, GRID, 2**20):
            u = (torch.arange(begin, min(begin + 2**20, GRID)).double() + 0.5) / GRID
            counts += torch.bincount(draw_row(row, 1.0, u), minlength=1000)
    want = exact(row, 1.0)[0] * GRID
    assert_all("counts on the grid", (counts - want).abs() <= 8, counts, want, "within 8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab, temperature", [(1000, 1.0), (1000, 0.7), (3000, 1.5), (40_000, 1.0)])
def test_grid_edges(backend, vocab, temperature, dtype):
    """The same counts from the edges of the cells alone: draws are monotone in u, so the grid between them is known."""
    g = torch.Generator().manual_seed(vocab)
    row = (make_logits(g, "normal", (vocab,)) - 20).to(dtype)
    probability, cdf = exact(row, temperature)
    edges = torch.tensor([e for begin, end in chunk.chunk_edges(vocab) for e in (begin, end - 1)])
    tokens = torch.cat([edges, torch.randint(vocab, (60,), generator=g)])[: 200 if vocab <= 3000 else 40]
    tokens = tokens[:: 32 if is_slow(backend) else 1]
    reach = 30 + vocab // 1000  # how far the edge itself may drift; the cells between edges may not
    counted = []
    for edge in (tokens - 1, tokens):  # grid points drawn at or below `edge`
        middle = torch.where(edge < 0, 0.0, cdf[edge.clamp(min=0)] * GRID).round().long()
        window = (middle[:, None] + torch.arange(-reach, reach)).clamp(0, GRID - 1)
        drawn = draw_row(row, temperature, ((window.double() + 0.5) / GRID).flatten()).reshape(window.shape)
        assert bool((drawn.diff(dim=-1) >= 0).all()), "not monotone in u"
        below = drawn <= edge[:, None]
        inside = window[:, :-1].diff(dim=-1).ne(0).all(-1) & (window[:, 0] > 0) & (window[:, -1] < GRID - 1)
        assert bool((below[inside, 0] & ~below[inside, -1]).all()), "an edge of a cell drifted too far"
        last = torch.where(below, window, -1).amax(-1)
        counted.append(torch.where(edge < 0, 0, torch.where(edge == vocab - 1, GRID, last + 1)))
    counts, want = counted[1] - counted[0], probability[tokens] * GRID
    assert_all("counts on the grid", (counts - want).abs() <= 8, counts, want, "within 8")


@pytest.mark.parametrize("vocab", [37, 1000])
def test_keyed_draws_follow_the_law(backend, vocab):
    """Chi-squared of Philox draws over positions. Logits are all negative: a lane padded with 0 would win here."""
    n = 20_000 if is_slow(backend) or backend == "reference" else 200_000
    row = make_logits(torch.Generator().manual_seed(vocab), "normal", (vocab,)) / 3 - 50
    tokens = ops.draw_tokens(row.expand(n, vocab), torch.tensor([0.8]), torch.tensor([123]), torch.tensor([9]))[0]
    want = exact(row, 0.8)[0] * n
    counts = torch.bincount(tokens, minlength=vocab)
    rare = want < 5  # pooled, as the test's approximation wants
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]]).double()
    want = torch.cat([want[~rare], want[rare].sum()[None]])
    kept = want > 0
    statistic = ((counts - want) ** 2 / want)[kept].sum().item()
    freedom = int(kept.sum()) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)
    assert statistic > freedom - 5 * math.sqrt(2 * freedom)  # too good is wrong as well


def test_zero_mass_is_never_drawn(backend):
    """At both ends of the uniforms, with holes at both ends of the row and of a chunk."""
    row = torch.full((3000,), -torch.inf)
    row[[7, 1500, 2900]] = torch.tensor([0.0, 1.0, -90.0])
    u = torch.tensor([0.0, 2.0**-53, 0.25, 0.5, 0.75, 1 - 2.0**-30, 1 - 2.0**-53], dtype=torch.float64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tokens = draw_row(row.to(dtype), 1.0, u)
        assert set(tokens.tolist()) <= {7, 1500, 2900} and tokens[0] == 7 and tokens[4] == 1500
    suppressed = ops.draw_tokens(
        torch.zeros(1, 7, 64), torch.ones(1), SEED, STEP, uniform=u[None], suppress=torch.arange(63)
    )[0]
    assert bool((suppressed == 63).all())


def test_uniforms_outside_the_law_do_no_harm(backend):
    """A device kernel cannot check a uniform; one that got past the checks must still name a token."""
    row = torch.zeros(40).index_fill(0, torch.tensor([39]), -torch.inf)
    u = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert draw_row(row, 1.0, u).tolist() == [0, 38]


def test_threads_and_batch_do_not_change_a_draw(isa):
    """A row alone, in a batch, with one thread or two, whole rows or chunks of rows: the same bits."""
    g = torch.Generator().manual_seed(0)
    for vocab, rows in [(126464, 3), (5000, 64)]:
        logits = make_logits(g, "normal", (1, rows, vocab)).bfloat16()
        args = (torch.tensor([0.9]), SEED, STEP)
        with using_threads(1):
            want = ops.draw_tokens(logits, *args)
        with using_threads(2):
            for got, a in zip(ops.draw_tokens(logits, *args), want):
                assert_equal("two threads", got, a)
            for i in range(rows):
                single = ops.draw_tokens(logits[:, i : i + 1], *args, start=torch.tensor([i]))
                for got, a in zip(single, want):
                    assert_equal(f"row {i} alone", got[0, 0], a[0, i])


# ---- where the ways through a row meet -----------------------------------------------------------------------------


def drawn(row, temperature, uniforms):
    rows = row.expand(1, len(uniforms), -1)
    return ops.draw_tokens(
        rows,
        torch.tensor([temperature]),
        torch.tensor([1]),
        torch.tensor(0),
        uniform=torch.tensor([uniforms], dtype=torch.float64),
    )[0][0].tolist()


def test_draws_far_from_one(backend):
    """A law too cold for one multiply-add per logit, beside a confidence law that is not."""
    assert drawn(torch.full((3000,), 3000.7), 1e-6, [0.1, 0.5, 0.9]) == [300, 1500, 2700] or drawn(
        torch.full((3000,), 3000.7), 1e-6, [0.1, 0.5, 0.9]
    ) == [300, 1500, 2699]


@pytest.mark.parametrize("ids", [[31, 35, 37], [0, 4095, 157183], [30, 31, 32]])
def test_a_few_tokens_of_many(backend, ids):
    """Mass at three tokens only, wherever warps and stretches end."""
    row = torch.full((157184,), -torch.inf)
    row[ids] = 0.0
    assert drawn(row, 1.0, [0.1, 0.5, 0.9]) == ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_maximum_that_comes_late(backend, dtype):
    """A long chunk that begins with nothing, and whose logits are far below zero: sums move to each new maximum."""
    g = torch.Generator().manual_seed(0)
    vocab = 157184
    step = torch.arange(vocab) % 4912
    row = torch.randn(vocab, generator=g) - 140 + 1.5 * (step // 1024)
    row = row.masked_fill(step < 2048, -torch.inf).to(dtype)
    p, cdf = exact(row, 0.3)
    uniforms = [0.01, 0.3, 0.77, 0.99]
    for token, u in zip(drawn(row, 0.3, uniforms), uniforms):
        assert cdf[token] - p[token] - 1e-5 <= u <= cdf[token] + 1e-5
    stats = ops.row_stats(row[None], torch.tensor([0.3]))
    torch.testing.assert_close(
        stats[2][0].double(), torch.logsumexp(row.double() / torch.tensor(0.3).double(), 0), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("shifted", ["row", "guidance"])
@pytest.mark.parametrize("vocab, dtype", [(4103, torch.bfloat16), (60017, torch.bfloat16), (40001, torch.float32)])
def test_rows_that_begin_anywhere(backend, vocab, dtype, shifted):
    """Alignment decides how a row is fetched, not what is summed: the same bits wherever it lies, and nothing behind it read.
    Chunks are whole tiles of the CUDA sweep here, more than that, and an odd number of logits."""
    g = torch.Generator().manual_seed(0)
    values = make_logits(g, "normal", (2, 2, vocab)).to(dtype)
    outputs = []
    for offset in (0, 1, 2, 3, 4, 5, 7, 8):
        room = torch.full((2, 2, vocab + 25), torch.nan, dtype=dtype)
        at = offset if shifted == "row" else 0
        logits, uncond = room[0, :, at : at + vocab], room[1, :, offset : offset + vocab]
        logits.copy_(values[0])
        uncond.copy_(values[1])
        guided = {} if shifted == "row" else dict(uncond_logits=uncond, cfg_scale=0.5)
        outputs.append(ops.row_stats(logits, torch.tensor([5.0]), **guided))  # so warm that every logit shows
    for other in outputs[1:]:
        for mine, theirs in zip(other, outputs[0]):
            assert_equal(f"statistics, {shifted} shifted", mine, theirs)
