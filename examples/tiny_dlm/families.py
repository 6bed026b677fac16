"""What distinguishes diffusion families in training: the noise, the loss it is trained on, and the bound that is reported.

Both families are trained on a weighted cross-entropy of the clean tokens, in nats per token, and are measured by their
bound on the negative log-likelihood, so that their numbers compare.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from dlm_kernels.demo.model import Denoiser


@dataclass(frozen=True)
class Family:
    """loss(model, clean int64 [B, L], generator, floor): what training minimises; the weight of a nearly clean window is
    capped at 1 / floor. bound(model, clean, generator): the negative ELBO, an estimate by drawn noise."""

    loss: Callable[[Denoiser, Tensor, Generator, float], Tensor]
    bound: Callable[[Denoiser, Tensor, Generator], Tensor]


def strata(batch: int, generator: Generator) -> Tensor:
    """One number in [0, 1) per window, spread evenly over the batch, [B]."""
    return (torch.arange(batch) + torch.rand((), generator=generator)) / batch


def weighted(model: Denoiser, noisy: Tensor, clean: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of cross-entropies over B * L. Positions of weight 0 are not projected to the vocabulary."""
    carries = weight > 0
    logits = model.project(model.hidden(noisy)[carries])
    return (F.cross_entropy(logits, clean[carries], reduction="none") * weight[carries]).sum() / clean.numel()


def masked_loss(model: Denoiser, clean: Tensor, generator: Generator, floor: float) -> Tensor:
    """Absorbing noise: n of the L positions become the mask, n spread evenly over 1..L within the batch.

    The weight L / n makes it the ELBO of order-agnostic autoregression (Hoogeboom et al., 2021), which is in the mean the
    continuous-time bound with weight 1 / t, but steadier: neither t nor the count is drawn. floor 0 = exact bound.
    """
    batch, length = clean.shape
    count = 1 + (strata(batch, generator) * length).long()
    rank = torch.rand(batch, length, generator=generator).argsort(dim=1).argsort(dim=1)
    masked = rank < count[:, None]
    weight = masked * (length / count.clamp_min(floor * length))[:, None]
    return weighted(model, torch.where(masked, model.config.mask_id, clean), clean, weight)


def masked_bound(model: Denoiser, clean: Tensor, generator: Generator) -> Tensor:
    return masked_loss(model, clean, generator, floor=0.0)


def uniform_noise(clean: Tensor, t: Tensor, vocab: int, generator: Generator) -> Tensor:
    """Each token stays with probability 1 - t, t [B] or [B, L], or becomes a uniform one, the same by chance included."""
    noised = torch.rand(clean.shape, generator=generator) < t
    return torch.where(noised, torch.randint(vocab, clean.shape, generator=generator), clean)


def uniform_loss(model: Denoiser, clean: Tensor, generator: Generator, floor: float) -> Tensor:
    """Uniform noise at level t, cross-entropy at every position, weight 1 / t: the law of a clean token given the noisy
    canvas, its own token included. The sampler calls that a "denoiser".

    Half of the windows begin with a clean prefix of any length, which carries no loss: a prompt, or the text before a
    block. Without it, a network that is not told t takes a prompt among noise for noise.
    """
    batch, length = clean.shape
    t = strata(batch, generator)[:, None]
    prefix = (2 * torch.rand(batch, 1, generator=generator) - 1).clamp_min(0) * length
    noisy_part = torch.arange(length) >= prefix
    noisy = uniform_noise(clean, t * noisy_part, model.config.vocab_size, generator)
    return weighted(model, noisy, clean, noisy_part / t.clamp_min(floor))


def uniform_bound(model: Denoiser, clean: Tensor, generator: Generator) -> Tensor:
    """The continuous-time ELBO of uniform diffusion (UDLM, Schiff et al., 2024), alpha = 1 - t, for the law without the own
    token's evidence that the reverse step derives from a denoiser's."""
    vocab, t = model.config.vocab_size, strata(len(clean), generator)[:, None].clamp_min(1e-4)
    noisy = uniform_noise(clean, t, vocab, generator)
    logits, t = model(noisy).double(), t.double()[..., None]
    own, true = noisy[..., None], clean[..., None]
    evidence = torch.log1p(vocab * (1 - t) / t).expand(*noisy.shape, 1)
    law = logits.scatter_add(-1, own, -evidence).softmax(-1)
    # vocab * q_t(v) under the model's law and under the clean token; the rates of leaving are their ratios to the own token's
    theirs = vocab * (1 - t) * law + t
    ours = t.expand_as(theirs).scatter_add(-1, true, (vocab * (1 - t)).expand_as(true))
    rate, model_rate = ours / ours.gather(-1, own), theirs / theirs.gather(-1, own)
    divergence = (model_rate - rate + rate * (rate / model_rate).log()).sum(-1, keepdim=True)
    return (divergence / (vocab * (1 - t))).mean()


FAMILIES = {"masked": Family(masked_loss, masked_bound), "uniform": Family(uniform_loss, uniform_bound)}
