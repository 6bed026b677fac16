"""Timing on a device: steps captured into CUDA graphs over rotating inputs (cold L2) or one input (hot), the latency of a
call and of a graph replay as the host sees them; all providers interleaved, round by round.

A step fills its canvas and has less to do the next time, so every captured step has a canvas of its own, and all are reset
between replays, outside the timed part.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable

import torch

from .timing import Entry, Sample, spread

COLD, HOT, EAGER, GRAPH = "cold", "hot", "eager", "graph"  # device time twice, wall time twice
L2_MULTIPLE = 5  # the rotating inputs together, in sizes of the L2


@dataclasses.dataclass(frozen=True)
class Plan:
    """budget_s: wanted seconds per provider and case, all four kinds together; replay_s: wanted length of a replay."""

    budget_s: float = 0.3
    replay_s: float = 1e-3
    min_rounds: int = 5
    max_rounds: int = 20
    max_calls: int = 256
    seed: int = 0

    def calls(self, buffers: int, seconds: float) -> int:
        """Steps in one replay: whole rotations, long enough, few enough (but one rotation at least)."""
        rotations = -(-self.replay_s // max(buffers * seconds, 1e-9))
        return buffers * int(max(1, min(rotations, self.max_calls // buffers)))

    def rounds(self, seconds: float) -> int:
        """Rounds of an entry that takes `seconds` per round."""
        return int(min(max(self.budget_s / max(seconds, 1e-9), self.min_rounds), self.max_rounds))


def buffer_count(size: int, l2_bytes: int) -> int:
    """How many inputs of `size` bytes rotate: together at least 5 times the L2; one that is larger needs no other."""
    return max(1, -(-L2_MULTIPLE * l2_bytes // size))


@dataclasses.dataclass
class Lane:
    """One thing to time. `steps[i](x)` works on input i; `canvas` is what x is reset to, None for steps without one.

    `graphs` and `entries` are by kind; an entry's samples are seconds per step."""

    name: str
    steps: list[Callable]
    canvas: torch.Tensor | None
    hot: bool
    graphs: dict[str, object] = dataclasses.field(default_factory=dict)
    entries: dict[str, Entry] = dataclasses.field(default_factory=dict)
    launches: int | None = None
    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    rounds: int = 0
    pool: str = "peers"
    canvases: torch.Tensor | None = None

    def prepare(self, device, plan: Plan, wall: bool = True) -> None:
        """Capture the graphs, warm up, choose how often to measure."""
        seconds = min(device.wall_seconds(self._eager) for _ in range(2))
        self.calls = {COLD: plan.calls(len(self.steps), seconds)}
        if self.hot:
            self.calls[HOT] = plan.calls(1, seconds)
        if wall:
            self.calls[GRAPH] = 1
        if self.canvas is not None:
            self.canvases = torch.stack([self.canvas] * max(self.calls.values()))
        spent = 0.0
        for kind, calls in self.calls.items():
            self.reset()
            graph = device.capture(lambda calls=calls, kind=kind: self._work(kind, calls), kind == COLD, self.pool)
            self.graphs[kind] = graph
            if kind == COLD and graph.launches is not None:
                # What a capture does once, like clearing a workspace, is not part of each of its steps.
                self.launches = graph.launches // calls
            start = time.perf_counter()
            self._sample(device, kind)
            spent += time.perf_counter() - start
        if wall:
            self.calls[EAGER] = 1
            spent += self._sample(device, EAGER)
        self.entries = {kind: Entry(f"{self.name} {kind}", None) for kind in self.calls}
        self.rounds = plan.rounds(spent)

    def reset(self) -> None:
        """Every canvas as it was before the step."""
        if self.canvases is not None:
            self.canvases.copy_(self.canvas)

    def measure(self, device, number: int) -> None:
        """One sample of every kind."""
        for kind in self.entries:
            seconds = self._sample(device, kind)
            self.entries[kind].samples[number] = Sample(seconds / self.calls[kind], self.calls[kind], 0)

    def _sample(self, device, kind: str) -> float:
        self.reset()
        if kind == EAGER:
            return device.wall_seconds(self._eager)
        replay = self.graphs[kind].replay
        return device.wall_seconds(replay) if kind == GRAPH else device.seconds(replay)

    def _work(self, kind: str, calls: int) -> None:
        steps = self.steps if kind == COLD else self.steps[:1]
        for i in range(calls):
            self._call(steps[i % len(steps)], i)

    def _eager(self) -> None:
        self._call(self.steps[0], 0)

    def _call(self, step: Callable, i: int) -> None:
        if self.canvas is None:
            step()
        else:
            # Before the canvases exist the step works on a copy: what is timed then only sizes the plan.
            step(self.canvas.clone() if self.canvases is None else self.canvases[i])


def interleave(lanes: list[Lane], device, plan: Plan, deadline: float = float("inf")) -> None:
    """Sample all lanes round by round in shuffled order until each has its rounds, or until `deadline` (perf_counter) once
    every lane has two."""
    order = random.Random(plan.seed)
    places = spread(max((lane.rounds for lane in lanes), default=0))
    for number, place in enumerate(places):
        late = time.perf_counter() > deadline
        due = [lane for lane in lanes if (place < lane.rounds and not late) or _samples(lane) < min(2, number + 1)]
        order.shuffle(due)
        for lane in due:
            lane.measure(device, number)


def _samples(lane: Lane) -> int:
    return min((len(entry.samples) for entry in lane.entries.values()), default=0)
