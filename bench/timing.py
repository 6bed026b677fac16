"""Interleaved timing: in every round each entry is sampled once, in shuffled order, for about the same time.

Samples of equal length matter: on a busy machine a call of seconds is preempted and one of 0.3 ms is not, which
flatters the fast side. Involuntary context switches are counted inside each sample and kept with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from torch.utils.benchmark import Timer


@dataclasses.dataclass(frozen=True)
class Sample:
    seconds: float  # per call
    calls: int
    switches: int  # involuntary context switches of all threads of the process during the sample


@dataclasses.dataclass
class Entry:
    """Something to time. `samples` maps the round to its sample; slow entries take part in fewer rounds."""

    name: str
    call: Callable[[], object]
    context: Callable[[], AbstractContextManager] = contextlib.nullcontext
    samples: dict[int, Sample] = dataclasses.field(default_factory=dict)

    def seconds(self) -> list[float]:
        return [sample.seconds for _, sample in sorted(self.samples.items())]


@dataclasses.dataclass(frozen=True)
class Method:
    """budget_s: timed seconds per entry. sample_s: wanted length of a sample. At least `min_rounds` are taken whatever
    they cost, at most `max_rounds`."""

    budget_s: float = 3.0
    sample_s: float = 0.05
    min_rounds: int = 3
    max_rounds: int = 25
    seed: int = 0

    def plan(self, seconds: float) -> tuple[int, int]:
        """(calls per sample, rounds) for an entry of `seconds` per call. Timer.timeit warms up with two calls."""
        calls = max(1, round(self.sample_s / max(seconds, 1e-7)))
        rounds = int(self.budget_s / (seconds * (calls + max(2, calls // 100))))
        return calls, min(max(rounds, self.min_rounds), self.max_rounds)


class _Clock:
    """The Timer's clock; notes the context switches at each reading, so that they cover exactly the timed calls."""

    def __init__(self) -> None:
        self.switches: list[int] = []

    def __call__(self) -> float:
        now = time.perf_counter()
        self.switches.append(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)
        return now


def interleave(
    entries: list[Entry], method: Method, threads: int, on_round: Callable[[float], None] = lambda done: None
) -> None:
    """Time all entries against each other; fills `entry.samples`. on_round: called before each round with the share of them that
    is done."""
    plans, timers, clocks = {}, {}, {}
    for entry in entries:
        clocks[entry.name] = clock = _Clock()
        timers[entry.name] = Timer("call()", globals={"call": entry.call}, num_threads=threads, timer=clock)
        with entry.context():
            start = time.perf_counter()
            entry.call()
            plans[entry.name] = method.plan(time.perf_counter() - start)
    order = random.Random(method.seed)
    places = spread(max((rounds for _, rounds in plans.values()), default=0))
    for number, place in enumerate(places):
        on_round(number / len(places))
        due = [entry for entry in entries if place < plans[entry.name][1]]
        order.shuffle(due)
        for entry in due:
            calls, clock = plans[entry.name][0], clocks[entry.name]
            with entry.context():
                measured = timers[entry.name].timeit(calls)
            switches = clock.switches[-1] - clock.switches[-2]
            entry.samples[number] = Sample(measured.mean, calls, switches)


def spread(total: int) -> list[int]:
    """For each of `total` rounds its place in a sequence whose every beginning is spread over the whole run. An entry
    of n rounds takes those with place < n: any two entries then share as many rounds as the slower one has."""
    points = [i * 0.6180339887498949 % 1 for i in range(total)]
    return sorted(range(total), key=points.__getitem__)


def quantiles(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """median, p10, p90, min of `values`, times `scale`."""
    ordered = sorted(value * scale for value in values)
    tenths = statistics.quantiles(ordered, n=10, method="inclusive") if len(ordered) > 1 else ordered * 9
    return {"median": statistics.median(ordered), "p10": tenths[0], "p90": tenths[8], "min": ordered[0]}


def ratio(slow: Entry, fast: Entry) -> dict[str, float]:
    """slow / fast, paired: the quotient within each round that has both, so that drift of the machine cancels."""
    paired = [slow.samples[r].seconds / fast.samples[r].seconds for r in sorted(slow.samples.keys() & fast.samples)]
    found = quantiles(paired)
    found["of_minima"] = min(slow.seconds()) / min(fast.seconds())
    return {**found, "pairs": len(paired)}
