"""The measuring process of the GPU bench. `python -m dlm_kernels.bench.gpu_worker JOB` (JOB: JSON, see `main`) writes JSON
lines to stdout: {"rows": [...], "group": number} when a group of cases is done, {"lost": why, "group": number} before it
ends because the device cannot go on. gpu.py starts another one behind it then.
"""

from __future__ import annotations

import json
import sys
import time


def main(job: dict) -> int:
    """Keys: device ("cuda" | "rehearsal"), filter, against (names or null), seconds, first (group), plan (Plan fields),
    warm (build and run compiled peers once, time nothing)."""
    start = time.perf_counter()
    import torch

    from . import gpu_cases, gpu_measure
    from .device import open_device
    from .gpu_timing import Plan

    out, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not land between the rows

    def emit(line: dict) -> None:
        print(json.dumps(line), file=out, flush=True)

    def progress(text: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {text}", file=sys.stderr, flush=True)

    entries = chosen(job)
    device = open_device(job["device"])
    if job.get("warm"):
        warm(entries, device, start + job["seconds"], progress)
        return 0
    current = job["first"]

    def on_rows(number: int, rows: list[dict]) -> None:
        nonlocal current
        emit({"rows": rows, "group": number})
        current = number + 1

    bench = gpu_measure.Bench(device, Plan(**job["plan"]), start + job["seconds"], progress)
    if device.kind == "rehearsal":
        torch.set_num_threads(1)
    try:
        gpu_measure.run(entries, bench, on_rows, job["first"], job.get("shortest_s", 5.0))
    except gpu_measure.DeviceLost as error:
        emit({"lost": str(error), "group": current})
        return 3
    progress(f"{len(gpu_cases.groups(entries)) - current} groups left")
    return 0


def chosen(job: dict) -> list:
    """The entries of a job, with only the peers it names."""
    import dataclasses

    from . import gpu_cases

    entries = gpu_cases.select(job["device"] == "rehearsal", job["filter"])
    if job["against"] is None:
        return entries
    return [dataclasses.replace(e, peers=tuple(n for n in e.peers if n in job["against"])) for e in entries]


def warm(entries: list, device, deadline: float, progress) -> None:
    """Compile what will be compiled, into torch's and Triton's caches on disk, while something else uses the processor."""
    import dataclasses

    import torch

    from . import gpu_peers
    from .inputs import make_inputs, make_logits

    for entry in entries:
        names = [name for name in entry.peers if name.startswith(("compiled", "triton"))]
        providers = [p for p in gpu_peers.resolve(names) if p.name in names and p.takes(entry.case)]
        if not providers or time.perf_counter() > deadline:
            continue
        torch._dynamo.reset()
        with torch.inference_mode():
            inputs = make_inputs(
                entry.case, make_logits(dataclasses.replace(entry.case, dist="normal1"), device.device)
            )
            for provider in providers:
                try:
                    provider.build(inputs)(inputs.canvas.clone())
                    device.synchronize()
                    progress(f"compiled {provider.name}: {entry.case.id}")
                except Exception as error:
                    progress(f"{provider.name}: {entry.case.id}: {type(error).__name__}: {str(error)[:200]}")
            del inputs


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
