"""The LLaDA2 drop-in and its seam, against the semantics told anew in bench/llada2_client.py, with loops of 2.0 and 2.1."""

import ast

import injection
import pytest
import torch
from dlm_kernels.bench.llada2_client import LLaDA2Generation, filtered
from llada_toys import Toy, assert_fits

import dlm_kernels as dlm
from dlm_kernels.integrations import llada2

MASK, VOCAB = 40, 37
FILTERS = [
    dict(),
    dict(top_k=5),
    dict(top_p=0.8),
    dict(top_k=9, top_p=0.6),
    dict(top_k=None, top_p=None),
    dict(top_p=0.0),
]


class Model(LLaDA2Generation, Toy):
    mask_token_id = MASK

    def __init__(self, **kwargs):
        super().__init__(vocab=VOCAB, **kwargs)


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1.5])
def test_draws_and_confidences(temperature, filters, monkeypatch):
    logits = 3 * torch.randn(2, 16, 60, generator=torch.Generator().manual_seed(0))
    with injection.ours():
        tokens, p = llada2.sample_with_temperature_topk_topp(logits, temperature, **filters)
    monkeypatch.setattr(torch, "multinomial", injection.Numbers().multinomial)
    want, wanted_p = Model._sample_with_temperature_topk_topp(None, logits, temperature, **filters)
    assert torch.equal(tokens, want) and p.dtype == wanted_p.dtype
    assert torch.allclose(p, wanted_p, rtol=1e-5)


def test_ties_of_the_kth_logit_all_stay():
    torch.manual_seed(0)
    row = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0])
    tokens, _ = llada2.sample_with_temperature_topk_topp(row.expand(4000, 5), 1.0, top_k=2)
    assert_fits(torch.bincount(tokens, minlength=5), filtered(row.double(), 2, None).softmax(-1))


@pytest.mark.parametrize("options", [dict(), dict(temperature=0.7), dict(temperature=1.0, top_k=5, top_p=0.8)], ids=str)
@pytest.mark.parametrize("editing", [None, 0.4])
def test_accelerated_loops_give_the_same_tokens(options, editing, monkeypatch):
    model, prompt = Model(scale=3.0), torch.tensor([[1, 2, 3, 4]])
    options = options | dict(block_length=8, gen_length=16, steps=12, threshold=0.6, editing_threshold=editing)
    with dlm.accelerated(model), injection.ours():
        got = model.generate(prompt, **options)
        [row] = dlm.explain(model).rows
        assert row.fast_calls == len(model.calls) and not row.fallbacks
        assert row.fast_calls == 24 if editing else 2 < row.fast_calls <= 16
    monkeypatch.setattr(torch, "multinomial", injection.Numbers().multinomial)
    assert torch.equal(model.generate(prompt, **options), got)
    assert not (got == MASK).any()


def test_restore_leaves_everything_as_it_was():
    model = Model()
    before = dict(vars(model))
    dlm.accelerate(model)
    assert "_sample_with_temperature_topk_topp" in vars(model)
    assert "_sample_with_temperature_topk_topp" not in vars(Model())
    dlm.restore(model)
    assert vars(model) == before


def test_what_is_not_covered_runs_the_models_code():
    logits = torch.randn(1, 4, 20)
    broken = logits.clone()
    broken[0, 1, 1] = torch.nan
    model = dlm.accelerate(Model())
    for reason, arguments in {
        "dtype must be float32 at temperature 0": (logits.bfloat16(), 0.0),
        "a bad one": (broken, 0.0),
        "a gradient": (logits.clone().requires_grad_(), 0.0),
        "dtype must be float32, float16": (logits.double(), 1.0),
    }.items():
        torch.manual_seed(0)
        got = model._sample_with_temperature_topk_topp(*arguments)
        torch.manual_seed(0)
        want = Model._sample_with_temperature_topk_topp(model, *arguments)
        assert all(torch.equal(g.nan_to_num(9), w.nan_to_num(9)) for g, w in zip(got, want))
        assert got[1].requires_grad == want[1].requires_grad
        assert any(reason in why for why in dlm.explain(model).rows[0].fallbacks)
        with pytest.raises(ValueError, match=reason):
            llada2.sample_with_temperature_topk_topp(*arguments)
    with pytest.raises(RuntimeError):
        model._sample_with_temperature_topk_topp(logits, 1.0, 21)
    assert any("top_k: must be at most the vocabulary's 20" in why for why in dlm.explain(model).rows[0].fallbacks)


def test_an_unknown_release_is_left_alone():
    class Newer(Model):
        def _sample_with_temperature_topk_topp(self, logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
            pass

    with pytest.warns(RuntimeWarning, match="a parameter min_p=0.0 that is not known"):
        model = dlm.accelerate(Newer())
    assert "_sample_with_temperature_topk_topp" not in vars(model)


def test_plan():
    assert llada2.get_num_transfer_tokens(32, 5).tolist() == [7, 7, 6, 6, 6]
    assert llada2.get_num_transfer_tokens(32, 0).shape == (0,)


@pytest.mark.checkout
@pytest.mark.parametrize("version", ["llada2", "llada21"])
def test_against_a_checkout(checkout_root, version, monkeypatch):
    """DLM_KERNELS_CHECKOUT_LLADA2: a folder with modeling_llada2_moe.py and modeling_llada21_moe.py somewhere. Only the methods
    of the sampler are run: the rest wants a transformers of its own."""
    [path] = checkout_root("LLADA2").rglob(f"modeling_{version}_moe.py")
    [kind] = (c for c in ast.parse(path.read_text()).body if getattr(c, "name", "") == "LLaDA2MoeModelLM")
    names = ("_top_k_logits", "_top_p_logits", "_sample_with_temperature_topk_topp")
    kind.body, kind.bases = [f for f in kind.body if getattr(f, "name", "") in names], []
    home = {"__name__": path.stem, "torch": torch, "F": torch.nn.functional}
    exec(compile(ast.Module([kind], []), path, "exec"), home)
    model = home["LLaDA2MoeModelLM"]()
    logits = 3 * torch.randn(1, 16, 60, generator=torch.Generator().manual_seed(0))
    for arguments in ((0.0,), (1.0,), (0.7, 5, 0.9)):
        with injection.ours(), dlm.accelerated(model):
            got = model._sample_with_temperature_topk_topp(logits, *arguments)
            assert dlm.explain(model).rows[0].fast_calls == 1
        monkeypatch.setattr(torch, "multinomial", injection.Numbers().multinomial)
        want = model._sample_with_temperature_topk_topp(logits, *arguments)
        monkeypatch.undo()
        assert torch.equal(got[0], want[0]) and torch.allclose(got[1], want[1], rtol=1e-5)
