"""vLLM's row statistics for DiffusionGemma: against what they mean, and against its own where DLM_KERNELS_CHECKOUT_VLLM is."""

import sys
import types

import pytest
import torch

import dlm_kernels as dlm
from dlm_kernels.integrations import vllm as adapter

HOME, USER = adapter._HOME, adapter._USER
TEMPERATURES = torch.tensor([0.0, 0.7, 1.0, 2.5])


def row_stats(logits, temps, canvas_len, probs_dtype, draw=None):
    """What vLLM's functions return, in PyTorch: scores at T clamped from 0, a draw or, at T = 0, the argmax."""
    t = temps.repeat_interleave(canvas_len)[:, None]
    logp = (logits.double() / t.clamp(min=1e-10)).log_softmax(dim=-1)
    p = logp.exp()
    entropy = -torch.where(p > 0, p * logp, 0.0).sum(dim=-1)
    best = logits.argmax(dim=-1)
    sample = torch.where(t[:, 0] > 0, torch.multinomial(p, 1)[:, 0], best)
    return best, sample, entropy.float(), None if probs_dtype is None else p.to(probs_dtype)


def logits_of(dtype=torch.float32, rows=40, vocab=500, seed=0):
    logits = 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))
    logits[3, 100:] = -torch.inf  # top-k before it
    logits[4] = logits[17] = 0.0  # padding
    return logits.to(dtype)


def agree(got, want):
    """All but the draw."""
    assert torch.equal(got[0], want[0]) and got[0].dtype == want[0].dtype
    torch.testing.assert_close(got[2], want[2], atol=2e-4, rtol=1e-4)
    assert (got[3] is None) == (want[3] is None)
    if want[3] is not None:
        assert got[3].dtype == want[3].dtype
        torch.testing.assert_close(got[3].float(), want[3].float(), atol=1e-5, rtol=2**-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("probs", [None, torch.bfloat16])
def test_statistics(dtype, probs):
    logits = logits_of(dtype)
    want = row_stats(logits, TEMPERATURES, 10, probs)
    for got in (
        adapter.sample_row_stats(logits, TEMPERATURES, 10, 7, probs),
        adapter.sample_row_stats_reference(logits, TEMPERATURES, 10, probs),
    ):
        agree(got, want)
        assert torch.equal(got[1][:10], want[0][:10])  # greedy
        assert got[1].dtype == torch.int64 and (logits.gather(1, got[1][:, None]) > -torch.inf).all()


def test_draws_follow_the_law():
    from scipy import stats

    n, canvas = 500, 8
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]).repeat(n * canvas, 1)
    sample = adapter.sample_row_stats(logits, torch.full((n,), 0.8), canvas, 3, None)[1]
    law = (logits[0].double() / 0.8).softmax(0)
    assert stats.chisquare(torch.bincount(sample, minlength=5), law * n * canvas).pvalue > 1e-3
    first, second = sample.view(n, canvas)[:, 0], sample.view(n, canvas)[:, 1]
    assert len(first.unique()) > 1 and not torch.equal(first, second)  # neither requests nor positions share a number


def test_the_seed_decides():
    logits, temps = logits_of(), torch.ones(4)
    draw = lambda seed: adapter.sample_row_stats(logits, temps, 10, seed, None)[1]
    assert torch.equal(draw(5), draw(5)) and not torch.equal(draw(5), draw(6))
    torch.manual_seed(0)
    first = adapter.sample_row_stats_reference(logits, temps, 10, None)[1]
    torch.manual_seed(0)
    assert torch.equal(adapter.sample_row_stats_reference(logits, temps, 10, None)[1], first)


def test_a_row_of_nan_is_never_accepted():
    logits = logits_of()
    logits[12, 5] = torch.nan
    argmax, sample, entropy, probs = adapter.sample_row_stats(logits, TEMPERATURES, 10, 7, torch.bfloat16)
    assert argmax[12] == 0 and sample[12] == 0 and entropy[12].isnan() and probs[12].eq(0).all()
    assert entropy.isnan().sum() == 1


# ---- the plugin --------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch):
    """vLLM's modules, as far as the plugin looks at them."""
    calls = []

    def sample_row_stats(logits, temps, canvas_len, seed, probs_dtype):
        calls.append("cuda")
        return row_stats(logits, temps, canvas_len, probs_dtype)

    def sample_row_stats_reference(logits, temps, canvas_len, probs_dtype):
        calls.append("cpu")
        return row_stats(logits, temps, canvas_len, probs_dtype)

    modules = {name: types.ModuleType(name) for name in ("vllm", HOME)}
    modules["vllm"].__version__ = "0.33.0"
    modules[HOME].sample_row_stats = sample_row_stats
    modules[HOME].sample_row_stats_reference = sample_row_stats_reference
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, USER, raising=False)
    monkeypatch.setenv("DLM_KERNELS_ENGINE", "1")
    yield types.SimpleNamespace(home=modules[HOME], vllm=modules["vllm"], calls=calls)
    for module in (modules[HOME], sys.modules.get(USER)):
        dlm.restore(module) if module is not None else None


def import_the_model(engine, monkeypatch):
    """As diffusion_gemma does: by name."""
    user = types.ModuleType(USER)
    user.sample_row_stats = engine.home.sample_row_stats
    user.sample_row_stats_reference = engine.home.sample_row_stats_reference
    monkeypatch.setitem(sys.modules, USER, user)
    return user


def test_register_does_nothing_unless_asked(engine, monkeypatch):
    monkeypatch.delenv("DLM_KERNELS_ENGINE")
    before = engine.home.sample_row_stats
    adapter.register()
    assert engine.home.sample_row_stats is before


@pytest.mark.parametrize("loaded", [False, True])
def test_register(engine, monkeypatch, caplog, loaded):
    caplog.set_level("INFO", logger="vllm")
    original = engine.home.sample_row_stats
    user = import_the_model(engine, monkeypatch) if loaded else None
    adapter.register()
    adapter.register()
    user = user or import_the_model(engine, monkeypatch)
    assert user.sample_row_stats is not original and user.sample_row_stats.__wrapped__ is original
    logits = logits_of()
    agree(user.sample_row_stats(logits, TEMPERATURES, 10, 3, None), row_stats(logits, TEMPERATURES, 10, None))
    agree(user.sample_row_stats_reference(logits, TEMPERATURES, 10, None), row_stats(logits, TEMPERATURES, 10, None))
    assert engine.calls == []
    line = f"dlm_kernels replaces {USER}.sample_row_stats, {USER}.sample_row_stats_reference"
    assert {record.getMessage() for record in caplog.records} == {line}
    dlm.restore(engine.home)
    assert engine.home.sample_row_stats is original and (not loaded or user.sample_row_stats is original)


@pytest.mark.parametrize(
    ("logits", "temps", "canvas", "probs", "why"),
    [
        (logits_of(), TEMPERATURES, 10, torch.float32, "probabilities in torch.float32"),
        (logits_of(torch.float64), TEMPERATURES, 10, None, "logits of torch.float64"),
        (logits_of(rows=35), TEMPERATURES, 10, None, "35 rows for 4 canvases of 10"),
        (logits_of()[:0], TEMPERATURES[:0], 10, None, "no rows"),
    ],
)
def test_what_is_not_covered_runs_vllms_code(engine, logits, temps, canvas, probs, why, monkeypatch):
    monkeypatch.setattr(engine.home, "sample_row_stats", lambda *_: "vllm")
    adapter.register()
    assert engine.home.sample_row_stats(logits, temps, canvas, 3, probs) == "vllm"
    assert dlm.explain(engine.home).rows[0].fallbacks == {why: 1}


def test_another_version_or_none_is_left_alone(engine, monkeypatch, caplog):
    before = engine.home.sample_row_stats
    engine.vllm.__version__ = "0.34.0"
    adapter.register()
    assert "replaces nothing in vllm: vLLM 0.34.0 is not one of the versions" in caplog.text
    monkeypatch.setitem(sys.modules, "vllm", None)
    adapter.register()
    assert engine.home.sample_row_stats is before
    monkeypatch.setenv("DLM_KERNELS_STRICT", "1")
    with pytest.raises(RuntimeError, match="STRICT"):
        adapter.register()


@pytest.mark.checkout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_vllms_own(checkout, dtype):
    path = "vllm/model_executor/models/diffusion_gemma_sampler.py"
    theirs = checkout("VLLM", path, absent=["vllm", "vllm.triton_utils"])
    logits = logits_of(dtype)
    for probs in (None, torch.bfloat16):
        want = theirs.sample_row_stats_reference(logits, TEMPERATURES, 10, probs)
        got = adapter.sample_row_stats(logits, TEMPERATURES, 10, 1, probs)
        agree(got, want)
        assert torch.equal(got[1][:10], want[1][:10])
