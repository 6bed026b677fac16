"""The ops of ``dlm_kernels._array`` behind the signatures of the torch ops: CPU tensors go in as arrays of the same memory, and
tensors come out, so that whatever tests the torch ops can test these."""

import ctypes
import functools
import importlib.util
import sysconfig

import ml_dtypes
import numpy as np
import torch

from dlm_kernels import _array, _ops


def numpy_of(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def tensor_of(array):
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


class Exported:
    """An array of nobody's: it has DLPack, and nothing else. ``old``: of before version 1."""

    def __init__(self, tensor, old=False):
        self._tensor, self._old = tensor, old
        self.asked = None

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()

    def __dlpack__(self, **how):
        if self._old and "max_version" in how:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        self.asked = how
        return self._tensor.__dlpack__(**how)


@functools.cache
def _parameters(name):
    return [(a.name, a.default_value) for a in getattr(_ops, name)._schema.arguments]


class ArrayOps:
    """``module`` is ``_array``, or another build of it; ``convert`` makes its arrays of tensors, ``back`` undoes it."""

    def __init__(self, module=_array, convert=numpy_of, back=tensor_of):
        self._module, self._convert, self._back = module, convert, back

    def __getattr__(self, name):
        if name not in _ops.SCHEMAS:
            raise AttributeError(name)

        def op(*args, **kwargs):
            given = dict(zip((parameter for parameter, _ in _parameters(name)), args)) | kwargs
            values = [given.get(parameter, default) for parameter, default in _parameters(name)]
            values = [self._convert(value) if isinstance(value, torch.Tensor) else value for value in values]
            return tuple(map(self._back, getattr(self._module, name)(*values)))

        return op


class Array(ctypes.Structure):
    """csrc/core/params.h"""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 5),
        ("stride", ctypes.c_int64 * 5),
    ]


@functools.cache
def recording():
    """What the last ``denoise_step_`` of ``simt_module`` was called with."""
    from simt import bridge

    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden"]
    libraries = ["-ldl", "-Wl,--no-as-needed", str(bridge.library("plain"))]
    path = bridge.build.shared_object(bridge.HERE / "recording.cpp", flags, libraries, bridge.FOLDER)
    library = ctypes.CDLL(str(path))
    for name in ("stream", "scratch"):
        getattr(library, f"dlm_recorded_{name}").restype = ctypes.c_void_p
    for name in ("x", "logits"):
        getattr(library, f"dlm_recorded_{name}").restype = ctypes.POINTER(Array)
    return path, library


@functools.cache
def simt_module():
    """``_array`` as a build with CUDA has it, on the kernels as the SIMT runtime executes them."""
    import pybind11
    from simt import bridge

    from dlm_kernels import _load

    cpu = _load.library_path()
    flags = [
        *("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DDLM_CUDA", "-Wall", "-Wextra", "-Werror"),
        *("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"]),
    ]
    # The first that has a name gives it: a build with CUDA has the real dlm_cuda_*, too.
    libraries = [str(recording()[0]), str(bridge.library("plain")), str(cpu), f"-Wl,-rpath,{cpu.parent}"]
    path = bridge.build.shared_object(bridge.ROOT / "csrc" / "pybind" / "array.cpp", flags, libraries, bridge.FOLDER)
    spec = importlib.util.spec_from_file_location("_array", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
