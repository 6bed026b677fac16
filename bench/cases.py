"""What is measured: one frozen `Case` per problem, and the named sets the command line offers. No torch here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

# Vocabulary of each model's logits; Sumi's is odd on purpose (rows are not 16-byte aligned), GIDD's ends with the mask.
VOCAB = {
    "llada": 126464,
    "dream": 152064,
    "llada2": 157184,
    "sumi": 100278,
    "gidd": 50258,
    "duo": 50258,
    "gemma": 262144,
}
DTYPES = ("fp32", "bf16", "fp16")
DISTS = ("normal3", "normal1", "peaked", "huge")
FILTERS = ("top_p", "top_k", "min_p")
CONFIDENCES = ("prob", "margin", "neg_entropy", "gain")
OURS = "dlm_kernels"  # the provider that the others are compared with
# Of the uniform family; the models whose steps they are.
UNIFORM_OPS = {
    "uniform_step": ("sumi",),
    "transition_step": ("gidd", "duo"),
    "renoise_step": ("gemma",),
    "select_step": ("sumi", "gidd", "duo", "gemma"),
    "q_sample": ("gidd", "sumi"),
}
OPS = ("denoise_step", "topk_unmask", *UNIFORM_OPS)
# Kinds of accuracy rows: our rare noise by keyed draws and by a grid, and what dense races make of it.
RARE_NOISE, ROUTE_GRID, RARE_NOISE_PEER = "rare_noise", "route_grid", "rare_noise_peer"
_RANKING_OPS = ("denoise_step", "topk_unmask", "select_step")
_SCHEDULED_OPS = ("uniform_step", "transition_step")


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem. A canvas of `batch` sequences, `rows` positions in total, `open_rows` of them still masked.

    op "denoise_step": logits `[batch, rows / batch, vocab]` to `k` committed tokens per sequence, whole step.
    op "topk_unmask": tokens and confidences are given, only ranking and writing is measured (vocab is not read).
    Uniform family, where every position is open: "uniform_step", "transition_step": one reverse step, the middle one of a
    schedule of `steps`; one step in all is the worst case, most positions then take a draw of the model. "renoise_step": accept
    or renoise. "select_step": the `k` positions that gain most are overwritten (confidence "gain": Sumi's adaptive step), or,
    with `k` all positions, each by its argmax. "q_sample": forward noising, no logits.
    dist: "normal3" = N(0, 3), "normal1" = N(0, 1); "peaked" = N(0, 2) with a few raised tokens per row, as trained models
    give; "huge" = rows around +-300, for accuracy.
    top_p below 1, top_k, min_p above 0, one of them: the token is drawn, and its confidence read, from the most probable tokens
    of that mass; the top_k ones and what ties with the last; those of at least min_p times the best one's probability.
    confidence: what positions are ranked by. cfg_scale: not 0 = a second logits tensor, classifier-free guidance.
    """

    op: str = "denoise_step"
    model: str = "llada"
    batch: int = 1
    rows: int = 256
    vocab: int = VOCAB["llada"]
    dtype: str = "bf16"
    temperature: float = 0.0
    dist: str = "normal3"
    k: int = 8
    open_rows: int = -1
    seed: int = 0
    confidence: str = "prob"
    cfg_scale: float = 0.0
    steps: int = 0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for field, known in (("op", OPS), ("dtype", DTYPES), ("dist", DISTS), ("confidence", CONFIDENCES)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}: must be one of {', '.join(known)}, got {getattr(self, field)!r}")
        if self.batch < 1 or self.rows < 1 or self.rows % self.batch:
            raise ValueError(f"rows: must be a positive multiple of batch ({self.batch}), got {self.rows}")
        if self.open_rows == -1:
            object.__setattr__(self, "open_rows", self.rows)
        if self.open_rows % self.batch or not 0 < self.open_rows <= self.rows:
            raise ValueError(f"open_rows: must be a multiple of batch in 1..rows, got {self.open_rows}")
        if self.op in UNIFORM_OPS and self.model not in UNIFORM_OPS[self.op]:
            raise ValueError(
                f"model: must be one of {', '.join(UNIFORM_OPS[self.op])} for {self.op}, got {self.model!r}"
            )
        if self.confidence == "gain" and self.op != "select_step":
            raise ValueError(f"confidence: must not be 'gain' for {self.op}")
        if self.op in UNIFORM_OPS and self.open_rows != self.rows:
            raise ValueError(f"open_rows: must be rows for {self.op}, got {self.open_rows}")
        if (self.steps > 0) != (self.op in _SCHEDULED_OPS):
            raise ValueError(f"steps: must be > 0 for {' and '.join(_SCHEDULED_OPS)}, else 0, got {self.steps}")
        for field, off, most in (("top_p", 1, 1), ("top_k", 0, self.vocab), ("min_p", 0, 1)):
            value = getattr(self, field)
            if value != off and not (0 < value <= most and self.op == "denoise_step" and self.temperature == 1):
                raise ValueError(
                    f"{field}: must be {off}, or in (0, {most}] for denoise_step at temperature 1, got {value}"
                )
        if sum((self.top_p != 1, self.top_k != 0, self.min_p != 0)) > 1:
            raise ValueError(f"top_p, top_k, min_p: must be one of them, got {self.top_p}, {self.top_k}, {self.min_p}")
        if self.op not in _RANKING_OPS:
            object.__setattr__(self, "k", 0)
        if not 0 <= self.k <= self.open_rows // self.batch:
            raise ValueError(f"k: must be in 0..{self.open_rows // self.batch} (open positions), got {self.k}")

    @property
    def length(self) -> int:
        """Positions per sequence."""
        return self.rows // self.batch

    @property
    def itemsize(self) -> int:
        return 4 if self.dtype == "fp32" else 2

    @property
    def mask_id(self) -> int | None:
        """Of the masked family outside the vocabulary (legal), so that a drawn token is never mistaken for an open position;
        None where the noise has no mask."""
        if self.op not in UNIFORM_OPS:
            return self.vocab
        return self.vocab - 1 if self.model == "gidd" else None

    @property
    def filter(self) -> str:
        """The name of the field that filters, "" if none does."""
        return "top_p" * (self.top_p != 1) + "top_k" * (self.top_k != 0) + "min_p" * (self.min_p != 0)

    @property
    def has_logits(self) -> bool:
        return self.op not in ("topk_unmask", "q_sample")

    @property
    def bytes_min(self) -> int:
        """Bytes any implementation must read: the logits rows of the open positions, once. Without logits, the canvases."""
        if self.op == "topk_unmask":
            return self.rows * 12
        if self.op == "q_sample":
            return self.rows * 16
        return self.open_rows * self.vocab * self.itemsize * (2 if self.cfg_scale else 1)

    @property
    def group(self) -> tuple:
        """Cases with equal groups share their logits and are timed interleaved with each other."""
        kind = "logits" if self.has_logits else self.op
        return (kind, self.model, self.batch, self.rows, self.vocab, self.dtype, self.dist, self.seed)

    @property
    def greedy(self) -> Case | None:
        """The greedy step on the same logits, which a step that draws is compared with; None if it is that itself."""
        if not self.has_logits or not self.temperature:
            return None
        if self.op == "denoise_step":
            return dataclasses.replace(self, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
        return dataclasses.replace(self, op="select_step", temperature=0.0, confidence="prob", k=self.length, steps=0)

    @property
    def id(self) -> str:
        """Stable one-line name, what `--filter` matches."""
        opened = "" if self.open_rows == self.rows else f" open={self.open_rows}"
        shape = f"{self.batch}x{self.length}"
        if self.op == "topk_unmask":
            return f"{self.op} {shape} k={self.k}{opened}"
        if self.op == "q_sample":
            return f"{self.op} {self.model} {shape} V={self.vocab}"
        scored = "" if self.confidence == "prob" else f" {self.confidence}"
        guided = f" cfg={self.cfg_scale:g}" if self.cfg_scale else ""
        ranked = f" k={self.k}" if self.op in _RANKING_OPS else ""
        steps = f" N={self.steps}" if self.steps else ""
        short = {"top_p": "p", "top_k": "top_k", "min_p": "min_p", "": ""}[self.filter]
        filtered = f" {short}={getattr(self, self.filter):g}" if short else ""
        return (
            f"{self.op} {self.model} {shape}x{self.vocab} {self.dtype} T={self.temperature:g} {self.dist}"
            f"{ranked}{steps}{filtered}{opened}{scored}{guided}"
        )


def _product(rows: Iterable[int], dtypes: Iterable[str], temperatures: Iterable[float], **fixed) -> Iterator[Case]:
    for r in rows:
        for dtype in dtypes:
            for temperature in temperatures:
                yield Case(rows=r, dtype=dtype, temperature=temperature, **fixed)


def _models() -> Iterator[Case]:
    for model in ("llada", "dream", "llada2", "sumi"):
        yield from _product((32,), ("bf16", "fp32"), (0.0, 1.0), model=model, vocab=VOCAB[model], dist="peaked")


def _shapes() -> Iterator[Case]:
    """One row, a batch, a mostly filled canvas, fp16, a temperature that needs two laws."""
    yield from _product((1,), ("bf16", "fp32"), (0.0, 1.0), k=1)
    yield from _product((256,), ("bf16",), (0.0, 1.0), batch=8)
    yield from _product((256,), ("bf16",), (0.0, 1.0), open_rows=16)
    yield from _product((256,), ("fp16",), (0.0, 1.0))
    yield from _product((256,), ("bf16", "fp32"), (0.7,))


def _uniform(op: str, model: str, **fields) -> Case:
    return Case(**{"op": op, "model": model, "vocab": VOCAB[model], "dist": "peaked", "temperature": 1.0, **fields})


def _uniform_bars() -> Iterator[Case]:
    for steps in (128, 1):
        yield _uniform("uniform_step", "sumi", steps=steps)
    yield _uniform("select_step", "sumi", k=256, temperature=0.0)
    yield _uniform("renoise_step", "gemma", dtype="fp32", temperature=0.6)


def _uniform_more() -> Iterator[Case]:
    """A whole canvas of Sumi, the other transitions, the selecting steps, forward noising where one-hots fit, and elsewhere."""
    yield _uniform("uniform_step", "sumi", temperature=0.7, steps=64)
    for temperature in (0.0, 0.7):
        yield _uniform("select_step", "sumi", k=4, temperature=temperature, confidence="gain")
    yield _uniform("select_step", "gemma", dtype="fp32", k=256, temperature=0.0)
    for model in ("gidd", "duo"):
        yield _uniform("transition_step", model, steps=128)
    yield _uniform("uniform_step", "sumi", rows=1184, steps=128)
    for model, vocab in (("gidd", 512), ("gidd", VOCAB["gidd"]), ("sumi", VOCAB["sumi"])):
        yield Case(op="q_sample", model=model, batch=64, rows=64 * 1024, vocab=vocab, dtype="fp32")


def _filters() -> Iterator[Case]:
    """Dream's vocabulary with flat, steep and trained-like rows: from tens of thousands of tokens left to a handful."""
    for dist in ("normal1", "normal3", "peaked"):
        yield Case(model="dream", rows=32, vocab=VOCAB["dream"], temperature=1.0, dist=dist, top_p=0.9)


_STANDARD = tuple(_product((32, 256), ("bf16", "fp32"), (0.0, 1.0)))

SETS: dict[str, tuple[Case, ...]] = {
    "quick": tuple(_product((32,), ("bf16",), (0.0, 1.0))),
    "standard": _STANDARD,
    "bars": _STANDARD,
    "peaked": tuple(_product((32, 256), ("bf16", "fp32"), (0.0, 1.0), dist="peaked")),
    "models": tuple(_models()),
    "shapes": tuple(_shapes()),
    "select": tuple(
        Case(op="topk_unmask", batch=b, rows=b * length, dtype="fp32", k=8)
        for b, length in ((1, 32), (1, 256), (8, 256), (1, 4096))
    ),
    "filters": tuple(_filters()),
    "uniform_bars": tuple(_uniform_bars()),
    "uniform": (*_uniform_bars(), *_uniform_more()),
}


def select(name: str, pattern: str | None = None) -> list[Case]:
    """Cases of set `name` ("all" = every set, each case once) whose id matches the regular expression `pattern`."""
    if name != "all" and name not in SETS:
        raise ValueError(f"set: must be one of {', '.join([*SETS, 'all'])}, got {name!r}")
    try:
        wanted = re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"filter: must be a regular expression ({error}), got {pattern!r}") from None
    chosen = dict.fromkeys(case for key, cases in SETS.items() if name in (key, "all") for case in cases)
    return [case for case in chosen if wanted.search(case.id)]


def groups(cases: Iterable[Case]) -> list[list[Case]]:
    """Cut into lists of cases that share their logits, in order of first appearance."""
    found: dict[tuple, list[Case]] = {}
    for case in cases:
        found.setdefault(case.group, []).append(case)
    return list(found.values())
