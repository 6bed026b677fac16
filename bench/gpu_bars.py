"""What the CUDA backend must reach, as data; the verdicts work as in bars.py."""

from __future__ import annotations

import dataclasses

from .bars import Bar, verdicts
from .cases import OURS, VOCAB
from .gpu_cases import FILTERING, MATRIX, ORIGINALS, PEERS

# A row without a number for one of these reasons says nothing about our step.
NO_TIME = "the time was up"


def on_gpu(rows: list[dict]) -> list[dict]:
    """The rows that a GPU made."""
    return [row for row in rows if "case" in row and row["env"].get("gpu")]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Where a bar's value stands: a field of our newest row of one problem; one of the matrix, all rows open."""

    field: tuple[str, ...]
    model: str
    rows: int
    temperature: float
    op: str = "denoise_step"
    dist: str = "normal3"

    def find(self, rows: list[dict]) -> tuple[float | None, str]:
        row = self._row(rows)
        if row is None:
            return None, "no such row"
        if row["us"] is None:
            return None, row["skipped"]
        value = row
        for key in self.field:
            value = value and value.get(key)
        return value, "" if value is not None else "this machine cannot tell"

    def broken(self, rows: list[dict]) -> bool:
        row = self._row(rows)
        return row is not None and row["us"] is None and row["skipped"] != NO_TIME

    def _row(self, rows: list[dict]) -> dict | None:
        case = {
            "op": self.op,
            "model": self.model,
            "vocab": VOCAB[self.model],
            "batch": 1,
            "rows": self.rows,
            "open_rows": self.rows,
            "dtype": "bf16",
            "temperature": self.temperature,
            "dist": self.dist,
            "confidence": "prob",
            "cfg_scale": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
        }
        found = (
            r for r in reversed(on_gpu(rows)) if r["provider"]["name"] == OURS and case.items() <= r["case"].items()
        )
        return next(found, None)


@dataclasses.dataclass(frozen=True)
class EveryCase:
    """The least of one peer's time over ours, device time with a cold L2, among all cases that both have a number for."""

    peer: str

    def find(self, rows: list[dict]) -> tuple[float | None, str]:
        newest = {r["case"]["id"]: r for r in on_gpu(rows) if r["provider"]["name"] == self.peer}
        ratios = [r["ratio"]["median"] for r in newest.values() if r["us"] and r["ratio"]]
        if ratios:
            return min(ratios), ""
        return None, next((r["skipped"] for r in newest.values() if r["skipped"]), "no such row")

    def broken(self, rows: list[dict]) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class Wrong:
    """How many cases our step has no number for, other than for want of time."""

    def find(self, rows: list[dict]) -> tuple[float | None, str]:
        newest = {r["case"]["id"]: r for r in on_gpu(rows) if r["provider"]["name"] == OURS}
        if not newest:
            return None, "no such row"
        return sum(r["us"] is None and r["skipped"] != NO_TIME for r in newest.values()), ""

    def broken(self, rows: list[dict]) -> bool:
        return False


def _bars() -> list[Bar]:
    found = [Bar("every case, our outputs", "fp64 truth, two runs bit by bit", "<=", 0, "wrong", Wrong())]
    for rows in (1024, 4096):
        for temperature in (0.0, 1.0):
            place = Shape(("read", "fraction"), "llada", rows, temperature)
            work = f"{rows} x {VOCAB['llada']} bf16 T={temperature:g}"
            found.append(Bar(work, "read bandwidth of the same run", ">=", 0.9, "%", place))
    place = Shape(("read", "fraction"), "sumi", 1184, 1.0, "uniform_step", "peaked")
    found.append(Bar(f"uniform 1184 x {VOCAB['sumi']} bf16", "read bandwidth of the same run", ">=", 0.9, "%", place))
    work = f"32 x {VOCAB['llada2']} bf16 T=0"
    found.append(Bar(work, "device time, cold L2", "<=", 10, "us", Shape(("us", "median"), "llada2", 32, 0.0)))
    found.append(Bar(work, "kernels in a step", "<=", 1, "launches", Shape(("launches",), "llada2", 32, 0.0)))
    for peer in (*PEERS, *ORIGINALS, *FILTERING):
        found.append(Bar("every case, cold L2", peer, ">=", 1.0, "x", EveryCase(peer)))
    return found


BARS = tuple(_bars())


def gpu_verdicts(rows: list[dict]) -> list[dict[str, str]]:
    """Every GPU bar on `rows`, in order."""
    return verdicts(rows, BARS)


def not_reached(rows: list[dict]) -> int:
    """How many cases of the matrix have no row at all."""
    seen = {row["case"]["id"] for row in on_gpu(rows)}
    return sum(entry.case.id not in seen for entry in MATRIX)
