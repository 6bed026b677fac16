"""Python numbers as tensors on the device, made once: a step that is given the same temperature, quota and ids as the last
one enqueues nothing but its kernel, and copies nothing from the host.
"""

import torch
from torch.compiler import is_compiling

_LIMIT = 1024  # constants kept: temperatures, quotas, lists of ids
_made = {}


def constant(values, dtype, device, keep=True):
    """``values``, a list of Python numbers, as a 1-d tensor that nobody writes to. ``keep=False`` for numbers that are another
    one next time."""
    if not keep or is_compiling() or not all(type(v) in (int, float) for v in values):
        return _make(values, dtype, device)
    stream = None
    if device.type != "cpu":
        if not _on_live_cuda(device):
            return _make(values, dtype, device)
        # One for each: a fill on one is not ordered before a read on another.
        stream = torch.cuda.current_stream(device).cuda_stream
    key = (*values, dtype, device, stream)
    found = _made.get(key)
    if found is None:
        found = _make(values, dtype, device)
        # Never dropped again: a captured CUDA graph may have taken the address.
        if len(_made) < _LIMIT and _outlives_this_call(found):
            _made[key] = found
    return found


def _make(values, dtype, device):
    """By fills: a copy from the host would wait for the device, and could not be captured in a CUDA graph."""
    parts = [torch.full((1,), value, dtype=dtype, device=device) for value in values]
    return parts[0] if len(parts) == 1 else torch.cat([torch.empty(0, dtype=dtype, device=device), *parts])


def _outlives_this_call(made):
    """Not a tracer's stand-in, and not memory of a CUDA graph under capture."""
    if type(made) is not torch.Tensor or torch._is_functional_tensor(made):
        return False
    return made.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def _on_live_cuda(device):
    """Fake CUDA tensors exist without a driver, and must not wake one."""
    return device.type == "cuda" and torch.cuda.is_initialized()
