"""What a generation reports after each step: the canvas and the state of every position."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """State of a position: OPEN in the masked family only, NOISE and REWRITTEN in the uniform one."""

    GIVEN = "given"
    OPEN = "open"
    NOISE = "noise"  # a token by chance, not by the model
    COMMITTED = "committed"  # by this step, over a mask or noise
    REWRITTEN = "rewritten"  # by this step, over another token of the model
    KEPT = "kept"


@dataclass(frozen=True)
class Frame:
    """The canvas after `step` of `steps`: ids[i] is the token at position i, meaningless where states[i] is
    OPEN."""

    step: int
    steps: int
    ids: list[int]
    states: list[State]
