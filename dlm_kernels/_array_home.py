"""Where arrays live: NumPy's on the host, CuPy's on a GPU. CuPy is imported with the first CUDA array."""

import numpy as np


def library(like):
    """The library whose arrays results on the device of ``like`` are."""
    if isinstance(like, np.ndarray) or not _on_cuda(like):
        return np
    import cupy

    return cupy


def _on_cuda(like):
    if hasattr(like, "__cuda_array_interface__"):
        return True
    return hasattr(like, "__dlpack_device__") and like.__dlpack_device__()[0] in (2, 13)


def put(array, like):
    """A NumPy array, or what is on a device already, on the device of ``like``."""
    if isinstance(like, np.ndarray) or not isinstance(array, np.ndarray) or not _on_cuda(like):
        return array
    from . import _cupy

    return _cupy.put(array, like)


def on_host(array):
    """An array of NumPy or CuPy as one of NumPy. Waits for the device."""
    return array if array is None or isinstance(array, np.ndarray) else array.get()
