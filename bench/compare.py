"""Two sets of result rows side by side: what became faster, what slower."""

from __future__ import annotations

from collections.abc import Iterable

from . import loops_report, report
from .cases import OURS

_HEAD = ("case", "allocator", "provider", "then", "now", "now / then", "against ours", "of the roofline")


def compare(old: list[dict], new: list[dict]) -> list[dict]:
    """Rows that both sets have: the newest of each problem, provider, allocator and thread count.

    Each is {"case", "provider", "allocator", "then" and "now" (us), "ratio" (now / then), "against" and "roofline"}, the last two
    (then, now) or None.
    Two runs are two moments of a machine, or two machines: "against" (time / ours, paired within a run) and "roofline" (the
    fraction of the floor of the same run) hold where bare times do not.
    """
    then, now = _newest(old), _newest(new)
    found = []
    for key in then:
        if key not in now:
            continue
        before, after = then[key], now[key]
        found.append(
            {
                "case": key[0],
                "provider": key[1],
                "allocator": key[2],
                "then": before["us"],
                "now": after["us"],
                "ratio": after["us"] / before["us"],
                "against": _both(before["against"], after["against"]),
                "roofline": _both(before["roofline"], after["roofline"]),
            }
        )
    return found


def print_comparison(old: list[dict], new: list[dict], found: list[dict]) -> None:
    """The table, and what to keep in mind about it."""
    report.print_table("then and now", _HEAD, map(_line, found), left=3)
    machines = [sorted({report.machine_text(row) for row in rows if "env" in row}) for rows in (old, new)]
    if machines[0] != machines[1]:
        print(f"then: {'; '.join(machines[0])}\nnow:  {'; '.join(machines[1])}")
    left_out = len(_newest(old).keys() ^ _newest(new).keys())
    if left_out:
        print(f"{left_out} rows stand in one of the two only")


def slower(found: Iterable[dict], bound: float) -> list[dict]:
    """Our own rows that take more than ``bound`` times as long as then."""
    return [each for each in found if each["provider"] == OURS and each["ratio"] > bound]


def _both(then, now):
    return None if then is None or now is None else (then, now)


def _newest(rows: list[dict]) -> dict[tuple, dict]:
    """{(case, provider, ...): {"us", "against", "roofline"}}"""
    kept = {}
    for row in rows:
        env = row.get("env", {})
        where = (env.get("allocator"), env.get("threads"), env.get("gpu"))
        if loops_report.of_loops(row):
            if row["ratio"]:
                for who, key in (("the client's own", "before"), (OURS, "after")):
                    against = row["ratio"]["median"] if key == "before" else None
                    us = row[key]["median"] * 1e6 / row["loop"]["steps"]
                    kept[(row["loop"]["name"], who, *where)] = {"us": us, "against": against, "roofline": None}
        elif row.get("us"):
            ratio, floor = row.get("ratio"), row.get("roofline")
            kept[(row["case"]["id"], row["provider"]["name"], *where)] = {
                "us": row["us"]["median"],
                "against": ratio["median"] if ratio and row["provider"]["name"] != OURS else None,
                "roofline": floor["fraction"] if floor else None,
            }
    return kept


def _line(each: dict) -> tuple[str, ...]:
    against = " -> ".join(map(report.factor_text, each["against"])) if each["against"] else ""
    floor = " -> ".join(f"{value * 100:.0f} %" for value in each["roofline"]) if each["roofline"] else ""
    times = [report.time_text(each[key]) for key in ("then", "now")]
    return (each["case"], each["allocator"], each["provider"], *times, f"{each['ratio']:.2f}x", against, floor)
