"""Schedules: how much of the data is left at time t, t = 0 clean and t = 1 noise.

A schedule answers with a ``Level``: alpha, the probability that a token is still the original, and noise = 1 - alpha, each
computed on its own in float64. 1 - alpha taken afterwards is not the same: in float32, 1 - sigmoid(9) is off by 1e-4 of its
value, and with it every probability of a late step. The transitions take Levels as they are.

Times are numbers or float tensors ([B] or [B, L]); the answer is of the same kind, tensors in float64 on the same device. Whose
convention is whose:

    Sumi           ``sumi(steps)``: linear or cosine in alpha on a grid of its own, log-SNR within +-9
    GIDD           takes t itself: ``transitions.gidd(t, s)``; its SNR form takes log-SNR, alpha = sigmoid(log_snr)
    UDLM, Duo      ``log_linear(t)``, eps 1e-3; Duo's other one is ``cosine(t, form="duo", eps=1e-3)``
    MDLM, ReMDM    ``log_linear(t)``; MDLM's other one is ``cosine(t, form="mdlm", eps=1e-3)``
    SEDD           ``geometric(t)`` or ``log_linear(t)``, whose rates ``sigma'(t)`` drive ``transitions.sedd_euler``
    diffusers      DiscreteDDIM: alpha = k / N, which is ``linear(1 - k / N)``
"""

from __future__ import annotations

import functools
import math

import torch

from . import mixture
from .arguments import integer, number, require
from .mixture import Level
from .tensors import check_values, numbers_in

FORMS = ("squared", "duo", "mdlm")
MAX_LOG_SNR = 9.0  # Sumi's and GIDD-SNR's clamp


def _of_the_callers_kind(schedule):
    """Lets a schedule be written for tensors: a number in gives floats out."""

    @functools.wraps(schedule)
    def wrapped(*args, **kwargs):
        out = schedule(*args, **kwargs)
        given = [
            part for value in (*args, *kwargs.values()) for part in (value if isinstance(value, Level) else [value])
        ]
        if any(isinstance(value, torch.Tensor) for value in given):
            return out
        return Level(*(v.item() for v in out)) if isinstance(out, Level) else out.item()

    return wrapped


def _time(t):
    return numbers_in("t", t, 0, 1)


def _fraction(argument, value):
    value = number(argument, value)
    require(0 <= value < 1, argument, "must be in [0, 1)", value)
    return value


@_of_the_callers_kind
def linear(t):
    """alpha = 1 - t. diffusers' DiscreteDDIM has t = 1 - k / N."""
    t = _time(t)
    return Level(1 - t, t)


@_of_the_callers_kind
def log_linear(t, eps=1e-3):
    """alpha = 1 - (1 - eps) t, so that sigma = -log alpha stays finite: SEDD's "log-linear", UDLM, Duo, MDLM.

    ``eps`` in [0, 1): what is left at t = 1.
    """
    t, eps = _time(t), _fraction("eps", eps)
    return Level((1 - t) + eps * t, (1 - eps) * t)


@_of_the_callers_kind
def log_linear_rate(t, eps=1e-3):
    """d sigma / dt = (1 - eps) / alpha(t) of ``log_linear``, per unit of t."""
    t, eps = _time(t), _fraction("eps", eps)
    return (1 - eps) / ((1 - t) + eps * t)


@_of_the_callers_kind
def cosine(t, form="squared", eps=0.0):
    """The three schedules that are called cosine.

    ``form`` "squared": alpha = cos(pi t / 2)^2 (Nichol and Dhariwal; Sumi). "duo": alpha = 1 - sin(pi t' / 2) with
    t' = (1 - eps) t. "mdlm": alpha = eps + (1 - eps) cos(pi t / 2). ``eps`` in [0, 1), without effect on "squared".
    """
    t, eps = _time(t), _fraction("eps", eps)
    require(form in FORMS, "form", f"must be one of {', '.join(FORMS)}", form)
    # 1 - sin x = 2 sin(pi/4 - x/2)^2, 1 - cos x = 2 sin(x/2)^2 and cos x = sin(pi/2 - x): differences of nothing
    if form == "duo":
        left = (1 - t) + eps * t  # 1 - t'
        return Level(2 * torch.sin(math.pi / 4 * left).square(), torch.sin(math.pi / 2 * ((1 - eps) * t)))
    if form == "mdlm":
        bare = torch.sin(math.pi / 2 * (1 - t))
        return Level(eps + (1 - eps) * bare, (1 - eps) * 2 * torch.sin(math.pi / 4 * t).square())
    return Level(torch.sin(math.pi / 2 * (1 - t)).square(), torch.sin(math.pi / 2 * t).square())


def _sigmas(t, sigma_min, sigma_max):
    sigma_min, sigma_max = number("sigma_min", sigma_min), number("sigma_max", sigma_max)
    require(sigma_min > 0, "sigma_min", "must be > 0", sigma_min)
    require(sigma_max > sigma_min, "sigma_max", f"must be > sigma_min = {sigma_min:g}", sigma_max)
    ratio = math.log(sigma_max) - math.log(sigma_min)
    return sigma_min * torch.exp(ratio * _time(t)), ratio


@_of_the_callers_kind
def geometric(t, sigma_min=1e-4, sigma_max=20.0):
    """alpha = exp(-sigma), sigma = sigma_min^(1 - t) sigma_max^t: SEDD. Clean text is not reached: sigma(0) = sigma_min."""
    sigma, _ = _sigmas(t, sigma_min, sigma_max)
    return Level(torch.exp(-sigma), -torch.expm1(-sigma))


@_of_the_callers_kind
def geometric_rate(t, sigma_min=1e-4, sigma_max=20.0):
    """d sigma / dt = sigma(t) log(sigma_max / sigma_min) of ``geometric``, per unit of t."""
    sigma, ratio = _sigmas(t, sigma_min, sigma_max)
    return sigma * ratio


@_of_the_callers_kind
def from_log_snr(log_snr, low=-MAX_LOG_SNR, high=MAX_LOG_SNR):
    """The Level with log(alpha / noise) = ``log_snr``, clamped to [low, high]: Sumi's and GIDD-SNR's +-9 (pass -inf, inf
    for none). noise = sigmoid(-log_snr), not 1 - sigmoid(log_snr)."""
    lam = numbers_in("log_snr", log_snr, -math.inf, math.inf).clamp(low, high)
    return Level(torch.sigmoid(lam), torch.sigmoid(-lam))


@_of_the_callers_kind
def log_snr(level, low=-MAX_LOG_SNR, high=MAX_LOG_SNR):
    """log(alpha / noise) of a ``Level`` or an alpha, clamped to [low, high]."""
    alpha, noise = as_level("level", level)
    return (torch.log(alpha) - torch.log(noise)).clamp(low, high)


@_of_the_callers_kind
def clamp(level, margin=1e-6):
    """The Level with alpha kept in [margin, 1 - margin]: Sumi clamps at 1e-6 before it takes logarithms."""
    alpha, noise = as_level("level", level)
    margin = number("margin", margin)
    require(0 <= margin <= 0.5, "margin", "must be in [0, 0.5]", margin)
    top = torch.full_like(alpha, 1 - margin)
    low, high = alpha < margin, noise < margin
    return Level(
        torch.where(low, margin, torch.where(high, top, alpha)),
        torch.where(high, margin, torch.where(low, top, noise)),
    )


def sumi(steps, schedule="linear", low=-MAX_LOG_SNR, high=MAX_LOG_SNR):
    """Sumi's ``steps`` + 1 levels from noise to data: a Level of float64 tensors [steps + 1].

    ``schedule`` "linear": alpha from 1e-4 to 1 - 1e-4 in even steps; "cosine": alpha = cos(pi t / 2)^2 for t from 1 - 1e-3 to
    1e-3. log-SNR clamped to [low, high]. The last level is not clean, and Sumi takes no argmax after it. Source: tohoku-nlp/sumi
    ``_make_log_snr_schedule``. ValueError: steps < 1, unknown schedule.
    """
    steps = integer("steps", steps)
    require(steps >= 1, "steps", "must be >= 1", steps)
    require(schedule in ("linear", "cosine"), "schedule", "must be linear or cosine", schedule)
    margin = 1e-4 if schedule == "linear" else 1e-3
    schedule = linear if schedule == "linear" else cosine
    i = torch.arange(steps + 1, dtype=torch.float64)
    # from both ends, so that neither alpha nor noise is a rounded difference
    t = ((steps - i) * (1 - margin) + i * margin) / steps
    return from_log_snr(log_snr(clamp(schedule(t)), low, high), low, high)


def gidd(t, p_uniform):
    """GIDD's noise at t: (Level, share of the noise that is uniform tokens), as tensors, for ``q_sample``; ``transitions.gidd``
    undoes it.

    ``t`` in [0, 1], number, [B] or [B, L]; ``p_uniform`` in [0, 1), the share of uniform tokens at t = 1/2. ValueError outside.
    """
    t = _time(t)
    p_uniform = number("p_uniform", p_uniform)
    require(0 <= p_uniform < 1, "p_uniform", "must be in [0, 1)", p_uniform)
    c = 2 * p_uniform / (1 - p_uniform) * torch.sqrt(t * (1 - t))
    return Level((1 - t) / (1 + c), (t + c) / (1 + c)), torch.where(t > 0, c / torch.where(t > 0, t + c, 1.0), 0.0)


def gidd_snr(log_snr, hybrid_shift):
    """The noise of GIDD over log-SNR: (Level, share of uniform tokens = sigmoid(log_snr + hybrid_shift)), for ``q_sample``;
    ``transitions.gidd_snr`` undoes it. Takes numbers or tensors, gives tensors. ValueError: NaN."""
    inf = float("inf")
    lam, shift = numbers_in("log_snr", log_snr, -inf, inf), numbers_in("hybrid_shift", hybrid_shift, -inf, inf)
    return Level(torch.sigmoid(lam), torch.sigmoid(-lam)), torch.sigmoid(lam + shift)


def consecutive(levels):
    """(Level of t, Level of s) for every step of N + 1 levels from noise to data, [N + 1] -> [N] each."""
    return Level(*(v[:-1] for v in levels)), Level(*(v[1:] for v in levels))


def as_level(argument, value):
    """A Level of float64 tensors from a Level, or from alpha alone as number, [B] or [B, L] tensor; values checked."""
    return mixture.as_level(argument, value, numbers_in, check_values)


@_of_the_callers_kind
def remask_max(alpha_t, alpha_s):
    """The largest remasking probability ReMDM's marginals allow: min(1, (1 - alpha_s) / alpha_t). arXiv 2503.00307."""
    alpha, noise = as_level("alpha_t", alpha_t).alpha, as_level("alpha_s", alpha_s).noise
    return torch.where(noise < alpha, noise / torch.where(alpha > 0, alpha, 1.0), 1.0)


@_of_the_callers_kind
def remask_cap(alpha_t, alpha_s, eta):
    """sigma = min(eta, remask_max): ReMDM-cap. ``eta`` in [0, 1]."""
    return torch.minimum(numbers_in("eta", eta, 0, 1), remask_max(*_as_tensors(alpha_t, alpha_s)))


@_of_the_callers_kind
def remask_rescale(alpha_t, alpha_s, eta):
    """sigma = eta * remask_max: ReMDM-rescale; ReMDM-conf has an eta per position, [B, L]. ``eta`` in [0, 1]."""
    return numbers_in("eta", eta, 0, 1) * remask_max(*_as_tensors(alpha_t, alpha_s))


def _as_tensors(alpha_t, alpha_s):
    return as_level("alpha_t", alpha_t), as_level("alpha_s", alpha_s)
