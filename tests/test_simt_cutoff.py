"""The cutoff in the CUDA sources, in the SIMT runtime: which tokens stay, read off the probabilities that renoise_step_ writes,
on rows that take every way through the search; and that neither schedules nor hostile values matter."""

import platform
import shutil

import pytest
import torch
from dlm_kernels.reference.cutoff import Filters
from filter_cases import kept_between
from helpers import assert_equal, law_of
from strategies import make_logits
from test_device_values import WILD_FLOATS, WILD_INTEGERS
from test_simt_uniform import Runtime, assert_same_call, case_of
from uniform_cases import copied, renoise_call, transition_call

if shutil.which("g++") is None or platform.machine() != "x86_64":
    pytest.skip("needs g++ on x86-64", allow_module_level=True)


@pytest.fixture(params=["plain", "race"])
def runtime(request):
    made = Runtime(request.param)
    yield made
    made.schedule()


def per_row(value, rows, dtype):
    return None if value is None else torch.tensor([value] * rows, dtype=dtype)


def kept_by(ops, z, temperature=1.0, top_k=None, top_p=None, min_p=None, order="top_k_first", **ties):
    """bool [n, V]: where renoise_step_ finds that the filtered law of the rows ``z`` has any mass."""
    rows = len(z)
    probs = torch.full(z[:, None].shape, 0.5, dtype=torch.bfloat16)
    filters = Filters(
        per_row(top_k, 1, torch.int64),
        per_row(top_p, 1, torch.float64),
        per_row(min_p, 1, torch.float64),
        order,
        **ties,
    )
    ops.renoise_step_(
        torch.zeros(rows, 1, dtype=torch.int64),
        z[:, None],
        torch.tensor([temperature]),
        torch.tensor([3]),
        torch.tensor(1),
        torch.tensor([1]),
        rule="entropy_budget",
        probs=probs,
        confidence_from="sampled",
        **dict(zip(("top_k", "top_p", "min_p", "filter_order", "drop_crossing", "keep_ties"), filters)),
    )
    return probs[:, 0] > 0, filters


def assert_kept(ops, z, temperature=1.0, **filters):
    """The reference's tokens; at the edge of top_p, what rounding may make of them."""
    got, filters = kept_by(ops, z, temperature, **filters)
    law = law_of(z.float(), torch.full((len(z),), temperature or 1.0))
    batch = torch.zeros(len(z), dtype=torch.int64)
    inner, outer = kept_between(z.float(), torch.full((len(z),), temperature).double(), batch, filters, law.mass_error)
    visible = (z.double() - z.double().amax(-1, keepdim=True)) / (temperature or 1.0) > -80  # in bfloat16
    assert_equal("kept, but cut off", got & (outer == -torch.inf), torch.zeros_like(got))
    assert_equal("cut off, but kept", ~got & visible & (inner > -torch.inf), torch.zeros_like(got))


ROWS = {
    # a few bins to begin with, then keys, then indices: all of them tie, over many chunks
    "equal": lambda g, v: torch.full((1, v), 2.5),
    "two values": lambda g, v: torch.randint(2, (1, v), generator=g).float(),
    "both zeros": lambda g, v: torch.where(torch.rand(1, v, generator=g) < 0.5, 0.0, -0.0),
    # told apart by nothing but the last bits, on both sides of zero
    "next to each other": lambda g, v: 1 + torch.randint(-300, 300, (1, v), generator=g) * 2.0**-23,
    "tiny": lambda g, v: torch.randint(-3000, 3000, (1, v), generator=g) * 2.0**-149,
    "of any size": lambda g, v: torch.randn(1, v, generator=g) * 2.0 ** torch.randint(-140, 6, (1, v), generator=g),
    "too large for bins": lambda g, v: 2.0**23 + torch.randint(0, 900, (1, v), generator=g),
    "huge": lambda g, v: torch.randn(1, v, generator=g) * 1e37,
    "normal": lambda g, v: make_logits(g, "normal", (1, v)),
    "flat": lambda g, v: make_logits(g, "normal", (1, v)) / 10,
    "peaked": lambda g, v: make_logits(g, "peaked", (1, v)),
    "holes": lambda g, v: make_logits(g, "holes", (1, v)),
}
FILTERS = {
    "one": dict(top_k=1),
    "few": dict(top_k=50),
    "more than partials": dict(top_k=700),
    "with its ties": dict(top_k=700, keep_ties=True),
    "nearly all": dict(top_p=0.999),
    "half": dict(top_p=0.5, drop_crossing=True),
    "none but the first": dict(top_p=0.0),
    "both": dict(top_k=300, top_p=0.7),
    "both, of all": dict(top_k=300, top_p=0.7, order="top_p_first"),
    "all three": dict(top_k=500, top_p=0.9, min_p=0.01),
    "by the largest": dict(min_p=0.2),
}


@pytest.mark.parametrize("kind", ROWS)
def test_kept(runtime, kind):
    g = torch.Generator().manual_seed(len(kind))
    vocab = 1100 if runtime.kind == "race" else 5000
    z = ROWS[kind](g, vocab)
    for temperature in (1.0, 0.3, 0.0):
        for filters in FILTERS.values():
            assert_kept(runtime.ops, z, temperature, **filters)
    for dtype in (torch.bfloat16, torch.float16):
        if kind in ("two values", "normal", "flat", "of any size"):
            for filters in FILTERS.values():
                assert_kept(runtime.ops, z.to(dtype), **filters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_of_many(dtype):
    """Chunks of more than a tile, and candidates by the thousand."""
    runtime = Runtime("plain")
    g = torch.Generator().manual_seed(1)
    z = make_logits(g, "normal", (1, 40_000)).to(dtype) / 3
    for filters in ("more than partials", "nearly all", "half", "both"):
        assert_kept(runtime.ops, z, **FILTERS[filters])


SHAPES = ("one launch, rows in parts", "guided, with gaps", "33 packed sequences, two launches")


@pytest.mark.parametrize("name", SHAPES)
def test_any_schedule_cuts_the_same(runtime, name):
    """Of fused steps, rows in parts, and launches with no dynamic shared memory but the cutoff's."""
    for source in ("raw", "sampled"):
        call = renoise_call(case_of(name, filtered=True, confidence_from=source), probs=True, trace=True)
        assert_same_call("renoise_step_", call, runtime)
    assert_same_call("transition_step_", transition_call(case_of(name, filtered=True), trace=True), runtime)


@pytest.mark.parametrize("name", ["one launch, rows in parts", "guided, with gaps"])
def test_hostile_filters_are_survived(runtime, name):
    """On a device they come unchecked."""
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        wild = lambda values, g=g: values[torch.randint(len(values), (2,), generator=g)]
        hostile = dict(
            top_k=wild(WILD_INTEGERS),
            top_p=wild(WILD_FLOATS).double(),
            min_p=wild(WILD_FLOATS).double(),
            keep_ties=seed > 1,
        )
        for make in (renoise_call, transition_call):
            x, args, kwargs = make(case_of(name, seed=seed, confidence_from="sampled", bad_share=0.0, filtered=True))
            kwargs.update(hostile)
            op = "renoise_step_" if make is renoise_call else "transition_step_"
            before = x.clone()
            out = getattr(runtime.ops, op)(x, *args, **kwargs)
            changed = x[(x != before) & (x != kwargs["mask_id"])]
            assert bool(((changed >= 0) & (changed < args[0].shape[-1])).all())
            assert not any(t.isnan().any() for t in out if t.is_floating_point())


@pytest.mark.parametrize("redraw, level", [("none", 0.0), ("min_p", 0.001), ("guidance", 1.7), ("score", 0.0)])
@pytest.mark.parametrize("name", ["one launch, rows in parts", "33 packed sequences, two launches"])
def test_filtered_transitions_are_the_cpus(runtime, name, redraw, level):
    """Both rows of guidance are cut, each by itself. No band: the sums that decide are of numbers of tokens."""
    from dlm_kernels import _ops

    x, args, kwargs = transition_call(case_of(name, temperature="one", dtype="float32"))
    kwargs.update(redraw=redraw, level=level, top_k=torch.tensor([9]), min_p=torch.tensor([1e-3]).double())
    if redraw == "guidance":
        kwargs.update(uncond_logits=args[0].roll(1, -1), cfg_scale=0.0)
    mine, theirs = copied((x, args, kwargs)), copied((x, args, kwargs))
    got = runtime.ops.transition_step_(mine[0], *mine[1], **mine[2])
    want = _ops.transition_step_(theirs[0], *theirs[1], **theirs[2])
    assert_equal("x", mine[0], theirs[0])
    for i in (0, 1, 4, 5):
        assert_equal(f"output {i}", got[i], want[i])
    for i in (2, 3):
        torch.testing.assert_close(got[i], want[i], rtol=1e-5, atol=1e-7)


def test_a_rest_far_below_the_maximum(runtime):
    """Rivals that exponentials in float lose are found about the largest of them: down to denormals of double."""
    for gap in (50.0, 90.0, 300.0, 700.0):
        row = torch.full((1, 3000), -torch.inf)
        row[0, [5, 6, 7]] = torch.tensor([1000.0, 1000.0 - gap, 1000.0 - gap])
        out = runtime.ops.draw_tokens(
            row, torch.ones(1), torch.tensor([1]), torch.tensor([0]), confidence="margin", conf_dtype="float64"
        )
        assert out[0].tolist() == [5]
        key = runtime.ops.row_stats(row, torch.ones(1))[4]
        torch.testing.assert_close(
            key.double(), torch.tensor([2.0]).double() * torch.exp(-torch.tensor(gap).double()), rtol=1e-5, atol=1e-44
        )
