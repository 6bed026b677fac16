"""Transitions: the reverse steps of the uniform, hybrid and absorbing families, as coefficients of a route.

p(x_s | x_t) with s cleaner than t is a choice between staying at x_t, a token of the model, a uniform token and the mask, with
weights that need only p(x_t) and numbers of the schedule. Each function here turns such numbers, in float64, into the rows that
``csrc/core/transition.h`` and ``dlm_kernels.reference.transition`` evaluate:

    x_t kept:  keep + keep_p * V * p(x_t)      x_t left:  leave, for a draw of  model * law + noise * uniform + mask * [MASK]

up to a common factor, chosen so that no nearly equal numbers are subtracted. Numbers may be floats, [B] or [B, L] tensors,
and alpha a ``schedules.Level``, which keeps 1 - alpha exact. A step from t to t itself is an exact no-op (but for the noise that
``remdm`` and ``duo_psi`` add on their own), and where q_t(x_t) = 0, x_s is a fresh draw of q_s.

All steps of a run are made at once, and go to the device once:

    t, s = schedules.consecutive(schedules.sumi(128))
    for transition in transitions.uniform(t, s).to("cuda").steps(): ...

Three are no finite mixtures: SEDD's analytic step (``sedd_analytic``), guidance between posteriors (``guided``) and GIDD's
``min_p`` (``with_min_p``). They read every row a second time (``Transition.redraw``), weigh all its tokens and draw from those
weights: csrc/core/redraw.h.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch

from . import mixture
from .arguments import number, require
from .mixture import PREDICTIONS, TEMPERED  # noqa: F401  (what ``uniform`` takes)
from .schedules import as_level
from .tensors import check_values, numbers_in


@dataclass(frozen=True, eq=False)
class Transition:
    """A reverse step, ready for ``transition_step_``. Make one by the functions of this module."""

    name: str
    coefficients: torch.Tensor  # float64 [1, 14] for all, [B, 14] per sequence or [B, L, 14] per position, contiguous
    needs_mask: bool = False  # positions may hold the mask: the step needs mask_id, which no law and no noise draws
    tempered: str = "before"  # the temperature acts before or after the leave-one-out shift
    redraw: str = "none"  # or what acts on the posterior itself: "min_p", "guidance", "score"
    level: float = 0.0  # of the redraw: the least posterior that counts; gamma

    def to(self, device) -> Transition:
        """The same with its coefficients on ``device``."""
        return replace(self, coefficients=self.coefficients.to(device))

    def steps(self) -> list[Transition]:
        """One transition for all sequences per row of coefficients: a schedule of N numbers made [N, 14] of them."""
        return [replace(self, coefficients=row[None]) for row in self.coefficients]


def uniform(alpha_t, alpha_s, prediction="plug_in", tempered="before"):
    """The ancestral step of uniform diffusion.

    ``alpha_t``, ``alpha_s``: numbers in [0, 1], [B] or [B, L] float tensors, or Levels; alpha_s >= alpha_t.
    ``prediction`` "plug_in": the model's law stands for x_0 in the posterior (Sumi, UDLM, Duo). "denoiser": the law is
    p(x_0 | x_t) and counts x_t already, so x_t's logit is lowered by log(1 + V alpha_t / (1 - alpha_t)) (diffusers'
    DiscreteDDIM, rev_udm). ``tempered`` "before" (diffusers) or "after" (rev_udm's ``apply_temp_output=False``) that shift.

    ValueError: alpha outside [0, 1], alpha_s < alpha_t, unknown names, shapes that do not fit each other.
    """
    mixture.check_names(prediction, tempered)
    t, s, gain = _levels(alpha_t, alpha_s)
    return Transition("uniform", _rows(*mixture.uniform(torch.where, t, s, gain, prediction)), tempered=tempered)


def duo_psi(alpha_t, alpha_s, kappa):
    """Duo's Psi sampler: with weight ``kappa`` the ancestral step, else x_0 from its posterior, noised anew to s.

    ``alpha_t``, ``alpha_s`` as in ``uniform``; ``kappa`` in [0, 1], number or tensor; 1 is ``uniform``. Source:
    s-sahoo/duo ``_psi_update``. ValueError as there, and for kappa outside [0, 1].
    """
    kappa = numbers_in("kappa", kappa, 0, 1)
    t, s, gain, kappa = _levels(alpha_t, alpha_s, kappa)
    other = 1 - kappa
    to_model = s.alpha * (kappa * gain + other * s.alpha * t.noise)
    to_noise = kappa * gain * s.noise
    leave = to_model + to_noise
    share = torch.where(leave > 0, to_model / torch.where(leave > 0, leave, 1.0), s.alpha)
    token = _bridge(
        s.alpha * t.alpha * (kappa + other * s.alpha),
        kappa * t.alpha * s.noise,
        leave,
        share,
        1 - share,
        0.0,
        still=(gain == 0) & (leave == 0),
    )
    nowhere = _bridge(0.0, 0.0, 0.0, s.alpha, s.noise, 0.0)
    return Transition("duo_psi", _rows(other * s.noise, 0.0, *token, *nowhere))


def max_coupling(alpha_t, alpha_s):
    """Keep x_t with probability (1 - alpha_s) / (1 - alpha_t), else a draw of the model: rev_udm's MaxCoupling, and its AUDM
    while x_t is noise. ``alpha_t``, ``alpha_s`` and errors as in ``uniform``."""
    t, s, gain = _levels(alpha_t, alpha_s)
    token = _bridge(0.0, s.noise, gain, 1.0, 0.0, 0.0, still=gain == 0)
    nowhere = _bridge(0.0, 0.0, 0.0, s.alpha, s.noise, 0.0)
    return Transition("max_coupling", _rows(0.0, 0.0, *token, *nowhere))


def absorbing(alpha_t, alpha_s):
    """Masked diffusion: a token stays, a mask is filled with probability (alpha_s - alpha_t) / (1 - alpha_t). MDLM.

    ``alpha_t``, ``alpha_s`` and errors as in ``uniform``.
    """
    t, s, gain = _levels(alpha_t, alpha_s)
    token = _bridge(0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
    mask = _bridge(0.0, s.noise, gain, 1.0, 0.0, 0.0, still=gain == 0)
    return Transition("absorbing", _rows(0.0, 0.0, *token, *mask), needs_mask=True)


def remdm(alpha_t, alpha_s, sigma):
    """Masked diffusion with remasking: a token returns to the mask with probability ``sigma``, and a mask is filled with
    probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), which keeps the marginals. sigma = 0 is ``absorbing``.

    ``alpha_t``, ``alpha_s`` as in ``uniform``; ``sigma`` in [0, min(1, (1 - alpha_s) / alpha_t)], number, [B] or [B, L]
    (``schedules.remask_cap``, ``remask_rescale``). Source: ReMDM, arXiv 2503.00307. ValueError as in ``uniform``, and for a
    sigma outside its range.
    """
    sigma = numbers_in("sigma", sigma, 0, 1)
    t, s, gain, sigma = _levels(alpha_t, alpha_s, sigma)
    back = s.noise - sigma * t.alpha
    # sigma at its maximum leaves nothing but rounding
    check_values("sigma", sigma, back >= -1e-12, "must be at most (1 - alpha_s) / alpha_t")
    token = _bridge(0.0, 1 - sigma, sigma, 0.0, 0.0, 1.0)
    leave = gain + sigma * t.alpha
    mask = _bridge(0.0, back.clamp(min=0), leave, 1.0, 0.0, 0.0, still=leave == 0)
    return Transition("remdm", _rows(0.0, 0.0, *token, *mask), needs_mask=True)


def gidd(t, s, p_uniform):
    """GIDD's step with mask and uniform noise (gamma = 1): c(t) = B sqrt(t (1 - t)) with B = 2 p_uniform / (1 - p_uniform),
    alpha = (1 - t) / (1 + c), and of the noise t : c are mask and uniform.

    ``t``, ``s``: times in [0, 1], s <= t, numbers, [B] or [B, L]; ``p_uniform`` in [0, 1): the share of uniform tokens at
    t = 1/2. The law must not hold the mask. Source: dvruette/gidd. ValueError: outside these ranges.
    """
    t, s = numbers_in("t", t, 0, 1), numbers_in("s", s, 0, 1)
    p_uniform = number("p_uniform", p_uniform)
    require(0 <= p_uniform < 1, "p_uniform", "must be in [0, 1)", p_uniform)
    t, s = _aligned(t, s)
    check_values("s", s, s <= t, "must be <= t")
    b = 2 * p_uniform / (1 - p_uniform)
    c = b * torch.sqrt(s * (1 - s))
    still = t == s
    # sqrt(t / (1 - t)) - sqrt(s / (1 - s)), times sqrt((1 - t) (1 - s)), as a ratio without a difference
    roots = torch.sqrt(t * (1 - s)) + torch.sqrt(s * (1 - t))
    growth = (t - s) / torch.where(still, 1.0, roots)
    q_s = ((1 - s) / (1 + c), c / (1 + c), s / (1 + c))
    token = _bridge((1 - t) * (1 - s), (1 - t) * c, b * torch.sqrt((1 - t) * (1 - s)) * growth, *q_s, still=still)
    mask = _bridge(0.0, (1 - t) * s, t - s, *q_s, still=still)
    return Transition("gidd", _rows(0.0, 0.0, *token, *mask), needs_mask=True)


def gidd_snr(log_snr_t, log_snr_s, hybrid_shift):
    """GIDD's step over log-SNR: alpha = sigmoid(l), and of the noise a share sigmoid(l + hybrid_shift) is uniform, the rest mask.

    ``log_snr_t`` <= ``log_snr_s``: numbers, [B] or [B, L], clamped by the caller (GIDD-SNR: +-9); ``hybrid_shift``, its
    ``noise_type``: -1000 is pure mask, 1000 pure uniform noise, 0 in between. Source: dvruette/gidd-easydel, which draws
    the mask as uniform noise and divides 0 by 0 under pure uniform noise; this does neither. ValueError: order, NaN.
    """
    inf = float("inf")
    t, s = numbers_in("log_snr_t", log_snr_t, -inf, inf), numbers_in("log_snr_s", log_snr_s, -inf, inf)
    shift = numbers_in("hybrid_shift", hybrid_shift, -inf, inf)
    t, s, shift = _aligned(t, s, shift)
    check_values("log_snr_s", s, s >= t, "must be >= log_snr_t")
    still = t == s
    step = torch.where(still, 0.0, s - t)
    alpha_t, alpha_s, noise_t, noise_s = (torch.sigmoid(v) for v in (t, s, -t, -s))
    u_t, u_s, m_t, m_s = (torch.sigmoid(v) for v in (t + shift, s + shift, -t - shift, -s - shift))
    # b = beta_t pi_t(x_t) - a beta_s pi_s(x_t) with the difference taken in the exponents: all terms are positive
    lost, lost_twice = -torch.expm1(-step), -torch.expm1(-2 * step)
    scale = alpha_s * noise_t
    q_s = (alpha_s, noise_s * u_s, noise_s * m_s)
    token = _bridge(alpha_s * alpha_t, alpha_t * noise_s * u_s, scale * u_t * u_s * lost, *q_s, still=still)
    mask_leave = scale * m_t * (m_s * lost + u_s * lost_twice)
    mask = _bridge(0.0, alpha_t * noise_s * m_s, mask_leave, *q_s, still=still)
    return Transition("gidd_snr", _rows(0.0, 0.0, *token, *mask), needs_mask=True)


def sedd_euler(step_size, rate):
    """SEDD's Euler step under uniform noise: token v at the rate d score(v) / V, d = step_size * rate, and staying with what
    that leaves, at least 0. The law is softmax of the log-scores, whose odds against x_t are the sum of the scores.

    ``step_size`` >= 0 in units of t, ``rate`` = d sigma / dt >= 0 (``schedules.geometric_rate``, ``log_linear_rate``):
    numbers, [B] or [B, L]. Source: louaaron/Score-Entropy-Discrete-Diffusion ``EulerPredictor``. ValueError: negative, NaN.
    """
    most = torch.finfo(torch.float64).max
    step_size, rate = _aligned(numbers_in("step_size", step_size, 0, most), numbers_in("rate", rate, 0, most))
    d = step_size * rate
    # per V: x_t has p V, less d for the probability of the others, who have that
    token = _bridge(1.0, -d, d, 1.0, 0.0, 0.0, still=d == 0)
    return Transition("sedd_euler", _rows(0.0, 0.0, *token, *_bridge(0.0, 0.0, 0.0, 1.0, 0.0, 0.0)))


def sedd_analytic(sigma_t, sigma_s):
    """SEDD's analytic step under uniform noise from sigma_t to sigma_s: with e = exp(sigma_s - sigma_t), token v weighs
    (p(v) - (1 - e) / V) ((1 - e) / V + e [v = x_t]), at least 0 as in the original's draw. sigma_s = 0 is its last step
    (Tweedie). The law is softmax of the log-scores.

    ``sigma_t`` >= ``sigma_s`` >= 0, total noise (``-log`` of a level's alpha): numbers, [B] or [B, L]. Where no weight is left
    the position stays. Source: louaaron/Score-Entropy-Discrete-Diffusion ``AnalyticPredictor``, ``Denoiser``. ValueError:
    order, negative, NaN.
    """
    most = torch.finfo(torch.float64).max
    sigma_t, sigma_s = _aligned(numbers_in("sigma_t", sigma_t, 0, most), numbers_in("sigma_s", sigma_s, 0, most))
    check_values("sigma_s", sigma_s, sigma_s <= sigma_t, "must be <= sigma_t")
    d = sigma_t - sigma_s
    token = _bridge(0.0, torch.exp(-d), -torch.expm1(-d), 1.0, 0.0, 0.0)
    return Transition("sedd_analytic", _rows(0.0, 0.0, *token, *_bridge(0.0, 0.0, 0.0, 1.0, 0.0, 0.0)), redraw="score")


def with_min_p(transition, min_p):
    """``transition`` without the tokens whose posterior is below ``min_p`` in [0, 1]: GIDD's ``min_p``. Where nothing is left the
    position stays (the original divides 0 by 0). ValueError outside."""
    min_p = number("min_p", min_p)
    require(0 <= min_p <= 1, "min_p", "must be in [0, 1]", min_p)
    return _redrawn(transition, "min_p", min_p) if min_p > 0 else transition


def guided(transition, gamma):
    """Guidance between two posteriors of ``transition``: proportional to cond^gamma uncond^(1 - gamma), token by token, where
    cond is of ``logits`` and uncond of ``uncond_logits``. gamma = 1 is unguided.

    What either posterior forbids is forbidden. Source: kuleshov-group/discrete-diffusion-guidance
    ``_cfg_denoise`` (UDLM). ValueError: gamma not finite.
    """
    gamma = number("gamma", gamma)
    require(math.isfinite(gamma), "gamma", "must be finite", gamma)
    return _redrawn(transition, "guidance", gamma)


def _redrawn(transition, redraw, level):
    require(transition.redraw == "none", "transition", "must not be redrawn already", transition.redraw)
    return replace(transition, name=f"{transition.name} with {redraw}", redraw=redraw, level=level)


def _aligned(*values):
    """[B] tensors beside [B, L] ones as [B, 1]: one number per sequence stands for all its positions."""
    homes = sorted({str(v.device) for v in values if v.dim() > 0})
    require(len(homes) < 2, "schedule values", "must be on one device", ", ".join(homes))
    if any(v.dim() == 2 for v in values):
        values = [v[:, None] if v.dim() == 1 else v for v in values]
    try:
        torch.broadcast_shapes(*(v.shape for v in values))
    except RuntimeError:
        shapes = ", ".join(str(list(v.shape)) for v in values)
        raise ValueError(f"schedule values: must be numbers, [B] or [B, L] of one B and L, got {shapes}") from None
    return values


def _levels(alpha_t, alpha_s, *more):
    """(Level t, Level s, alpha_s - alpha_t, ...), aligned; the difference from the side that has more digits."""
    t, s = as_level("alpha_t", alpha_t), as_level("alpha_s", alpha_s)
    at, nt, as_, ns, *more = _aligned(*t, *s, *more)
    t, s = type(t)(at, nt), type(s)(as_, ns)
    return (t, s, mixture.gain(t, s, torch.where, check_values).clamp(min=0), *more)


_bridge = functools.partial(mixture.bridge, torch.where)


def _rows(*values):
    """The 14 columns side by side: [1, 14], [B, 14] or [B, L, 14], where the schedule's values are."""
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    shape = torch.broadcast_shapes(*(v.shape for v in tensors))
    device = next((v.device for v in tensors if v.dim() > 0), tensors[0].device)
    # by addition: a number joins a GPU's tensors as an argument of the kernel, without a copy that would wait
    zero = torch.zeros(shape or (1,), dtype=torch.float64, device=device)
    return torch.stack([zero + v for v in values], -1)
