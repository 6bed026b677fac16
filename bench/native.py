"""The native library as the bench sees it: instruction sets, and the two floors of the roofline."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from .. import _load

# Elements of the exp-peak buffer: 16 KB at fp32, half of a small first-level cache.
_PEAK_ELEMENTS = 4096
# Work per call: some 20 ms, or waking a second thread would count as slow memory or slow arithmetic.
_PEAK_REPEATS = 20_000
_READ_BYTES = 1 << 28


def available() -> bool:
    """Whether the native CPU library is loaded; without it the ops run the PyTorch reference."""
    return _load.library() is not None


def isas() -> list[str]:
    """Instruction sets this machine can run, best first; emulated ones are for tests and not worth timing."""
    return [name for name in _load.cpu_isas() if "emulated" not in name] if available() else []


def current_isa() -> str:
    return _load.cpu_isa()


@contextlib.contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run the ops with instruction set `name` inside the block."""
    before = current_isa()
    _load.set_cpu_isa(name)
    try:
        yield
    finally:
        _load.set_cpu_isa(before)


class Floors:
    """No step can be faster than reading its logits once, nor than one exp per logit.

    read_stream: all threads read the very tensor of the case, with the library's own load loop.
    exp_peak: the sweep's inner loop on a buffer that stays in the first-level cache, one thread (bars are stated as
    threads x this) or all threads at once (what cores that share execution units really have).
    """

    def __init__(self, threads: int) -> None:
        library = _load.library()
        if library is None:
            raise RuntimeError("the roofline needs the native library, which is not loaded")
        self.threads = threads
        self._read = library.dlm_cpu_read_stream
        self._read.argtypes, self._read.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_double
        self._peak = library.dlm_cpu_exp_peak
        self._peak.argtypes, self._peak.restype = (
            [ctypes.c_int32, ctypes.c_int64, ctypes.c_int64],
            ctypes.c_double,
        )
        # ctypes releases the GIL, so plain Python threads read in parallel; this thread does one share itself.
        self._pool = ThreadPoolExecutor(max(1, threads - 1))

    def read_stream(self, logits: torch.Tensor) -> tuple[Callable[[], None], int]:
        """(callable, bytes it reads): contiguous `logits`, often enough, every thread its share."""
        size, start = logits.numel() * logits.element_size(), logits.data_ptr()
        cuts = [size * i // self.threads // 64 * 64 for i in range(self.threads)] + [size]
        passes = -(-_READ_BYTES // size)

        def share(part: tuple[int, int]) -> None:
            for _ in range(passes):
                self._read(*part)

        return self._together(share, [(start + a, b - a) for a, b in zip(cuts, cuts[1:])]), passes * size

    def exp_peak(self, dtype: torch.dtype, threads: int) -> tuple[Callable[[], None], int]:
        """(callable, elements it processes): the inner loop from the first-level cache on `threads` threads."""
        code = _load.DTYPE_CODES[dtype]
        call = self._together(lambda _: self._peak(code, _PEAK_ELEMENTS, _PEAK_REPEATS), [None] * threads)
        return call, threads * _PEAK_ELEMENTS * _PEAK_REPEATS

    def _together(self, work: Callable, parts: list) -> Callable[[], None]:
        """A callable that runs work(part) for all parts at once and returns when all are done."""

        def call() -> None:
            others = [self._pool.submit(work, part) for part in parts[1:]]
            work(parts[0])
            for other in others:
                other.result()

        return call

    def close(self) -> None:
        self._pool.shutdown()
