"""Ops past torch's dispatcher, which takes longer to pass on some thirty arguments than a small step does. csrc/torch/eager.h has
them as functions of Python, for CPU tensors, over the same checks and kernels. A call that anybody else wants to see is left to
torch.ops.dlm_kernels, which stays what the ops are: off the CPU, for subclasses of tensors, under modes, transforms, tracers
and profilers.
"""

import torch

from . import _load, _ops


def _keys(*names):
    """Dispatch keys as bits."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
    for name in names:
        keys = keys.add(getattr(torch._C.DispatchKey, name))
    return keys.raw_repr()


def _connected():
    """Whether there is the extension, and torch lets C callers at its tensors."""
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if exchange is None or _load.load().backend != "cpu":
        return False
    from . import _C

    return _C.connect(
        torch.Tensor,
        exchange,
        torch._C._autograd._profiler_enabled,
        torch._C._len_torch_function_stack,
        torch._C._dispatch_tls_local_include_set,
        # What the dispatcher of a thread always does, also under torch.inference_mode.
        (_keys("BackendSelect", "ADInplaceOrView"), _keys("BackendSelect")),
    )


def _functions():
    if not _connected():
        return dict.fromkeys(_ops.SCHEMAS, lambda *_: NotImplemented)
    from . import _C

    return {name: getattr(_C, name) for name in _ops.SCHEMAS}


# By name: functions of all arguments of an op, by position. They return NotImplemented, with nothing done, where the dispatcher
# has to be asked. Unlike the op they take a number where that has a tensor of one, and None for seeds that torch shall draw, and
# raise ValueErrors and TypeErrors as they are.
FUNCTIONS = _functions()
