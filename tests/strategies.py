"""What the property tests draw: shapes, flags and a seed. Tensors are built from the seed: failures print small."""

from dataclasses import dataclass, replace

import torch
from dlm_kernels.reference.confidence import CONFIDENCES
from dlm_kernels.reference.decide import RULES
from filter_cases import some_filters
from hypothesis import strategies as st

# 1, both sides of every vector width, both sides of a chunk edge, and one vocabulary with chunks longer than 1024.
VOCABS = (1, 2, 3, 15, 16, 17, 31, 33, 63, 65, 127, 129, 257, 1000, 1023, 1024, 1025, 2049, 5000, 40_000)
KINDS = ("normal", "peaked", "ties", "equal", "large", "one", "holes")
TEMPERATURES = ("zero", "one", "low", "high", "mixed")


def make_logits(generator, kind, shape):
    """float32 logits of a named character. No row is bad."""
    z = torch.randn(shape, generator=generator)
    vocab = shape[-1]
    favourite = torch.randint(vocab, (*shape[:-1], 1), generator=generator)
    if kind == "normal":
        return 3 * z
    if kind == "peaked":  # p(argmax) rounds to 1 in fp32
        return (2 * z).scatter(-1, favourite, 28.0 + 2 * z[..., :1])
    if kind == "ties":
        return torch.randint(-1, 3, shape, generator=generator).float()
    if kind == "equal":
        return torch.full(shape, 2.5)
    if kind == "large":
        return (150 * z).clamp(-300, 300)
    if kind == "one":
        return torch.full(shape, -torch.inf).scatter(-1, favourite, z[..., :1])
    if kind == "holes":
        holes = torch.rand(shape, generator=generator) < 0.5
        return (2 * z).masked_fill(holes.scatter(-1, favourite, False), -torch.inf)
    raise ValueError(kind)


def spoil(generator, logits, share):
    """Makes about ``share`` of the rows bad, in place: a NaN, a +inf, or nothing finite at all."""
    rows = logits.reshape(-1, logits.shape[-1])
    for r in (torch.rand(rows.shape[0], generator=generator) < share).nonzero()[:, 0].tolist():
        where = torch.randint(rows.shape[1], (1,), generator=generator).item()
        how = torch.randint(3, (1,), generator=generator).item()
        if how == 2:
            rows[r] = -torch.inf
        else:
            rows[r, where] = (torch.nan, torch.inf)[how]
    return rows.reshape(logits.shape)


def strided(tensor):
    """The same values with gaps between the rows, still of unit stride in the last dimension."""
    *leading, vocab = tensor.shape
    wide = torch.full((*(2 * n for n in leading), vocab + 5), torch.nan, dtype=tensor.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in leading)][..., 3 : vocab + 3]
    view.copy_(tensor)
    return view


@dataclass(frozen=True)
class StepCase:
    """One call of denoise_step_, small enough to print and rich enough to set every argument."""

    seed: int
    batch: int = 2
    length: int = 8
    width: int = 8
    vocab: int = 100
    kind: str = "normal"
    dtype: str = "float32"
    x_dtype: str = "int64"
    packed: bool = False
    padding: bool = False
    one_start: bool = False
    start: bool = False
    shift: int = 0
    strided: bool = False
    guidance: float | None = None
    suppress: int | None = None
    demote: int | None = None
    window: bool = False
    frozen: bool = False
    temperature: str = "zero"
    per_request: bool = False
    own_uniform: bool = False
    rule: str = "topk"
    quota: int = 2
    strict: bool = True
    level: float = 0.5
    low: float = 0.0
    confidence: str = "prob"
    confidence_from: str = "raw"
    conf_dtype: str = "float32"
    rank_temperature: float = 0.0
    bad_share: float = 0.0
    open_share: float = 0.7
    all_open: bool = False
    filtered: bool = False

    def but(self, **changes):
        return replace(self, **changes)

    def build(self):
        """(x, args, kwargs) for ``denoise_step_(x, *args, **kwargs)``; equal cases build equal tensors."""
        g = torch.Generator().manual_seed(self.seed)
        size, length, width, vocab = self.batch, self.length, self.width, self.vocab

        def integers(low, high, shape):
            return torch.randint(low, high, shape, generator=g)

        mask_id = (vocab, max(vocab - 1, 0), -7)[integers(0, 3, (1,)).item()]
        x = integers(0, max(vocab, 1), (size, length))
        x = torch.where(torch.rand(size, length, generator=g) < self.open_share, mask_id, x)
        x = x.to(getattr(torch, self.x_dtype))
        if self.strided:
            x = torch.stack([x, x + 1], -1)[..., 0]  # a canvas inside a wider one, not contiguous

        shape = (size, width, vocab)
        start = rows = None
        if self.packed:
            rows = torch.randperm(size * length, generator=g)[: size * width]
            if self.padding:
                rows = torch.where(torch.rand(rows.shape, generator=g) < 0.3, -1, rows)
            shape = (size * width, vocab)
        elif self.start:
            start = integers(0, length - width + 1, (1 if self.one_start else size,))

        def logits():
            z = spoil(g, make_logits(g, self.kind, shape), self.bad_share).to(getattr(torch, self.dtype))
            return strided(z) if self.strided else z

        per = size if self.per_request else 1
        choices = {"zero": [0.0], "one": [1.0], "low": [0.3], "high": [3.0], "mixed": [0.0, 0.7, 1.0, 1.3]}
        choices = torch.tensor(choices[self.temperature])
        window_start, window_stop = 0, -1
        if self.window:
            window_start = integers(0, length + 1, (1,)).item()
            window_stop = integers(window_start, length + 1, (1,)).item()
        scale = {"topk": 0.0, "threshold": 1.0, "segment_max": 1.0, "factor": 2.0, "entropy_threshold": 4.0}
        level = scale.get(self.rule, 8.0) * self.level
        args = (
            logits(),
            choices[integers(0, len(choices), (per,))],
            integers(-(2**62), 2**62, (per,)),
            integers(0, 2**40, (1,)).reshape(()),
            integers(0, self.quota + 1, (per,)) if self.per_request else torch.tensor([self.quota]),
        )
        kwargs = dict(
            mask_id=None if self.all_open else mask_id,
            rule=self.rule,
            level=level,
            low=self.low,
            strict=self.strict,
            window_start=window_start,
            window_stop=window_stop,
            frozen=torch.rand(size, length, generator=g) < 0.2 if self.frozen else None,
            start=start,
            rows=rows,
            shift=0 if self.packed else self.shift,
            suppress=None if self.suppress is None else integers(-1, vocab + 2, (self.suppress,)),
            demote=None if self.demote is None else integers(-1, vocab + 2, (self.demote,)),
            uncond_logits=None if self.guidance is None else logits(),
            cfg_scale=self.guidance or 0.0,
            uniform=torch.rand(shape[:-1], generator=g, dtype=torch.float64) if self.own_uniform else None,
            confidence=self.confidence,
            confidence_from=self.confidence_from,
            conf_dtype=self.conf_dtype,
            rank_temperature=self.rank_temperature if self.rule == "topk" and self.confidence != "random" else 0.0,
        )
        if self.filtered:
            kwargs.update(some_filters(g, per, vocab))
        return x, args, kwargs


@st.composite
def step_cases(draw, **fixed):
    """StepCases over everything; keyword arguments pin fields."""
    length = draw(st.integers(0, 12)) if draw(st.booleans()) else draw(st.integers(1, 40))
    vocab = draw(st.sampled_from(VOCABS))
    batch = draw(st.integers(0, 4))
    length = min(length, max(1, 40_000 // (vocab * max(1, batch))))  # keeps an example in the milliseconds
    fields = dict(
        seed=draw(st.integers(0, 2**32 - 1)),
        batch=batch,
        length=length,
        width=draw(st.integers(0, length)),
        vocab=vocab,
        kind=draw(st.sampled_from(KINDS)),
        dtype=draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        x_dtype=draw(st.sampled_from(["int64", "int32"])),
        **{
            name: draw(st.booleans())
            for name in (
                "packed",
                "padding",
                "one_start",
                "start",
                "strided",
                "window",
                "frozen",
                "per_request",
                "own_uniform",
                "strict",
            )
        },
        shift=draw(st.sampled_from([0, -1])),
        guidance=draw(st.sampled_from([None, None, None, 0.0, 1.5, -0.5])),
        suppress=draw(st.sampled_from([None, 0, 1, 3])),
        demote=draw(st.sampled_from([None, 0, 1, 20])),
        temperature=draw(st.sampled_from(TEMPERATURES)),
        rule=draw(st.sampled_from(RULES)),
        quota=draw(st.integers(0, 10)),
        level=draw(st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.9, 1.0])),
        low=draw(st.sampled_from([0.0, 0.0, 1e-5, 0.1, 0.4])),
        confidence=draw(st.sampled_from(CONFIDENCES)),
        confidence_from=draw(st.sampled_from(["raw", "sampled", "tempered"])),
        conf_dtype=draw(st.sampled_from(["float32", "bfloat16", "float64"])),
        rank_temperature=draw(st.sampled_from([0.0, 0.0, 0.01, 0.5, 5.0])),
        bad_share=draw(st.sampled_from([0.0, 0.0, 0.2, 1.0])),
        open_share=draw(st.sampled_from([0.0, 0.7, 0.7, 1.0])),
    )
    return StepCase(**{**fields, **fixed})
