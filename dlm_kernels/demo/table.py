"""The step at real size, side by side: the demo's own vocabulary is too small to show what it costs."""

from collections.abc import Callable
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


class Contest(NamedTuple):
    """What a family's table compares, in the bench's terms: `op`, ours against the provider `peer`, `name` in the table."""

    op: str
    title: str
    peer: str
    name: str
    notes: str


EXACT = "exact: each token is the one fp64 draws from the same random number"
CONTESTS = {
    "masked": Contest(
        "denoise_step",
        "One denoise step, logits to canvas",
        "llada",
        "LLaDA",
        f"same: both steps drew these tokens;\n{EXACT}",
    ),
    "uniform": Contest("uniform_step", "The middle one of 128 reverse steps", "sumi", "Sumi", f"\n{EXACT}s"),
}


def cases(family: str) -> list:
    """Of the bench. Masked: 32 and 256 rows, fp32 and bf16, T 0 and 1, V = 126464. Uniform: 256 rows and a canvas of 1184,
    bf16, T 1, V = 100278."""
    from dlm_kernels.bench.cases import SETS

    if family == "masked":
        return list(SETS["bars"])
    return [case for case in SETS["uniform"] if case.op == "uniform_step" and case.steps == 128]


def measure(family: str, on_progress: Callable[[str, float], object] = lambda text, done: None) -> list[dict]:
    """Result rows of the bench, ours and the family's eager peer.

    Outputs are checked against fp64 before anything is timed. Few samples: eager code takes seconds where it draws.
    """
    from dlm_kernels.bench.measure import side_by_side
    from dlm_kernels.bench.timing import Method

    method = Method(budget_s=0.8, min_rounds=1, max_rounds=15)
    return side_by_side(cases(family), [CONTESTS[family].peer], method=method, on_progress=on_progress)


def verdict(ours: dict, peer: dict) -> str:
    """What the check of this pair established. T = 0, "same": both took the maximum of every row; rows whose maximum
    is tied are left out. T = 1, "exact": the two use random numbers differently, so each draw was redone in fp64."""
    for row in (ours, peer):
        if row["us"] is None:
            return f"{row['provider']['name']}: {row['skipped']}"
    rows = ours["case"]["rows"]
    if ours["case"]["temperature"] > 0:
        return f"{rows}/{rows} exact"
    ties = ours["check"]["ties"] + peer["check"]["ties"]
    return f"{rows - ties}/{rows - ties} same" + (f", {ties} tied" if ties else "")


def milliseconds(row: dict) -> str:
    return "-" if row["us"] is None else f"{row['us']['median'] / 1e3:.2f}"


def megabytes(row: dict) -> str:
    return "-" if row.get("peak_extra_bytes") is None else f"{row['peak_extra_bytes'] / 1e6:.1f}"


def pairs(rows: list[dict]) -> list[tuple[dict, dict]]:
    """(ours, peer) of every case, in the order measured."""
    found: dict[str, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(row["case"]["id"], {})[row["provider"]["kind"]] = row
    return [(pair["ours"], pair["eager"]) for pair in found.values()]


def build_table(rows: list[dict]) -> Table:
    """One line per case; fits 80 columns."""
    env, vocab = rows[0]["env"], rows[0]["case"]["vocab"]
    contest = next(c for c in CONTESTS.values() if c.op == rows[0]["case"]["op"])
    table = Table(
        title=f"{contest.title}, V = {vocab}: eager {contest.name} and this package",
        caption=f"{env['cpu']}, {env['threads']} threads, backend {env['backend']}\n"
        f"ms: median; MB: memory beyond the logits; {contest.notes}",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    theirs = contest.name
    for name in ("rows", "dtype", "T", f"{theirs}\nms", "ours\nms", "faster", f"{theirs}\nMB", "ours\nMB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tokens", justify="right")
    for ours, peer in pairs(rows):
        case, ratio = ours["case"], peer.get("ratio")
        table.add_row(
            str(case["rows"]),
            case["dtype"],
            f"{case['temperature']:g}",
            milliseconds(peer),
            milliseconds(ours),
            f"{ratio['median']:.1f}x" if ratio else "-",
            megabytes(peer),
            megabytes(ours),
            verdict(ours, peer),
        )
    return table


def print_table(console: Console, family: str) -> None:
    """Measure and print; on a terminal a status line says what is being measured."""
    doing = "timing the step at real size, about a minute"
    if not console.is_terminal:
        console.print(doing)
    with console.status(doing) as status:
        rows = measure(family, on_progress=lambda text, done: status.update(f"{done * 100:.0f} % {text}"))
    console.print(build_table(rows))
