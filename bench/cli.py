"""`python -m dlm_kernels bench`: measure, print, keep; draw and compare what was kept. Imports torch only in the processes it
starts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import cases, machine

# Seconds each provider is timed per case, and the length of one sample.
_QUICK = {"budget_s": 0.2, "sample_s": 0.02, "min_rounds": 3, "max_rounds": 7}
_FULL = {"sample_s": 0.05, "min_rounds": 3, "max_rounds": 25}
_QUICK_PEERS = ["llada", "fast_dllm", "torch_fp32"]  # no compiler runs: seconds, not minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the bench to `parser`."""
    sets = ", ".join([*cases.SETS, "all"])
    add = parser.add_argument
    add(
        "action",
        nargs="?",
        choices=("run", "plot", "compare"),
        default="run",
        help="run: measure (default); plot [FILE ...]: draw result files; compare OLD NEW: two result files side by side",
    )
    add("files", nargs="*", type=Path, metavar="FILE", help="of plot (default: bench/results/*.jsonl) and compare")
    add(
        "--set",
        default="standard",
        metavar="NAME",
        help=f"which cases: {sets} (default: standard); bars, filters, uniform and uniform_bars: with verdicts",
    )
    add(
        "--loops",
        action="store_true",
        help="whole loops of other codebases instead, accelerated and not; with verdicts",
    )
    add(
        "--overhead",
        action="store_true",
        help="what a call costs without work instead, in CPU time, through torch and through array; with verdicts",
    )
    add("--quick", action="store_true", help="seconds: the set quick, against the eager peers")
    add("--filter", metavar="REGEX", help="only cases whose name matches (see --list)")
    add("--against", metavar="NAME,...", help="only these peers, comma-separated (see --list)")
    add("--list", action="store_true", help="print the cases and the providers, measure nothing")
    add("--threads", type=int, default=0, metavar="N", help="torch threads (default: what torch takes)")
    add(
        "--budget",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="timed seconds per provider and case (default: 3)",
    )
    add(
        "--allocator",
        choices=[*machine.ALLOCATORS, "both"],
        help="malloc settings (default: default; bars: both; filters, uniform and uniform_bars: tuned)",
    )
    add(
        "--isa",
        action="store_true",
        help="also our step on every instruction set of this machine (bars: always)",
    )
    add("--out", type=Path, metavar="FILE", help="append the result rows to FILE (JSON lines)")
    add(
        "--plot",
        type=Path,
        metavar="DIR",
        help="draw the rows into DIR: times, ratios, throughput, loops (plot: default .)",
    )
    add("--format", choices=("svg", "png"), default="svg", help="of the pictures (default: svg)")
    add(
        "--slower-than",
        type=float,
        metavar="FACTOR",
        help="with compare: status 1 if a step of ours takes more than FACTOR times as long as then",
    )
    add(
        "--readme",
        type=Path,
        metavar="FILE",
        help="measure nothing; write the tables between the markers of FILE, and docs/plots beside it where FILE shows them",
    )
    add(
        "--check",
        action="store_true",
        help="with --readme: write nothing, fail if tables or plots are not up to date",
    )
    add(
        "--results",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="rows for --readme (default: bench/results/*.jsonl)",
    )


def main(args: argparse.Namespace) -> int:
    """Run the command. Returns 0, or 1 if a bar or the check of our own outputs failed, or 2 for bad arguments."""
    try:
        if args.readme:
            return _readme(args)
        if args.action == "compare":
            return _compare(args)
        if args.action == "plot":
            return _plot(_load(args.files), args.plot or Path("."), args.format)
        if args.files:
            raise ValueError(f"files: must be given with plot or compare only, got {args.files[0]}")
        for name in ("threads", "budget"):
            if getattr(args, name) < 0:
                raise ValueError(f"{name}: must be >= 0, got {getattr(args, name)}")
        if args.loops:
            return _loops(args)
        if args.overhead:
            return _overhead(args)
        chosen = cases.select("quick" if args.quick else args.set, args.filter)
        if args.list:
            return _list(chosen)
        if not chosen:
            raise ValueError(f"filter: must match a case, got {args.filter!r} (see --list)")
        return _measure(args, chosen)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _measure(args: argparse.Namespace, chosen: list[cases.Case]) -> int:
    from . import bars, report

    stated = None if args.quick else bars.STATED.get(args.set)
    wanted = args.allocator or (stated.allocator if stated else "default")
    rows: list[dict] = []
    for i, allocator in enumerate(machine.ALLOCATORS if wanted == "both" else [wanted]):
        current: list[dict] = []
        accuracy = stated.accuracy if stated and i == 0 and not args.filter else ""
        for row in _run(args, chosen, allocator, bool(stated), accuracy):
            rows.append(row)
            if args.out:
                _append(args.out, row)
            if "case" not in row:
                continue
            if current and current[0]["case"] != row["case"]:
                report.print_case(current)
                current = []
            current.append(row)
        if current:
            report.print_case(current)
    report.print_rare_noise(rows)
    report.warn(rows)
    if args.plot:
        _plot(rows, args.plot, args.format)
    ours_failed = [r for r in rows if r.get("case") and r["provider"]["kind"] == "ours" and r["us"] is None]
    for row in ours_failed:
        print(f"FAIL {row['provider']['name']}: {row['case']['id']}: {row['skipped']}", file=sys.stderr)
    failed = bool(ours_failed)
    if stated:
        found = bars.verdicts(rows, stated.bars)
        report.print_bars(found)
        failed |= any(v["verdict"] == bars.FAIL for v in found)
    return int(failed)


def _run(args, chosen, allocator: str, stated: bool, accuracy: str) -> Iterator[dict]:
    """Rows of one measuring process, as they come."""
    peers = args.against.split(",") if args.against else _QUICK_PEERS if args.quick else None
    job = {
        "cases": [dataclasses.asdict(case) for case in chosen],
        "providers": peers,
        "isa": stated or args.isa,
        "accuracy": accuracy,
        **_method(args),
    }
    yield from _rows_of(job, allocator)


def _method(args) -> dict:
    return {
        "method": _QUICK if args.quick else {**_FULL, "budget_s": args.budget},
        "threads": args.threads,
        "progress": sys.stderr.isatty(),
    }


def _rows_of(job: dict, allocator: str) -> Iterator[dict]:
    # Idle compile workers of torch would compete for the cores that are being timed.
    env = {"TORCHINDUCTOR_COMPILE_THREADS": "1", **machine.allocator_env(allocator, dict(os.environ))}
    command = [sys.executable, "-m", f"{__package__}.worker", json.dumps(job)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as child:
        try:
            for line in child.stdout:
                yield json.loads(line)
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise ValueError(f"the measuring process ended with status {child.returncode}; its message is above")


def _loops(args: argparse.Namespace) -> int:
    from . import loops, loops_report

    if args.list:
        print(*(loop.name for loop in loops.select(args.filter)), sep="\n")
        return 0
    rows = []
    for row in _rows_of({"loops": args.filter or "", **_method(args)}, args.allocator or "default"):
        rows.append(row)
        if args.out:
            _append(args.out, row)
    if not rows:
        raise ValueError(f"filter: must match a loop, got {args.filter!r} (see --loops --list)")
    loops_report.print_rows(rows)
    if args.plot:
        _plot(rows, args.plot, args.format)
    return int(loops_report.failed(rows))


def _overhead(args: argparse.Namespace) -> int:
    from . import overhead

    rows = []
    for row in _rows_of({"overhead": {"number": 100, "repeats": 3} if args.quick else {}, **_method(args)}, "default"):
        rows.append(row)
        if args.out:
            _append(args.out, row)
    overhead.print_rows(rows)
    return int(overhead.failed(rows))


def _append(path: Path, row: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _list(chosen: list[cases.Case]) -> int:
    from .peers import PROVIDERS

    for case in chosen:
        print(case.id)
    print()
    for provider in PROVIDERS.values():
        print(f"{provider.name:18}{provider.kind:10}{provider.about}")
    return 0


def _load(paths: Sequence[Path] | None, *more: Path) -> list[dict]:
    """Rows of these files, or of all in bench/results; `more` must exist, too."""
    from . import report

    paths = paths or sorted(Path("bench/results").glob("*.jsonl"))
    if not paths:
        raise ValueError("results: must name result files, got none (bench/results/*.jsonl is empty)")
    for path in (*more, *paths):
        if not path.is_file():
            raise ValueError(f"results: must be existing files, got {path}")
    return report.load(paths)


def _readme(args: argparse.Namespace) -> int:
    from . import plots, report

    rows = _load(args.results, args.readme)
    up_to_date = report.readme(args.readme, rows, args.check)
    folder = args.readme.parent / "docs" / "plots"
    if names := set(re.findall(r"docs/plots/(\w+)\.svg", args.readme.read_text())):
        if not args.check:
            _plot(rows, folder, "svg", names)
        up_to_date &= not plots.outdated(rows, folder, names)
    if args.check and not up_to_date:
        print(f"bench: tables or plots of {args.readme} are not those of the results; run --readme", file=sys.stderr)
        return 1
    return 0


def _plot(rows: list[dict], folder: Path, suffix: str, names: set[str] | None = None) -> int:
    from . import plots

    try:
        written = plots.write(rows, folder, suffix, names)
    except ImportError as error:
        raise ValueError(f"plot: needs matplotlib (pip install matplotlib): {error}") from error
    if not written:
        raise ValueError("plot: must have rows with times, got none")
    print(*written, sep="\n")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from . import compare

    if len(args.files) != 2:
        raise ValueError(f"compare: must name two result files, OLD and NEW, got {len(args.files)}")
    old, new = (_load([path]) for path in args.files)
    found = compare.compare(old, new)
    if not found:
        raise ValueError("compare: the files must have a problem in common, got none")
    compare.print_comparison(old, new, found)
    slower = compare.slower(found, args.slower_than) if args.slower_than else []
    for each in slower:
        print(f"slower: {each['case']}: {each['ratio']:.2f}x", file=sys.stderr)
    return int(bool(slower))
