"""Capture and replay: `python -m dlm_kernels.bench.gpu_graphs`. Every op is captured once with its seeds, step, k and
temperature in device tensors; those, the logits and the canvas are then changed in place, and each replay must give the bits
of an eager call. Also: nothing waits for the host, counters reset themselves, two streams do not disturb each other.

Ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from .device import open_device
from .gpu_problems import Problem, problems

REPLAYS = 20


def chosen() -> list[Problem]:
    """One problem per op, rule and option, and the sizes at which rows are split or not."""
    found = [p for p in problems(large=False) if p.vocab in (1000, 2049, 3001, 50) and p.length <= 300]
    found += [Problem(vocab=126464, batch=1, length=rows, temperature=1.0, seed=rows) for rows in (1, 32)]
    return found


def replayed(problem: Problem, device) -> None:
    """AssertionError naming the output that a replay got wrong."""
    static = problem.tensors(device.device)
    others = [problem.tensors(device.device, seed=problem.seed + 1000 * i) for i in range(3)]
    for i, other in enumerate(others):
        other["temperature"].fill_(0.5 + i if problem.always_warm else (0.0, 1.0, 0.6)[i])
    held: dict = {}

    def work() -> None:
        held["out"] = problem.run(static)

    work()  # what is made on the first call must exist before the capture
    graph = device.capture(work, pool="ours")
    for i in (0, 1, 2, 0):
        for name, tensor in others[i].items():
            static[name].copy_(tensor)
        graph.replay()
        device.synchronize()
        got = {name: tensor.clone() for name, tensor in held["out"].items()}
        eager = {name: tensor.clone() for name, tensor in others[i].items()}
        if "strided" in problem.options:
            eager["logits"] = static["logits"]
        _assert_same(got, problem.run(eager), f"setting {i}")
    first = None
    for number in range(REPLAYS):
        for name, tensor in others[1].items():  # a step leaves more than the canvas behind
            static[name].copy_(tensor)
        graph.replay()
        device.synchronize()
        got = {name: tensor.clone() for name, tensor in held["out"].items()}
        first = first or got
        _assert_same(got, first, f"replay {number}")


def _assert_same(got: dict, want: dict, when: str) -> None:
    for name in want:
        a, b = (torch.nan_to_num(t, nan=-12345.0) if t.is_floating_point() else t for t in (got[name], want[name]))
        assert torch.equal(a, b), f"{when}: {name}: {int((a != b).sum())} of {a.numel()} differ from the eager call"


def two_streams(device) -> None:
    """The same step on two streams at once, many times: a shared workspace would show."""
    problem = Problem(vocab=126464, batch=1, length=24, temperature=1.0)
    sides = [problem.tensors(device.device, seed=i) for i in range(2)]
    want = [problem.run({n: t.clone() for n, t in side.items()}) for side in sides]
    device.synchronize()
    streams = [torch.cuda.Stream() for _ in sides]
    for _ in range(30):
        found = []
        for side, stream in zip(sides, streams):
            with torch.cuda.stream(stream):
                found.append(problem.run({n: t.clone() for n, t in side.items()}))
        device.synchronize()
        for got, right in zip(found, want):
            _assert_same(got, right, "two streams")


def no_waiting(problem: Problem, device) -> None:
    """torch raises at any wait that it knows of; what it does not know of would end a capture."""
    tensors = problem.tensors(device.device)
    problem.run({name: tensor.clone() for name, tensor in tensors.items()})
    torch.cuda.set_sync_debug_mode("error")
    try:
        problem.run(tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dlm_kernels.bench.gpu_graphs", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "rehearsal"))
    parser.add_argument("--seconds", type=float, default=40.0, help="start no check after this time (default: 40)")
    args = parser.parse_args(arguments)
    device, start = open_device(args.device), time.perf_counter()
    checks = [(f"replay {p.name}", lambda p=p: replayed(p, device)) for p in chosen()]
    if args.device == "cuda":
        checks.insert(0, ("two streams", lambda: two_streams(device)))
        checks += [(f"no waiting {p.name}", lambda p=p: no_waiting(p, device)) for p in chosen()[:12]]
    failed = done = 0
    for name, check in checks:
        if time.perf_counter() - start > args.seconds:
            break
        done += 1
        try:
            check()
            device.release()
        except Exception as error:
            failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {str(error)[:500]}", flush=True)
    late = "" if done == len(checks) else f"; {len(checks) - done} not reached"
    print(f"{done - failed} of {done} graph checks passed{late}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
