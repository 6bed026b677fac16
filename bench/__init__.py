"""The benchmark: `python -m dlm_kernels bench`, or from Python

    from dlm_kernels import bench
    rows = bench.side_by_side(bench.select("quick"), ["llada", "torch_fp32"], budget_s=0.5)
    for case_rows in bench.by_case(rows):
        bench.print_case(case_rows)

Outputs are checked before anything is timed; a provider whose outputs are wrong gets no number. cases.py says what is
measured, peers.py who, check.py what counts as right, timing.py how; bars.py holds what must be reached.
"""

from __future__ import annotations

from .cases import SETS, Case, select

__all__ = ["SETS", "Case", "by_case", "print_case", "select", "side_by_side"]


def side_by_side(cases, providers=None, budget_s: float = 1.0, **options) -> list[dict]:
    """Measure `providers` (names; None = all) on `cases` in this process; see `measure.side_by_side`."""
    from .measure import side_by_side as run  # torch is imported when something is measured, not before

    return run(cases, providers, budget_s, **options)


def by_case(rows: list[dict]) -> list[list[dict]]:
    """Result rows cut into one list per case, in order."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        if "case" in row:
            found.setdefault(row["case"]["id"], []).append(row)
    return list(found.values())


def print_case(rows: list[dict]) -> None:
    """Print the side-by-side table of one case."""
    from .report import print_case as run

    run(rows)
