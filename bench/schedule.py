"""The numbers of a case of the uniform family: the noise levels between which its step goes, and how its canvas was noised."""

from __future__ import annotations

from .. import schedules
from ..schedules import Level
from .cases import Case

P_UNIFORM = 0.1  # GIDD's share of uniform tokens at t = 1/2
KAPPA = 0.5  # Duo's weight of the ancestral step
HALF = Level(0.5, 0.5)


def sumi(case: Case) -> tuple[Level, Level]:
    """(t, s) of the middle step of Sumi's linear schedule."""
    t, s = schedules.consecutive(schedules.sumi(case.steps))
    return tuple(Level(*(v[case.steps // 2].item() for v in level)) for level in (t, s))


def times(case: Case) -> tuple[float, float]:
    """(t, s) of the middle step of even steps in time: GIDD, Duo."""
    before = case.steps // 2
    return 1 - before / case.steps, 1 - (before + 1) / case.steps


def duo(case: Case) -> tuple[Level, Level]:
    """(t, s) of the middle step of Duo's log-linear schedule."""
    return tuple(schedules.log_linear(time) for time in times(case))


def noised(case: Case) -> tuple[Level, float]:
    """(level, share of the noise that is uniform tokens) of the canvas that the case's step is given, or makes (q_sample)."""
    if case.model == "gidd" and case.op != "select_step":
        return schedules.gidd(0.5 if case.op == "q_sample" else times(case)[0], P_UNIFORM)
    if case.op == "uniform_step":
        return sumi(case)[0], 1.0
    if case.op == "transition_step":
        return duo(case)[0], 1.0
    return HALF, 1.0
