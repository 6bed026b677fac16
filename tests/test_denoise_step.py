"""The fused step: everything at once against the reference and the fp64 laws; then what must not change a bit."""

import pytest
import torch
from backends import is_slow, isas, ops, using_isa
from dlm_kernels.reference import geometry
from helpers import assert_equal, check_step, clone, draws_for, places_of, under, using_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import RULES, StepCase, make_logits, step_cases

import dlm_kernels as dlm
from dlm_kernels import reference

NAMES = ("tokens", "confidence", "committed", "num_committed", "num_open", "num_bad")


def run(case, implementation=ops):
    x, args, kwargs = case.build()
    return x, implementation.denoise_step_(x, *args, **kwargs)


def assert_same_step(mine, theirs, note=""):
    """(x, outputs) bitwise."""
    assert_equal(f"x {note}", mine[0], theirs[0])
    for name, a, b in zip(NAMES, mine[1], theirs[1]):
        assert_equal(f"{name} {note}", a, b)


# ---- against the reference -----------------------------------------------------------------------------------------


@settings(max_examples=4 * settings.default.max_examples)
@given(case=step_cases())
def test_step(backend, case):
    check_step(ops, case)


@given(case=step_cases(all_open=True))
def test_without_a_mask_every_position_is_open(backend, case):
    """Whatever it holds, the mask of other cases included; nothing is left open then."""
    assert not check_step(ops, case)[4].any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("temperature", ["zero", "mixed"])
def test_real_vocabulary(backend, rule, dtype, temperature):
    """LLaDA's 126464, where a row has 32 chunks of 3952: both laws, guidance, suppressed ids in several chunks."""
    width = 2 if is_slow(backend) else 6
    case = StepCase(
        seed=1,
        batch=2,
        length=width + 1,
        width=width,
        start=True,
        vocab=126464,
        dtype=dtype,
        rule=rule,
        temperature=temperature,
        per_request=True,
        suppress=40,
        demote=3,
        quota=3,
    )
    check_step(ops, case)
    check_step(ops, case.but(guidance=1.0, strided=True, confidence="margin", confidence_from="sampled"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["normal", "holes", "large"])
def test_long_chunks(backend, dtype, kind):
    """A vocabulary whose chunks no block takes in one turn, under a draw law of its own."""
    case = StepCase(
        seed=2, batch=1, length=3, width=3, vocab=140_001, dtype=dtype, kind=kind, temperature="high", open_share=1.0
    )
    check_step(ops, case.but(confidence="neg_entropy"))
    check_step(ops, case.but(temperature="low", suppress=50))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "shape",
    [
        dict(batch=2, length=600, width=590, vocab=9, start=True),  # too long to be sorted beside the sweep
        dict(batch=1, length=700, width=700, vocab=2, packed=True, padding=True),
        dict(
            batch=40, length=3, width=3, vocab=5, packed=True, padding=True
        ),  # too many packed sequences for one launch
        dict(batch=1, length=4200, width=4200, vocab=2),  # too long for shared memory
        dict(batch=3, length=1500, width=1500, vocab=2, packed=True),
    ],
    ids=lambda s: "-".join(str(v) for v in s.values()),
)
def test_many_rows(backend, rule, shape):
    """Every way in which a backend may have to sort and decide."""
    if is_slow(backend) and shape["batch"] * shape["length"] > 4000 and rule not in ("topk", "entropy_budget"):
        return  # the sort is the same for every rule
    check_step(
        ops, StepCase(seed=3, rule=rule, quota=shape["length"] // 3, temperature="mixed", bad_share=0.05, **shape)
    )


@given(
    case=step_cases(
        kind="normal", bad_share=0.0, conf_dtype="float32", dtype="float32", temperature="zero", guidance=None
    )
)
def test_greedy_tokens_never_differ_from_the_reference(backend, case):
    """At temperature 0 there is no band for tokens at all: the reference, the kernels and torch.argmax agree."""
    x, args, kwargs = case.build()
    want = reference.denoise_step_(clone(x), *args, **kwargs)[0]
    assert_equal("tokens", ops.denoise_step_(clone(x), *args, **kwargs)[0], want)


@pytest.mark.parametrize("length", [5, 300])
def test_ties_at_the_cut_go_to_the_lowest_positions(backend, length):
    """Rows that are all alike, step by step; 300 of them are selected where five are sorted."""
    x, logits = torch.full((1, length), 9), torch.zeros(1, length, 9)
    logits[..., 2] = 1
    zero = torch.zeros(1)
    for filled in range(2, length // 2 + 1, 2):
        args = x, logits, zero, zero.long(), zero.long()[0], torch.tensor([2])
        out = ops.denoise_step_(*args, mask_id=9, rule="topk", level=0.0, confidence="prob", conf_dtype="float32")
        assert out[3].item() == 2 and out[4].item() == length - filled
        assert x[0].tolist() == [2] * filled + [9] * (length - filled)
        if filled == 6:
            break


@given(case=step_cases(rule="topk", conf_dtype="float32"))
def test_fused_is_draw_then_unmask(backend, case):
    """denoise_step_ = draw_tokens, then topk_unmask_ on its keys."""
    x, args, kwargs = case.build()
    fused_x, parts_x = clone(x), clone(x)
    fused = ops.denoise_step_(fused_x, *args, **kwargs)
    if x.numel() == 0:
        return
    draws = draws_for(ops, x, args, kwargs)
    where = {name: kwargs[name] for name in ("mask_id", "window_start", "window_stop", "frozen", "start", "rows")}
    parts = ops.topk_unmask_(parts_x, draws[0].to(x.dtype), draws[2], args[4], **where)
    assert_equal("x", fused_x, parts_x)
    for name, a, b in zip(NAMES[2:5], fused[2:5], parts[:3]):
        assert_equal(name, a, b)


# ---- what must not change a bit ------------------------------------------------------------------------------------


@given(case=step_cases())
def test_again_is_the_same(backend, case):
    assert_same_step(run(case), run(case), "again")


@given(case=step_cases(batch=3, per_request=True, packed=False))
def test_a_sequence_alone_is_the_sequence_in_a_batch(backend, case):
    whole = run(case)
    x, args, kwargs = case.build()

    def pick(t, b):
        return t[b : b + 1] if isinstance(t, torch.Tensor) and t.shape[:1] == (3,) else t

    for b in range(3):
        logits, temperature, seed, step, quota = (pick(t, b) for t in args)
        mine = {k: pick(v, b) if k in ("frozen", "start", "uncond_logits", "uniform") else v for k, v in kwargs.items()}
        one_x = clone(pick(x, b))
        out = ops.denoise_step_(one_x, logits, temperature, seed, step, quota, **mine)
        assert_equal(f"x of sequence {b}", one_x[0], whole[0][b])
        for name, a, w in zip(NAMES, out, whole[1]):
            assert_equal(f"{name} of sequence {b}", a[0], w[b])


@given(case=step_cases())
def test_one_thread_or_two(isa, case):
    with using_threads(1):
        alone = run(case)
    with using_threads(2):
        assert_same_step(run(case), alone, "with two threads")


@pytest.mark.parametrize("width, dtype", [(1, "bfloat16"), (3, "float32"), (40, "float16")])
def test_one_thread_or_two_at_size(isa, width, dtype):
    """Enough work that threads really share it: chunks of a row where rows are few, rows where they are many."""
    case = StepCase(
        seed=4, batch=1, length=width, width=width, vocab=40_000, dtype=dtype, temperature="mixed", open_share=1.0
    )
    with using_threads(1):
        alone = run(case)
    for threads in (2, 3, 5):
        with using_threads(threads):
            assert_same_step(run(case), alone, f"with {threads} threads")


@given(case=step_cases(packed=True), seed=st.integers(0, 1000))
def test_order_of_packed_rows(backend, case, seed):
    x, args, kwargs = case.build()
    order = torch.randperm(args[0].shape[0], generator=torch.Generator().manual_seed(seed))
    shuffled = {
        k: v[order] if k in ("rows", "uncond_logits", "uniform") and v is not None else v for k, v in kwargs.items()
    }
    mine_x, theirs_x = clone(x), clone(x)
    mine = ops.denoise_step_(mine_x, *args, **kwargs)
    theirs = ops.denoise_step_(theirs_x, args[0][order], *args[1:], **shuffled)
    assert_equal("x", mine_x, theirs_x)
    for name, a, b in zip(NAMES, mine, theirs):
        assert_equal(name, a if name.startswith("num_") else a[order], b)


@given(case=step_cases(packed=False))
def test_packed_is_dense(backend, case):
    """The same rows listed one by one."""
    x, args, kwargs = case.build()
    places = places_of(x, args[0], kwargs["start"], None)
    index = torch.ones_like(places.real).nonzero(as_tuple=True)
    flat = lambda t: None if t is None else geometry.read_rows(t, index, kwargs["shift"])
    packed = {
        **kwargs,
        "start": None,
        "shift": 0,
        "rows": (places.batch * x.shape[1] + places.position)[index],
        "uncond_logits": flat(kwargs["uncond_logits"]),
        "uniform": None if kwargs["uniform"] is None else kwargs["uniform"][index],
    }
    mine_x, theirs_x = clone(x), clone(x)
    mine = ops.denoise_step_(mine_x, *args, **kwargs)
    theirs = ops.denoise_step_(theirs_x, flat(args[0]), *args[1:], **packed)
    assert_equal("x", mine_x, theirs_x)
    for name, a, b in zip(NAMES, mine, theirs):
        assert_equal(name, a if name.startswith("num_") else a[index], b)


@given(case=step_cases())
def test_only_candidate_rows_are_read(backend, case):
    """NaN in every row that cannot change makes no difference: prompts, frozen and finished positions cost nothing."""
    x, args, kwargs = case.build()
    want_x = clone(x)
    want = ops.denoise_step_(want_x, *args, **kwargs)
    places = places_of(x, args[0], kwargs["start"], kwargs["rows"])
    candidate = geometry.candidate_rows(
        x, places, kwargs["mask_id"], kwargs["window_start"], kwargs["window_stop"], kwargs["frozen"]
    )
    *leading, last = candidate.nonzero(as_tuple=True)
    read = torch.zeros_like(candidate)
    read[(*leading, (last + kwargs["shift"]).clamp(min=0))] = True
    for tensor in (args[0], kwargs["uncond_logits"]):
        if tensor is not None:
            tensor[~read] = torch.nan
    assert_same_step((x, ops.denoise_step_(x, *args, **kwargs)), (want_x, want), "with NaN elsewhere")


@given(case=step_cases(strided=False))
def test_strides_do_not_matter(backend, case):
    x, args, kwargs = case.build()
    want_x = clone(x)
    want = ops.denoise_step_(want_x, *args, **kwargs)
    gaps = case.but(strided=True).build()
    mine_x, mine_args, mine_kwargs = gaps
    assert args[0].numel() == 0 or case.batch * case.width <= 1 or not mine_args[0].is_contiguous()
    out = ops.denoise_step_(mine_x, *mine_args, **mine_kwargs)
    assert_same_step((mine_x, out), (want_x, want), "with gaps between rows")


def test_small_arguments_may_be_views(backend):
    """Every other element of something, one element expanded, a column of a table: strides are honoured everywhere."""
    spread = lambda t: torch.stack([t, torch.full_like(t, 77)], -1)[..., 0]
    case = StepCase(seed=21, batch=3, width=5, start=True, temperature="mixed", per_request=True, frozen=True)
    case = case.but(suppress=4, demote=4, own_uniform=True)
    x, args, kwargs = case.build()
    want_x = clone(x)
    want = ops.denoise_step_(want_x, *args, **kwargs)
    views = {k: spread(v) if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
    logits, temperature, seed, step, quota = args
    out = ops.denoise_step_(x, logits, spread(temperature), spread(seed), step[None], spread(quota), **views)
    assert_same_step((x, out), (want_x, want), "through views")
    one = torch.tensor([1.3])
    for mine, theirs in zip(*(draws_for(ops, x, (logits, t, seed, step), kwargs) for t in (one, one.expand(3)))):
        assert_equal("expanded temperature", mine, theirs)


def test_canvas_dtype_does_not_matter(backend):
    case = StepCase(seed=9, batch=3, temperature="mixed", per_request=True)
    long, short = run(case), run(case.but(x_dtype="int32"))
    assert short[0].dtype == short[1][0].dtype == torch.int32
    assert_same_step((short[0].long(), (short[1][0].long(), *short[1][1:])), long)


@given(case=step_cases(temperature="one", own_uniform=False, packed=False, conf_dtype="float32"))
def test_instruction_sets_draw_the_same(case):
    """Tokens of all paths agree unless a draw is within the band of an edge; with few rows that is next to never."""
    results = []
    for name in isas():
        with using_isa(name):
            results.append(run(case)[1][0])
    for other in results[1:]:
        different = (other != results[0]).sum().item()
        assert different <= max(1, other.numel() // 50)


# ---- randomness ----------------------------------------------------------------------------------------------------


def tokens_of(seed=1, step=1, start=0, width=64):
    logits = torch.zeros(1, width, 1000)
    x = torch.full((1, 200), -1)
    return ops.denoise_step_(
        x,
        logits,
        torch.ones(1),
        torch.tensor([seed]),
        torch.tensor(step),
        torch.tensor([0]),
        mask_id=-1,
        rule="topk",
        start=torch.tensor([start]),
    )[0][0]


def test_noise_is_keyed_by_seed_position_and_step(backend):
    assert_equal("repeated", tokens_of(), tokens_of())
    assert_equal("position, not row, is what counts", tokens_of(start=5)[:-5], tokens_of()[5:])
    for other in (
        tokens_of(seed=2),
        tokens_of(step=2),
        tokens_of(start=1),
        tokens_of(seed=2**32 + 1),
        tokens_of(step=2**32 + 1),
    ):
        assert (other == tokens_of()).float().mean() < 0.1


# ---- the Python step -----------------------------------------------------------------------------------------------


def test_python_step_and_its_functional_twin():
    x = torch.full((2, 6), 99)
    logits = make_logits(torch.Generator().manual_seed(0), "normal", (2, 6, 50))
    kwargs = dict(
        mask_id=99,
        rule=dlm.TopK(torch.tensor([1, 4])),
        temperature=torch.tensor([0.0, 0.9]),
        seed=torch.tensor([3, 4]),
        step=7,
        suppress=[99, 3],
        window=(1, 6),
        confidence="margin",
        conf_dtype=torch.bfloat16,
    )
    untouched = x.clone()
    copy = dlm.denoise_step(x, logits, **kwargs)
    assert_equal("x of the functional step", x, untouched)
    out = dlm.denoise_step_(x, logits, **kwargs)
    assert out.x is x and copy.x is not x
    for name, a, b in zip(out._fields, out, copy):
        assert_equal(name, a, b)
    assert out.num_committed.tolist() == [1, 4] and bool((x[:, 0] == 99).all())

    draws = dlm.draw_tokens(
        logits,
        temperature=kwargs["temperature"],
        seed=kwargs["seed"],
        step=7,
        suppress=[99, 3],
        confidence="margin",
        conf_dtype=torch.bfloat16,
    )
    y = untouched.clone()
    parts = dlm.topk_unmask_(y, draws.tokens, draws.key, torch.tensor([1, 4]), mask_id=99, window=(1, 6))
    assert parts.x is y
    assert_equal("parts", y, x)
    assert_equal(
        "topk_unmask",
        dlm.topk_unmask(untouched, draws.tokens, draws.key, torch.tensor([1, 4]), mask_id=99, window=(1, 6)).x,
        x,
    )


def test_python_seeds():
    logits = torch.zeros(2, 40, 1000)
    draw = lambda **kwargs: dlm.draw_tokens(logits, temperature=1.0, **kwargs).tokens
    assert_equal("an int seeds every sequence alike", draw(seed=5)[0], draw(seed=5)[1])
    assert (draw(seed=dlm.request_seeds(5, 2))[0] == draw(seed=dlm.request_seeds(5, 2))[1]).float().mean() < 0.2
    assert (draw() == draw()).float().mean() < 0.2 and (draw()[0] == draw()[1]).float().mean() < 0.2
    again = [draw(generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert_equal("a generator repeats", *again)
    assert_equal("a step is an int or a tensor", draw(seed=5, step=2), draw(seed=5, step=torch.tensor(2)))
    assert dlm.request_seeds(5, 1000).unique().numel() == 1000


def test_a_whole_generation_ends_with_a_full_canvas(isa):
    """Every rule makes progress: a canvas of masks is full after at most as many steps as positions."""
    g = torch.Generator().manual_seed(0)
    for rule in (
        dlm.TopK(3),
        dlm.Threshold(0.9),
        dlm.Threshold(0.9, strict=False, within=1e-5),
        dlm.Factor(1.0),
        dlm.EntropyThreshold(0.5),
        dlm.EntropyBudget(0.1),
        dlm.EntropyBudget(0.1, order="confidence"),
        dlm.SegmentMax(),
        dlm.SegmentMax(0.9, low=0.2),
    ):
        x = torch.full((2, 16), 999)
        for step in range(16):
            out = dlm.denoise_step_(
                x, make_logits(g, "normal", (2, 16, 300)), mask_id=999, rule=rule, temperature=1.0, seed=1, step=step
            )
            assert_equal("num_open", out.num_open, (x == 999).sum(-1))
        assert not (x == 999).any()


def test_requires_grad_is_ignored():
    x, logits = torch.full((1, 4), 9), torch.randn(1, 4, 8, requires_grad=True)
    out = dlm.denoise_step_(x, logits, mask_id=9, rule=dlm.TopK(4))
    assert not out.confidence.requires_grad and out.num_open.item() == 0
    assert_equal("x under places", under(x, geometry.dense_rows(1, 4, None, None)), x)
