"""SGLang's diffusion algorithms with our steps: the same trajectories, states and all, as with its own.

They run on toy_sglang.py, its semantics told anew, and on SGLang's own files where DLM_KERNELS_CHECKOUT_SGLANG has them.
"""

import contextlib
import importlib
import importlib.metadata
import os
import sys
import types
from unittest import mock

import injection
import pytest
import torch
import toy_sglang as toy
from dlm_kernels.reference.philox import STREAM_NOISE, draw_uniform
from dlm_kernels.reference.transition import noise_token

import dlm_kernels as dlm
from dlm_kernels.integrations import sglang as adapter

NAMES = ("LowConfidence", "JointThreshold", "Gemma4Renoise")
BLOCK, VOCAB, MASK = 16, 300, 299


class Stub(types.ModuleType):
    """A module of the engine that is not here: any class, and False for any question."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return (lambda *_: False) if name.startswith("is_") else type(name, (), {})


@pytest.fixture(params=["toy", pytest.param("checkout", marks=pytest.mark.checkout)])
def engine(request, monkeypatch):
    """Its modules, as far as the plugin looks at them: .classes, .sampling (the module that draws), .hooks."""
    package = "sglang.srt.dllm.algorithm"
    root = None
    if request.param == "checkout":
        root = os.environ.get("DLM_KERNELS_CHECKOUT_SGLANG")
        if root is None:
            pytest.skip("DLM_KERNELS_CHECKOUT_SGLANG names no checkout")
    known = set(sys.modules)
    modules = {}
    for name in ("sglang", "sglang.srt", "sglang.srt.dllm", package, "sglang.srt.plugins"):
        modules[name] = types.ModuleType(name)
        modules[name].__path__ = [] if root is None else [f"{root}/{name.replace('.', '/')}"]
    modules["sglang"].__version__ = "0.5.23"
    hooks = modules["sglang.srt.plugins.hook_registry"] = types.ModuleType("hook_registry")
    hooks.HookType = mock.Mock(REPLACE="replace")
    hooks.HookRegistry = mock.Mock()
    algorithms = modules[package]
    algorithms.get_algorithm = None
    if root is not None:
        for name in (
            "sglang.srt.arg_groups.model_override_base",
            "sglang.srt.arg_groups.overrides",
            "sglang.srt.configs.model_config",
            "sglang.srt.distributed",
            "sglang.srt.layers.logits_processor",
            "sglang.srt.layers.vocab_parallel_embedding",
            "sglang.srt.model_executor.cuda_graph_config",
            "sglang.srt.model_executor.forward_batch_info",
            "sglang.srt.model_executor.model_runner",
            "sglang.srt.server_args",
            "sglang.srt.utils",
        ):
            while name not in modules:
                modules[name] = Stub(name)
                name = name.rpartition(".")[0]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    if root is None:
        classes, sampling, draw = (
            {name: type(name, (getattr(toy, name),), {}) for name in NAMES},
            toy,
            "sample_denoiser",
        )
        for name, kind in classes.items():
            kind.__module__ = f"{package}.{name.lower()}"
    else:
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)
        files = ("low_confidence", "joint_threshold", "gemma4_renoise")
        found = [importlib.import_module(f"{package}.{file}") for file in files]
        classes, sampling, draw = {m.Algorithm.__name__: m.Algorithm for m in found}, found[-1], "_sample_denoiser"
    algorithms.algo_name_to_cls = dict(classes)
    yield types.SimpleNamespace(classes=classes, sampling=sampling, draw=draw, hooks=hooks, modules=modules)
    for name in set(sys.modules) - known:
        if name.startswith("sglang"):
            del sys.modules[name]


class Model:
    """Logits [B block, V] of a block that depend on all of it; some positions are surer than others."""

    def __init__(self, seed=0, dtype=torch.float32, scale=2.5, mix=0.3):
        g = torch.Generator().manual_seed(seed)
        self.position = torch.randn(BLOCK, VOCAB, generator=g) * torch.rand(BLOCK, 1, generator=g) * 2
        self.token = torch.randn(VOCAB, VOCAB, generator=g)
        self.dtype, self.scale, self.mix = dtype, scale, mix

    def __call__(self, x):
        seen = self.token[x]
        mixed = seen.cumsum(dim=1) / torch.arange(1, BLOCK + 1)[:, None] + seen.roll(-1, dims=1)
        logits = self.scale * (self.position + self.mix * mixed)
        logits[..., MASK] = -30.0
        return logits.to(self.dtype).flatten(0, 1)


def batch_of(size=3, seed=0, masked=0.8, prompts=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(VOCAB - 1, (size, BLOCK), generator=g)
    open_ = torch.rand(size, BLOCK, generator=g) < masked
    open_[-1] = False
    x[open_] = MASK
    prompt = None
    if prompts:
        prompt = ~open_
        prompt[0, 3], x[0, 3] = True, MASK  # a prompt may hold the mask's id
    rids = [f"r{i}" for i in range(size)]
    positions = (torch.arange(size)[:, None] * 100 + torch.arange(BLOCK)).flatten()
    return toy.Batch(x.flatten(), size, prompt, positions, rids)


def run(algorithm, batch, model, steps=30):
    """Everything that a step leaves behind, step by step."""
    states, record = algorithm.init_step_state(batch), []
    for _ in range(steps):
        done = algorithm.step(batch, model(batch.input_ids.view(batch.batch_size, BLOCK)), states)
        record.append((list(done), batch.input_ids.clone(), [frozen_state(state) for state in states]))
        if all(done):
            break
    return record


def frozen_state(state):
    if state is None:
        return None
    return {key: list(v) if isinstance(v, list) else v for key, v in state.items() if key != "generator"}


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert mine[0] == other[0] and torch.equal(mine[1], other[1])
        for a, b in zip(mine[2], other[2]):
            assert (a is None) == (b is None)
            for key in a or ():
                same_value(key, a[key], b[key])


def same_value(key, a, b):
    if isinstance(a, list):
        assert len(a) == len(b), key
        for one, other in zip(a, b):
            same_value(key, one, other)
    elif not isinstance(a, torch.Tensor):
        assert a == b and type(a) is type(b), key
    elif key == "self_conditioning":  # bf16 probabilities, rounded from other bits of fp32
        torch.testing.assert_close(a, b, rtol=0.03, atol=0.03)
    else:
        assert torch.equal(a, b), key


def check(engine, name, options, batch, model, why=()):
    """Both trajectories are the same; ``why``: the reasons for fallbacks, none by default. Returns ours."""
    algorithm = engine.classes[name](toy.Config(BLOCK, MASK, options))
    if name == "Gemma4Renoise":
        algorithm.vocab_size, algorithm.embed_tokens = VOCAB, toy.Embedding(VOCAB, 8)
    twin = lambda: toy.Batch(**{**vars(batch), "input_ids": batch.input_ids.clone()})
    theirs = run(algorithm, twin(), model)
    with dlm.accelerated(engine.classes[name]):
        ours = run(algorithm, twin(), model)
        [row] = dlm.explain(engine.classes[name]).rows
    same(ours, theirs)
    assert tuple(row.fallbacks) == tuple(why) and (row.fast_calls > 0 or why)
    return ours


# ---- LowConfidence and JointThreshold --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.2, 0.9])
@pytest.mark.parametrize("prompts", [True, False])
def test_low_confidence(engine, threshold, prompts, dtype):
    for seed in range(4):
        record = check(
            engine,
            "LowConfidence",
            {"threshold": threshold},
            batch_of(seed=seed, prompts=prompts),
            Model(seed, dtype),
        )
        assert len(record) > 2 and record[0][0] == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("edit", [0, 0.3, 0.9])
@pytest.mark.parametrize("most", [0, 2, 16])
def test_joint_threshold(engine, edit, most, dtype, monkeypatch):
    # Which of equal bf16 probabilities topk puts first is nobody's business: the lowest position.
    monkeypatch.setattr(torch, "topk", lambda values, k: (None, values.argmax(dim=-1, keepdim=True)))
    steps = []
    for seed in range(4):
        options = {"threshold": 0.5, "edit_threshold": edit, "max_post_edit_steps": most}
        record = check(engine, "JointThreshold", options, batch_of(seed=seed), Model(seed, dtype))
        steps += [state["post_edit_steps"] for state in record[-1][2]]
    assert len(set(steps)) > 1 or most == 0 or edit == 0.9


def test_joint_threshold_edits_a_block_that_was_given_without_masks(engine):
    batch = batch_of(masked=0.0, prompts=False)
    batch.dllm_prompt_mask = torch.zeros(3, BLOCK, dtype=torch.bool)
    record = check(engine, "JointThreshold", {"edit_threshold": 0.1}, batch, Model())
    assert not torch.equal(record[0][1], batch.input_ids)


class Restless(Model):
    """From the fourth step on its logits change by themselves, as those of a batch that changes its size may."""

    calls = 0

    def __call__(self, x):
        self.calls += 1
        noise = torch.randn(x.numel(), VOCAB, generator=torch.Generator().manual_seed(self.calls))
        return super().__call__(x) + 12.0 * (self.calls > 3) * noise


def test_joint_threshold_leaves_finished_blocks_alone(engine):
    kind, records = engine.classes["JointThreshold"], []
    for fast in (False, True):
        batch = batch_of(masked=0.2)
        with dlm.accelerated(kind) if fast else contextlib.nullcontext():
            algorithm = kind(toy.Config(BLOCK, MASK, {"edit_threshold": 0.9, "max_post_edit_steps": 6}))
            records.append(run(algorithm, batch, Restless()))
    same(*records[::-1])
    done = [sum(flags) for flags, *_ in records[0]]
    assert 0 < done[2] < done[-1]


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("LowConfidence", {"threshold": 1.5}, "threshold = 1.5"),
        ("JointThreshold", {"edit_threshold": -1}, "edit_threshold = -1"),
        ("JointThreshold", {"penalty_lambda": 0.5}, "penalty_lambda changes the logits by what stands before"),
    ],
)
def test_other_options_run_the_clients_code(engine, name, options, why):
    check(engine, name, options, batch_of(), Model(), [why])


@pytest.mark.parametrize("name", NAMES[:2])
def test_half_precision_runs_the_clients_code(engine, name):
    check(engine, name, {}, batch_of(), Model(dtype=torch.float16), ["logits of torch.float16"])


@pytest.mark.parametrize("name", NAMES[:2])
def test_nan_runs_the_clients_code_on_what_it_would_have_seen(engine, name):
    plain = Model()

    def model(x):
        logits = plain(x)
        logits[(x.flatten() == MASK).nonzero()[:1, 0]] = torch.nan
        return logits

    check(engine, name, {}, batch_of(), model, ["a row holds NaN or nothing finite"])


# ---- Gemma4Renoise -----------------------------------------------------------------------------------------------------


class ClientNumbers(injection.Numbers):
    noise = None

    def draw(self, probabilities, generator):
        at = (self.seeds(1), torch.arange(BLOCK), torch.zeros((), dtype=torch.int64))
        self.noise = draw_uniform(*at, STREAM_NOISE)
        return injection.invert(probabilities, draw_uniform(*at))

    def randint(self, high, size, device=None, generator=None):
        if self.noise is None:
            return torch.empty(size, dtype=torch.int64).random_(high, generator=generator)
        noise, self.noise = self.noise, None
        return noise_token(noise, high)


@pytest.mark.parametrize("stability", [0, 1, 3])
@pytest.mark.parametrize("bound", [0.1, 5.0])
def test_gemma4_renoise(engine, stability, bound, monkeypatch):
    numbers = ClientNumbers()
    monkeypatch.setattr(engine.sampling, engine.draw, numbers.draw)
    monkeypatch.setattr(torch, "randint", numbers.randint)
    monkeypatch.setattr(adapter, "fresh_seeds", injection.Numbers().seeds)
    options = {
        "max_denoising_steps": 20,
        "sampler_config": {"entropy_bound": bound},
        "stability_threshold": stability,
        "confidence_threshold": 0.4,
    }
    batch = toy.Batch(torch.zeros(4 * BLOCK, dtype=torch.int64), 4, rids=list("abcd"))
    record = check(
        engine,
        "Gemma4Renoise",
        options,
        batch,
        Model(scale=12.0, mix=torch.tensor([0.0, 0.01, 0.05, 0.3])[:, None, None]),
    )
    assert len({tuple(done) for done, *_ in record}) > 2  # one by one


def test_gemma4_renoise_leaves_other_embeddings_alone(engine, monkeypatch):
    monkeypatch.setattr(toy, "Embedding", lambda *_: embedding)
    embedding = types.SimpleNamespace(weight=torch.randn(VOCAB, 8), embed_scale=2.0)
    batch = toy.Batch(torch.zeros(2 * BLOCK, dtype=torch.int64), 2, rids=["a", "b"])
    why = ["embeddings of torch.float32"]
    check(engine, "Gemma4Renoise", {"max_denoising_steps": 4}, batch, Model(), why)


# ---- FusedLowConfidence ------------------------------------------------------------------------------------------------


def fused(engine, **options):
    kind = adapter.fused_low_confidence(engine.classes["LowConfidence"])
    return kind(toy.Config(BLOCK, MASK, options))


def test_fused_is_low_confidence_at_temperature_0(engine):
    want = run(engine.classes["LowConfidence"](toy.Config(BLOCK, MASK, {})), batch_of(), Model())
    same(run(fused(engine), batch_of(), Model()), want)


def test_fused_samples_the_law(engine):
    """One open position whose law is known: chi-squared over many requests."""
    from scipy import stats

    n = 4000
    x = torch.zeros(n, BLOCK, dtype=torch.int64)
    x[:, 5] = MASK
    logits = torch.full((BLOCK, 6), -torch.inf).index_fill(0, torch.tensor(5), 0.0)
    logits[5] = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, -torch.inf])
    logits[:5, 0] = logits[6:, 0] = 0.0
    batch = toy.Batch(x.flatten(), n, None, torch.arange(n * BLOCK), [str(i) for i in range(n)])
    algorithm = fused(engine, temperature=0.7, top_k=4)
    algorithm.step(batch, logits.repeat(n, 1), algorithm.init_step_state(batch))
    counts = torch.bincount(batch.input_ids.view(n, BLOCK)[:, 5], minlength=6)
    law = (logits[5].double() / 0.7).softmax(0)
    law[3] = 0.0  # the fifth best
    law /= law.sum()
    assert counts[[3, 5]].sum() == 0
    kept = law > 0
    assert stats.chisquare(counts[kept], law[kept] * n).pvalue > 1e-3


def test_fused_gives_a_request_the_same_tokens_in_any_batch(engine):
    algorithm, model = fused(engine, temperature=1.0), Model()

    def tokens(batch):
        return run(algorithm, batch, model)[-1][1].view(batch.batch_size, BLOCK)

    both = batch_of(size=3)
    alone = toy.Batch(both.input_ids[:BLOCK].clone(), 1, both.dllm_prompt_mask[:1], both.positions[:BLOCK], ["r0"])
    other = toy.Batch(**{**vars(alone), "input_ids": alone.input_ids.clone(), "rids": ["other"]})
    first = tokens(alone)
    assert torch.equal(tokens(both)[:1], first) and not torch.equal(tokens(other), first)


def test_fused_goes_on_where_a_row_holds_nan(engine):
    algorithm, batch = fused(engine, temperature=1.0), batch_of(prompts=False)
    logits = Model()(batch.input_ids.view(3, BLOCK))
    logits[4] = torch.nan
    before = batch.input_ids.clone()
    algorithm.step(batch, logits, algorithm.init_step_state(batch))
    assert not torch.equal(batch.input_ids, before)


# ---- the plugin --------------------------------------------------------------------------------------------------------


def test_register_does_nothing_unless_asked(engine, monkeypatch):
    monkeypatch.delenv("DLM_KERNELS_ENGINE", raising=False)
    adapter.register()
    assert not engine.hooks.HookRegistry.register.called


def test_register(engine, monkeypatch, caplog):
    monkeypatch.setenv("DLM_KERNELS_ENGINE", "1")
    caplog.set_level("INFO", logger="sglang")
    originals = {name: kind.step for name, kind in engine.classes.items()}
    adapter.register()
    adapter.register()
    calls = engine.hooks.HookRegistry.register.call_args_list
    targets = [f"{engine.classes[name].__module__}.{name}.step" for name in NAMES]
    assert [call.args[0] for call in calls] == targets
    for call, original in zip(calls, originals.values()):
        assert call.args[2] == "replace" and call.args[1].__wrapped__ is original
    assert [record.getMessage() for record in caplog.records] == ["dlm_kernels replaces " + ", ".join(targets)]
    algorithms = sys.modules["sglang.srt.dllm.algorithm"].algo_name_to_cls
    assert issubclass(algorithms["FusedLowConfidence"], engine.classes["LowConfidence"])


def test_register_leaves_other_versions_alone(engine, monkeypatch, caplog):
    monkeypatch.setenv("DLM_KERNELS_ENGINE", "1")
    engine.modules["sglang"].__version__ = "0.6.0"
    adapter.register()
    assert not engine.hooks.HookRegistry.register.called
    assert "replaces nothing in sglang: SGLang 0.6.0 is not one of the versions" in caplog.text
    monkeypatch.setenv("DLM_KERNELS_STRICT", "1")
    with pytest.raises(RuntimeError, match="STRICT"):
        adapter.register()


@pytest.mark.parametrize("group", ["vllm.general_plugins", "sglang.srt.plugins"])
def test_entry_points(group):
    found = importlib.metadata.distribution("dlm_kernels").entry_points.select(group=group)
    [entry] = list(found)
    assert entry.name == "dlm_kernels" and entry.load().__name__ == "register"
