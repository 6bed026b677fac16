"""The native library: finding it, saying why it cannot be used, and its switches.

``DLM_KERNELS_BACKEND=auto|cuda|cpu|reference`` chooses; ``DLM_KERNELS_STRICT=1`` turns every fallback into an error.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from . import _diagnosis

BACKENDS = ("auto", "cuda", "cpu", "reference")
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
        _diagnosis.check_torch()
        from . import _C  # noqa: F401  (importing registers the kernels)
    except Exception as error:
        explained = ImportError(_diagnosis.loader_error(error, _build_info_or_none()))
        if strict():
            raise ImportError(f"dlm_kernels: the compiled extension cannot be used: {explained}") from error
        return Loaded("reference", explained)
    if wanted == "cuda":
        why = _diagnosis.no_cuda_kernels(build_info(), cuda_driver())
        if why:
            raise RuntimeError(f"DLM_KERNELS_BACKEND: {why}, got cuda")
    return Loaded("cpu")  # and CUDA tensors too, where the build and the machine have it


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


def _build_info_or_none() -> dict | None:
    try:
        return build_info()
    except (OSError, AttributeError):
        return None


def cuda_driver() -> dict | None:
    """The driver here: its own version (None if it does not say), the CUDA it is for, and whether this build's kernels run
    on it. None without one, or for a build without CUDA. Does not initialise CUDA."""
    if "cuda" not in build_info()["backends"]:
        return None
    native = ctypes.CDLL(str(library_path()))
    cuda = native.dlm_cuda_driver_version()
    if cuda == 0:
        return None
    return {
        "version": _driver_version(),
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "suffices": bool(native.dlm_cuda_driver_suffices()),
    }


def _driver_version() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def why_not_cuda() -> str | None:
    """Why CUDA tensors do not run native kernels: what was built, and what is here. None where they do."""
    wanted = requested_backend()
    if wanted in ("cpu", "reference"):
        return f"DLM_KERNELS_BACKEND is {wanted}"
    loaded = load()
    if loaded.error is not None:
        return f"the compiled extension cannot be used: {loaded.error}"
    built, driver = build_info(), cuda_driver()
    return _diagnosis.no_cuda_kernels(built, driver) or _diagnosis.no_cuda_device(built, driver)


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
