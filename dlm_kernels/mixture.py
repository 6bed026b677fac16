"""A reverse step of uniform diffusion in numbers, for torch and for NumPy and CuPy alike: what ``transitions.uniform`` and
``dlm_kernels.array.uniform_step_`` compute. Operators do most of it; a library brings its ``where``. Never imports torch."""

from typing import Any, NamedTuple

from .arguments import require

PREDICTIONS = ("plug_in", "denoiser")
TEMPERED = ("before", "after")


class Level(NamedTuple):
    """A noise level: two floats, or two float64 tensors of one shape. alpha + noise = 1, neither rounded by the other."""

    alpha: Any
    noise: Any


def as_level(argument, value, numbers_in, check_values):
    """A Level in float64 from a Level, or from alpha alone as number, [B] or [B, L]; values checked by the library's own
    ``tensors.numbers_in`` and ``check_values``."""
    if not isinstance(value, Level):
        alpha = numbers_in(argument, value, 0, 1)
        return Level(alpha, 1 - alpha)
    alpha, noise = (
        numbers_in(f"{argument}.alpha", value.alpha, 0, 1),
        numbers_in(f"{argument}.noise", value.noise, 0, 1),
    )
    total = alpha + noise
    check_values(argument, total, abs(total - 1) <= 1e-6, "alpha + noise must be 1")
    return Level(alpha, noise)


def check_names(prediction, tempered):
    require(prediction in PREDICTIONS, "prediction", f"must be one of {', '.join(PREDICTIONS)}", prediction)
    require(tempered in TEMPERED, "tempered", f"must be one of {', '.join(TEMPERED)}", tempered)


def gain(t, s, where, check_values):
    """alpha_s - alpha_t, from the side that has more digits; not negative."""
    difference = where(s.alpha > 0.5, t.noise - s.noise, s.alpha - t.alpha)
    check_values("alpha_s", s.alpha, difference >= 0, "must be >= alpha_t")
    return difference


def bridge(where, keep_p, keep, leave, model, noise, mask, still=None):
    """The six columns of one kind of x_t. Where ``still``, nothing moves, whatever p(x_t) is."""
    if still is not None:
        keep_p, keep, leave = (where(still, fixed, v) for v, fixed in ((keep_p, 0.0), (keep, 1.0), (leave, 0.0)))
    return keep_p, keep, leave, model, noise, mask


def uniform(where, t, s, difference, prediction):
    """The 14 columns of ``transitions.uniform``."""
    evidence = 0.0
    if prediction == "denoiser":
        evidence = where(difference > 0, t.alpha / where(difference > 0, t.noise, 1.0), 0.0)
    token = bridge(
        where, s.alpha * t.alpha, t.alpha * s.noise, difference, s.alpha, s.noise, 0.0, still=difference == 0
    )
    nowhere = bridge(where, 0.0, 0.0, 0.0, s.alpha, s.noise, 0.0)
    return 0.0, evidence, *token, *nowhere
