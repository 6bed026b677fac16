"""Tensors of a case: logits, canvas, and the one uniform per row that makes a draw checkable."""

from __future__ import annotations

import dataclasses

import torch

from .cases import Case

TORCH_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """logits `[B, L, V]` (None for topk_unmask), canvas int64 `[B, L]` with open positions = mask_id, uniform fp64
    `[B, L]`; tokens int64 and confidence fp32 `[B, L]` are the given draw of op "topk_unmask"."""

    case: Case
    logits: torch.Tensor | None
    canvas: torch.Tensor
    uniform: torch.Tensor
    tokens: torch.Tensor | None = None
    confidence: torch.Tensor | None = None

    @property
    def mask_id(self) -> int:
        # Outside the vocabulary (legal), so that a drawn token is never mistaken for an open position.
        return self.case.vocab


def make_logits(case: Case) -> torch.Tensor | None:
    """Seeded logits of the case's distribution, `[B, L, V]` in its dtype. Filled row by row: the fp32 source of a
    bf16 tensor must not leave the heap larger than the problem."""
    if case.op == "topk_unmask":
        return None
    generator = torch.Generator().manual_seed(case.seed)
    logits = torch.empty(case.rows, case.vocab, dtype=TORCH_DTYPE[case.dtype])
    for row in range(case.rows):
        logits[row] = _row(case, row, generator)
    return logits.view(case.batch, case.length, case.vocab)


def _row(case: Case, row: int, generator: torch.Generator) -> torch.Tensor:
    z = torch.randn(case.vocab, generator=generator)
    if case.dist == "normal3":
        return z * 3
    if case.dist == "huge":
        return z * 3 + 300 if row % 3 == 0 else z * 3 - 300 if row % 3 == 1 else (z * 100).clamp(-300, 300)
    # Peaked: over N(0, 2) (log of the total about 13.7) a best token at 12..26 makes p(best) run from 0.15 to 1 - 1e-5;
    # the next seven follow at exponential distances.
    z *= 2
    raised = min(8, case.vocab)
    where = torch.randperm(case.vocab, generator=generator)[:raised]
    steps = torch.empty(raised).exponential_(0.5, generator=generator)
    steps[0] = 0
    best = 12 + 14 * torch.rand(1, generator=generator)
    z[where] = best - steps.cumsum(0)
    return z


def make_inputs(case: Case, logits: torch.Tensor | None) -> Inputs:
    """The rest of the inputs around (shared) logits; deterministic in the case."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    shape = (case.batch, case.length)
    canvas = torch.randint(case.vocab, shape, generator=generator)
    opened = torch.rand(shape, generator=generator).argsort(-1)[:, : case.open_rows // case.batch]
    canvas.scatter_(1, opened, case.vocab)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    if case.op != "topk_unmask":
        return Inputs(case, logits, canvas, uniform)
    tokens = torch.randint(case.vocab, shape, generator=generator)
    confidence = torch.rand(shape, generator=generator)
    return Inputs(case, None, canvas, uniform, tokens, confidence)
