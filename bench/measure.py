"""From cases and providers to result rows: build, check, weigh, time."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Sequence

import torch

from . import machine, native, timing, uniform_check
from .cases import OURS, UNIFORM_OPS, Case, groups
from .check import Result, check
from .inputs import Inputs, make_inputs, make_logits
from .memory import peak_extra_bytes
from .peers import Provider, resolve
from .timing import Entry, Method

SCHEMA = "dlm_bench/1"
_CHECKS = 0.3  # of the time of a group of cases, about


@dataclasses.dataclass
class _Run:
    """One provider on one case, from build to row. `entry` is None when there is nothing to time."""

    case: Case
    provider: Provider
    skipped: str = ""
    check: Result | None = None
    peak: int | None = None
    entry: Entry | None = None


def side_by_side(
    cases: Iterable[Case],
    providers: Sequence[str | Provider] | None = None,
    budget_s: float = 1.0,
    *,
    threads: int | None = None,
    method: Method | None = None,
    roofline: bool = False,
    on_row: Callable[[dict], None] = lambda row: None,
    on_progress: Callable[[str, float], None] = lambda text, done: None,
) -> list[dict]:
    """Measure every provider on every case in this process; one result row each (bench/README.md says what is in it).
    Providers that have no such op are left out.

    Args:
        cases: the problems. Cases that share their logits are timed interleaved with each other.
        providers: names from `peers.PROVIDERS` ("dlm_kernels" is always added) or Provider objects; None = all.
        budget_s: timed seconds per provider and case; slow ones take at least three samples all the same.
        threads: torch threads during the run, restored after it; None = what torch has now.
        method: overrides budget_s with a full timing plan.
        roofline: time the floors as well (needs the native library); rows of this package then say how near they are.
        on_row: called with each finished row. on_progress: with what comes next and the share of all that is done.
    """
    listed = resolve(None) if providers is None else _listed(providers)
    method = method or Method(budget_s=budget_s)
    before = torch.get_num_threads()
    threads = threads or before
    rows: list[dict] = []
    try:
        torch.set_num_threads(threads)
        env = machine.describe(threads)
        stamp = now()
        with torch.inference_mode():
            every = list(groups(cases))
            for number, group in enumerate(every):

                def progress(text: str, done: float, number: int = number) -> None:
                    on_progress(text, (number + done) / len(every))

                for row in _measure_group(group, listed, method, threads, roofline, progress):
                    row = {"schema": SCHEMA, "time": stamp, **row, "env": env}
                    rows.append(row)
                    on_row(row)
    finally:
        torch.set_num_threads(before)
    return rows


def now() -> str:
    """The `time` of a result row: UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _listed(providers: Sequence[str | Provider]) -> list[Provider]:
    objects = [p for p in providers if isinstance(p, Provider)]
    names = [p for p in providers if not isinstance(p, Provider)]
    if OURS in {p.name for p in objects}:
        return objects
    return resolve(names) + objects


def _measure_group(group, providers, method, threads, roofline, on_progress) -> list[dict]:
    if any(provider.kind == "compiled" for provider in providers):
        torch._dynamo.reset()  # compiled code is kept per source line, up to a limit: a long run must not reach it
    logits = make_logits(group[0])
    runs, checks = [], sum(p.takes(case) for case in group for p in providers)
    for case in group:
        inputs = make_inputs(case, logits)
        for provider in (p for p in providers if p.takes(case)):
            on_progress(f"checking {provider.name}: {case.id}", _CHECKS * len(runs) / checks)
            runs.append(_prepare(case, provider, inputs))
    floors = _Floors(logits if roofline else None, threads)
    entries = [run.entry for run in runs if run.entry]
    what = f"timing {len(entries)} steps: {group[0].id}"
    timing.interleave(
        entries + floors.entries, method, threads, lambda done: on_progress(what, _CHECKS + (1 - _CHECKS) * done)
    )
    rows = [_row(run, runs, floors, method) for run in runs]
    floors.close()
    return rows


def _prepare(case: Case, provider: Provider, inputs: Inputs) -> _Run:
    """Build and check; what fails either is reported with its reason and never timed."""
    run = _Run(case, provider)
    try:
        with provider.context():
            step = provider.build(inputs)
        judge = uniform_check.check if case.op in UNIFORM_OPS else check
        run.check = judge(provider, step, inputs)
    except Exception as error:  # a peer that cannot run here (no compiler, no memory) must not end the others
        run.skipped = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return run
    if not run.check.passed:
        run.skipped = f"check failed: {run.check.why}"
        return run
    x, canvas = inputs.canvas.clone(), inputs.canvas

    def call() -> None:
        x.copy_(canvas)  # every call does the same work; a few KB, the same for all
        step(x)

    with provider.context():
        run.peak = peak_extra_bytes(call)
    run.entry = Entry(f"{provider.name} {case.id}", call, provider.context)
    return run


class _Floors:
    """The roofline's entries of one group of cases, timed among the providers; none without logits."""

    def __init__(self, logits: torch.Tensor | None, threads: int) -> None:
        self.threads, self.entries, self._native = threads, [], None
        if logits is None or not native.available():
            return
        self._native = floors = native.Floors(threads)
        read, self._read_bytes = floors.read_stream(logits)
        one, self._one_elements = floors.exp_peak(logits.dtype, 1)
        every, self._every_elements = floors.exp_peak(logits.dtype, threads)
        self.read = Entry("read_stream", read)
        self.one, self.every = Entry("exp_peak 1 thread", one), Entry("exp_peak all threads", every)
        self.entries = [self.read, self.one, self.every]

    def roofline(self, case: Case, entry: Entry) -> dict | None:
        """The floor of a step in this run: the slower of reading its logits once and of one exp per logit."""
        if not self.entries:
            return None
        # Time of the case's floor / time of the measured call.
        per_read = case.bytes_min / self._read_bytes
        per_exp = case.open_rows * case.vocab / (self.threads * self._one_elements)
        per_every = case.open_rows * case.vocab / self._every_elements
        fractions, together = [], []
        for r in set(self.read.samples).intersection(*(e.samples for e in (self.one, self.every, entry))):
            read, one, every, step = (e.samples[r].seconds for e in (self.read, self.one, self.every, entry))
            fractions.append(max(read * per_read, one * per_exp) / step)
            together.append(max(read * per_read, every * per_every) / step)
        read_s, one_s, every_s = (timing.quantiles(e.seconds())["median"] for e in (self.read, self.one, self.every))
        fraction = timing.quantiles(fractions)
        return {
            "fraction": fraction["median"],
            "fraction_p10": fraction["p10"],
            "fraction_p90": fraction["p90"],
            # Against what the threads reach together: cores that share execution units have no threads x peak.
            "fraction_together": timing.quantiles(together)["median"],
            "bound": "read" if read_s * per_read >= one_s * per_exp else "exp",
            "read_us": read_s * per_read * 1e6,
            "exp_us": one_s * per_exp * 1e6,
            "read_gbps": self._read_bytes / read_s / 1e9,
            "exp_peak_gels": self._one_elements / one_s / 1e9,
            "exp_peak_gels_all_threads": self._every_elements / every_s / 1e9,
        }

    def close(self) -> None:
        if self._native is not None:
            self._native.close()


def _row(run: _Run, runs: list[_Run], floors: _Floors, method: Method) -> dict:
    """The measured part of a result row."""
    provider, case, entry = run.provider, run.case, run.entry
    row = {
        "case": {**dataclasses.asdict(case), "id": case.id, "layout": "contiguous"},
        "provider": {
            "name": provider.name,
            "kind": provider.kind,
            "about": provider.about,
            "outputs": list(provider.outputs),
        },
        "skipped": run.skipped,
        "check": run.check.to_json() if run.check else None,
        "us": None,
    }
    if entry is None:
        return row
    samples = list(entry.samples.values())
    timed_s = sum(sample.seconds * sample.calls for sample in samples)
    us = timing.quantiles(entry.seconds(), 1e6)
    ours = _find(runs, OURS, case)
    greedy = _find(runs, provider.name, case.greedy) if case.greedy else None
    return {
        **row,
        "us": us,
        "ratio": timing.ratio(entry, ours) if ours else None,
        "ratio_to_greedy": timing.ratio(entry, greedy) if greedy else None,
        "roofline": floors.roofline(case, entry) if provider.kind == "ours" else None,
        "bytes_min": case.bytes_min,
        "gbps": case.bytes_min / us["median"] / 1e3,
        "peak_extra_bytes": run.peak,
        "peak_extra_share": None if run.peak is None else run.peak / case.bytes_min,
        "switches_per_s": sum(sample.switches for sample in samples) / timed_s,
        "method": {
            "timer": "torch.utils.benchmark",
            "order": "interleaved, shuffled",
            "samples": len(samples),
            "calls": samples[0].calls,
            "budget_s": method.budget_s,
        },
    }


def _find(runs: list[_Run], name: str, case: Case) -> Entry | None:
    return next((r.entry for r in runs if r.provider.name == name and r.case == case and r.entry), None)
