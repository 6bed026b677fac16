"""Numbers that become tensors: made once, and never by somebody who cannot keep them."""

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
    for step in range(3 * constants._LIMIT):
        constant([step], torch.int64, CPU)
    assert len(constants._made) <= constants._LIMIT
    assert constant([5], torch.int64, CPU).item() == 5


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
