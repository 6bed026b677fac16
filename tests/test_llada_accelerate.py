"""accelerate on a module shaped like LLaDA's generate.py (bench/llada_client.py tells it anew)."""

import injection
import pytest
import torch
from dlm_kernels.bench import llada_client as client
from llada_toys import Toy

import dlm_kernels as dlm

MASK, VOCAB = 40, 37
OPTIONS = dict(steps=12, gen_length=24, block_length=8, mask_id=MASK)


class Model(Toy):
    """Its logits are its own: the client writes to them."""

    dtype = torch.float32

    def logits(self, x, attention_mask=None):
        return super().logits(x, attention_mask).clone()


def prompt(batch=3, length=5):
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [dict(), dict(cfg_scale=0.5), dict(steps=6), dict(block_length=24)], ids=str)
def test_greedy_tokens_are_the_same(options, dtype):
    model, ones = Model(vocab=VOCAB, scale=3.0, dtype=dtype), torch.ones(3, 5, dtype=torch.long)
    options = OPTIONS | options
    want = client.generate(model, prompt(), ones, **options)
    with dlm.accelerated(client):
        assert torch.equal(client.generate(model, prompt(), ones, **options), want)
        [row] = dlm.explain(client).rows
        assert row.fast_calls == 1 and not row.fallbacks


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_eos_flags_do_what_the_original_does(temperature, monkeypatch):
    model = Model(vocab=126400, scale=3.0)
    model.table[:, [126081, 126348]] += 9.0
    options = OPTIONS | dict(mask_id=126400, steps=6, gen_length=8, temperature=temperature)
    with dlm.accelerated(client), one_seed():
        got = client.generate(model, prompt(1), confidence_eos_eot_inf=True, **options)
    step = iter(range(100))
    monkeypatch.setattr(client, "add_gumbel_noise", lambda z, t: keyed(z, t, next(step)))
    assert torch.equal(client.generate(model, prompt(1), confidence_eos_eot_inf=True, **options), got)


def test_sampled_tokens_are_the_same_with_the_same_numbers(monkeypatch):
    model, options = Model(vocab=VOCAB), OPTIONS | dict(temperature=0.7)
    with dlm.accelerated(client), one_seed():
        got = client.generate(model, prompt(), **options)
    step = iter(range(100))
    monkeypatch.setattr(client, "add_gumbel_noise", lambda z, t: keyed(z, t, next(step)))
    assert torch.equal(client.generate(model, prompt(), **options), got)


def one_seed():
    """The drop-in asks for seeds once per run, and numbers its steps."""
    return injection.ours(where="dlm_kernels.integrations.llada")


def keyed(logits, temperature, step):
    if temperature == 0:
        return logits
    uniforms = injection.uniforms(torch.arange(len(logits)) + 1000, logits.shape[1], step)
    tokens = injection.invert((logits.double() / temperature).softmax(-1), uniforms)
    return torch.nn.functional.one_hot(tokens, logits.shape[-1]).float()


def test_an_older_signature_keeps_its_order(monkeypatch):
    original = client.generate

    def generate(
        model, prompt, steps=128, gen_length=128, block_length=128, temperature=0.0, cfg_scale=0.0,
        remasking="low_confidence", mask_id=126336,
    ):  # fmt: skip
        return original(model, prompt, None, steps, gen_length, block_length, mask_id=mask_id)

    generate.__module__ = client.__name__
    monkeypatch.setattr(client, "generate", generate)
    model = Model(vocab=VOCAB)
    want = client.generate(model, prompt(), 12, 24, 8, mask_id=MASK)
    with dlm.accelerated(client):
        assert torch.equal(client.generate(model, prompt(), 12, 24, 8, mask_id=MASK), want)
        assert dlm.explain(client).rows[0].fast_calls == 1


def test_what_is_not_covered_runs_the_clients_code():
    broken = Model(vocab=VOCAB)
    broken.table[::50, 3] = torch.nan
    half, double = (Model(vocab=VOCAB, dtype=dtype) for dtype in (torch.float16, torch.float64))
    for model, reason, options in (
        (broken, "NaN", {}),
        (half, "float16", dict(temperature=0.7)),
        (double, "float64", dict(temperature=0.7)),
        (Model(vocab=VOCAB), "cfg_scale: must be", dict(cfg_scale=-1.0)),
    ):
        torch.manual_seed(0)
        want, after = client.generate(model, prompt(), **{**OPTIONS, **options}), torch.get_rng_state()
        with dlm.accelerated(client):
            torch.manual_seed(0)
            assert torch.equal(client.generate(model, prompt(), **{**OPTIONS, **options}), want)
            assert torch.equal(torch.get_rng_state(), after)
            [row] = dlm.explain(client).rows
            assert row.fast_calls == 0 and any(reason in why for why in row.fallbacks)


def test_errors_are_the_clients():
    options = OPTIONS | dict(remasking="best")
    with pytest.raises(Exception) as want:
        client.generate(Model(vocab=VOCAB), prompt(), **options)
    with dlm.accelerated(client), pytest.raises(want.type) as got:
        client.generate(Model(vocab=VOCAB), prompt(), **options)
    assert str(got.value) == str(want.value)


def test_an_unknown_release_is_left_alone(monkeypatch):
    def generate(model, prompt, cfg_scale=0.0, remasking="low_confidence", jitter=1):
        pass

    generate.__module__ = client.__name__
    monkeypatch.setattr(client, "generate", generate)
    with pytest.warns(RuntimeWarning, match="a parameter jitter=1 that is not known"):
        dlm.accelerate(client)
    assert client.generate is generate
    dlm.restore(client)


def test_restore_leaves_everything_as_it_was():
    before = dict(vars(client))
    dlm.accelerate(client)
    dlm.restore(client)
    assert dict(vars(client)) == before


@pytest.mark.checkout
def test_against_a_checkout(checkout):
    theirs = checkout("LLADA", "generate.py")
    for dtype in (torch.float32, torch.bfloat16):
        model = Model(vocab=VOCAB, scale=3.0, dtype=dtype)
        model.device = torch.device("cpu")
        ones = torch.ones(3, 5, dtype=torch.long)
        want = theirs.generate(model, prompt(), ones, **OPTIONS)
        with dlm.accelerated(theirs):
            got = theirs.generate(model, prompt(), ones, **OPTIONS)
        assert dtype == torch.bfloat16 or torch.equal(got, want)  # of bf16 ties only their order is the original's own
