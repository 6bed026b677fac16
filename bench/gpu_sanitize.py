"""Every kernel and option once, on small shapes: what compute-sanitizer runs. `python -m dlm_kernels.bench.gpu_sanitize`.
Judges no output: gpu_agreement.py does."""

from __future__ import annotations

import argparse
import sys
import time

import torch

from .gpu_problems import problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dlm_kernels.bench.gpu_sanitize", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=30.0, help="start no problem after this time (default: 30)")
    args = parser.parse_args(arguments)
    device, start, done = torch.device(args.device), time.perf_counter(), 0
    listed = problems(large=False)
    # The first of every kind before the second of any: a slow checker then still sees all kernels.
    order = sorted(range(len(listed)), key=lambda i: (i % 4, i))
    for i in order:
        if time.perf_counter() - start > args.seconds:
            break
        problem = listed[i]
        tensors = problem.tensors(device)
        for value in problem.run(tensors).values():
            value.cpu()  # waits, and lets initcheck see what was never written
        done += 1
    print(f"ran {done} of {len(listed)} problems on {device}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
