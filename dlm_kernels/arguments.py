"""Checks of Python values, before they become what the ops take: every text is "{argument}: {rule}, got {value}"."""

import numbers
import operator

import torch


def require(condition, argument, rule, value):
    """ValueError unless ``condition``."""
    if not condition:
        raise ValueError(f"{argument}: {rule}, got {value}")


def require_type(condition, argument, rule, value):
    """TypeError unless ``condition``."""
    if not condition:
        raise TypeError(f"{argument}: {rule}, got {value}")


def tensor(argument, value):
    """A torch.Tensor, without its autograd history: no op here has a derivative."""
    require_type(isinstance(value, torch.Tensor), argument, "must be a torch.Tensor", type(value).__name__)
    return value.detach() if value.requires_grad else value


def integer(argument, value):
    """An int64, from any type that counts, or a symbolic one under torch.compile."""
    if type(value) is not int and isinstance(value, torch.SymInt):
        return value
    try:
        if value is True or value is False:
            raise TypeError
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}: must be an int, got {type(value).__name__}") from None
    require(-(2**63) <= value < 2**63, argument, "must fit in int64", value)
    return value


def number(argument, value):
    """A float, from any real number."""
    if type(value) is float:
        return value
    real = isinstance(value, (numbers.Real, torch.SymInt, torch.SymFloat)) and not isinstance(value, bool)
    require_type(real, argument, "must be a number", type(value).__name__)
    return float(value)
