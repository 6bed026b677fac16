"""What distinguishes diffusion families in training: how clean tokens become noisy ones, and each position's
weight.

A corruption maps clean tokens int64 [B, L] to (noisy int64 [B, L], weight fp32 [B, L]); the loss is the
weighted sum of the clean tokens' cross-entropies, divided by B * L. Positions of weight 0 are not projected
to the vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dlm_kernels.demo.model import ModelConfig

Corruption = Callable[[Tensor, ModelConfig, Generator, float], tuple[Tensor, Tensor]]


def mask_tokens(clean: Tensor, config: ModelConfig, generator: Generator, floor: float) -> tuple[Tensor, Tensor]:
    """Absorbing noise: n of the L positions become the mask, n spread evenly over 1..L within the batch.

    The weight L / n makes it the ELBO of order-agnostic autoregression (Hoogeboom et al., 2021), which is in
    the mean the continuous-time bound with weight 1 / t, but steadier: neither t nor the count is drawn.
    `floor` caps the weight at 1 / floor, as windows with a handful of masks would else dominate the gradient
    noise; 0 = exact bound.
    """
    batch, length = clean.shape
    stratum = (torch.arange(batch) + torch.rand((), generator=generator)) / batch
    count = 1 + (stratum * length).long()
    rank = torch.rand(batch, length, generator=generator).argsort(dim=1).argsort(dim=1)
    masked = rank < count[:, None]
    weight = masked * (length / count.clamp_min(floor * length))[:, None]
    return torch.where(masked, config.mask_id, clean), weight


CORRUPTIONS: dict[str, Corruption] = {"masked": mask_tokens}
