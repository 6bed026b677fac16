"""The GPU bench: `python -m dlm_kernels.bench.gpu`. Measures the matrix of gpu_cases.py in the given time, most important
cases first, writes a row as soon as it is there, survives a measuring process that dies, and prints a short table.

`bench/gpu.sh` builds, tests and then runs this. Imports torch only in the processes it starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import bars, gpu_bars, gpu_cases, gpu_report

# How often a dead measuring process is replaced, and the time a new one needs to be of use.
_RESTARTS, _START_S = 4, 20.0
# A process may take this much longer than it was given before it is killed.
_GRACE_S = 15.0
_PLAN = {"budget_s": 0.3}
_REHEARSAL_PLAN = {"budget_s": 0.01, "replay_s": 1e-4, "min_rounds": 2, "max_rounds": 3, "max_calls": 8}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m dlm_kernels.bench.gpu", description=__doc__.partition("\n\n")[0])
    add = found.add_argument
    add("--seconds", type=float, default=240.0, help="time for everything (default: 240)")
    add("--out", type=Path, metavar="FILE", help="write the result rows to FILE (JSON lines)")
    add("--filter", metavar="REGEX", help="only cases whose name matches (see --list)")
    add("--against", metavar="NAME,...", help="only these peers, comma-separated")
    add(
        "--device",
        choices=("cuda", "rehearsal"),
        default="cuda",
        help="rehearsal: tiny cases on the CPU, meaningless times",
    )
    add("--list", action="store_true", help="print the cases in their order, measure nothing")
    add("--report", type=Path, metavar="FILE", help="print the table of FILE, measure nothing")
    add("--warm", action="store_true", help="only compile the compiled peers into their caches")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Returns 0; 1 if outputs of ours are wrong, 2 for bad arguments, 3 if nothing was measured, 4 if all is right and a bar
    of speed is not reached."""
    args = parser().parse_args(arguments)
    try:
        if args.report:
            rows = [json.loads(line) for line in args.report.read_text().splitlines()]
            gpu_report.print_short(rows)
            return _status(rows)
        entries = gpu_cases.select(args.device == "rehearsal", args.filter)
        if not entries:
            raise ValueError(f"filter: must match a case, got {args.filter!r} (see --list)")
    except (ValueError, OSError) as error:
        print(f"gpu bench: {error}", file=sys.stderr)
        return 2
    if args.list:
        for entry in entries:
            print(f"{entry.tier}  {entry.case.id}")
        return 0
    job = {
        "device": args.device,
        "filter": args.filter,
        "against": args.against.split(",") if args.against else None,
        "plan": _PLAN if args.device == "cuda" else _REHEARSAL_PLAN,
        "warm": args.warm,
    }
    rows = measure(job, entries, args.seconds, args.out)
    if args.warm:
        return 0
    gpu_report.print_short(rows)
    return _status(rows)


def measure(job: dict, entries: list, seconds: float, out: Path | None) -> list[dict]:
    """All rows, also those of processes that died; written to `out` as they come."""
    end = time.perf_counter() + seconds
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("")
    rows: list[dict] = []
    first, total = 0, len(gpu_cases.groups(entries))
    for attempt in range(_RESTARTS + 1):
        left = end - time.perf_counter()
        if first >= total or (attempt and left < _START_S):
            break
        last, why = _one_process({**job, "first": first, "seconds": left}, left + _GRACE_S, rows, out)
        if why is None:
            break
        print(f"gpu bench: {why}", file=sys.stderr, flush=True)
        if last is None:  # it never began: another one will not either
            break
        first = last + 1
    return rows


def _one_process(job: dict, limit_s: float, rows: list[dict], out: Path | None) -> tuple[int | None, str | None]:
    """(number of the group it was in at its end or None, why it ended or None if it was done)."""
    command = [sys.executable, "-m", f"{__package__}.gpu_worker", json.dumps(job)]
    reached, lost = job["first"], None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        timer = threading.Timer(limit_s, child.kill)
        timer.start()
        try:
            for line in child.stdout:
                found = json.loads(line)
                if "lost" in found:
                    reached, lost = found["group"], found["lost"]
                    continue
                reached = found["group"] + 1
                rows += found["rows"]
                if out:
                    with out.open("a") as file:
                        file.writelines(json.dumps(row) + "\n" for row in found["rows"])
        except BaseException:
            child.terminate()
            raise
        finally:
            timer.cancel()
    if child.returncode == 0:
        return reached, None
    if lost:
        return reached, f"the device was lost: {lost}"
    if child.returncode < 0 or rows:
        return reached, f"the measuring process ended with status {child.returncode} in group {reached}"
    return None, f"the measuring process ended with status {child.returncode}; its message is above"


def _status(rows: list[dict]) -> int:
    on_gpu = gpu_bars.on_gpu(rows)
    if not on_gpu:
        return 3
    found = gpu_bars.gpu_verdicts(rows)
    if gpu_bars.Wrong().find(rows)[0]:
        return 1
    return 4 if any(v["verdict"] == bars.FAIL for v in found) else 0


if __name__ == "__main__":
    sys.exit(main())
