"""What the steps of ``dlm_kernels.array`` carry from one to the next, in place."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from . import state
from ._array_home import library, on_host, put
from .arguments import integer, require, require_type
from .trace_summary import COLUMNS, summarise


class RenoiseState(state.RenoiseState):
    """What ``renoise_step_`` carries from step to step, in place. Make one by ``start``."""

    written = ("argmax", "unchanged", "done", "committed")

    @classmethod
    def start(cls, x, keep_accepted=False):
        """Of a run that begins with the canvas ``x`` [B, L]. ``keep_accepted``: what is accepted stays (block refinement);
        without it everything is decided again in every step (DiffusionGemma)."""
        of = library(x)
        return cls(
            x.copy(),
            of.full(x.shape[:1], -1, np.int64),
            of.zeros(x.shape[:1], bool),
            of.zeros(x.shape, bool) if keep_accepted else None,
        )


@dataclass
class RevisionTrace:
    """Counts what happens to the positions of a canvas: ``dlm_kernels.RevisionTrace`` in mode "counters", which says what is
    counted. Make one by ``start`` and pass it as ``trace=`` to the steps, which are numbered over the whole run."""

    positions: Any  # int32 [B, L, 8], updated in place: 32 bytes per position
    steps: Any  # int64 [max_steps, B, 8], likewise
    reference: Any = None  # int64 [B, L], the right tokens

    written: ClassVar = ("positions", "steps")

    @classmethod
    def start(cls, x, max_steps=1024, reference=None):
        """Of a run on the canvas ``x`` [B, L]; lives where that does.

        Args:
            max_steps: rows of the table of steps; whatever happens later is counted in its last row.
            reference: int64 or int32 [B, L], the right tokens, if they are known; copied.

        Raises: TypeError, ValueError: naming the argument, the rule and the value.
        """
        require(x.ndim == 2, "x", "must be 2-dimensional, [B, L]", list(x.shape))
        require(integer("max_steps", max_steps) >= 1, "max_steps", "must be >= 1", max_steps)
        if reference is not None:
            known = reference.dtype in (np.int64, np.int32)
            require_type(known, "reference", "dtype must be int64 or int32", reference.dtype)
            require(reference.shape == x.shape, "reference", f"shape must be {list(x.shape)}", list(reference.shape))
            reference = reference.astype(np.int64)
        made = cls(np.empty((*x.shape, 8), np.int32), np.empty((max_steps, len(x), len(COLUMNS)), np.int64))
        made.reset()
        return cls(put(made.positions, x), put(made.steps, x), reference)

    def reset(self):
        """Back to a run that has not begun, in the same memory."""
        self.positions[...] = -1
        self.positions[..., 4:7] = 0
        self.steps[...] = 0

    def summary(self):
        """What the trace has seen: the dict that ``dlm_kernels.RevisionTrace.summary`` documents, of NumPy arrays. Waits for the
        device."""
        return summarise("counters", *(on_host(part) for part in (self.positions, self.steps, self.reference)))


def copied(value):
    """An array, or what a step carries with all that it writes copied; anything else as it is, for the step to reject."""
    if isinstance(value, (RenoiseState, RevisionTrace)):
        return replace(value, **{name: copied(getattr(value, name)) for name in value.written})
    return value.copy() if hasattr(value, "copy") else value


def assign(mine, value):
    """``value``, a copy of ``mine`` that was written since, to ``mine``."""
    if isinstance(mine, (RenoiseState, RevisionTrace)):
        for name in mine.written:
            assign(getattr(mine, name), getattr(value, name))
    elif mine is not None:
        mine[...] = value
