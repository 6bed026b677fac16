"""The reverse step of uniform diffusion at Sumi's size, side by side: the dense posterior of eager code and our step."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

import dlm_kernels as dlm

VOCAB, ROWS = 100278, (296, 1184)  # Sumi's vocabulary; a part of a canvas and a whole one
ALPHA_T, ALPHA_S = 0.5, 0.5 + 1 / 128  # the middle one of 128 even steps
TEMPERATURE = 0.7  # Sumi's, too
RUNS = 32  # of our step, whose changes are counted against the exact law


class Line(NamedTuple):
    """Medians for one canvas. changed: positions that a step changes, by the eager law and by ours on average; wrong: what the
    check found, "" if nothing."""

    rows: int
    eager_ms: float
    ours_ms: float
    ratio: float
    eager_bytes: int | None
    ours_bytes: int | None
    changed: tuple[float, float]
    wrong: str


def law_of(logits: Tensor) -> Tensor:
    """The model's law, fp32 [1, L, V]."""
    return (logits.float() / TEMPERATURE).softmax(-1)


def posterior(x: Tensor, law: Tensor) -> Tensor:
    """p(x_s | x_t) over the whole vocabulary, fp32 [1, L, V]: q(x_t | x_s) q_s(x_s) / q_t(x_t), as Sumi computes it."""
    vocab, ratio = law.shape[-1], ALPHA_T / ALPHA_S
    q_s = ALPHA_S * law + (1 - ALPHA_S) / vocab
    q_t = ALPHA_T * law.gather(-1, x[..., None]) + (1 - ALPHA_T) / vocab
    reach = torch.full_like(q_s, (1 - ratio) / vocab)
    reach.scatter_add_(-1, x[..., None], torch.full_like(q_t, ratio))
    return (reach * q_s / q_t).clamp_min(0)


def eager_step_(x: Tensor, logits: Tensor) -> None:
    dense = posterior(x, law_of(logits))
    x.copy_(torch.multinomial(dense.flatten(0, -2), 1).view_as(x))


def our_step_(x: Tensor, logits: Tensor, seed: int = 0):
    return dlm.uniform_step_(x, logits, alpha_t=ALPHA_T, alpha_s=ALPHA_S, temperature=TEMPERATURE, seed=seed)


def problem(rows: int, vocab: int) -> tuple[Tensor, Tensor]:
    """(canvas int64 [1, rows], logits bf16 [1, rows, vocab]). Half of the canvas is noise, half is what the model expects."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.empty(1, rows, vocab, dtype=torch.bfloat16).normal_(0, 2, generator=generator)
    expected, noise = torch.randint(vocab, (2, 1, rows, 1), generator=generator)
    logits.scatter_(-1, expected, 16.0)
    x = torch.where(torch.rand(1, rows, generator=generator) < ALPHA_T, expected[..., 0], noise[..., 0])
    return x, logits


def check(x: Tensor, logits: Tensor) -> tuple[tuple[float, float], str]:
    """(changes per step: exact, ours; what is wrong). The same p(x_t) in every row, and as many changes as the law has."""
    law = law_of(logits)
    p = law.gather(-1, x[..., None])[..., 0]
    stay = posterior(x, law).gather(-1, x[..., None])[..., 0].double()
    del law
    results = [our_step_(x.clone(), logits, seed) for seed in range(RUNS)]
    error = float(((results[0].p_current - p).abs() / p).max())
    exact, ours = float((1 - stay).sum()), sum(int(r.num_changed) for r in results) / RUNS
    deviation = math.sqrt(float((stay * (1 - stay)).sum()) / RUNS)
    wrong = ""
    if not error < 1e-3:  # the eager softmax is fp32
        wrong = f"p(x_t) differs by {error:.1e}"
    elif not abs(ours - exact) <= 5 * deviation + 1e-3:
        wrong = f"{ours:.1f} changes, {exact:.1f} expected"
    return (exact, ours), wrong


def measure(
    sizes: Sequence[int] = ROWS,
    vocab: int = VOCAB,
    budget_s: float = 1.0,
    on_progress: Callable[[str], object] = lambda text: None,
) -> list[Line]:
    """A line per size, checked before anything is timed. Eager code takes seconds and 2.4 GB for a whole canvas."""
    from dlm_kernels.bench.memory import peak_extra_bytes
    from dlm_kernels.bench.timing import Entry, Method, interleave, quantiles, ratio

    lines, method = [], Method(budget_s=budget_s, min_rounds=1, max_rounds=15)
    for rows in sizes:
        on_progress(f"checking the step, {rows} rows")
        x, logits = problem(rows, vocab)
        changed, wrong = check(x, logits)
        on_progress(f"timing the step, {rows} rows")
        scratch = x.clone()
        eager, ours = (
            Entry(name, lambda step=step, x=x, logits=logits, scratch=scratch: step(scratch.copy_(x), logits))
            for name, step in (("eager", eager_step_), ("ours", our_step_))
        )
        peaks = [peak_extra_bytes(entry.call) for entry in (eager, ours)]
        interleave([eager, ours], method, torch.get_num_threads())
        times = [quantiles(entry.seconds(), 1e3)["median"] for entry in (eager, ours)]
        lines.append(Line(rows, *times, ratio(eager, ours)["median"], *peaks, changed, wrong))
    return lines


def build_table(lines: list[Line], vocab: int = VOCAB) -> Table:
    """One line per size; fits 80 columns."""
    table = Table(
        title=f"One reverse step of uniform diffusion, V = {vocab}, bf16",
        caption=f"{torch.get_num_threads()} threads, T = {TEMPERATURE}; ms: median; MB: memory beyond the logits\n"
        f"changed: positions a step changes, by the eager law\nand in the mean of {RUNS} of our steps; p(x_t) is the same",
        box=SIMPLE_HEAD,
    )
    for name in ("rows", "Sumi\nms", "ours\nms", "faster", "Sumi\nMB", "ours\nMB", "changed"):
        table.add_column(name, justify="right", no_wrap=name != "changed")
    for line in lines:
        table.add_row(
            str(line.rows),
            f"{line.eager_ms:.1f}",
            f"{line.ours_ms:.1f}",
            f"{line.ratio:.0f}x",
            *("-" if size is None else f"{size / 1e6:.1f}" for size in (line.eager_bytes, line.ours_bytes)),
            line.wrong or "{:.1f} / {:.1f}".format(*line.changed),
        )
    return table


def print_table(console: Console) -> None:
    """Measure and print; on a terminal a status line says what is being measured."""
    doing = "timing the step at real size, about a minute"
    if not console.is_terminal:
        console.print(doing)
    with console.status(doing) as status:
        lines = measure(on_progress=status.update)
    console.print(build_table(lines))
