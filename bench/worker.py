"""The measuring process. The command line starts one per allocator, because malloc reads its settings at start.

`python -m dlm_kernels.bench.worker JOB` (JOB: JSON, see `main`) writes one result row per line to stdout.
"""

from __future__ import annotations

import json
import sys


def main(job: dict) -> None:
    """Keys: cases (list of Case fields), providers (names or null), isa (add one provider per instruction set), method
    (timing.Method fields), threads (0: what torch takes), accuracy (add the rows of that family: masked, uniform, or ""),
    progress (a bar on stderr). Or, instead of cases: loops (a regular expression, loops.py), or overhead (arguments of
    overhead.rows)."""
    import torch

    from . import accuracy, machine, measure, peers, uniform_accuracy
    from .cases import Case
    from .progress import shown
    from .timing import Method

    out, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not land between the rows

    def emit(row: dict) -> None:
        print(json.dumps(row), file=out, flush=True)

    threads = job["threads"] or torch.get_num_threads()
    if "loops" in job:
        from . import loops

        torch.set_num_threads(threads)
        with shown(job["progress"]) as on_progress:
            for row in loops.rows(loops.select(job["loops"]), Method(**job["method"]), threads, on_progress):
                emit(row)
        return
    if "overhead" in job:
        from . import overhead

        torch.set_num_threads(1)
        with shown(job["progress"]) as on_progress:
            for row in overhead.rows(machine.describe(1), **job["overhead"], on_progress=on_progress):
                emit(row)
        return
    if job["accuracy"]:
        with shown(job["progress"]) as on_progress:
            on_progress(f"accuracy of the {job['accuracy']} family", 0.0)
            env = machine.describe(threads)
            for row in {"masked": accuracy, "uniform": uniform_accuracy}[job["accuracy"]].rows(threads):
                emit({"schema": measure.SCHEMA, "time": measure.now(), **row, "env": env})
    providers = peers.resolve(job["providers"]) + (list(peers.isa_variants().values()) if job["isa"] else [])
    with shown(job["progress"]) as on_progress:
        measure.side_by_side(
            [Case(**fields) for fields in job["cases"]],
            providers,
            threads=threads,
            method=Method(**job["method"]),
            roofline=True,
            on_row=emit,
            on_progress=on_progress,
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
