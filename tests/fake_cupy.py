"""What dlm_kernels._cupy uses of CuPy, on memory of the host, for machines without a GPU: arrays with a __cuda_array_interface__
that lies about where they are, streams that note what waits for what. ``installed()`` puts it in CuPy's place."""

import contextlib
import sys
import types

import ml_dtypes
import numpy as np
from array_ops import numpy_of, tensor_of

import dlm_kernels


class ndarray:
    """A NumPy array that pretends to be on a device. Its arithmetic is not CuPy's; ``get`` is."""

    def __init__(self, host, device=0, stream=None):
        self._host, self.device, self._stream = host, types.SimpleNamespace(id=device), stream
        self.data = types.SimpleNamespace(ptr=host.ctypes.data)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    strides = property(lambda self: self._host.strides)

    def __len__(self):
        return len(self._host)

    def get(self):
        return self._host

    def copy(self):
        return ndarray(self._host.copy(), self.device.id)

    def astype(self, dtype):
        return ndarray(self._host.astype(dtype), self.device.id)

    @property
    def __cuda_array_interface__(self):
        interface = dict(self._host.__array_interface__)
        interface.pop("descr", None)
        interface.update(version=3, stream=self._stream)
        if self._host.dtype == ml_dtypes.bfloat16:
            interface["typestr"] = "<V2"
        return interface


class Stream:
    def __init__(self, ptr):
        self.ptr, self.waits = ptr, []

    def wait_event(self, event):
        self.waits.append(event)

    def record(self):
        return f"event of {self.ptr}"


class Fake:
    """The module, and what happened to it."""

    def __init__(self):
        self.device, self.entered = 0, []
        self.streams = {0: Stream(0), 1: Stream(0x51)}
        self.made = []

    @contextlib.contextmanager
    def _on(self, device):
        before, self.device = self.device, device
        self.entered.append(device)
        yield
        self.device = before

    def _new(self, host):
        made = ndarray(host, self.device)
        self.made.append((made.shape, str(made.dtype), self.device))
        return made

    def module(self):
        cupy = types.ModuleType("cupy")
        cupy.ndarray = ndarray
        cupy.empty = lambda shape, dtype: self._new(_poisoned(shape, dtype))
        cupy.full = lambda shape, value, dtype: self._new(np.full(shape, value, dtype))
        cupy.zeros = lambda shape, dtype=float: self._new(np.zeros(shape, dtype))
        cupy.array = lambda values, dtype: self._new(np.array(values, dtype))
        cupy.asarray = lambda array: array if isinstance(array, ndarray) else self._new(np.array(array))
        cupy.cuda = types.SimpleNamespace(
            Device=self._on,
            get_current_stream=lambda: self.streams[self.device],
            ExternalStream=Stream,
            runtime=types.SimpleNamespace(
                pointerGetAttributes=lambda pointer: types.SimpleNamespace(device=self.device)
            ),
        )
        return cupy


def _poisoned(shape, dtype):
    """What is not written shows."""
    if np.dtype(dtype) == bool:
        return np.full(shape, True)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.full(size, 0xAB, np.uint8).view(dtype).reshape(shape)


@contextlib.contextmanager
def installed():
    """In the place of CuPy, real or missing; what was made over either is forgotten."""
    real, fake = sys.modules.pop("cupy", None), Fake()
    sys.modules["cupy"] = fake.module()
    _forget()
    try:
        yield fake
    finally:
        del sys.modules["cupy"]
        if real is not None:
            sys.modules["cupy"] = real
        _forget()


def _forget():
    sys.modules.pop("dlm_kernels._cupy", None)
    vars(dlm_kernels).pop("_cupy", None)


def array_of(tensor):
    return ndarray(numpy_of(tensor))


def back(array):
    return tensor_of(array.get())


class Plain:
    """An array of nobody's, with the interface alone."""

    def __init__(self, array, **changes):
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}
