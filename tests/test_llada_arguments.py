"""The LLaDA drop-in's small functions, its signatures, and every argument it refuses."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llada_toys import Toy, assert_fits

from dlm_kernels.integrations import llada


def test_gumbel_noise_is_absent_at_zero_and_exact_above():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf])
    assert llada.add_gumbel_noise(logits, 0.0) is logits
    for temperature in (0.5, 1.0, 2.0):
        generator = torch.Generator().manual_seed(3)
        noisy = llada.add_gumbel_noise(logits.expand(20000, 5), temperature, generator=generator)
        assert noisy.dtype == torch.float64
        assert_fits(torch.bincount(noisy.argmax(-1), minlength=5), (logits.double() / temperature).softmax(-1))


def test_gumbel_noise_is_safe_where_exp_is_not():
    logits = torch.tensor([-3000.0, 2000.0, 2001.0], dtype=torch.bfloat16)
    before = logits.clone()
    noisy = llada.add_gumbel_noise(logits.expand(1000, 3), 1.0, generator=torch.Generator().manual_seed(0))
    assert noisy.isfinite().all() and torch.equal(logits, before)
    assert set(noisy.argmax(-1).tolist()) == {1, 2}


@given(st.integers(0, 4), st.integers(0, 20), st.integers(1, 25), st.integers(0, 2**31))
def test_transfer_counts(batch, length, steps, seed):
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.5
    counts = llada.get_num_transfer_tokens(mask, steps)
    assert counts.dtype == torch.int64 and list(counts.shape) == [batch, steps]
    for row, n in zip(counts.tolist(), mask.sum(dim=1).tolist(), strict=True):
        assert row == [n // steps + 1] * (n % steps) + [n // steps] * (steps - n % steps)


def test_transfer_counts_refuse():
    with pytest.raises(ValueError, match=r"^steps: must be >= 1, got 0$"):
        llada.get_num_transfer_tokens(torch.ones(1, 4, dtype=torch.bool), 0)
    with pytest.raises(ValueError, match=r"^mask_index: must have 2 dimensions \[B, L\], got \[4\]$"):
        llada.get_num_transfer_tokens(torch.ones(4, dtype=torch.bool), 2)


def test_signatures_are_the_originals():
    assert str(inspect.signature(llada.generate)).startswith(
        "(model, prompt, attention_mask=None, steps=128, gen_length=128, block_length=128, temperature=0.0, "
        "cfg_scale=0.0, remasking='low_confidence', mask_id=126336, logits_eos_inf=False, "
        "confidence_eos_eot_inf=False, *, "
    )
    assert "eos_id=126081, eot_id=126348" in str(inspect.signature(llada.generate))
    assert str(inspect.signature(llada.add_gumbel_noise)).startswith("(logits, temperature, *, ")
    assert str(inspect.signature(llada.get_num_transfer_tokens)) == "(mask_index, steps)"


@pytest.mark.parametrize(
    "bad, error, message",
    [
        ({"steps": 0}, ValueError, "steps: must be >= 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps: must be an int, got float"),
        ({"steps": 3}, ValueError, "steps: must be a multiple of the number of blocks (2), got 3"),
        ({"gen_length": 0}, ValueError, "gen_length: must be >= 1, got 0"),
        ({"gen_length": 7}, ValueError, "gen_length: must be a multiple of block_length (4), got 7"),
        ({"block_length": -1}, ValueError, "block_length: must be >= 1, got -1"),
        ({"temperature": -0.5}, ValueError, "temperature: must be finite and >= 0, got -0.5"),
        ({"temperature": float("nan")}, ValueError, "temperature: must be finite and >= 0, got nan"),
        ({"temperature": "hot"}, TypeError, "temperature: must be a number, got str"),
        ({"cfg_scale": -1.0}, ValueError, "cfg_scale: must be finite and >= 0, got -1.0"),
        ({"remasking": "entropy"}, ValueError, "remasking: must be low_confidence or random, got entropy"),
        ({"mask_id": None}, TypeError, "mask_id: must be an int, got NoneType"),
        ({"eos_id": 1.5}, TypeError, "eos_id: must be an int, got float"),
        ({"logits_to_keep": 3}, ValueError, "logits_to_keep: must be auto, positions, last or all, got 3"),
        ({"prompt": [[1, 2]]}, TypeError, "prompt: must be a torch.Tensor, got list"),
        ({"prompt": torch.zeros(2, dtype=torch.long)}, ValueError, "prompt: must have 2 dimensions [B, P], got [2]"),
        ({"prompt": torch.zeros(1, 2)}, TypeError, "prompt: dtype must be int64 or int32, got float32"),
        ({"attention_mask": torch.ones(1, 3)}, ValueError, "attention_mask: shape must be [1, 2], got [1, 3]"),
        ({"attention_mask": [[1, 1]]}, TypeError, "attention_mask: must be a torch.Tensor, got list"),
        ({"seed": 0.5}, TypeError, "seed: must be an int, got float"),
        ({"seed": torch.zeros(2, dtype=torch.long)}, ValueError, "seed: shape must be [1], got [2]"),
        ({"seed": 2**63}, ValueError, "seed: must fit in int64, got 9223372036854775808"),
        ({"seed": torch.zeros(1)}, TypeError, "seed: dtype must be int64, got float32"),
    ],
)
def test_bad_arguments_are_named_before_the_model_is_called(bad, error, message):
    arguments = {"prompt": torch.zeros(1, 2, dtype=torch.long), "steps": 4, "gen_length": 8, "block_length": 4} | bad
    model = Toy()
    with pytest.raises(error) as caught:
        llada.generate(model, **arguments)
    assert str(caught.value) == message
    assert model.calls == []


def test_an_empty_batch_is_no_work():
    model = Toy()
    assert llada.generate(model, torch.zeros(0, 2, dtype=torch.long), gen_length=4, block_length=4).shape == (0, 6)
    assert model.calls == []
