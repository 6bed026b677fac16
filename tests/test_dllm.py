"""The functions of ZHZisZZ/dllm and their seams, against the semantics told anew in bench/dllm_client.py."""

from types import SimpleNamespace

import injection
import pytest
import torch
from dlm_kernels.bench import dllm_client as client
from llada_toys import Toy, assert_fits
from test_fast_dllm import MASK, VOCAB, equal, problem

import dlm_kernels as dlm
from dlm_kernels.integrations import dllm

TOKENIZER = SimpleNamespace(mask_token_id=MASK)
PROMPT = torch.randint(VOCAB, (3, 5), generator=torch.Generator().manual_seed(1))
RULES = [{}, dict(threshold=0.0), dict(threshold=0.6), dict(threshold=1.5), dict(factor=1.0), dict(factor=0.3)]


@pytest.mark.parametrize("options", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_get_transfer_index(options, dtype):
    for seed in range(6):
        logits, x, mask_index = problem(seed, dtype=dtype)
        mask_index[0] = False
        arguments = (logits, 0.0, "low_confidence", mask_index, x, torch.tensor([2, 3, 30]))
        equal(
            dllm._get_transfer_index(*arguments, **options),
            client._get_transfer_index(*arguments, **options),
            mask_index,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusion_step_block(dtype):
    for seed in range(6):
        logits, x, masks = problem(seed, dtype=dtype)
        masks[0] = False
        before, arguments = x.clone(), (logits, x, masks, torch.tensor([2, 3, 30]), 0.0, "low_confidence")
        assert torch.equal(dllm._diffusion_step_block(*arguments), client._diffusion_step_block(*arguments))
        assert torch.equal(x, before)


def test_bfloat16_blocks_rank_on_rounded_probabilities():
    """0.99331 and 0.99351 are one number in bfloat16, and the first is the first."""
    logits = torch.tensor([[[5.0, 0.0], [5.03125, 0.0]]])
    masks, x, one = torch.ones(1, 2, dtype=torch.bool), torch.full((1, 2), MASK), torch.tensor([1])
    for dtype, filled in ((torch.bfloat16, 0), (torch.float32, 1)):
        for step in (client._diffusion_step_block, dllm._diffusion_step_block):
            assert step(logits.to(dtype), x, masks, one, 0.0, "low_confidence")[0, filled] == 0


@pytest.mark.parametrize("options", [{}, dict(top_k=5), dict(top_p=0.7), dict(top_k=99, top_p=0.0)], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_sample_tokens(temperature, options, monkeypatch):
    logits = problem(vocab=60)[0]
    arguments = (logits, temperature, options.get("top_k"), options.get("top_p"))
    with injection.ours():
        got = dllm.sample_tokens(*arguments)
    monkeypatch.setattr(torch, "multinomial", injection.Numbers().multinomial)
    want = client.sample_tokens(*arguments)
    assert torch.equal(got[0], want[0]) and torch.allclose(got[1], want[1], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 5, 32, 40])
def test_plan(steps):
    masks = torch.arange(32)[None] < torch.tensor([32, 7, 0])[:, None]
    scheduler = client.LinearAlphaScheduler()
    got = dllm.get_num_transfer_tokens(masks, steps, scheduler)
    assert torch.equal(got, client.get_num_transfer_tokens(masks, steps, scheduler))


def test_stochastic_plan():
    torch.manual_seed(0)
    masks = torch.ones(3000, 6, dtype=torch.bool)
    plan = dllm.get_num_transfer_tokens(masks, 2, client.LinearAlphaScheduler(), stochastic=True)
    assert (plan.sum(dim=1) == 6).all()
    first = torch.where(plan[:, 1] > 0, plan[:, 0], 0)  # all or nothing at first: one step is left
    law = torch.tensor([torch.distributions.Binomial(6, 0.5).log_prob(torch.tensor(float(k))).exp() for k in range(7)])
    law = torch.cat([law[:1] + law[6:], law[1:6]])
    assert_fits(torch.bincount(first, minlength=6), law.double())


KINDS = [dict(kind="block"), dict(kind="index", threshold=0.6), dict(kind="index"), dict(kind="tokens", top_p=0.8)]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_accelerated_loops_give_the_same_tokens(options, temperature, monkeypatch):
    sampler = client.BD3LMSampler(Toy(vocab=VOCAB, scale=3.0), TOKENIZER)
    options = options | dict(temperature=temperature)
    with dlm.accelerated(sampler), injection.ours():
        got = sampler.sample(PROMPT, **options)
        rows = dlm.explain(sampler).rows
    assert sum(row.fast_calls > 0 for row in rows) == 2 and not any(row.fallbacks for row in rows)
    numbers = injection.Numbers()
    monkeypatch.setattr(client, "add_gumbel_noise", numbers.gumbel)
    monkeypatch.setattr(torch, "multinomial", numbers.multinomial)
    assert torch.equal(sampler.sample(PROMPT, **options), got)


def test_what_is_not_covered_runs_the_clients_code():
    class Odd(client.LinearAlphaScheduler):
        def reverse_mask_prob(self, s, t):
            return 0.5

    masks, before = torch.ones(2, 8, dtype=torch.bool), dict(vars(client))
    sampler = dlm.accelerate(client.BD3LMSampler(None, TOKENIZER))
    assert torch.equal(
        client.get_num_transfer_tokens(masks, 3, Odd()), before["get_num_transfer_tokens"](masks, 3, Odd())
    )
    logits, x, mask_index = problem()
    arguments = (logits.half(), x, mask_index, torch.tensor([1, 1, 1]), 0.0, "low_confidence")
    assert torch.equal(client._diffusion_step_block(*arguments), before["_diffusion_step_block"](*arguments))
    reasons = str(dlm.explain(sampler))
    assert "must have dllm's own reverse_mask_prob, got Odd" in reasons and "got torch.float16" in reasons
    dlm.restore(sampler)
    assert dict(vars(client)) == before


# ---- MDLMSampler: whole loops --------------------------------------------------------------------------------------


class Model(Toy):
    """Its logits are its own: the sampler writes to them."""

    device = torch.device("cpu")

    def logits(self, x, attention_mask=None):
        return super().logits(x, attention_mask).clone()


def mdlm_sampler(**kwargs):
    tokenizer = SimpleNamespace(mask_token_id=MASK, eos_token_id=3, bos_token_id=1)
    return client.MDLMSampler(Model(vocab=VOCAB, scale=3.0, **kwargs), tokenizer)


RAGGED = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]
LOOPS = [
    dict(),
    dict(block_size=16, steps=5),
    dict(max_new_tokens=None, max_length=20, block_size=6),
    dict(cfg_scale=0.7),
    dict(cfg_scale=0.7, cfg_keep_tokens=[2, 7]),
    dict(suppress_tokens=[4, 9]),
    dict(right_shift_logits=True),
    dict(return_dict=True),
]


@pytest.mark.parametrize("options", LOOPS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["sample", "infill"])
def test_mdlm_loops_give_the_same_tokens(method, dtype, options):
    sampler = mdlm_sampler(dtype=dtype)
    inputs = RAGGED if method == "sample" else [[MASK, 2, MASK, *row, MASK, MASK, MASK] for row in RAGGED]
    inputs = [torch.tensor(row) for row in inputs] if "steps" in options else inputs
    run = lambda: getattr(sampler, method)(inputs, client.MDLMSamplerConfig(), **options)
    want = run()
    with dlm.accelerated(sampler):
        got = run()
        [row] = [row for row in dlm.explain(sampler).rows if row.where.endswith(f".{method}")]
        assert row.fast_calls == 1 and not row.fallbacks
    if "return_dict" in options:
        assert len(got.histories) == len(want.histories)
        assert all(map(torch.equal, got.histories, want.histories))
        got, want = got.sequences, want.sequences
    assert torch.equal(got, want) and not (got == MASK).any()


def test_mdlm_samples_with_the_same_numbers(monkeypatch):
    sampler = mdlm_sampler()
    with dlm.accelerated(sampler), injection.ours(where="dlm_kernels.integrations.dllm_mdlm"):
        got = sampler.sample(RAGGED, temperature=0.8)
    steps = iter(range(100))

    def gumbel(logits, temperature):
        uniforms = injection.uniforms(torch.arange(len(logits)) + 1000, logits.shape[1], next(steps))
        tokens = injection.invert((logits.double() / temperature).softmax(-1), uniforms)
        return torch.nn.functional.one_hot(tokens, logits.shape[-1]).float()

    monkeypatch.setattr(client, "add_gumbel_noise", gumbel)
    assert torch.equal(sampler.sample(RAGGED, temperature=0.8), got)


def test_mdlm_leaves_to_the_sampler_what_is_not_covered():
    broken, half = mdlm_sampler(), mdlm_sampler(dtype=torch.float16)
    broken.model.table[::50, 3] = torch.nan
    for sampler, options, reason in (
        (mdlm_sampler(), dict(begin_suppress_tokens=[4]), "begin_suppress_tokens: must be None"),
        (broken, dict(), "a bad one"),
        (half, dict(temperature=0.8), "got torch.float16"),
    ):
        torch.manual_seed(0)
        want = sampler.sample(RAGGED, **options)
        with dlm.accelerated(sampler):
            torch.manual_seed(0)
            assert torch.equal(sampler.sample(RAGGED, **options), want)
            assert reason in str(dlm.explain(sampler))


@pytest.mark.checkout
def test_against_a_checkout(checkout, checkout_root):
    tokenizer = SimpleNamespace(mask_token_id=MASK, eos_token_id=3, bos_token_id=1)
    theirs = checkout("DLLM", "dllm/core/samplers/mdlm.py", package="dllm.core.samplers")
    sampler = theirs.MDLMSampler(Model(vocab=VOCAB, scale=3.0), tokenizer)
    masked = [torch.tensor([MASK, 2, MASK, *row, MASK]) for row in RAGGED]
    for options in LOOPS[:3]:
        for method, inputs in (("sample", RAGGED), ("infill", masked)):
            options = {"max_new_tokens": 16, "block_size": 8, "steps": 12} | options
            want = getattr(sampler, method)(inputs, theirs.MDLMSamplerConfig(), **options)
            with dlm.accelerated(sampler):
                got = getattr(sampler, method)(inputs, theirs.MDLMSamplerConfig(), **options)
                assert torch.equal(got, want) and sum(row.fast_calls for row in dlm.explain(sampler).rows) == 1
    blocks = checkout("DLLM", "dllm/core/samplers/bd3lm.py", package="dllm.core.samplers")
    logits, x, masks = problem()
    arguments = (logits, x, masks, torch.tensor([2, 1, 3]), 0.0, "low_confidence")
    scheduler = sampler.scheduler
    want = blocks._diffusion_step_block(*arguments), blocks.get_num_transfer_tokens(masks, 5, scheduler)
    with dlm.accelerated(blocks.BD3LMSampler(None, tokenizer)) as block_sampler:
        assert torch.equal(blocks._diffusion_step_block(*arguments), want[0])
        assert torch.equal(blocks.get_num_transfer_tokens(masks, 5, scheduler), want[1])
        assert sum(row.fast_calls for row in dlm.explain(block_sampler).rows) == 2
