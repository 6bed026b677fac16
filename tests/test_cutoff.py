"""The cutoff: which tokens top-k, top-p and min-p leave of a row's law."""

import math

import pytest
import torch
from backends import is_slow, ops
from dlm_kernels.reference.cutoff import Filters, keep
from helpers import assert_equal, check_step, using_threads
from hypothesis import given
from hypothesis import strategies as st
from strategies import StepCase, make_logits, step_cases
from transition_laws import assert_frequencies
from uniform_cases import renoise_call, transition_call
from uniform_checks import check_renoise, check_transition, settled

import dlm_kernels as dlm

SEED, STEP = torch.tensor([11]), torch.tensor([5])
f64 = lambda *values: torch.tensor(values, dtype=torch.float64)
# Filters matter where a row is read: test_denoise_step.py has the rows that are not.
READ = dict(filtered=True, batch=2, length=3, width=3, window=False, frozen=False, bad_share=0.0)


def by_definition(row, temperature, top_k, top_p, min_p, filters):
    """The tokens kept, one by one and in words, with exact sums."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    weight = [math.exp((z - max(row)) / (temperature or 1.0)) for z in row]
    by_k = set(order[:top_k] if top_k else order)
    if top_k and filters.keep_ties:
        by_k |= {i for i in order if row[i] >= row[order[min(top_k, len(row)) - 1]]}
    counted = [i for i in order if filters.order == "top_p_first" or i in by_k]
    total, by_p = math.fsum(weight[i] for i in counted), set()
    for n, i in enumerate(counted):
        reached = math.fsum(weight[j] for j in counted[: n + filters.drop_crossing])
        if top_p == 1 or n == 0 or reached <= top_p * total:
            by_p.add(i)
    return {i for i in order if i in by_k and i in by_p and weight[i] >= min_p}


@given(
    row=st.lists(st.sampled_from([-math.inf, -3.0, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 100]),
    top_p=st.sampled_from([0.0, 0.237, 0.6, 0.913, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.4, 1.0]),
    order=st.sampled_from(["top_k_first", "top_p_first"]),
    drop_crossing=st.booleans(),
    keep_ties=st.booleans(),
)
def test_reference_is_the_definition(row, temperature, top_k, top_p, min_p, order, drop_crossing, keep_ties):
    if max(row) == -math.inf:
        return
    tensors = (torch.tensor([top_k]), torch.tensor([top_p]).double(), torch.tensor([min_p]).double())
    filters = Filters(*tensors, order, drop_crossing, keep_ties)
    kept = keep(torch.tensor([row]), torch.tensor([temperature]).double(), torch.tensor([0]), filters)[0]
    want = by_definition(row, temperature, top_k, tensors[1].item(), tensors[2].item(), filters)
    assert {i for i, z in enumerate(kept.tolist()) if z > -math.inf} == {i for i in want if row[i] > -math.inf}


def test_examples_of_others():
    """Probabilities .5, .3, .15, .05: transformers keeps three at p = .8, equality included; ReMDM two, and one at .79."""
    row = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double().log().float()

    def kept(top_p, **how):
        one, filters = torch.ones(1).double(), Filters(top_p=torch.tensor([top_p]).double(), **how)
        return int((keep(row, one, torch.tensor([0]), filters) > -math.inf).sum())

    assert kept(0.8 + 1e-6) == 3 and kept(0.8 - 1e-6) == 2
    assert kept(0.8 + 1e-6, drop_crossing=True) == 2 and kept(0.79, drop_crossing=True) == 1


# ---- the ops against the reference ---------------------------------------------------------------------------------


@given(case=step_cases(**READ, open_share=1.0))
def test_denoise_step(backend, case):
    check_step(ops, case)


@pytest.mark.parametrize("kind", ["normal", "peaked", "ties", "equal"])
def test_large_vocabulary(backend, kind):
    """Where a row has many chunks and candidates, and 16-bit logits tie by the hundred."""
    size = dict(batch=2, length=2, width=2, vocab=20_000 if is_slow(backend) else 60_000)
    case = StepCase(seed=3, kind=kind, temperature="mixed", per_request=True, filtered=True, **size)
    for seed, dtype in enumerate(["float32", "bfloat16", "float16"]):
        check_step(ops, case.but(seed=seed, dtype=dtype, confidence_from="sampled", guidance=[None, None, 0.5][seed]))


@given(case=step_cases(**READ, open_share=0.0), trace=st.booleans())
def test_transition_step(backend, case, trace):
    check_transition(ops, settled(transition_call(case, trace=trace)))


@given(case=step_cases(**READ, open_share=0.0), probs=st.booleans())
def test_renoise_step(backend, case, probs):
    check_renoise(ops, settled(renoise_call(case, probs=probs, trace=True)))


@pytest.mark.parametrize("redraw", ["min_p", "guidance", "score"])
def test_redraws_weigh_what_is_kept(backend, redraw):
    """The step on filtered laws is that on logits whose other tokens are suppressed; guidance filters each side."""
    g = torch.Generator().manual_seed(0)
    n, vocab, one = 400, 40, torch.ones(1)
    rows = [make_logits(g, "normal", (1, n, vocab)) / 2 for _ in range(2)]
    filters = Filters(top_k=torch.tensor([9]), top_p=f64(0.83))
    cut = [keep(z[0], one.double(), torch.zeros(n).long(), filters)[None] for z in rows]
    coefficients = torch.zeros(1, 14, dtype=torch.float64)
    coefficients[0, 2:8] = f64(0.2, 0.05, 0.9, 0.8, 0.2, 0.0)
    x, level = torch.randint(vocab, (1, n), generator=g), {"min_p": 0.02, "guidance": 1.7, "score": 0.0}[redraw]

    def tokens(logits, uncond, **kwargs):
        kwargs.update(redraw=redraw, level=level, uncond_logits=uncond if redraw == "guidance" else None)
        return ops.transition_step_(x.clone(), logits, one, SEED, STEP, coefficients, **kwargs)

    got = tokens(*rows, top_k=filters.top_k, top_p=filters.top_p)
    for name, mine, theirs in zip(("tokens", "route"), got, tokens(*cut)):
        assert_equal(name, mine, theirs)
    assert not torch.equal(got[0], tokens(*rows)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [torch.finfo(torch.bfloat16).min, 3e38, -5e6, 0.0])
def test_rows_of_one_value(backend, dtype, value):
    """A row that a logits processor has filled: so far out a float's neighbour already weighs nothing beside it. Which of the
    equal tokens stay is a matter of their indices."""
    row = torch.full((3000,), value, dtype=dtype)
    row[:700] = -torch.inf
    z, ends = row.expand(1, 2, 3000), f64(0.0, 1 - 2.0**-53)[None]
    for filters, last in (
        (dict(top_k=torch.tensor([400])), 1099),
        (dict(top_p=f64(1150.5 / 2300)), 1850),
        (dict(top_p=f64(1150.5 / 2300), drop_crossing=True), 1849),
        (dict(top_k=torch.tensor([400]), top_p=f64(200.5 / 400)), 900),
        (dict(min_p=f64(1.0)), 2999),
    ):
        tokens = ops.draw_tokens(z, torch.tensor([0.9]), SEED, STEP, uniform=ends, **filters)[0]
        assert tokens.tolist() == [[700, last]], filters


# ---- laws, and what changes nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filters",
    [
        dict(top_k=torch.tensor([5])),
        dict(top_p=f64(0.77)),
        dict(top_p=f64(0.77), drop_crossing=True),
        dict(min_p=f64(0.1)),
        dict(top_k=torch.tensor([20]), top_p=f64(0.6), min_p=f64(0.02), filter_order="top_p_first"),
    ],
    ids=lambda filters: "-".join(filters),
)
def test_keyed_draws_follow_the_filtered_law(backend, filters):
    n, row = (
        1000 if is_slow(backend) else 20_000,
        make_logits(torch.Generator().manual_seed(37), "normal", (37,)) / 3 - 50,
    )
    temperature = torch.tensor([0.8])
    kept = keep(
        row[None],
        temperature.double(),
        torch.tensor([0]),
        Filters(**{k.replace("filter_", ""): v for k, v in filters.items()}),
    )
    tokens = ops.draw_tokens(row.expand(n, -1), temperature, SEED, STEP, **filters)[0]
    assert_frequencies(torch.bincount(tokens, minlength=37), (kept[0].double() / 0.8).softmax(-1))


def test_which_confidence_sees_the_filters(backend):
    """Of p = .5, .3, .2 with top_k = 2: the raw and the tempered law have the third token, the sampled one does not."""
    row = torch.tensor([[[0.5, 0.3, 0.2]]]).log()

    def drawn(source, temperature):
        kwargs = dict(top_k=torch.tensor([2]), confidence_from=source)
        tokens, confidence, _, _, entropy, _ = ops.draw_tokens(row, torch.tensor([temperature]), SEED, STEP, **kwargs)
        return confidence.item(), row[0, 0, tokens.item()].double().exp().item(), entropy.item()

    for temperature in (0.0, 1.0):
        for source, share in (("raw", 1.0), ("tempered", 1.0), ("sampled", 0.8)):
            confidence, p, entropy = drawn(source, temperature)
            assert confidence == pytest.approx(p / share, rel=1e-6)
            assert entropy == pytest.approx(0.661563 if source == "sampled" else 1.029653, abs=1e-5)
    cold = (0.5**2 + 0.3**2, 0.5**2 + 0.3**2 + 0.2**2)
    for source, total in (("sampled", cold[0]), ("tempered", cold[1])):
        confidence, p, _ = drawn(source, 0.5)
        assert confidence == pytest.approx(p**2 / total, rel=1e-6)


def test_threads_and_batch_do_not_change_a_cutoff(isa):
    """A row alone, in a batch, with one thread or two, whole rows or chunks of rows: the same bits."""
    g = torch.Generator().manual_seed(0)
    for vocab, rows in [(30_000, 3), (3000, 30)]:
        logits = make_logits(g, "normal", (1, rows, vocab)).bfloat16()
        args = (torch.tensor([0.9]), SEED, STEP)
        filters = dict(top_k=torch.tensor([vocab // 3]), top_p=f64(0.9), confidence_from="sampled")
        with using_threads(1):
            want = ops.draw_tokens(logits, *args, **filters)
        with using_threads(2):
            for got, a in zip(ops.draw_tokens(logits, *args, **filters), want):
                assert_equal("two threads", got, a)
            for i in range(rows):
                single = ops.draw_tokens(logits[:, i : i + 1], *args, start=torch.tensor([i]), **filters)
                for got, a in zip(single, want):
                    assert_equal(f"row {i} alone", got[0, 0], a[0, i])


def test_float_flags_of_the_caller_do_not_matter(isa):
    """torch.set_flush_denormal makes the float next to zero zero, on the thread that asks for it."""
    row = torch.zeros(5000)
    row[1000:1005] = 2.0
    args = (row.expand(1, 40, 5000), torch.tensor([1.0]), SEED, STEP)
    for filters in (dict(top_k=torch.tensor([50])), dict(top_p=f64(0.5)), dict(top_p=f64(0.5), drop_crossing=True)):
        for threads in (1, 2):
            with using_threads(threads):
                want = ops.draw_tokens(*args, confidence_from="sampled", **filters)
                assert torch.set_flush_denormal(True)
                try:
                    got = ops.draw_tokens(*args, confidence_from="sampled", **filters)
                    assert torch.tensor([1e-40]).add(1e-40).item() == 0  # as the caller had it
                finally:
                    torch.set_flush_denormal(False)
            for mine, theirs in zip(got, want):
                assert_equal("flushing", mine, theirs)


def test_packed_rows_have_filters_of_their_sequences(isa):
    """Numbers [B] of a filter alone say how many sequences there are."""
    z = make_logits(torch.Generator().manual_seed(1), "normal", (3, 20, 60))
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    how = dict(temperature=1.0, seed=3, confidence_from="sampled")
    for filters in (
        dict(top_k=torch.tensor([1, 5, 0])),
        dict(top_p=torch.tensor([0.2, 1.0, 0.7])),
        dict(top_k=9, min_p=torch.tensor([0.0, 0.3, 0.1])),
    ):
        want = dlm.draw_tokens(z, **how, **filters)
        got = dlm.draw_tokens(z.flatten(0, 1)[rows], rows=rows, length=20, **how, **filters)
        for mine, theirs in zip(got, want):
            assert_equal("packed", mine, theirs.flatten()[rows])
    alone = dlm.draw_tokens(
        torch.zeros(6, 60), rows=torch.arange(6), length=3, temperature=1.0, top_k=torch.tensor([0, 0])
    )
    assert len(set(alone.tokens[:3].tolist()) | set(alone.tokens[3:].tolist())) > 1
    for wrong in (dict(top_p=f64(1, 1)), dict(seed=torch.tensor([1, 2]))):
        with pytest.raises(ValueError, match=r"(top_p|top_k): shape must be \[1\] or \[[23]\]"):
            dlm.draw_tokens(
                z[:, 0], rows=torch.arange(3), length=20, **{**how, "top_k": torch.tensor([1, 5, 0]), **wrong}
            )


def test_python_arguments(isa):
    """Off is off, numbers are tensors of one, and the names of the Python layer reach the op."""
    z = make_logits(torch.Generator().manual_seed(1), "ties", (2, 40, 50))
    draw = lambda **how: dlm.draw_tokens(z, temperature=1.0, seed=3, confidence_from="sampled", **how)
    plain = draw()
    for off in (
        dict(top_k=0, top_p=1.0, min_p=0.0),
        dict(top_k=None),
        dict(top_k=torch.zeros(2).long(), top_p=torch.ones(2)),
    ):
        for mine, theirs in zip(draw(**off), plain):
            assert_equal("without filters", mine, theirs)
    for mine, theirs in zip(
        draw(top_k=4, top_p=0.7, min_p=0.1), draw(top_k=torch.tensor([4]), top_p=f64(0.7), min_p=f64(0.1, 0.1))
    ):
        assert_equal("numbers", mine, theirs)
    args = (z, torch.ones(1), torch.tensor([3]), torch.tensor([0]))
    want = ops.draw_tokens(
        *args, top_k=torch.tensor([4]), top_p=f64(0.7), filter_order="top_p_first", drop_crossing=True, keep_ties=True
    )
    assert_equal(
        "tokens",
        draw(top_k=4, top_p=0.7, filter_order="top_p_first", top_p_crossing="drop", top_k_ties="all").tokens,
        want[0],
    )
    assert set(draw(top_k=1).tokens.flatten().tolist()) <= set(z.argmax(-1).flatten().tolist())
    assert len(set(draw(top_k=1, top_k_ties="all").tokens[0].tolist())) > len(set(draw(top_k=1).tokens[0].tolist()))
