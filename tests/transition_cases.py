"""Transitions to test: every one with its schedule numbers, its constructor and the original it must equal."""

from typing import NamedTuple

import dense_posteriors as dense
import torch
from dlm_kernels.reference import transition as reference
from dlm_kernels.reference.row_stats import sweep

from dlm_kernels import schedules, transitions

NO_MASK = -1


class Numbers:
    """Schedule numbers of n rows, float64 [n]; ``tame`` keeps float32 originals away from their own cancellation."""

    def __init__(self, seed, n, tame=False):
        self.g, self.n, self.tame = torch.Generator().manual_seed(seed), n, tame

    def unit(self):
        return torch.rand(self.n, generator=self.g, dtype=torch.float64)

    def alphas(self):
        """(alpha_t, alpha_s), a step of at least 1e-3 apart."""
        low, high = (0.1, 0.9) if self.tame else (1e-3, 0.999)
        alpha_t = low + (high - low - 0.01) * self.unit()
        step = 1e-3 + (high - 1e-3 - alpha_t) * self.unit() ** 3
        return alpha_t, alpha_t + step

    def times(self):
        alpha_t, alpha_s = self.alphas()
        return 1 - alpha_t, 1 - alpha_s

    def log_snrs(self):
        width = 2 if self.tame else 8
        log_snr_t = width * (2 * self.unit() - 1)
        return log_snr_t, log_snr_t + 0.01 + self.unit()

    def sigma(self, alpha_t, alpha_s):
        return self.unit() * schedules.remask_max(alpha_t, alpha_s)


class Kind(NamedTuple):
    """A transition, its numbers, and the original: ``make(*numbers)``, ``original(law, x_t, *numbers, mask_id)``."""

    numbers: object
    make: object
    original: object
    mask: bool = False


def without_mask(original):
    return lambda law, x_t, *numbers, mask_id: original(law, x_t, *numbers)


def with_mask(original):
    return lambda law, x_t, *numbers, mask_id: original(law, x_t, *numbers, mask_id)


KINDS = {
    "sumi": Kind(lambda r: r.alphas(), transitions.uniform, without_mask(dense.sumi)),
    "udlm": Kind(lambda r: r.alphas(), transitions.uniform, without_mask(dense.udlm)),
    "discrete_ddim": Kind(
        lambda r: r.alphas(),
        lambda t, s: transitions.uniform(t, s, prediction="denoiser"),
        without_mask(dense.discrete_ddim),
    ),
    "duo_psi": Kind(lambda r: (*r.alphas(), r.unit()), transitions.duo_psi, without_mask(dense.duo_psi)),
    "max_coupling": Kind(lambda r: r.alphas(), transitions.max_coupling, without_mask(dense.max_coupling)),
    "sedd_euler": Kind(
        lambda r: (3 * r.unit() ** 3,), lambda d: transitions.sedd_euler(d, 1.0), without_mask(dense.sedd_euler)
    ),
    "gidd": Kind(lambda r: (*r.times(), r.unit()[:1].item() * 0.9), transitions.gidd, with_mask(dense.gidd), mask=True),
    "gidd_snr": Kind(
        lambda r: (*r.log_snrs(), (4 * r.unit() - 2)), transitions.gidd_snr, with_mask(dense.gidd_snr), mask=True
    ),
    "gidd_snr_mask": Kind(
        lambda r: (*r.log_snrs(), torch.full((r.n,), -1000.0, dtype=torch.float64)),
        transitions.gidd_snr,
        with_mask(dense.gidd_snr),
        mask=True,
    ),
    "absorbing": Kind(lambda r: r.alphas(), transitions.absorbing, with_mask(dense.mdlm), mask=True),
    "remdm": Kind(
        lambda r: (lambda t, s: (t, s, r.sigma(t, s)))(*r.alphas()),
        transitions.remdm,
        with_mask(dense.remdm),
        mask=True,
    ),
}


def rows(seed, n, vocab, spread, mask_id):
    """(logits float64 [n, V], x_t [n]); a mask id has no logit, and a third of its rows hold it."""
    g = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, vocab, generator=g, dtype=torch.float64)
    x_t = torch.randint(vocab, (n,), generator=g)
    if mask_id != NO_MASK:
        logits[:, mask_id] = -torch.inf
        other = (mask_id + 1) % vocab
        x_t = torch.where(x_t == mask_id, other, x_t)
        x_t = torch.where(torch.rand(n, generator=g) < 1 / 3, mask_id, x_t)
    return logits, x_t


def odds_against(logits, x_t, temperature=1.0):
    stats = sweep(logits, torch.full(logits.shape[:1], temperature, dtype=torch.float64))
    z = logits.gather(-1, x_t[:, None])[:, 0]
    return torch.where(z == -torch.inf, torch.inf, stats.rest_of(x_t, z, temperature))


def weights_of(transition, odds, is_mask, vocab, mask_id=NO_MASK, temperature=1.0):
    """[n, 4] by the reference, from the odds at ``temperature``."""
    coefficients = transition.coefficients.expand(len(odds), 14)
    support = reference.noise_support(vocab, mask_id)
    exponent = 1 / temperature if transition.tempered == "after" else 1.0
    odds = reference.leave_one_out_odds(odds, coefficients[:, 1], support, exponent)
    return reference.route_weights(coefficients, odds, is_mask, support)


def law_of(weights, law, x_t, mask_id):
    """The law of x_s that the routes make, [n, V]."""
    vocab = law.shape[-1]
    seen = dense.one_hot(x_t, law)
    others = law * (1 - seen)
    total = others.sum(-1, keepdim=True)
    noise = torch.full_like(law, 1 / reference.noise_support(vocab, mask_id))
    if mask_id != NO_MASK:
        noise[:, mask_id] = 0
    stay, model, uniform, mask = weights[:, :, None].unbind(1)
    out = stay * seen + model * others / torch.where(total > 0, total, 1.0) + uniform * noise
    if mask_id != NO_MASK:
        out[:, mask_id] += mask[:, 0]
    return out
