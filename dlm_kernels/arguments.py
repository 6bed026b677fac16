"""Checks of Python values, before they become what the ops take: every text is "{argument}: {rule}, got {value}".

Does not import torch, so that rules can be made without it.
"""

import numbers
import operator

# What the ops call differently than the steps above them.
NAMES = {"window_start": "window", "window_stop": "window"}
FINITE_ROWS = "must hold a finite value and no NaN or +inf in every row that is read"
_CROSSINGS, _TIES = ("keep", "drop"), ("lowest", "all")


def require(condition, argument, rule, value):
    """ValueError unless ``condition``."""
    if not condition:
        raise ValueError(f"{argument}: {rule}, got {value}")


def require_type(condition, argument, rule, value):
    """TypeError unless ``condition``."""
    if not condition:
        raise TypeError(f"{argument}: {rule}, got {value}")


def renamed(text, names):
    """An op's error under the public name of its argument, where ``names`` has another one for it."""
    argument, colon, rule = text.partition(": ")
    return (names or {}).get(argument, argument) + colon + rule


def integer(argument, value):
    """An int64, from any type that counts, or a symbolic one under torch.compile."""
    if type(value) is int and -(2**63) <= value < 2**63 or _is_symbolic(value):
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
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    require_type(real or _is_symbolic(value), argument, "must be a number", type(value).__name__)
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{argument}: must fit in a float, got {type(value).__name__}") from None


def flag(argument, value):
    """A bool."""
    require_type(value is True or value is False, argument, "must be a bool", type(value).__name__)
    return value


def fraction(argument, value):
    """A float in [0, 1]."""
    require(0 <= number(argument, value) <= 1, argument, "must be in [0, 1]", value)
    return float(value)


def edges(window):
    """(start, stop) or None -> the op's pair; -1 stands for the canvas length."""
    if window is None:
        return {}
    require_type(isinstance(window, (tuple, list)) and len(window) == 2, "window", "must be (start, stop)", window)
    start, stop = (integer("window", edge) for edge in window)
    require(0 <= start <= stop, "window", "must be (start, stop) with 0 <= start <= stop", f"({start}, {stop})")
    return dict(window_start=start, window_stop=stop)


def bounds(window):
    """``edges``, also of no window: all of the canvas."""
    return (0, -1) if window is None else edges(window).values()


def filter_names(filter_order, top_p_crossing, top_k_ties):
    """How the filters cut, as the op takes it."""
    for argument, value, names in (("top_p_crossing", top_p_crossing, _CROSSINGS), ("top_k_ties", top_k_ties, _TIES)):
        require_type(isinstance(value, str), argument, "must be a str", type(value).__name__)
        require(value in names, argument, f"must be {' or '.join(names)}", value)
    require_type(isinstance(filter_order, str), "filter_order", "must be a str", type(filter_order).__name__)
    return dict(filter_order=filter_order, drop_crossing=top_p_crossing == "drop", keep_ties=top_k_ties == "all")


def confidence_names(confidence, confidence_from):
    for argument, value in (("confidence", confidence), ("confidence_from", confidence_from)):
        require_type(isinstance(value, str), argument, "must be a str", type(value).__name__)


def _is_symbolic(value):
    """torch.SymInt or torch.SymFloat."""
    return type(value) is not int and type(value).__name__ in ("SymInt", "SymFloat")
