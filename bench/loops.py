"""Whole loops of other codebases, their own code against the same loop accelerated: how much of a step the sampler was, and is.

Each client has a module loops_<client>.py with ``LOOPS``; a loop is built where its client is installed, and left out with the
reason where it is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from importlib import import_module

import torch

from dlm_kernels.integrations.accelerate import accelerated

from . import machine, measure, timing
from .timing import Entry, Method

# Modules beside this one that have LOOPS, in the order of the tables.
_CLIENTS = (
    *("fast_dllm", "llada", "dream", "llada2", "dinfer", "dllm", "transformers", "diffusers"),
    *("mdlm", "sumi", "gidd", "duo", "udlm", "sedd"),
)


@dataclasses.dataclass(frozen=True)
class Built:
    """A loop that can be run.

    run: the client's whole loop, from its start; returns the tokens. forward: the module whose forward is the model, so that the
    rest of a step can be told from it. client: what ``accelerate`` takes. Where a drop-in function takes the place of the
    client's, `client` is None and `run_accelerated` the loop with that.
    """

    run: Callable[[], torch.Tensor]
    forward: torch.nn.Module
    client: object = None
    run_accelerated: Callable[[], torch.Tensor] | None = None


@dataclasses.dataclass(frozen=True)
class Loop:
    """One line of the table. `steps`: model calls of one run. `build(vocab)`: that loop with a vocabulary of this size.
    `at_least`: the ratio that must be reached, 0 for none. `same`: whether both runs must give the same tokens (greedy; sampled
    ones differ by their noise)."""

    name: str
    line: str  # the one that changes
    vocab: int
    rows: int  # that the sampler sees per step
    steps: int
    build: Callable[[int], Built]
    same: bool = True
    at_least: float = 0.0


def select(pattern: str | None = None) -> list[Loop]:
    """All loops, or those whose name matches the regular expression."""
    import re

    found = [loop for client in _CLIENTS for loop in import_module(f".loops_{client}", __package__).LOOPS]
    return [loop for loop in found if not pattern or re.search(pattern, loop.name)]


def rows(loops: list[Loop], method: Method, threads: int, on_progress=lambda text, done: None) -> Iterator[dict]:
    """Result rows, one per loop, as they come. on_progress(text, share of all that is done) is called before each."""
    env = machine.describe(threads)
    for number, loop in enumerate(loops):
        on_progress(loop.name, number / len(loops))
        with torch.inference_mode():
            measured = _measure(loop, method)
        described = {key: getattr(loop, key) for key in ("name", "line", "vocab", "rows", "steps", "same", "at_least")}
        yield {"schema": measure.SCHEMA, "time": measure.now(), "loop": described, **measured, "env": env}


def _alternate(entries: list[Entry], method: Method) -> None:
    """Time whole loops in turn, which are warm: they last for seconds, and are not repeated within a sample."""
    spent = 0.0
    for number in range(method.max_rounds):
        if number >= method.min_rounds and spent >= len(entries) * method.budget_s:
            return
        for entry in entries if number % 2 else reversed(entries):
            with entry.context():
                start = time.perf_counter()
                entry.call()
                seconds = time.perf_counter() - start
            entry.samples[number] = timing.Sample(seconds, 1, 0)
            spent += seconds


def _measure(loop: Loop, method: Method) -> dict:
    nothing = {"before": None, "after": None, "ratio": None}
    try:
        built = loop.build(loop.vocab)
    except ImportError as error:
        return {**nothing, "skipped": f"{type(error).__name__}: {error}"}
    swap = contextlib.nullcontext if built.client is None else lambda: accelerated(built.client)
    before, after = _Watched(built.run, built.forward), _Watched(built.run_accelerated or built.run, built.forward)
    slow = before()
    with swap():
        fast = after()
    if loop.same and not torch.equal(slow, fast):
        return {**nothing, "skipped": "check failed: the accelerated loop gave other tokens"}
    before.shares.clear(), after.shares.clear()
    entries = [Entry("before", before), Entry("after", after, swap)]
    _alternate(entries, method)
    return {
        "before": {**before.summary(), **timing.quantiles(entries[0].seconds())},
        "after": {**after.summary(), **timing.quantiles(entries[1].seconds())},
        "ratio": timing.ratio(*entries),
        "skipped": "",
    }


class _Watched:
    """A loop that keeps the share of its time that was not the model's forward."""

    def __init__(self, run, forward):
        self.run, self.forward, self.shares = run, forward, []
        self._in_model = 0.0

    def __call__(self):
        begun = []

        def enter(module, args):
            begun.append(time.perf_counter())

        def leave(module, args, output):
            self._in_model += time.perf_counter() - begun.pop()

        self._in_model = 0.0
        handles = [self.forward.register_forward_pre_hook(enter), self.forward.register_forward_hook(leave)]
        start = time.perf_counter()
        try:
            out = self.run()
        finally:
            for handle in handles:
                handle.remove()
        self.shares.append(1 - self._in_model / (time.perf_counter() - start))
        return out

    def summary(self):
        return {"share": timing.quantiles(self.shares)["median"]}


def verdict(row: dict) -> str:
    """ "pass", "FAIL", "" where nothing must be reached, or "not measured"."""
    from .bars import FAIL, PASS, UNKNOWN

    if row["ratio"] is None:
        return FAIL if row["skipped"].startswith("check failed") else UNKNOWN
    if not row["loop"]["at_least"]:
        return ""
    return PASS if row["ratio"]["median"] >= row["loop"]["at_least"] else FAIL
