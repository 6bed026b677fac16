"""The registered ops: schemas, fake kernels, torch.compile, and what a step allocates."""

import pytest
import torch
from backends import ops
from filter_cases import FILTERS
from helpers import assert_equal
from strategies import StepCase, make_logits
from uniform_cases import a_trace, copied, noising_call, renoise_call, transition_call

import dlm_kernels as dlm

CASES = {
    "filtered": StepCase(seed=4, temperature="mixed", per_request=True, filtered=True, confidence_from="sampled"),
    "dense": StepCase(seed=1, temperature="mixed", per_request=True, frozen=True, start=True, width=5),
    "packed": StepCase(seed=2, packed=True, padding=True, x_dtype="int32", dtype="bfloat16", suppress=2, demote=3),
    "guided": StepCase(
        seed=3,
        guidance=1.0,
        strided=True,
        own_uniform=True,
        temperature="one",
        shift=-1,
        window=True,
        rule="threshold",
        confidence="margin",
        bad_share=0.3,
    ),
}


def samples():
    """(op, args, kwargs) for all of them."""
    for name, case in CASES.items():
        x, args, kwargs = case.build()
        logits, temperature, seed, step, quota = args
        yield pytest.param(ops.denoise_step_, (x, *args), kwargs, id=f"denoise_step_-{name}")
        keep = ("start", "rows", "shift", "suppress", "demote", "uncond_logits", "cfg_scale", "uniform", "confidence")
        drawing = {k: v for k, v in kwargs.items() if k in (*keep, *FILTERS)}
        if case.packed:
            drawing["length"] = x.shape[1]
        yield pytest.param(ops.draw_tokens, args[:4], drawing, id=f"draw_tokens-{name}")
        keep = ("uncond_logits", "cfg_scale", "suppress")
        stats = {k: kwargs[k] for k in keep}
        given = torch.zeros(logits.shape[:-1], dtype=torch.int64)
        yield pytest.param(ops.row_stats, (logits, torch.ones(1)), {**stats, "given": given}, id=f"row_stats-{name}")
        other = dict(wanted=given.bool() | True)
        yield pytest.param(ops.row_kl, (logits, logits.half(), torch.ones(1)), other, id=f"row_kl-{name}")
        keep = ("mask_id", "window_start", "window_stop", "frozen", "start", "rows")
        where = {k: kwargs[k] for k in keep}
        tokens = torch.ones(logits.shape[:-1], dtype=x.dtype)
        confidence = torch.rand(logits.shape[:-1], generator=torch.Generator().manual_seed(1))
        yield pytest.param(ops.topk_unmask_, (x, tokens, confidence, quota), where, id=f"topk_unmask_-{name}")

        trace = a_trace(torch.Generator().manual_seed(2), x, case.vocab)
        yield pytest.param(ops.denoise_step_, (x, *args), {**kwargs, **trace}, id=f"denoise_step_-{name}-traced")
        editing = dict(
            edit=0.1, edited=torch.zeros_like(given, dtype=torch.bool), num_edited=torch.ones(x.shape[0]).long()
        )
        editing.update(rule="threshold", ready=torch.zeros_like(given, dtype=torch.bool))
        editing["edits_left"] = torch.ones(x.shape[0], dtype=torch.int64)
        yield pytest.param(ops.denoise_step_, (x, *args), {**kwargs, **editing}, id=f"denoise_step_-{name}-editing")
        lowest = {**where, "below": 0.5}
        yield pytest.param(ops.remask_, (x, confidence, quota), lowest, id=f"remask_-{name}")
        where = {**where, **trace, "step": step}
        lowest = {**where, "below": 0.5}
        yield pytest.param(ops.remask_, (x, confidence, quota), lowest, id=f"remask_-{name}-traced")
        yield pytest.param(ops.topk_unmask_, (x, tokens, confidence, quota), where, id=f"topk_unmask_-{name}-traced")
        drawing = {**drawing, "confidence": "gain", "given": given}
        yield pytest.param(ops.draw_tokens, args[:4], drawing, id=f"draw_tokens-{name}-gain")
        for full in (False, True):
            note = "-full" if full else ""
            x, args, kwargs = renoise_call(case, state=full, committed=full, probs=full, trace=full)
            yield pytest.param(ops.renoise_step_, (x, *args), kwargs, id=f"renoise_step_-{name}{note}")
            x, args, kwargs = transition_call(case, trace=full)
            yield pytest.param(ops.transition_step_, (x, *args), kwargs, id=f"transition_step_-{name}{note}")
        yield pytest.param(ops.q_sample, *noising_call(case), id=f"q_sample-{name}")


@pytest.mark.parametrize("op, args, kwargs", list(samples()))
def test_opcheck(op, args, kwargs):
    """Schema against behaviour (what is mutated, what aliases), fake kernels, autograd registration, AOT dispatch."""
    torch.library.opcheck(op, args, kwargs)


@pytest.mark.parametrize("op, args, kwargs", list(samples()))
def test_fake_kernels_tell_the_shapes(op, args, kwargs):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = lambda v: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v
        told = op(*map(fake, args), **{k: fake(v) for k, v in kwargs.items()})
    x, rest, more = copied((args[0], args[1:], kwargs))
    real = op(x, *rest, **more)
    for t, r in zip(told, real):
        assert (t.shape, t.dtype, t.stride(), t.device) == (r.shape, r.dtype, r.stride(), r.device)


def generate(x, logits, temperature, seed, step):
    """A step in a user's words, with work of their own around it."""
    out = dlm.denoise_step_(
        x,
        logits * 1.5,
        mask_id=99,
        rule=dlm.TopK(2),
        temperature=temperature,
        seed=seed,
        step=step,
        suppress=torch.tensor([3, 99]),
        window=(1, 6),
    )
    draws = dlm.draw_tokens(logits, temperature=temperature, seed=seed, step=step, confidence="margin")
    stats = dlm.row_stats(logits, temperature=0.7, given=draws.tokens)
    more = dlm.topk_unmask_(x, draws.tokens, draws.key, 1, mask_id=99)
    dlm.remask_(x, draws.key, 1, mask_id=99, window=(0, 4))
    edits = dlm.denoise_step_(x, logits, mask_id=99, rule=dlm.TopK(1), edit=0.1, edits_left=seed * 0 + 1)
    state = dlm.KlassState.start(logits)
    dlm.klass_step_(x, logits, state, mask_id=99, threshold=0.1)
    dlm.remasking.p2_step_(x, logits, mask_id=99, kappa=0.7, eta=1.5)
    more = more._replace(committed=more.committed | edits.edited)
    return out.tokens + 1, out.confidence * 2, out.num_open, draws.logprob, stats.p_given, more.committed, x + 0


def inputs(seed=0):
    logits = make_logits(torch.Generator().manual_seed(seed), "normal", (2, 8, 50))
    return torch.full((2, 8), 99), logits, torch.tensor([0.0, 0.8]), torch.tensor([seed, seed + 1]), torch.tensor(seed)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(compiler, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(generate, fullgraph=True, backend=compiler, dynamic=dynamic)
    for seed in (0, 1):
        eager_args, compiled_args = inputs(seed), inputs(seed)
        for i, (want, got) in enumerate(zip(generate(*eager_args), compiled(*compiled_args))):
            if want.is_floating_point():
                torch.testing.assert_close(got, want)
            else:
                assert_equal(f"output {i}", got, want)
        assert_equal("x", compiled_args[0], eager_args[0])


def test_seeds_and_steps_do_not_recompile():
    """They are tensors: a hundred steps of a hundred requests are one graph."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(generate, fullgraph=True, backend=counter)
    outcomes = {str(compiled(*inputs(seed))[0].tolist()) for seed in range(5)}
    assert counter.frame_count == 1 and len(outcomes) == 5


def test_filters_that_are_numbers_compile():
    """Also such as change from call to call, which torch.compile takes for symbols."""
    torch._dynamo.reset()

    def step(x, logits, top_k, share):
        filters = dict(top_k=top_k, top_p=share, min_p=share / 10)
        return dlm.denoise_step(x, logits, mask_id=99, rule=dlm.TopK(3), temperature=1.0, seed=5, **filters)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x, logits, *_ = inputs()
    for top_k, share in ((5, 0.9), (6, 0.5), (7, 0.1)):
        for got, want in zip(compiled(x, logits, top_k, share), step(x, logits, top_k, share)):
            assert_equal(f"{top_k} {share}", got, want)


def test_functional_step_compiles():
    torch._dynamo.reset()
    step = lambda x, logits: dlm.denoise_step(x, logits, mask_id=99, rule=dlm.Threshold(0.5)).x
    x, logits, *_ = inputs()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(x, logits)
    assert_equal("x", got, step(x, logits))
    assert bool((x == 99).all())


def test_a_step_allocates_next_to_nothing(run_python):
    """256 rows of 126464 logits: the peak memory of the process grows by less than a hundredth of them."""
    done = run_python("""
import resource, torch, dlm_kernels as dlm
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
rows, vocab = 256, 126464
logits = torch.zeros(1, rows, vocab, dtype=torch.bfloat16)
logits.view(torch.int16).random_(0, 16000)
def step(x, z, **kwargs):
    dlm.denoise_step_(x, z, mask_id=-1, rule=dlm.TopK(3), seed=1, **kwargs)
calls = [dict(temperature=0.0), dict(temperature=0.8, suppress=[5, 70000]), dict(uncond_logits=True, cfg_scale=1.0)]
def all_calls(x, z):
    for kwargs in calls:
        step(x, z, **{k: z if k == "uncond_logits" else v for k, v in kwargs.items()})
all_calls(torch.full((1, 4), -1), logits[:, :4])
before = peak()
all_calls(torch.full((1, rows), -1), logits)
print(peak() - before, logits.nbytes)
""")
    grown, size = map(int, done.stdout.split())
    if dlm._load.load().backend != "reference":
        assert grown < size / 100
