"""The ops on NumPy arrays, without torch: the same kernels, checks and messages. Importing this never imports torch."""

import os

import numpy as np

from . import _array
from .results import RowStats


def _ids(ids):
    return None if ids is None else np.asarray(ids, dtype=np.int64).reshape(-1)


def row_stats(logits, *, temperature=1.0, given=None, uncond_logits=None, cfg_scale=0.0, suppress=None, threads=None):
    """Statistics of the law softmax(z / T) of every row; arguments, results and errors as ``dlm_kernels.row_stats``.

    Args:
        logits: float32 or float16 ndarray, [B, W, V] or [R, V]; read in place, any strides but unit stride in V.
        temperature: T > 0, a float or float32 [B] ([R] for [R, V] logits).
        threads: worker threads; default: the CPUs this process may use. Does not change any result.
    """
    if not isinstance(logits, np.ndarray):
        raise TypeError(f"logits: must be a numpy.ndarray, got {type(logits).__name__}")
    temperatures = np.atleast_1d(np.asarray(temperature, dtype=np.float32))
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return RowStats(
        *_array.row_stats(logits, temperatures, given, uncond_logits, float(cfg_scale), _ids(suppress), threads)
    )
