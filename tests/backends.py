"""Where the ops under test run: the instruction sets of the CPU backend, the CUDA sources in the SIMT runtime (plainly, or
watched for races or by AddressSanitizer), and the GPU where there is one.

DLM_KERNELS_TEST_BACKENDS=simt,cuda names some of them; without it, all that this machine can run.
"""

import contextlib
import functools
import os
import platform
import shutil

import torch

from dlm_kernels import _load, _ops, eager

WRITTEN = {
    "committed",
    "argmax",
    "unchanged",
    "done",
    "probs",
    "edits_left",
    "edited",
    "num_edited",
    "trace",
    "trace_steps",
}
SIMT_KINDS = {"simt": "plain", "simt_race": "race", "simt_asan": "asan", "simt_coverage": "coverage"}


def isas():
    """Instruction sets to test, best first; just the fallback where there is no compiled library."""
    return _load.cpu_isas() or ["reference"]


def names():
    """Every backend to test."""
    asked = os.environ.get("DLM_KERNELS_TEST_BACKENDS")
    if asked:
        return asked.split(",")
    simt = ["simt", "simt_race"] if shutil.which("g++") and platform.machine() == "x86_64" else []
    return [*isas(), *simt, *(["cuda"] if torch.cuda.is_available() else [])]


def is_slow(name):
    """Whether it takes about a hundred times the time of the others."""
    return "emulated" in name or "simt" in name


class CudaOps:
    """The real ops on copies of CPU tensors: results come back to the CPU, and so does what was written in place."""

    def __getattr__(self, name):
        def op(*args, **kwargs):
            # Nothing may pass here because the reference stands in.
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dlm_kernels::{name}", "CUDA"), _load.why_not_cuda()
            moved, moved_kwargs = [_to_cuda(a) for a in args], {k: _to_cuda(v) for k, v in kwargs.items()}
            out = getattr(_ops, name)(*moved, **moved_kwargs)
            if name.endswith("_"):
                args[0].copy_(moved[0])
            for k in WRITTEN & kwargs.keys():
                if kwargs[k] is not None:
                    kwargs[k].detach().copy_(moved_kwargs[k].detach())
            return tuple(t.cpu() for t in out)

        return op


def _to_cuda(value):
    """The same tensor on the GPU, its strides too, and a leaf like it."""
    if not isinstance(value, torch.Tensor):
        return value
    repeated = [size > 1 and stride == 0 for size, stride in zip(value.shape, value.stride())]
    base = value[tuple(slice(0, 1) if again else slice(None) for again in repeated)]
    moved = torch.empty_strided(base.shape, base.stride(), dtype=base.dtype, device="cuda").copy_(base.detach())
    return moved.expand_as(value).requires_grad_(value.requires_grad)


@functools.cache
def ops_of(name):
    """The ops of a backend as functions: those of ``_ops.SCHEMAS``."""
    if name in SIMT_KINDS:
        from simt import bridge

        return bridge.Ops(SIMT_KINDS[name])
    return CudaOps() if name == "cuda" else _ops


def by_position(name, args, kwargs):
    """All arguments of an op, in the order of its schema."""
    parameters = getattr(_ops, name)._schema.arguments[len(args) :]
    assert kwargs.keys() <= {p.name for p in parameters}
    return *args, *(kwargs.get(p.name, p.default_value) for p in parameters)


class EagerOps:
    """The ops past torch's dispatcher, and the op itself for what is declined."""

    def __getattr__(self, name):
        def op(*args, **kwargs):
            out = eager.FUNCTIONS[name](*by_position(name, args, kwargs))
            return getattr(_ops, name)(*args, **kwargs) if out is NotImplemented else out

        return op


eager_ops = EagerOps()


class CurrentOps:
    """The ops of the backend in use."""

    backend = None  # None: CPU tensors, whatever runs them

    def __getattr__(self, name):
        return getattr(_ops if self.backend is None else ops_of(self.backend), name)


ops = CurrentOps()


@contextlib.contextmanager
def using_isa(name):
    """The CPU backend with this instruction set."""
    if name == "reference":
        yield
        return
    _load.set_cpu_isa(name)
    try:
        yield
    finally:
        _load.set_cpu_isa("auto")


@contextlib.contextmanager
def using_backend(name):
    """``ops`` of this backend inside the block."""
    if name not in SIMT_KINDS and name != "cuda":
        with using_isa(name):
            yield
        return
    before, ops.backend = ops.backend, name
    try:
        yield
    finally:
        ops.backend = before
