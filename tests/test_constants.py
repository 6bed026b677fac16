"""Numbers that become tensors: made once, and never by somebody who cannot keep them."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import dlm_kernels as dlm
from dlm_kernels import constants
from dlm_kernels.constants import constant

CPU = torch.device("cpu")


def test_made_once():
    a = constant([7, 3], torch.int64, CPU)
    assert a is constant([7, 3], torch.int64, CPU) and a.tolist() == [7, 3]
    assert constant([7.0, 3.0], torch.float32, CPU).dtype == torch.float32
    assert constant([7], torch.int64, CPU).shape == (1,) and constant([], torch.int64, CPU).shape == (0,)


def test_the_number_kept_is_bounded():
    first = constant([-1], torch.int64, CPU)
    for step in range(3 * constants._LIMIT):
        assert constant([step], torch.int64, CPU).item() == step
    assert len(constants._made) <= constants._LIMIT
    assert constant([-1], torch.int64, CPU) is first  # whoever took its address, in a captured graph say, still has it


def test_numbers_that_change_are_not_kept():
    before = len(constants._made)
    assert constant([987654321], torch.int64, CPU, keep=False).item() == 987654321
    assert len(constants._made) == before


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(constants, "_made", {})


def test_fake_cuda_tensors_need_no_driver():
    with FakeTensorMode():
        x = torch.empty((1, 4), dtype=torch.int64, device="cuda")
        out = dlm.denoise_step_(x, torch.empty((1, 4, 9), device="cuda"), mask_id=9, rule=dlm.TopK(1), suppress=[1])
        assert out.confidence.device.type == "cuda" and out.confidence.shape == (1, 4)


def test_a_tracers_tensors_are_not_kept():
    with FakeTensorMode():
        constant([123456], torch.int64, CPU)
    assert type(constant([123456], torch.int64, CPU)) is torch.Tensor


def test_steps_do_not_write_to_them():
    """Two steps with the same numbers give the same, whatever was done in between."""
    logits = torch.randn(1, 8, 50, generator=torch.Generator().manual_seed(0))
    kwargs = dict(mask_id=50, rule=dlm.TopK(2), temperature=0.7, seed=3, step=4, suppress=[1, 2])
    first = dlm.denoise_step(torch.full((1, 8), 50), logits, **kwargs)
    dlm.draw_tokens(logits, temperature=0.7, seed=3, step=4)
    second = dlm.denoise_step(torch.full((1, 8), 50), logits, **kwargs)
    assert torch.equal(first.x, second.x) and torch.equal(first.confidence, second.confidence)
