"""What the plugins of serving engines share: they do nothing unless DLM_KERNELS_ENGINE=1, and say once what they replaced."""

from __future__ import annotations

import logging
import os

from .. import _load


def wanted():
    """Whether the user asked for it: a wheel that is merely installed changes no engine."""
    return os.environ.get("DLM_KERNELS_ENGINE") == "1"


def report(engine, replaced, why=None):
    """One line, on the engine's own logger: names ``replaced``, or ``why`` there are none.

    Raises RuntimeError with DLM_KERNELS_STRICT=1 where nothing is replaced.
    """
    log = logging.getLogger(f"{engine}.dlm_kernels")
    if why is None:
        log.info("dlm_kernels replaces %s", ", ".join(replaced))
        return
    text = f"dlm_kernels replaces nothing in {engine}: {why}"
    if _load.strict():
        raise RuntimeError(f"{text} (DLM_KERNELS_STRICT=1 forbids that)")
    log.warning(text)
