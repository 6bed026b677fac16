"""The step at real size, side by side: the demo's own vocabulary is too small to show what it costs."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PEER = "llada"


def measure(on_progress=lambda text: None) -> list[dict]:
    """Result rows of the bench: ours and eager LLaDA, V = 126464, 32 and 256 rows, fp32 and bf16, T 0 and 1.

    Outputs are checked against fp64 before anything is timed. Few samples: eager code takes seconds at T = 1.
    """
    from dlm_kernels.bench.cases import SETS
    from dlm_kernels.bench.measure import side_by_side
    from dlm_kernels.bench.timing import Method

    return side_by_side(
        SETS["bars"], [PEER], method=Method(budget_s=0.8, min_rounds=1, max_rounds=15), on_progress=on_progress
    )


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
    table = Table(
        title=f"One denoise step, logits to canvas, V = {vocab}: eager LLaDA and this package",
        caption=f"{env['cpu']}, {env['threads']} threads, backend {env['backend']}\n"
        "ms: median; MB: memory beyond the logits; same: both steps drew these tokens;\n"
        "exact: each token is the one fp64 draws from the same random number",
        box=SIMPLE_HEAD,
    )
    for name in ("rows", "dtype", "T", "LLaDA\nms", "ours\nms", "faster", "LLaDA\nMB", "ours\nMB"):
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


def print_table(console: Console) -> None:
    """Measure and print; on a terminal a status line says what is being measured."""
    doing = "timing the step at real size, about a minute"
    if not console.is_terminal:
        console.print(doing)
    with console.status(doing) as status:
        rows = measure(on_progress=status.update)
    console.print(build_table(rows))
