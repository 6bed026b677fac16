"""Peak extra memory of one step, from the kernel's own high-water mark."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _kib(field: str) -> int:
    return int(re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE).group(1))


def peak_extra_bytes(call: Callable[[], object]) -> int | None:
    """Bytes by which resident memory grew at its highest during `call`; None where Linux's /proc does not tell.

    `call` must have run before: what it keeps for good (compiled code, thread pools) is not the cost of a step. Free
    heap is handed back first, or a temporary that fits into it would not show.
    """
    try:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text("5")  # resets VmHWM to the present VmRSS
        before = _kib("VmRSS")
        call()
        return max(0, _kib("VmHWM") - before) * 1024
    except (OSError, AttributeError):
        return None
