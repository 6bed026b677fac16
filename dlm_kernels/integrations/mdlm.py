"""MDLM's reverse steps, with its names and signatures (``Diffusion`` in ``diffusion.py`` of github.com/kuleshov-group/mdlm).

    model = Diffusion.load_from_checkpoint(...)
    dlm.accelerate(model)                       # ``_ddpm_caching_update`` and ``_ddpm_update``

Whether a mask is filled does not depend on the logits, so that the step draws that first and then one token where it is to
be, from one read of the masked rows. The original exponentiates, scales, divides by noise and takes the argmax of all. Also:

- The tokens' law is exact. The original's race of float32 logarithms draws rare tokens too seldom.
- Noise is keyed, by seeds that torch's global generator draws.
- The logits are read as the network made them: within a step ``_subs_parameterization`` normalises nothing.
- The p_x0 that ``_ddpm_caching_update`` returns for the next step holds no values until somebody looks.
- A row with NaN stays masked.

Models of other parameterizations than "subs", and other noise than log-linear in the cached step, run as they are, and so
does ``_analytic_update``.
"""

from __future__ import annotations

import contextvars

import torch

from .. import transition_step, transitions
from ..schedules import Level
from .deferred import Deferred, Law, law_of
from .levels import per_sequence, transition_of
from .seams import Unsupported, has_parameters, step_seams

__all__ = ["_ddpm_caching_update", "_ddpm_update"]

_in_step = contextvars.ContextVar("whether a step asks for the law, and will read the logits", default=False)


@torch.no_grad()
def _ddpm_caching_update(self, x, t, dt, p_x0=None):
    """One reverse step from t to t - dt.

    Args:
        self: with ``noise``, ``forward(x, sigma)`` -> log p(x_0), ``mask_index`` and ``config.noise.type``.
        x: int64 [B, L]. t: [B] or [B, 1], times in (0, 1]; dt: a number.
        p_x0: probabilities [B, L, V], what the step before returned if it changed nothing.

    Returns (p_x0, x_s).
    """
    check_log_linear(self)
    if p_x0 is None:
        p_x0 = Law(forward(self, x, self.noise(t)[0]))
    t, s = (per_sequence(time, len(x)) for time in (t, t - dt))
    return p_x0, fill(self, x, *law_of(p_x0), transition_of(absorbing, t, s))


@torch.no_grad()
def _ddpm_update(self, x, t, dt):
    """One reverse step from t to t - dt; ``noise`` is any schedule. Arguments as above; returns x_s."""
    _check_law(self)
    sigma, later = (self.noise(time)[0] for time in (t, t - dt))
    sigma = sigma.squeeze(-1) if sigma.dim() > 1 else sigma
    levels = (per_sequence(value, len(x)) for value in (sigma, later))
    return fill(self, x, *law_of(Law(forward(self, x, sigma))), transition_of(_absorbing_at, *levels))


def forward(self, x, sigma):
    """``self.forward``: log p(x_0) [B, L, V], as a rule Deferred, which stands for the network's logits."""
    token = _in_step.set(True)
    try:
        return self.forward(x, sigma)
    finally:
        _in_step.reset(token)


def _subs_parameterization(self, logits, xt):
    """Within a step: log p(x_0), computed when somebody looks. Its law is that of ``logits`` where the mask cannot be drawn and
    tokens stay, or go to the mask, whatever their rows hold; so it is for the steps here."""
    if not _in_step.get() or torch.compiler.is_compiling():
        raise Unsupported("who calls forward outside of a step looks at what it returns")
    return Deferred(logits, lambda: type(self)._subs_parameterization(self, logits, xt))


def fill(self, x, logits, options, transition):
    """A step that leaves tokens alone: their rows are not read. Returns x_s."""
    tokens = x != self.mask_index
    return transition_step(x, logits, transition=transition, mask_id=self.mask_index, frozen=tokens, **options).x


def absorbing(t, s):
    """The step between times of log-linear noise, which masks with probability t."""
    return transitions.absorbing(level(t), level(s))


def level(t):
    t = t.clamp(0, 1) if isinstance(t, torch.Tensor) else min(max(t, 0.0), 1.0)
    return Level(1 - t, t)


def _absorbing_at(sigma_t, sigma_s):
    """The step between total noises sigma."""
    sigmas = (torch.as_tensor(sigma, dtype=torch.float64) for sigma in (sigma_t, sigma_s))
    return transitions.absorbing(*(Level(torch.exp(-sigma), -torch.expm1(-sigma)) for sigma in sigmas))


def _check_law(self):
    """The law of a token must be that token, and the mask in no law."""
    kind = getattr(self, "parameterization", None)
    if kind != "subs":
        raise Unsupported(f"the parameterization {kind} is not covered")


def check_log_linear(self):
    _check_law(self)
    if self.config.noise.type != "loglinear":
        raise Unsupported(f"noise of type {self.config.noise.type} is not covered")


# ---- accelerate ----------------------------------------------------------------------------------------------------


DOES = "routes masks, and draws where they are filled"
DEFERRING = _subs_parameterization, "leaves the logits to the step"


def is_diffusion(obj):
    """Whether obj has MDLM's steps, or ReMDM's."""
    steps = ("_ddpm_caching_update", "p_x0"), ("_ddpm_update", "dt")
    known = (has_parameters(getattr(type(obj), name, None), "self", "x", "t", last) for name, last in steps)
    return hasattr(obj, "mask_index") and all(known)


def has_confidences(obj):
    """ReMDM's."""
    return has_parameters(type(obj)._ddpm_caching_update, "conf")


class _Diffusion:
    name = "MDLM Diffusion"

    def matches(self, obj):
        return is_diffusion(obj) and not has_confidences(obj)

    def seams(self, obj):
        return step_seams(obj, (_ddpm_caching_update, DOES), (_ddpm_update, DOES), DEFERRING)


ADAPTERS = (_Diffusion(),)
