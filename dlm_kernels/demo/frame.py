"""What a generation reports after each step: the canvas and the state of every position."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """State of a position. A family that revises tokens adds its state here and a style in canvas.py."""

    GIVEN = "given"
    OPEN = "open"
    COMMITTED = "committed"
    KEPT = "kept"


@dataclass(frozen=True)
class Frame:
    """The canvas after `step` of `steps`: ids[i] is the token at position i, meaningless where states[i] is
    OPEN."""

    step: int
    steps: int
    ids: list[int]
    states: list[State]
