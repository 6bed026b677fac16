"""GPU rows as text: the short table at the end of a run, and the README's tables."""

from __future__ import annotations

from . import bars, gpu_bars, report
from .cases import OURS, UNIFORM_OPS
from .gpu_cases import FILTERING, ORIGINALS


def print_short(rows: list[dict]) -> None:
    """Our step in every case with the nearest peer and the eager original, what has no number and why, then the bars."""
    rows = gpu_bars.on_gpu(rows)
    if not rows:
        print("no GPU rows")
        return
    env = rows[-1]["env"]
    head = ("case", "cold", "hot", "wall", "graph", "launches", "GB/s", "% of read", "nearest peer", "eager")
    newest: dict[str, dict[str, dict]] = {}
    for row in rows:
        newest.setdefault(row["case"]["id"], {})[row["provider"]["name"]] = row
    body = [_line(name, found) for name, found in newest.items()]
    read = max((row["read"]["gbps"] for row in rows if row.get("read")), default=None)
    title = f"{machine(rows[-1])}; {env['backend']}; read {read:.0f} GB/s" if read else machine(rows[-1])
    report.print_table(title, head, body)
    why: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["us"] is None:
            key = (row["provider"]["name"], row["skipped"])
            why[key] = why.get(key, 0) + 1
    for (name, reason), count in why.items():
        print(f"no number: {name}, {count} cases: {reason}")
    report.print_bars(gpu_bars.gpu_verdicts(rows))
    if missing := gpu_bars.not_reached(rows):
        print(f"{missing} cases of the matrix have no row: not asked for, the time was up, or the process died on them")


def _line(name: str, found: dict[str, dict]) -> tuple[str, ...]:
    name = name.removeprefix("denoise_step ")
    ours = found.get(OURS)
    if ours is None or ours["us"] is None:
        return (name, *["-"] * 9)
    peers = [r for r in found.values() if r["provider"]["kind"] != "ours" and r["us"] and r["ratio"]]
    nearest = min(peers, key=lambda r: r["ratio"]["median"], default=None)
    originals = (found[key] for key in ("llada", "dream", *ORIGINALS, *FILTERING) if key in found)
    eager = next((row for row in originals if row["us"] and row["ratio"]), None)
    return (
        name,
        *(
            report.time_text(ours[key]["median"]) if ours[key] else "-"
            for key in ("us", "hot_us", "wall_us", "graph_us")
        ),
        "?" if ours["launches"] is None else str(ours["launches"]),
        f"{ours['gbps']:.0f}",
        "-" if ours["pct_read_ref"] is None else f"{ours['pct_read_ref']:.0f}",
        "-" if nearest is None else f"{report.factor_text(nearest['ratio']['median'])} {nearest['provider']['name']}",
        "-" if eager is None else report.factor_text(eager["ratio"]["median"]),
    )


def machine(row: dict) -> str:
    """What a GPU row was measured on."""
    env = row["env"]
    return (
        f"{env['gpu']} ({env['capability']}, driver {env.get('driver', '?')}), CUDA {env['cuda']}, torch {env['torch']}"
    )


def markdown(rows: list[dict]) -> list[str]:
    """The README's lines: GPU by GPU a table per kind of step, then what must be reached."""
    out: list[str] = []
    rows = gpu_bars.on_gpu(rows)
    for name in dict.fromkeys(map(machine, rows)):
        here = [row for row in rows if machine(row) == name]
        out += [f"{name}:", ""]
        timed = [row for row in here if row["us"]]
        for kind in dict.fromkeys(map(_kind, timed)):
            found = [row for row in timed if _kind(row) == kind]
            out += [
                f"One {kind}, on the GPU: device time, cold L2 (time / ours; ours: share of the read rate).",
                "",
            ]
            out += report.markdown_table(*_table(found))
        found = gpu_bars.gpu_verdicts(here)
        out += [f"What must be reached: {bars.summary(found)}.", ""]
        out += report.bar_table(found)
    return out


def _kind(row: dict) -> str:
    case = row["case"]
    law = {"normal3": "N(0, 3)", "normal1": "N(0, 1)"}.get(case["dist"], case["dist"])
    step = "denoise step" if case["op"] not in UNIFORM_OPS else f"{case['op']} of {case['model']}"
    parts = [step, f"temperature {case['temperature']:g}{report.filter_text(case)}", f"{law} logits"]
    if case.get("steps"):
        parts.append(f"N={case['steps']}")
    if case["confidence"] != "prob":
        parts.append(f"confidence {case['confidence']}")
    if case["cfg_scale"]:
        parts.append("guided")
    return ", ".join(parts)


def _table(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Providers down, shapes across; later rows win."""
    cells: dict[tuple[str, str], str] = {}
    for row in rows:
        provider = row["provider"]
        name = provider["name"] + (" (partial)" if provider["partial"] else "")
        column = f"{report.shape_text(row['case'])} {row['case']['dtype']}"
        note = ""
        if provider["name"] == OURS:
            note = "" if row["pct_read_ref"] is None else f", {row['pct_read_ref']:.0f} %"
        elif row["ratio"]:
            note = f" ({report.factor_text(row['ratio']['median'])})"
        cells[name, column] = report.time_text(row["us"]["median"]) + note
    names, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    return ["", *columns], [[name, *(cells.get((name, column), "-") for column in columns)] for name in names]
