"""Rows of loops.py as tables: in the terminal and in the README."""

from __future__ import annotations

from . import bars, report
from .loops import verdict

BEGIN, END = "<!-- bench:loops:begin -->", "<!-- bench:loops:end -->"
_HEAD = ("loop", "the line", "V", "a step", "accelerated", "ratio", "sampler's share", "then", "required", "verdict")


def _body(rows: list[dict]) -> list[tuple[str, ...]]:
    body = []
    for row in rows:
        loop = row["loop"]
        required = f">= {loop['at_least']:g}x" if loop["at_least"] else ""
        if row["ratio"] is None:
            cells = ("-", "-", "-", "-", row["skipped"])
        else:
            step = [report.time_text(row[key]["median"] * 1e6 / loop["steps"]) for key in ("before", "after")]
            share = [f"{row[key]['share'] * 100:.0f} %" for key in ("before", "after")]
            cells = (*step, report.factor_text(row["ratio"]["median"]), *share)
        body.append((loop["name"], f"`{loop['line']}`", str(loop["vocab"]), *cells, required, verdict(row)))
    return body


def print_rows(rows: list[dict]) -> None:
    report.print_table("whole loops, the client's own code against the accelerated", _HEAD, _body(rows), left=2)


def of_loops(row: dict) -> bool:
    return "loop" in row


def markdown(rows: list[dict]) -> str:
    """The README's table, machine by machine; the newest row of each loop."""
    out: list[str] = []
    for machine, here in report.by_machine([row for row in rows if of_loops(row)]):
        newest = {row["loop"]["name"]: row for row in here}
        out += [f"{machine}:", "", *report.markdown_table(_HEAD, _body(list(newest.values())), 2)]
    return "\n".join(out).rstrip() + "\n"


def failed(rows: list[dict]) -> bool:
    return any(verdict(row) == bars.FAIL for row in rows)
