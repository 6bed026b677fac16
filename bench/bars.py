"""What the CPU backend must reach, as data, and the verdict on a set of result rows. A fail is never hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from statistics import median

from .cases import OURS

PASS, FAIL, UNKNOWN = "pass", "FAIL", "not measured"
# 2 threads, 256 rows, V = 126464, N(0, 3) logits, all rows open: what every bar is stated for.
_THREADS = 2
_SHAPE = {
    "op": "denoise_step",
    "model": "llada",
    "batch": 1,
    "rows": 256,
    "open_rows": 256,
    "dist": "normal3",
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a bar's value stands: a field of the row of one provider on one problem under one allocator."""

    field: tuple[str, ...]
    dtype: str
    temperature: float
    allocator: str
    provider: str = OURS
    backend: str | None = None  # the instruction set that our default step must have run on

    def find(self, rows: list[dict]) -> tuple[float | None, str]:
        """(value, "") from the newest fitting row, or (None, why there is none)."""
        row = self._row(rows, self.provider)
        ours = self._row(rows, OURS)
        if self.backend and ours and ours["env"]["backend"] != self.backend:
            return None, f"needs {self.backend}, this is {ours['env']['backend']}"
        for each in (ours, row):
            if each is None:
                return None, f"no row with {_THREADS} threads"
            if each["us"] is None:
                return None, f"{each['provider']['name']}: {each['skipped']}"
        value = row
        for key in self.field:
            value = value and value.get(key)
        return value, "" if value is not None else "this machine cannot tell"

    def broken(self, rows: list[dict]) -> bool:
        """Whether our own step has no number here because its outputs were wrong or it raised."""
        ours = self._row(rows, OURS)
        return ours is not None and ours["us"] is None

    def _row(self, rows: list[dict], provider: str) -> dict | None:
        case = {**_SHAPE, "dtype": self.dtype, "temperature": self.temperature}
        env = {"allocator": self.allocator, "threads": _THREADS}
        for row in reversed(rows):
            if (
                "case" in row
                and not row["env"].get("gpu")
                and row["provider"]["name"] == provider
                and case.items() <= row["case"].items()
                and env.items() <= {key: row["env"].get(key) for key in env}.items()
            ):
                return row
        return None


@dataclasses.dataclass(frozen=True)
class Promise:
    """Where an accuracy bar's value stands: the worst of the accuracy rows of one kind."""

    kind: str

    def find(self, rows: list[dict]) -> tuple[float | None, str]:
        found = [row for row in rows if row.get("accuracy") == self.kind]
        values = [row["value"] for row in found if row["value"] is not None]
        if not values:
            return None, next((row["skipped"] for row in found), "no such row")
        # A NaN is the worst there is; max() alone might pass over it.
        return next((v for v in values if v != v), max(values)), ""

    def broken(self, rows: list[dict]) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar: the work, what it is compared with, "at least" or "at most" a bound, and where the value stands."""

    work: str
    against: str
    sign: str
    bound: float
    unit: str
    place: Place | Promise

    def verdict(self, rows: list[dict]) -> dict[str, str]:
        """{"work", "against", "required", "measured", "verdict"} as text."""
        value, why = self.place.find(rows)
        if value is None:
            measured, verdict = f"- ({why})", FAIL if self.place.broken(rows) else UNKNOWN
        else:
            reached = value >= self.bound if self.sign == ">=" else value <= self.bound
            measured, verdict = self._text(value), PASS if reached else FAIL
        return {
            "work": self.work,
            "against": self.against,
            "required": f"{self.sign} {self._text(self.bound)}",
            "measured": measured,
            "verdict": verdict,
        }

    def _text(self, value: float) -> str:
        if self.unit == "%":
            return f"{value * 100:.1f} %"
        if self.unit == "x":
            return f"{value:.2f}x"
        return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g} {self.unit}".strip()


def _allocator_bars(allocator: str) -> list[Bar]:
    """The bars that are stated for, or hold under, one allocator."""

    def work(dtype: str, temperature: float) -> str:
        return f"256 rows {dtype} T={temperature:g}, {allocator} allocator"

    def at(field: tuple[str, ...], dtype: str, temperature: float, **more) -> Place:
        return Place(field, dtype, temperature, allocator, **more)

    eager = {"tuned": (16, 80), "default": (25, 200)}[allocator]
    chunked = "our chunked algorithm, compiled"
    found = []
    for dtype, bound in (("bf16", 0.65), ("fp32", 0.85)):
        place = at(("roofline", "fraction"), dtype, 0.0)
        found.append(Bar(work(dtype, 0), "roofline of the same run", ">=", bound, "%", place))
    for dtype, temperature, provider, against, bound in (
        ("bf16", 0.0, "llada", "eager LLaDA", eager[0]),
        ("bf16", 0.0, "compiled_fp32", "torch.compile(max + logsumexp)", 4),
        ("bf16", 0.0, "compiled_chunked", chunked, 2.5),
        ("bf16", 1.0, "compiled_chunked", chunked, 2.5),
        ("fp32", 0.0, "compiled_chunked", chunked, 1.8),
        ("fp32", 1.0, "compiled_chunked", chunked, 1.8),
        ("bf16", 1.0, "llada", "eager LLaDA, fp64 Gumbel", eager[1]),
    ):
        place = at(("ratio", "median"), dtype, temperature, provider=provider)
        found.append(Bar(work(dtype, temperature), against, ">=", bound, "x", place))
    for dtype in ("bf16", "fp32"):
        place = at(("ratio_to_greedy", "median"), dtype, 1.0)
        found.append(Bar(work(dtype, 1), "our own T=0", "<=", 1.10, "x", place))
    place = at(("ratio", "median"), "bf16", 0.0, provider=f"{OURS}[avx2]", backend="cpu (avx512)")
    found.append(Bar(work("bf16", 0) + ", AVX2", "AVX-512", "<=", 2.0, "x", place))
    for dtype in ("bf16", "fp32"):
        for temperature in (0.0, 1.0):
            place = at(("peak_extra_share",), dtype, temperature)
            found.append(Bar(work(dtype, temperature), "extra memory / logits", "<=", 0.05, "%", place))
    return found


BARS = (
    *_allocator_bars("tuned"),
    *_allocator_bars("default"),
    Bar("confidence, relative error", "fp64, also at |logit| = 300", "<=", 2e-6, "", Promise("confidence")),
    Bar("draw on a grid of 2e7 uniforms", "exact counts", "<=", 8, "counts", Promise("grid")),
)


def verdicts(rows: list[dict], stated: Iterable[Bar] = BARS) -> list[dict[str, str]]:
    """Every bar on `rows`, in order; what is not there is listed as not measured, with the reason."""
    return [bar.verdict(rows) for bar in stated]


def summary(found: list[dict[str, str]]) -> str:
    """One line that counts the verdicts, fails first."""
    count = {key: sum(v["verdict"] == key for v in found) for key in (FAIL, PASS, UNKNOWN)}
    return f"{count[FAIL]} failed, {count[PASS]} passed, {count[UNKNOWN]} not measured, of {len(found)} bars"


def busy(rows: list[dict]) -> float:
    """Involuntary context switches per second, the median over the timed rows. A quiet machine shows a few."""
    seen = [row["switches_per_s"] for row in rows if row.get("us") and row["switches_per_s"] is not None]
    return median(seen) if seen else 0.0
