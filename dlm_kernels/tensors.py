"""Checks of tensors, and of numbers that become tensors: every text is "{argument}: {rule}, got {value}"."""

import torch
from torch.compiler import is_compiling

from .arguments import number, require, require_type

_Tensor, _STRIDED = torch.Tensor, torch.strided  # a small step spends a while on looking these up


def tensor(argument, value):
    """A torch.Tensor, without its autograd history: no op here has a derivative."""
    if type(value) is not _Tensor:
        require_type(isinstance(value, _Tensor), argument, "must be a torch.Tensor", type(value).__name__)
    if value.layout is not _STRIDED:
        require(False, argument, "layout must be torch.strided", value.layout)
    return value.detach() if value.requires_grad else value


def movable(argument, value, device):
    """A tensor that holds numbers, if those of the device do."""
    if value.is_meta and device.type != "meta":
        there = "the CPU" if device.type == "cpu" else f"{device} or the CPU"
        require(False, argument, f"must be on {there}", value.device)
    return value


def numbers_in(argument, value, low, high):
    """Numbers of a schedule in [low, high], as a float64 tensor: [] from a number, else the shape of the tensor.

    Values are checked where that costs no wait: not on a GPU, nor under torch.compile.
    """
    if isinstance(value, torch.Tensor):
        value = tensor(argument, value)
        require_type(value.dtype.is_floating_point, argument, "dtype must be a float dtype", value.dtype)
        require(value.dim() <= 2, argument, "must be a number, [B] or [B, L]", list(value.shape))
        made = value.double()
    else:
        made = torch.full((), number(argument, value), dtype=torch.float64)
    check_values(argument, made, (low <= made) & (made <= high), f"must be in [{low:g}, {high:g}]")
    return made


def check_values(argument, values, good, rule):
    """ValueError with the first of ``values`` that is not ``good`` (tensors that broadcast), where it can be read."""
    if values.device.type != "cpu" or good.device.type != "cpu" or is_compiling():
        return
    if not bool(good.all()):
        wrong = values.expand_as(good)[~good]
        require(False, argument, rule, f"{wrong.flatten()[0].item():g}")
