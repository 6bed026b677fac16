"""Duo's samplers, with their own names and signatures (``trainer_base.py`` and ``algo.py`` of github.com/s-sahoo/duo).

    model = algo.DUO_BASE.load_from_checkpoint(...)
    dlm.accelerate(model)  # then model.generate_samples(...) as before

Covered: the ancestral and the Psi sampler of the uniform-state models, with and without ``noise_removal`` and ``p_nucleus``
(which renormalises what it keeps, the crossing token included, in the original and here), and their forward noising; of the
masked ones MDLM (``parameterization="subs"``), for which Psi is ReMDM. The logits are read once, where the original moves some
300 (ancestral) or 550 (Psi) bytes for each of them. What follows the original's law is the draw:

- ``sampling.use_float64`` changes nothing but the dtype of what is returned. The original needs float64 to draw rare noise;
  here the choice between the model and noise is made first, in float64, and no dense noise is drawn at all.
- ``p_x0``, which the original computes to hand it back or to cache it, holds no values until somebody looks.
- A position whose logits hold NaN stays as it is.

Not covered: the analytic sampler, and guidance weights other than 0 and 1, for which the original calls its own method with
one argument too many. ``torch.manual_seed`` makes a run reproducible; it is another run than the original's.
"""

from __future__ import annotations

import torch

from ..noising import q_sample
from ..transitions import absorbing, duo_psi, remdm, uniform
from ..uniform import transition_step
from .deferred import Law, law_of
from .levels import per_sequence, transition_of
from .seams import class_named, step_seams
from .transfer import refuse

__all__ = ["_ancestral_update", "_psi_update", "q_xt"]


def _ancestral_update(self, x, t, labels, dt, p_x0=None, noise_removal_step=False):
    """One ancestral step of int64 [B, L] canvases from ``t`` [B, 1] to t - dt, or to clean data.

    Returns (p_x0 [B, L, V], int64 [B, L])."""
    _require_covered(self)
    alpha_t, *alphas = _alphas(self, x, t, dt, noise_removal_step)
    transition = transition_of(absorbing if _is_masked(self) else uniform, *alphas)
    return _step(self, x, alpha_t, labels, p_x0, transition)


def _psi_update(self, x, t, labels, dt, kappa, p_x0=None, noise_removal_step=False):
    """The same of the Psi sampler: ``kappa`` of the ancestral step, and else x_0 from its posterior, noised anew to t - dt."""
    _require_covered(self)
    alpha_t, *alphas = _alphas(self, x, t, dt, noise_removal_step)
    make = _masked_psi if _is_masked(self) else duo_psi
    transition = transition_of(make, *alphas, per_sequence(kappa, x.shape[0]))
    return _step(self, x, alpha_t, labels, p_x0, transition)


def _masked_psi(alpha_t, alpha_s, kappa):
    """Under masked noise the renewed part is what ReMDM remasks."""
    return remdm(alpha_t, alpha_s, (1 - kappa) * (1 - alpha_s))


def q_xt(self, x, alpha_t):
    """Noise int64 [B, L]: every token stays with probability ``alpha_t`` [B, 1], the first one always if ``ignore_bos``."""
    frozen = None
    if self.ignore_bos:
        frozen = torch.zeros_like(x, dtype=torch.bool)
        frozen[:, 0] = True
    mask_id = self.mask_index if _is_masked(self) else None
    return q_sample(x, per_sequence(alpha_t, x.shape[0]), vocab_size=self.vocab_size, mask_id=mask_id, frozen=frozen)


def _alphas(self, x, t, dt, noise_removal_step):
    """alpha(t) as the client holds it, then alpha of t and of what the step leads to."""
    _, alpha_t = self.noise(t)
    alpha_s = 1.0 if noise_removal_step else per_sequence(self.noise(t - dt)[1], x.shape[0])
    return alpha_t, per_sequence(alpha_t, x.shape[0]), alpha_s


def _step(self, x, alpha_t, labels, p_x0, transition):
    if p_x0 is None:
        if labels is not None and not _by_class(self):
            labels = torch.full_like(labels, self.num_classes)
        log_x0 = self.forward(x, self._sigma_from_alphat(alpha_t), labels)
        dtype = torch.float64 if self.config.sampling.use_float64 else log_x0.dtype
        p_x0 = Law(log_x0, dtype=dtype, top_p=self.p_nucleus)
    mask_id = self.mask_index if _is_masked(self) else None
    logits, options = law_of(p_x0)
    return p_x0, transition_step(x, logits, transition=transition, mask_id=mask_id, **options).x


def _is_masked(self):
    return class_named(self, "UniformState") is None


def _by_class(self):
    return self.class_conditional and self.config.sampling.guid_weight not in (None, 0.0)


def _require_covered(self):
    weight = self.config.sampling.guid_weight if _by_class(self) else 1.0
    refuse(weight != 1.0, f"guid_weight: must be None, 0 or 1, got {weight}")
    masked = _is_masked(self) and self.parameterization != "subs"
    refuse(masked, f"parameterization: must be subs for masked diffusion, got {self.parameterization}")


# ---- accelerate --------------------------------------------------------------------------------------------------------


class _Duo:
    name = "Duo model (UniformState or AbsorbingState)"

    def matches(self, obj):
        return class_named(obj, "UniformState", "AbsorbingState") is not None and hasattr(obj, "_ancestral_update")

    def seams(self, obj):
        return step_seams(
            obj,
            (_ancestral_update, "ancestral step"),
            (_psi_update, "step of the Psi sampler"),
            (q_xt, "forward noising"),
        )


ADAPTERS = (_Duo(),)
