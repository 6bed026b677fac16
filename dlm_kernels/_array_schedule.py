"""``transitions.uniform`` for arrays: the formulas of ``mixture`` on floats, NumPy and CuPy arrays."""

import functools

import numpy as np

from . import mixture
from .arguments import number, require, require_type
from .mixture import Level


def uniform(alpha_t, alpha_s, prediction, tempered):
    """Float64 coefficients [1, 14], [B, 14] or [B, L, 14] from numbers in [0, 1], [B] or [B, L] float arrays, or Levels."""
    if type(prediction) is type(tempered) is str and _is_constant(alpha_t) and _is_constant(alpha_s):
        return _of_constants(alpha_t, alpha_s, prediction, tempered)
    mixture.check_names(prediction, tempered)
    t, s = (
        mixture.as_level(name, alpha, _numbers, _check) for name, alpha in (("alpha_t", alpha_t), ("alpha_s", alpha_s))
    )
    parts = _aligned(*t, *s)
    library = next((_library(part) for part in parts if _library(part) is not np), np)
    t, s = Level(*parts[:2]), Level(*parts[2:])
    columns = mixture.uniform(
        library.where, t, s, library.maximum(mixture.gain(t, s, library.where, _check), 0.0), prediction
    )
    zero = library.zeros(np.broadcast_shapes(*(np.shape(c) for c in columns)) or (1,))
    return library.stack([zero + column for column in columns], -1)


@functools.lru_cache(maxsize=1024)  # runs come back to the same schedule
def _of_constants(alpha_t, alpha_s, prediction, tempered):
    mixture.check_names(prediction, tempered)
    where = lambda condition, yes, no: yes if condition else no
    t, s = (
        mixture.as_level("alpha_t", alpha_t, _numbers, _check),
        mixture.as_level("alpha_s", alpha_s, _numbers, _check),
    )
    difference = max(mixture.gain(t, s, where, _check), 0.0)
    made = np.array([mixture.uniform(where, t, s, difference, prediction)], np.float64)
    made.flags.writeable = False
    return made


def _is_constant(alpha):
    if type(alpha) in (int, float):
        return True
    return isinstance(alpha, Level) and all(type(part) in (int, float) for part in alpha)


def _numbers(argument, value, low, high):
    """Numbers in [low, high]: a float, or float64 [B] or [B, L]."""
    if hasattr(value, "astype"):
        require_type(value.dtype.kind == "f", argument, "dtype must be a float dtype", value.dtype)
        require(value.ndim <= 2, argument, "must be a number, [B] or [B, L]", list(value.shape))
        value = value.astype(np.float64)
    else:
        value = number(argument, value)
    _check(argument, value, (low <= value) & (value <= high), f"must be in [{low:g}, {high:g}]")
    return value


def _check(argument, values, good, rule):
    """ValueError with the first of ``values`` that is not ``good``, where it can be read without a wait."""
    if _library(good) is not np or np.all(good):
        return
    wrong = np.broadcast_to(values, np.shape(good))[~np.asarray(good)]
    require(False, argument, rule, f"{wrong.reshape(-1)[0]:g}")


def _aligned(*values):
    """[B] beside [B, L] as [B, 1]."""
    if any(np.ndim(v) == 2 for v in values):
        values = [v[:, None] if np.ndim(v) == 1 else v for v in values]
    try:
        np.broadcast_shapes(*(np.shape(v) for v in values))
    except ValueError:
        shapes = ", ".join(str(list(np.shape(v))) for v in values)
        raise ValueError(f"schedule values: must be numbers, [B] or [B, L] of one B and L, got {shapes}") from None
    return values


def _library(value):
    if hasattr(value, "__cuda_array_interface__"):
        import cupy

        return cupy
    return np
