"""What the CPU backend must reach, as data, and the verdict on a set of result rows. A fail is never hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from statistics import median

from .cases import OURS, RARE_NOISE, RARE_NOISE_PEER, ROUTE_GRID, UNIFORM_OPS, VOCAB

PASS, FAIL, UNKNOWN = "pass", "FAIL", "not measured"
# 2 threads, 256 rows, all rows open: what every bar is stated for. The masked family's: V = 126464, N(0, 3) logits.
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
    shape: dict = dataclasses.field(default_factory=lambda: _SHAPE)
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
        case = {**self.shape, "dtype": self.dtype, "temperature": self.temperature}
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


# The uniform family's bars: peaked logits, the allocator that spares the peers their page faults.
_UNIFORM_SHAPES = {
    "sumi": {"op": "uniform_step", "model": "sumi", "vocab": VOCAB["sumi"]},
    "gemma": {"op": "renoise_step", "model": "gemma", "vocab": VOCAB["gemma"]},
}


def _uniform_bars() -> Iterable[Bar]:
    def at(model: str, field: str, provider: str, dtype: str, temperature: float, **more) -> Place:
        shape = {"batch": 1, "rows": 256, "open_rows": 256, "dist": "peaked", **_UNIFORM_SHAPES[model], **more}
        return Place((field, "median"), dtype, temperature, "tuned", provider, shape)

    for steps, what in ((128, "a step of 128"), (1, "one step in all, most rows from the model")):
        work = f"uniform_step, 256 rows bf16, {what}"
        for provider, against, bound in (
            ("sumi", "eager Sumi, dense posterior", 28),
            ("sumi_compiled", "torch.compile of that", 14),
            ("torch_fp32", "eager mixture, with care", 6),
        ):
            yield Bar(work, against, ">=", bound, "x", at("sumi", "ratio", provider, "bf16", 1.0, steps=steps))
        place = at("sumi", "ratio_to_greedy", OURS, "bf16", 1.0, steps=steps)
        yield Bar(work, "our own greedy step", "<=", 1.25, "x", place)
    place = at("gemma", "ratio", "diffusion_gemma", "fp32", 0.6)
    yield Bar("renoise_step, 256 rows fp32", "eager transformers", ">=", 20, "x", place)
    work = "rare noise, 1 of 1000 steps"
    yield Bar(work, "its exact frequency", "<=", 3, "sigma", Promise(RARE_NOISE))
    yield Bar(work + ", on a grid of 2^20 numbers", "exact counts", "<=", 2, "counts", Promise(ROUTE_GRID))


UNIFORM_BARS = tuple(_uniform_bars())


def _filter_bars() -> Iterable[Bar]:
    for dist, rows in (("normal1", "flat"), ("normal3", "steep"), ("peaked", "peaked")):
        shape = {**_SHAPE, "model": "dream", "rows": 32, "open_rows": 32, "dist": dist, "top_p": 0.9}
        place = Place(("ratio", "median"), "bf16", 1.0, "tuned", "sorted_top_p", shape)
        yield Bar(f"top_p alone, 32 {rows} rows of 152064 bf16", "eager, by sorting", ">=", 30, "x", place)


FILTER_BARS = tuple(_filter_bars())


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a set of cases states: its bars, under which allocator they are measured, and whose accuracy rows go with them."""

    bars: tuple[Bar, ...]
    allocator: str
    accuracy: str


STATED = {
    "bars": Statement(BARS, "both", "masked"),
    "filters": Statement(FILTER_BARS, "tuned", ""),
    "uniform_bars": Statement(UNIFORM_BARS, "tuned", "uniform"),
    "uniform": Statement(UNIFORM_BARS, "tuned", "uniform"),
}


def of_uniform_family(row: dict) -> bool:
    """Whether the row is of the uniform family."""
    if "case" in row:
        return row["case"]["op"] in UNIFORM_OPS
    return row.get("accuracy") in (RARE_NOISE, ROUTE_GRID, RARE_NOISE_PEER)


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
