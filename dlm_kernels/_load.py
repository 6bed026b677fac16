"""The native library: finding it, saying why it cannot be used, and its switches.

``DLM_KERNELS_BACKEND=auto|cuda|cpu|reference`` chooses; ``DLM_KERNELS_STRICT=1`` turns every fallback into an error.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

BACKENDS = ("auto", "cuda", "cpu", "reference")
TORCH_MINIMUM = (2, 10)
# csrc/core/dtype.h
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@dataclass(frozen=True)
class Loaded:
    """What ``load`` found: the backend that serves CPU tensors, and the error if that was not the plan."""

    backend: str  # "cpu" or "reference"
    error: Exception | None = None


def requested_backend() -> str:
    wanted = os.environ.get("DLM_KERNELS_BACKEND", "auto")
    if wanted not in BACKENDS:
        raise ValueError(f"DLM_KERNELS_BACKEND: must be {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}, got {wanted}")
    return wanted


def strict() -> bool:
    return os.environ.get("DLM_KERNELS_STRICT", "0") not in ("", "0")


@functools.cache
def load() -> Loaded:
    """Load the extension once. A failure is returned, not raised, unless DLM_KERNELS_STRICT=1."""
    wanted = requested_backend()
    if wanted == "reference":
        return Loaded("reference")
    try:
        _check_torch()
        from . import _C  # noqa: F401  (importing registers the kernels)
    except Exception as error:
        if strict():
            raise ImportError(f"dlm_kernels: the compiled extension cannot be used: {error}") from error
        return Loaded("reference", error)
    if wanted == "cuda" and "cuda" not in build_info()["backends"]:
        raise RuntimeError("DLM_KERNELS_BACKEND: this build has no CUDA backend (built for: cpu), got cuda")
    return Loaded("cpu")  # and CUDA tensors too, where the build and the machine have it


def _check_torch():
    version = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    if version < TORCH_MINIMUM:
        minimum = ".".join(map(str, TORCH_MINIMUM))
        raise ImportError(f"built for torch >= {minimum} (LibTorch stable ABI), found torch {torch.__version__}")


def library_path() -> Path:
    return Path(__file__).with_name("libdlm_kernels.so")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The C ABI (csrc/api.h), or None where the extension is not in use."""
    if load().backend == "reference":
        return None
    native = ctypes.CDLL(str(library_path()))
    for name in ("dlm_cpu_isas", "dlm_cpu_isa", "dlm_build_info"):
        getattr(native, name).restype = ctypes.c_char_p
    native.dlm_cpu_set_isa.argtypes = [ctypes.c_char_p]
    return native


def build_info() -> dict:
    """What the library was built as; readable also where torch cannot load the extension."""
    native = ctypes.CDLL(str(library_path()))
    native.dlm_build_info.restype = ctypes.c_char_p
    return json.loads(native.dlm_build_info())


def why_not_cuda() -> str | None:
    """Why CUDA tensors do not run native kernels: what was built, and what is here. None where they do."""
    wanted = requested_backend()
    if wanted in ("cpu", "reference"):
        return f"DLM_KERNELS_BACKEND is {wanted}"
    loaded = load()
    if loaded.error is not None:
        return f"the compiled extension cannot be used: {loaded.error}"
    built = build_info()
    if "cuda" not in built["backends"]:
        return "this build has no CUDA backend (built for: cpu)"
    if not torch.cuda.is_available():
        toolkit, sms = built["cuda"]["toolkit"], ", ".join(built["cuda"]["architectures"])
        return f"built for CUDA {toolkit} ({sms}), here is {_cuda_here()}"
    return None


def _cuda_here() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__}, which has no CUDA"
    return f"torch {torch.__version__} without a usable GPU or driver"


def cpu_isas() -> list[str]:
    """Instruction sets this CPU can run, best first; empty without the extension."""
    return library().dlm_cpu_isas().decode().split(",") if library() else []


def cpu_isa() -> str | None:
    """The instruction set in use."""
    return library().dlm_cpu_isa().decode() if library() else None


def set_cpu_isa(name: str) -> None:
    """Use instruction set ``name`` from now on, in every thread; ``"auto"`` is the best one. DLM_KERNELS_CPU_ISA sets it
    at start."""
    if library() is None or not library().dlm_cpu_set_isa(name.encode()):
        raise ValueError(f"name: must be auto or one of {', '.join(cpu_isas()) or 'none'}, got {name}")
