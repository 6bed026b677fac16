"""The arguments of the ops in the groups they come in, as csrc/core/params.h has them."""

from typing import NamedTuple

import torch

from .cutoff import Filters


class Sweep(NamedTuple):
    """Where logits come from and which law they define."""

    logits: torch.Tensor
    temperature: torch.Tensor
    uncond_logits: torch.Tensor | None = None
    cfg_scale: float = 0.0
    suppress: torch.Tensor | None = None
    softcap: float = 0.0
    shift: int = 0
    filters: Filters = Filters()


class Drawing(NamedTuple):
    """How a token is drawn and scored."""

    seed: torch.Tensor
    step: torch.Tensor
    uniform: torch.Tensor | None = None
    demote: torch.Tensor | None = None
    confidence: str = "prob"
    confidence_from: str = "raw"
    conf_dtype: str = "float32"
    rank_temperature: float = 0.0


class Trace(NamedTuple):
    """Who takes note of what is written; without ``positions`` nobody does."""

    positions: torch.Tensor | None = None
    steps: torch.Tensor | None = None
    step: torch.Tensor | None = None
