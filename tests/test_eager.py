"""Ops past torch's dispatcher: the same in every respect, and never where somebody else wants to see the call."""

import copy
import sys

import pytest
import torch
from backends import by_position, eager_ops
from helpers import assert_equal
from hypothesis import given
from strategies import step_cases
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from uniform_cases import renoise_call, transition_call
from validate_calls import OPS, call_of, editing, i64, state, tracing

import dlm_kernels as dlm
from dlm_kernels import _load, _ops, eager
from dlm_kernels.seeds import fresh_seeds

pytestmark = pytest.mark.skipif(
    _load.load().backend != "cpu" or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
    reason="needs the extension, and a torch with the DLPack exchange API",
)
LOGITS = torch.randn(2, 6, 50, generator=torch.Generator().manual_seed(0))
CANVAS = torch.full((2, 6), 3)
STEPS = {
    "row_stats": lambda x, z: dlm.row_stats(z),
    "row_kl": lambda x, z: dlm.row_kl(z, z),
    "draw_tokens": lambda x, z: dlm.draw_tokens(z, temperature=0.7, seed=1, top_k=5, top_p=0.9),
    "denoise_step_": lambda x, z: dlm.denoise_step_(x, z, mask_id=3, rule=dlm.TopK(2), seed=1, suppress=[4]),
    "topk_unmask_": lambda x, z: dlm.topk_unmask_(x, z.argmax(-1), z.amax(-1), 2, mask_id=3),
    "remask_": lambda x, z: dlm.remask_(x, z.amax(-1), 2, mask_id=7),
    "renoise_step_": lambda x, z: dlm.renoise_step_(x, z, seed=1, step=2),
    "transition_step_": lambda x, z: dlm.uniform_step_(x, z, alpha_t=0.3, alpha_s=0.6, seed=1),
    "q_sample": lambda x, z: dlm.q_sample(x, alpha=0.5, vocab_size=50, seed=1),
}
assert set(STEPS) == set(_ops.SCHEMAS)


@pytest.fixture
def taken(monkeypatch):
    """What the functions answered, by op: True where they did the work."""
    answers = []

    def watched(name, function):
        def call(*args):
            out = function(*args)
            answers.append((name, out is not NotImplemented))
            return out

        return call

    monkeypatch.setattr(eager, "FUNCTIONS", {name: watched(name, f) for name, f in eager.FUNCTIONS.items()})
    return answers


def run(name, x=CANVAS, logits=LOGITS):
    """What the public step returns, and the canvas."""
    x = x.clone()
    out = STEPS[name](x, logits)
    return (*((out,) if isinstance(out, torch.Tensor) else out), x)


def by_dispatcher(name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(eager, "FUNCTIONS", dict.fromkeys(_ops.SCHEMAS, lambda *_: NotImplemented))
        return run(name)


@pytest.mark.parametrize("name", STEPS)
def test_a_plain_call_is_taken_and_gives_the_same(name, taken, monkeypatch):
    got = run(name)
    assert taken == [(name, True)]
    for mine, theirs in zip(got, by_dispatcher(name, monkeypatch), strict=True):
        assert mine.dtype == theirs.dtype and mine.stride() == theirs.stride() and type(mine) is torch.Tensor
        assert mine.data_ptr() % 64 == 0 and mine._version == theirs._version
        assert_equal(name, mine, theirs)


def equal_calls(name, x, args, kwargs):
    results = []
    for ops in (_ops, eager_ops):
        call = copy.deepcopy((x, args, kwargs))
        out = getattr(ops, name)(call[0], *call[1], **call[2])
        results.append((*out, *(v for v in (call[0], *call[2].values()) if isinstance(v, torch.Tensor))))
    for mine, theirs in zip(*results, strict=True):
        assert_equal(name, mine, theirs)


@given(case=step_cases())
def test_any_call_gives_the_same(case):
    x, args, kwargs = case.build()
    equal_calls("denoise_step_", x, args, kwargs)
    equal_calls("renoise_step_", *renoise_call(case, committed=True, probs=True, trace=True))
    equal_calls("transition_step_", *transition_call(case, trace=True))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("packed", [False, True])
def test_legal_calls_are_taken(op, packed):
    more = tracing() if op.endswith("_") else {}
    if op in ("topk_unmask_", "remask_"):
        more["step"] = i64(0)
    more |= state() if op == "renoise_step_" else editing() if op == "denoise_step_" else {}
    for arguments in (call_of(op, packed), {**call_of(op, packed), **more}):
        assert eager.FUNCTIONS[op](*by_position(op, (), arguments)) is not NotImplemented


def test_numbers_are_as_good_as_tensors():
    numbers = dict(temperature=0.7, seed=2**62, step=-5, top_k=4, top_p=0.8, min_p=0.01)
    tensors = dict(
        temperature=torch.tensor([0.7]), seed=i64(2**62), step=i64(-5), top_k=i64(4),
        top_p=torch.tensor([0.8], dtype=torch.float64), min_p=torch.tensor([0.01], dtype=torch.float64),
    )  # fmt: skip
    draw = lambda given: eager.FUNCTIONS["draw_tokens"](*by_position("draw_tokens", (LOGITS,), given))
    for mine, theirs in zip(draw(numbers), draw(tensors)):
        assert_equal("outputs", mine, theirs)


# ---- seeds that nobody gave ----------------------------------------------------------------------------------------

DRAWS = {
    "draw_tokens": lambda x, z, **seed: dlm.draw_tokens(z, temperature=0.7, **seed),
    "denoise_step_": lambda x, z, **seed: dlm.denoise_step_(x, z, mask_id=3, rule=dlm.TopK(2), temperature=0.7, **seed),
    "renoise_step_": lambda x, z, **seed: dlm.renoise_step_(x, z, **seed),
    "transition_step_": lambda x, z, **seed: dlm.uniform_step_(x, z, alpha_t=0.3, alpha_s=0.6, **seed),
    "q_sample": lambda x, z, **seed: (dlm.q_sample(x, alpha=0.5, vocab_size=50, **seed),),
}


def drawn(name, batches=(2, 1, 1, 2), logits=LOGITS, **seed):
    """The outputs of several calls, and what torch draws next."""
    outputs = [DRAWS[name](CANVAS[:b].clone(), logits[:b], **{k: draw(b) for k, draw in seed.items()}) for b in batches]
    return [field for out in outputs for field in out] + [torch.rand(3)]


@pytest.mark.parametrize("name", DRAWS)
def test_torch_draws_seeds_as_ever(name, taken, monkeypatch):
    """By torch.manual_seed, one for each sequence in every call, whoever makes it."""
    torch.manual_seed(5)
    got = drawn(name)
    assert taken == [(name, True)] * 4
    for seed in ({}, {"seed": lambda batch: fresh_seeds(batch, "cpu")}):
        torch.manual_seed(5)
        with monkeypatch.context() as patch:
            if not seed:
                patch.setattr(eager, "FUNCTIONS", dict.fromkeys(_ops.SCHEMAS, lambda *_: NotImplemented))
            again = drawn(name, **seed)
        for mine, theirs in zip(got, again, strict=True):
            assert_equal(name, mine, theirs)


def test_what_is_declined_draws_once(taken):
    torch.manual_seed(5)
    want = drawn("draw_tokens", logits=-LOGITS)
    torch.manual_seed(5)
    for mine, theirs in zip(drawn("draw_tokens", logits=torch._neg_view(LOGITS)), want, strict=True):
        assert_equal("draw", mine, theirs)
    assert taken == [("draw_tokens", True)] * 4 + [("draw_tokens", False)] * 4


def test_threads_draw_seeds_of_their_own():
    from concurrent.futures import ThreadPoolExecutor

    x, z = CANVAS[:1].expand(1, 6).clone(), torch.zeros(1, 6, 1 << 16)
    with ThreadPoolExecutor(4) as pool:
        tokens = list(pool.map(lambda _: tuple(dlm.renoise_step(x, z).tokens[0].tolist()), range(64)))
    assert len(set(tokens)) == 64


# ---- who else may want to see a call -------------------------------------------------------------------------------


class Dispatches(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Dispatches, Functions])
@pytest.mark.parametrize("name", STEPS)
def test_modes_see_the_op(name, mode, taken):
    with mode() as active:
        run(name)
    assert taken and not any(by for _, by in taken)
    assert f"dlm_kernels.{name}.default" in active.seen


def test_a_profiler_sees_the_op(taken):
    with torch.profiler.profile() as profile:
        run("denoise_step_")
    assert taken == [("denoise_step_", False)]
    assert "dlm_kernels::denoise_step_" in {event.key for event in profile.key_averages()}


def test_a_tracer_sees_the_op(taken):
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda z: dlm.row_stats(z).entropy)(LOGITS).graph
    assert taken == [("row_stats", False)]
    assert _ops.row_stats in {node.target for node in graph.nodes}


def test_transforms_go_by_the_dispatcher(taken):
    entropy = lambda z: dlm.row_stats(z).entropy
    for transform, logits in ((torch.vmap, LOGITS[None]), (torch.func.functionalize, LOGITS)):
        assert_equal("entropy", transform(entropy)(logits).view(2, 6), entropy(LOGITS))
    assert [by for _, by in taken] == [False, True] * 2


def test_torch_compile_sees_the_op(taken):
    graphs = []
    keep = lambda module, inputs: graphs.append(module.graph) or module.forward
    torch.compile(lambda z: dlm.row_stats(z).entropy, backend=keep, fullgraph=True)(LOGITS)
    assert taken == [] and _ops.row_stats in {node.target for node in graphs[0].nodes}


class Marked(torch.Tensor):
    seen = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(str(func))
        return super().__torch_function__(func, types, args, kwargs or {})


def test_subclasses_are_asked(taken):
    dlm.row_stats(LOGITS.as_subclass(Marked))
    assert taken == [("row_stats", False)] and "dlm_kernels.row_stats.default" in Marked.seen
    taken.clear()
    dlm.draw_tokens(LOGITS, uncond_logits=LOGITS.as_subclass(Marked), cfg_scale=1.0)  # any argument
    assert taken == [("draw_tokens", False)]


def test_lazily_negated_logits(taken):
    negated = torch._neg_view(LOGITS)  # as the imaginary part of a conjugate is
    assert negated.is_neg()
    assert_equal("argmax", dlm.row_stats(negated).argmax, (-LOGITS).argmax(-1))
    assert taken == [("row_stats", False)]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu")])
@pytest.mark.parametrize("name", STEPS)
def test_who_only_watches_gradients_does_not_mind(name, mode, taken, monkeypatch):
    with mode():
        got = run(name)
    assert taken == [(name, True)]
    for mine, theirs in zip(got, by_dispatcher(name, monkeypatch), strict=True):
        assert_equal(name, mine, theirs)


def test_gradients_stop_at_the_step(taken):
    assert not dlm.row_stats(LOGITS.clone().requires_grad_()).entropy.requires_grad
    assert taken == [("row_stats", True)]


def test_threads_each_have_their_own_modes(taken):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool, Dispatches():
        pool.submit(run, "row_stats").result()
    assert taken == [("row_stats", True)]


# ---- memory --------------------------------------------------------------------------------------------------------


def test_nothing_is_leaked(taken):
    import resource

    x, z = torch.zeros(4, 512, dtype=torch.int64), torch.zeros(4, 512, 16)
    step = lambda: dlm.denoise_step_(x, z, mask_id=0, rule=dlm.TopK(1))
    with pytest.raises(ValueError):
        dlm.denoise_step_(x, z, mask_id=0, rule=dlm.TopK(1), temperature=-1.0)
    step()
    counts, peak = [sys.getrefcount(t) for t in (x, z)], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2000):
        step()  # some 26 KiB of outputs each
    assert [sys.getrefcount(t) for t in (x, z)] == counts
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20_000  # KiB


def test_outputs_outlive_everything():
    out = dlm.row_stats(LOGITS.clone())
    pieces = [field[1:, 2:].T for field in out]
    expected = [piece.clone() for piece in pieces]
    del out
    torch.randn(2, 6, 50), dlm.row_stats(LOGITS * 2)
    for mine, theirs in zip(pieces, expected):
        assert_equal("a view", mine, theirs)
