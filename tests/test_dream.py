"""The Dream drop-in and its seam, against the semantics told anew in bench/dream_client.py."""

import injection
import pytest
import torch
from dlm_kernels.bench import dream_client as client
from llada_toys import Toy, assert_fits

import dlm_kernels as dlm
from dlm_kernels.integrations import dream

MASK, VOCAB = 40, 37
FILTERS = [dict(), dict(top_p=0.9), dict(top_k=5), dict(top_p=0.7, top_k=4), dict(top_p=0.0), dict(top_p=1.5, top_k=99)]
KINDS = [dict(), dict(margin_confidence=True), dict(neg_entropy=True), dict(margin_confidence=True, neg_entropy=True)]


class Model(client.DreamGenerationMixin, Toy):
    mask_token_id = MASK

    def __init__(self, **kwargs):
        super().__init__(vocab=VOCAB, **kwargs)


def rows(seed=0, n=40, vocab=60, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, vocab, generator=generator)).to(dtype)


def close(got, want, dtype):
    """Confidences to a unit in the last place of their dtype; 1e-10 in the entropy's logarithm is not ours."""
    assert got.dtype == want.dtype
    assert torch.allclose(got.float(), want.float(), rtol=3 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy(dtype, filters, kind):
    logits = rows(dtype=dtype)
    confidence, tokens = client.sample_tokens(logits, **filters, **kind)
    covered = dtype == torch.float32 or not kind or (filters == {} and "neg_entropy" not in kind)
    if not covered:
        with pytest.raises(ValueError, match="in rounded terms of"):
            dream.sample_tokens(logits, **filters, **kind)
    got = dream.sample_tokens(logits, **filters, **kind, compat=covered)
    assert torch.equal(got[1], tokens)
    if covered:
        close(got[0], confidence, dtype)
        if dtype != torch.float32:
            assert (got[0] == confidence).float().mean() > 0.95  # the rest: one rounding of float32 sums
    else:
        known = ~confidence.isnan()  # in float16 1e-10 is 0, and the original NaN
        assert torch.allclose(got[0][known].float(), confidence[known].float(), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
def test_sampled_with_the_same_numbers(temperature, filters, kind, monkeypatch):
    logits = rows()
    with injection.ours():
        got = dream.sample_tokens(logits, temperature, **filters, **kind)
    monkeypatch.setattr(torch, "multinomial", injection.Numbers().multinomial)
    want = client.sample_tokens(logits, temperature, **filters, **kind)
    assert torch.equal(got[1], want[1])
    close(got[0], want[0], torch.float32)


def test_the_law_of_bfloat16_rows_is_that_of_the_logits():
    torch.manual_seed(0)
    row = (8 + torch.randn(1, 8)).bfloat16()
    _, tokens = dream.sample_tokens(row.expand(6000, 8), 0.5, top_k=6)
    law = client.filtered(row[0].double() / 0.5, None, 6).softmax(-1)
    assert_fits(torch.bincount(tokens, minlength=8), law)


def test_no_rows_and_more_dimensions():
    confidence, tokens = dream.sample_tokens(rows(n=0), 0.5, top_p=0.9)
    assert confidence.shape == tokens.shape == (0,)
    logits = rows().view(4, 10, 60)
    for got, want in zip(dream.sample_tokens(logits, top_k=3), client.sample_tokens(logits, top_k=3)):
        assert got.shape == want.shape == (4, 10)
        assert torch.allclose(got, want)


ALGS = ["maskgit_plus", "topk_margin", "entropy", "origin"]
PROMPT = torch.randint(VOCAB, (2, 5), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("alg", ALGS)
@pytest.mark.parametrize("options", [dict(), dict(top_p=0.8), dict(top_k=3)], ids=str)
def test_accelerated_model_gives_the_same_tokens(alg, options):
    model = Model()
    want = model.diffusion_generate(PROMPT, alg=alg, **options).sequences
    with dlm.accelerated(model):
        assert torch.equal(model.diffusion_generate(PROMPT, alg=alg, **options).sequences, want)
        [row] = dlm.explain(model).rows
        assert row.fast_calls == 8 and not row.fallbacks


@pytest.mark.parametrize("alg", ALGS)
def test_bfloat16_is_the_same_or_the_models_own(alg):
    model = Model(dtype=torch.bfloat16)
    want = model.diffusion_generate(PROMPT, alg=alg).sequences
    with dlm.accelerated(model):
        assert torch.equal(model.diffusion_generate(PROMPT, alg=alg).sequences, want)
        [row] = dlm.explain(model).rows
        assert row.fast_calls == (0 if alg == "entropy" else 8) and bool(row.fallbacks) == (alg == "entropy")


@pytest.mark.parametrize("alg", ALGS)
@pytest.mark.parametrize("alg_temp", [None, 0.3])
def test_sampled_loops_with_the_same_numbers(alg, alg_temp, monkeypatch):
    model, options = Model(), dict(alg=alg, alg_temp=alg_temp, temperature=0.6, top_p=0.9)
    draw = injection.Numbers()

    def multinomial(probs, num_samples=1, replacement=False):
        if replacement:  # the draw of a token; else of positions, which stays the client's
            return draw.multinomial(probs)
        return probs.topk(num_samples).indices

    monkeypatch.setattr(torch, "multinomial", multinomial)
    want = model.diffusion_generate(PROMPT, **options).sequences
    with dlm.accelerated(model), injection.ours():
        assert torch.equal(model.diffusion_generate(PROMPT, **options).sequences, want)
        assert dlm.explain(model).rows[0].fast_calls == 8


def test_what_is_not_covered_runs_the_models_code():
    logits = rows()
    broken = logits.clone()
    broken[3, 5] = torch.nan
    cases = {
        "dtype must be": dict(logits=logits.double()),
        "a bad one": dict(logits=broken),
        "top_k: must be >= 1": dict(logits=logits, top_k=0),
        "a gradient": dict(logits=logits.clone().requires_grad_()),
        "neg_entropy in rounded terms of bfloat16": dict(logits=logits.bfloat16(), neg_entropy=True),
    }
    original, model = client.sample_tokens, dlm.accelerate(Model())
    for reason, arguments in cases.items():
        with pytest.raises(ValueError, match=reason):
            dream.sample_tokens(**arguments)
        try:
            want = original(**arguments)
        except (IndexError, RuntimeError) as error:
            with pytest.raises(type(error)):
                client.sample_tokens(**arguments)
        else:
            for got, expected in zip(client.sample_tokens(**arguments), want):
                assert torch.equal(got.nan_to_num(9), expected.nan_to_num(9))
                assert got.requires_grad == expected.requires_grad
        assert any(reason in why for why in dlm.explain(model).rows[0].fallbacks)
    dlm.restore(model)
    assert client.sample_tokens is original


def test_the_module_and_a_patched_instance_are_found():
    original = client.sample_tokens
    for obj in (client, Model()):
        with dlm.accelerated(obj):
            assert client.sample_tokens is not original
        assert client.sample_tokens is original


@pytest.mark.checkout
def test_against_a_checkout(checkout):
    """DLM_KERNELS_CHECKOUT_DREAM: a folder with generation_utils.py."""
    theirs = checkout("DREAM", "generation_utils.py")
    for dtype in (torch.float32, torch.bfloat16):
        for filters in FILTERS:
            want = theirs.sample_tokens(rows(dtype=dtype), **filters)
            with dlm.accelerated(theirs):
                got = theirs.sample_tokens(rows(dtype=dtype), **filters)
                assert dlm.explain(theirs).rows[0].fast_calls == 1
            assert torch.equal(got[1], want[1])
            close(got[0], want[0], dtype)
