"""What steps carry over, as fields: tensors for ``dlm_kernels``, arrays for ``dlm_kernels.array``. Never imports torch."""

from dataclasses import dataclass
from typing import Any


@dataclass
class RenoiseState:
    """What ``renoise_step_`` carries from step to step, in place."""

    argmax: Any  # [B, L], dtype of x: the most probable canvas, which is DiffusionGemma's output
    unchanged: Any  # int64 [B]: for how many steps in a row it was the same
    done: Any  # bool [B]: sequences at rest, which are left alone
    committed: Any = None  # bool [B, L]: accepted for good (block refinement)
