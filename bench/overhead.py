"""What a call costs before its kernel has anything to do: steps on one row of 16 logits, in CPU time, of which other processes
take nothing. A step called without a seed also draws one.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Iterator

from . import bars, report

BARS = {"torch": 10.0, "array": 5.0}  # microseconds
_HEAD = ("call", "through", "a call", "of torch.add", "required", "verdict")


def calls() -> list[tuple[str, str, Callable[[], object]]]:
    """(name, through, call); the first is torch.add, for scale."""
    import torch

    import dlm_kernels as dlm

    x, logits, scores = torch.full((1, 1), 5), torch.zeros(1, 1, 16), torch.zeros(1, 1)
    found = [("torch.add", "", lambda: torch.add(scores, scores))]
    found += [(name, "torch", call) for name, call in _steps(dlm, x, logits, scores).items()]
    arrays = (tensor.numpy().copy() for tensor in (x, logits, scores))
    return found + [(name, "array", call) for name, call in _steps(dlm.array, *arrays).items()]


def _steps(of, x, logits, scores) -> dict[str, Callable[[], object]]:
    """Of ``dlm_kernels`` or ``dlm_kernels.array``."""
    from .. import TopK

    rule, state, seeded = TopK(1), of.RenoiseState.start(x), dict(seed=1, step=2)
    levels, tokens = dict(alpha_t=0.3, alpha_s=0.4), x + 1
    return {
        "row_stats": lambda: of.row_stats(logits),
        "draw_tokens": lambda: of.draw_tokens(logits),
        "topk_unmask_": lambda: of.topk_unmask_(x, tokens, scores, 1, mask_id=3),
        "denoise_step_": lambda: of.denoise_step_(x, logits, mask_id=3, rule=rule),
        "uniform_step_": lambda: of.uniform_step_(x, logits, **levels, **seeded),
        "uniform_step_, no seed": lambda: of.uniform_step_(x, logits, **levels),
        "renoise_step_": lambda: of.renoise_step_(x, logits, state=state, **seeded),
        "renoise_step_, no seed or state": lambda: of.renoise_step_(x, logits),
    }


def rows(env: dict, number: int = 1000, repeats: int = 15, on_progress=lambda text, share: None) -> Iterator[dict]:
    """A row per call: its best time of ``repeats`` times ``number`` calls, and its ratio to torch.add's."""
    from .measure import SCHEMA, now

    chosen, add = calls(), None
    for i, (name, through, call) in enumerate(chosen):
        on_progress(f"overhead of {name}", i / len(chosen))
        us = min(timeit.repeat(call, number=number, repeat=repeats, timer=time.thread_time)) / number * 1e6
        add = us if add is None else add
        yield {
            "schema": SCHEMA,
            "time": now(),
            "overhead": {"call": name, "through": through, "at_most": BARS.get(through), "ratio": us / add},
            "us": {"min": us},
            "env": env,
        }


def verdict(row: dict) -> str:
    """pass, FAIL, or nothing without a bar."""
    bar = row["overhead"]["at_most"]
    return "" if bar is None else bars.PASS if row["us"]["min"] <= bar else bars.FAIL


def print_rows(rows: list[dict]) -> None:
    body = []
    for row in rows:
        of = row["overhead"]
        required = "" if of["at_most"] is None else f"<= {of['at_most']:g} us"
        times = f"{row['us']['min']:.1f} us", f"{of['ratio']:.1f}x"
        body.append((of["call"], of["through"], *times, required, verdict(row)))
    report.print_table("a call without work, in CPU time", _HEAD, body, left=2)


def failed(rows: list[dict]) -> bool:
    return any(verdict(row) == bars.FAIL for row in rows)
