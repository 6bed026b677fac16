"""From GPU cases and providers to result rows: build, check, capture, time. measure.py does the same for the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
import traceback
from collections.abc import Callable, Iterator

import torch

from . import gpu_peers, machine, timing, uniform_check
from .cases import OURS, UNIFORM_OPS, Case
from .check import Result, check
from .gpu_cases import Entry, groups
from .gpu_timing import COLD, EAGER, GRAPH, HOT, Lane, Plan, buffer_count, interleave
from .inputs import Inputs, make_inputs, make_logits
from .measure import SCHEMA, now
from .peers import Provider

# Rows of a dry run carry another schema: no table takes them for measurements.
REHEARSAL_SCHEMA = "dlm_bench/rehearsal"
# Seconds for building and checking one provider on one case; torch.compile is what may take longer.
BUILD_LIMIT_S = 40


class DeviceLost(RuntimeError):
    """The device reports an error that every later call will report again; only a new process helps."""


@dataclasses.dataclass
class _Run:
    """One provider on one case. `lane` is None when there is nothing to time."""

    case: Case
    provider: Provider
    skipped: str = ""
    check: Result | None = None
    repeats: bool | None = None
    peak: int | None = None
    lane: Lane | None = None

    def entry(self, kind: str) -> timing.Entry | None:
        found = self.lane.entries.get(kind) if self.lane else None
        return found if found and found.samples else None


@contextlib.contextmanager
def time_box(seconds: float) -> Iterator[None]:
    """TimeoutError in this (the main) thread after `seconds`."""

    def expire(*_):
        raise TimeoutError(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """One process's worth of measuring. `deadline` is on the clock of time.perf_counter."""

    def __init__(
        self, device, plan: Plan, deadline: float, on_progress: Callable[[str], None] = lambda text: None
    ) -> None:
        self.device, self.plan, self.deadline, self.progress = device, plan, deadline, on_progress
        self.env = {**machine.describe(torch.get_num_threads()), **device.describe()}
        self.env["backend"] = _backend(device)
        self.schema = SCHEMA if device.kind == "cuda" else REHEARSAL_SCHEMA
        self.gave_up: dict[str, str] = {}  # providers that ran out of time once are not asked again

    def left(self) -> float:
        return self.deadline - time.perf_counter()

    def measure(self, entries: list[Entry]) -> list[dict]:
        """Rows of entries that share their logits. DeviceLost if the device cannot go on."""
        with torch.inference_mode():
            rows = self._measure(entries)
        state = self.device.state()
        return [
            {"schema": self.schema, "time": now(), **row, "env": {**self.env, **state}} for row in rows
        ]  # clocks and power as they are right after the measurement

    def _measure(self, entries: list[Entry]) -> list[dict]:
        if any(name.startswith("compiled") for entry in entries for name in entry.peers):
            torch._dynamo.reset()  # compiled code is kept per source line, up to a limit
        first = entries[0].case
        try:
            logits = make_logits(first, self.device.device)
            copies = buffer_count(logits.numel() * logits.element_size(), self.device.l2_bytes)
            buffers = [logits, *(logits.clone() for _ in range(copies - 1))]
            self.device.synchronize()
        except RuntimeError as error:
            raise DeviceLost(_text(error)) from error
        runs = []
        for entry in entries:
            inputs = make_inputs(entry.case, logits)
            rotating = _rotate(inputs, buffers)
            runs += [
                self._prepare(_Run(entry.case, provider), rotating)
                for provider in gpu_peers.resolve(entry.peers)
                if provider.takes(entry.case)
            ]
        floors = _Floors(self.device, buffers, self.plan)
        lanes = [run.lane for run in runs if run.lane]
        self.progress(f"timing {len(lanes)} steps: {first.id}")
        interleave(lanes + floors.lanes, self.device, self.plan, self.deadline)
        rows = [_row(run, runs, floors, self) for run in runs]
        for run in runs:
            run.lane = None
        del floors, lanes, buffers, logits, rotating, inputs, runs
        self.device.release()
        return rows

    def _prepare(self, run: _Run, rotating: list[Inputs]) -> _Run:
        """Build, check, capture; what fails is reported with its reason and never timed."""
        name = run.provider.name
        if name in self.gave_up:
            run.skipped = self.gave_up[name]
            return run
        if self.left() < 2:
            run.skipped = "the time was up"
            return run
        self.progress(f"checking {name}: {run.case.id}")
        try:
            with time_box(min(BUILD_LIMIT_S, self.left())), run.provider.context():
                self._build(run, rotating)
        except ImportError as error:
            run.skipped = self.gave_up[name] = f"{type(error).__name__}: {_text(error)}"
        except TimeoutError as error:
            run.skipped = str(error)
            if run.provider.kind != "ours":
                self.gave_up[name] = f"an earlier case {error}"
        except Exception as error:  # a peer that cannot run here must not end the others
            run.skipped = f"{type(error).__name__}: {_text(error)}"
            self.still_there(f"{name}, {run.case.id}: {run.skipped}")
        if run.skipped:
            run.lane = None
        return run

    def _build(self, run: _Run, rotating: list[Inputs]) -> None:
        provider, inputs = run.provider, rotating[0]
        step = provider.build(inputs)
        judge = uniform_check.check if run.case.op in UNIFORM_OPS else check
        run.check = judge(provider, step, inputs)
        if provider.kind == "ours":
            run.repeats = _repeats(step, inputs)
            if not run.repeats:
                run.check.passed, run.check.why = False, "two runs differ"
        if not run.check.passed:
            run.skipped = f"check failed: {run.check.why}"
            return
        steps = [step, *(provider.build(other) for other in rotating[1:])]
        x = inputs.canvas.clone()
        run.peak = self.device.peak_extra_bytes(lambda: step(x))
        for other in steps[1:]:
            other(x)
        hot = run.case.bytes_min <= self.device.l2_bytes
        pool = "ours" if provider.kind == "ours" else "peers"
        run.lane = Lane(f"{provider.name} {run.case.id}", steps, inputs.canvas, hot, pool=pool)
        run.lane.prepare(self.device, self.plan)

    def without_number(self, entries: list[Entry], why: str) -> list[dict]:
        """Rows of our own step that say why there is none: a case that broke must not look as if it had not been asked."""
        runs = [_Run(entry.case, gpu_peers.GPU_PROVIDERS[OURS], skipped=why) for entry in entries]
        return [{"schema": self.schema, "time": now(), **_row(run, runs, None, self), "env": self.env} for run in runs]

    def still_there(self, what: str) -> None:
        """DeviceLost unless the device still computes."""
        try:
            self.device.synchronize()
            torch.zeros(1, device=self.device.device).add_(1)
            self.device.synchronize()
        except RuntimeError as error:
            raise DeviceLost(f"{what} ({_text(error)})") from error


def run(
    entries: list[Entry],
    bench: Bench,
    on_rows: Callable[[int, list[dict]], None],
    first: int = 0,
    shortest_s: float = 5.0,
) -> None:
    """Measure the groups of `entries` from number `first` on; `on_rows(number, rows)` after each, also after one that
    failed. Stops when fewer than `shortest_s` seconds are left. DeviceLost if the device cannot go on."""
    for number, group in enumerate(groups(entries)):
        if number < first:
            continue
        if bench.left() < shortest_s:
            bench.progress(f"the time is up: {len(groups(entries)) - number} groups of cases not reached")
            return
        try:
            rows = bench.measure(group)
        except Exception as error:
            bench.progress(traceback.format_exc())
            on_rows(number, bench.without_number(group, f"{type(error).__name__}: {_text(error)}"))
            if isinstance(error, DeviceLost):
                raise
            bench.still_there(group[0].case.id)
            bench.device.release()
            continue
        on_rows(number, rows)


def _rotate(inputs: Inputs, buffers: list[torch.Tensor]) -> list[Inputs]:
    """The same inputs around every copy of the logits."""
    rest = [
        dataclasses.replace(inputs, logits=buffer, uncond=None if inputs.uncond is None else inputs.uncond.clone())
        for buffer in buffers[1:]
    ]
    return [inputs, *rest]


def _repeats(step: Callable, inputs: Inputs) -> bool:
    """Whether two runs from the same canvas agree bit by bit."""
    found = []
    for _ in range(2):
        x = inputs.canvas.clone()
        found.append((x, *(out.clone() for out in step(x) if out is not None)))
    return all(torch.equal(a, b) for a, b in zip(*found))


class _Floors:
    """Reading the logits once, and copying them once, timed among the providers."""

    def __init__(self, device, buffers: list[torch.Tensor], plan: Plan) -> None:
        self.bytes = buffers[0].numel() * buffers[0].element_size()
        self.reader, read = device.reader()
        target = torch.empty_like(buffers[0])
        # Reading is part of no step: each lane gets one kind of floor, over the same rotation as the steps.
        work = {
            "read": [lambda b=b: read(b) for b in buffers],
            "copy": [lambda b=b: target.copy_(b) for b in buffers],
        }
        self.lanes: list[Lane] = []
        for name, steps in work.items():
            lane = Lane(name, steps, None, self.bytes <= device.l2_bytes)
            try:
                lane.prepare(device, plan, wall=False)
            except RuntimeError:
                continue
            lane.rounds = plan.max_rounds
            self.lanes.append(lane)

    def share(self, name: str, kind: str, case: Case, entry: timing.Entry | None) -> dict | None:
        """{"gbps", "fraction", "p10", "p90"}: the floor's bandwidth (a copy counts both ways), and the time the floor would
        take on the bytes of the case over the time of the step, paired by round."""
        floor = next((lane.entries.get(kind) for lane in self.lanes if lane.name == name), None)
        if floor is None or entry is None or not floor.samples:
            return None
        scale = case.bytes_min / self.bytes
        both = sorted(floor.samples.keys() & entry.samples)
        shares = timing.quantiles([floor.samples[r].seconds * scale / entry.samples[r].seconds for r in both])
        moved = self.bytes * (2 if name == "copy" else 1)
        gbps = moved / timing.quantiles(floor.seconds())["median"] / 1e9
        # A copy moves two bytes for each that is read: at its bandwidth the read alone takes half its time.
        half = 0.5 if name == "copy" else 1.0
        return {
            "gbps": gbps,
            "fraction": shares["median"] * half,
            "p10": shares["p10"] * half,
            "p90": shares["p90"] * half,
        }


def _row(run: _Run, runs: list[_Run], floors: _Floors | None, bench: Bench) -> dict:
    """The measured part of a result row: `us` is device time with a cold L2, per step."""
    provider, case, plan = run.provider, run.case, bench.plan
    row = {
        "case": {**dataclasses.asdict(case), "id": case.id, "layout": "contiguous"},
        "provider": {
            "name": provider.name,
            "kind": provider.kind,
            "about": provider.about,
            "outputs": list(provider.outputs),
            "partial": provider.partial,
        },
        "skipped": run.skipped,
        "check": {**run.check.to_json(), "bitwise_repeat": run.repeats} if run.check else None,
        "us": None,
    }
    cold = run.entry(COLD)
    if cold is None:
        return {**row, "skipped": run.skipped or "the time was up"}
    us = timing.quantiles(cold.seconds(), 1e6)
    ours = _find(runs, OURS, case)
    greedy = _find(runs, provider.name, case.greedy) if case.greedy else None
    spec = bench.env.get("spec_gbps")
    read, copy = (floors.share(name, COLD, case, cold) for name in ("read", "copy"))
    gbps = case.bytes_min / us["median"] / 1e3
    return {
        **row,
        "us": us,
        "hot_us": _quantiles(run.entry(HOT)),
        "wall_us": _quantiles(run.entry(EAGER)),
        "graph_us": _quantiles(run.entry(GRAPH)),
        "ratio": _ratio(run, ours, COLD),
        "ratio_hot": _ratio(run, ours, HOT),
        "ratio_wall": _ratio(run, ours, EAGER),
        "ratio_to_greedy": _ratio(run, greedy, COLD),
        "launches": run.lane.launches,
        "bytes_min": case.bytes_min,
        "gbps": gbps,
        "pct_spec": 100 * gbps / spec if spec else None,
        "pct_read_ref": 100 * read["fraction"] if read else None,
        "pct_copy_ref": 100 * copy["fraction"] if copy else None,
        "read": {**read, "with": floors.reader, "hot": floors.share("read", HOT, case, run.entry(HOT))}
        if read
        else None,
        "copy": copy,
        "peak_extra_bytes": run.peak,
        "peak_extra_share": None if run.peak is None else run.peak / case.bytes_min,
        "switches_per_s": None,
        "method": {
            "timer": "cuda events around graph replays; wall: perf_counter with a synchronize"
            if bench.device.kind == "cuda"
            else "rehearsal: perf_counter around plain calls, means nothing",
            "l2": "cold_rotate",
            "buffers": len(run.lane.steps),
            "calls": run.lane.calls,
            "rounds": len(cold.samples),
            "order": "interleaved, shuffled",
            "budget_s": plan.budget_s,
        },
    }


def _quantiles(entry: timing.Entry | None) -> dict | None:
    return timing.quantiles(entry.seconds(), 1e6) if entry else None


def _ratio(run: _Run, other: _Run | None, kind: str) -> dict | None:
    slow, fast = run.entry(kind), other.entry(kind) if other else None
    if slow is None or fast is None or not slow.samples.keys() & fast.samples:
        return None
    return timing.ratio(slow, fast)


def _find(runs: list[_Run], name: str, case: Case) -> _Run | None:
    return next((run for run in runs if run.provider.name == name and run.case == case and run.lane), None)


def _backend(device) -> str:
    """What `dlm_kernels` runs on here: "cuda", "reference (why)", or what the CPU has."""
    if device.kind != "cuda":
        return machine.backend()
    from .. import _load

    try:
        return "cuda" if "cuda" in _load.build_info()["backends"] else "reference (the build has no CUDA kernels)"
    except Exception as error:
        return f"reference ({_text(error)})"


def _text(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
