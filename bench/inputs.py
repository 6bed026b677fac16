"""Tensors of a case: logits, canvas, and the one uniform per row that makes a draw checkable."""

from __future__ import annotations

import dataclasses

import torch

from . import schedule
from .cases import UNIFORM_OPS, Case

_BLOCK_ELEMENTS = 1 << 26  # 256 MB of fp32 at a time
TORCH_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """logits `[B, L, V]` (None where the case has none), canvas int64 `[B, L]` with open positions = mask_id, uniform fp64
    `[B, L]`, all on one device; tokens int64 and confidence fp32 `[B, L]` are the given draw of op "topk_unmask"; uncond is
    like logits where the case has guidance. Uniform family: canvas is x_t, of q_sample x_0; uniform `[B, L, n]` has a number for
    each choice that a step makes; clean int64 `[B, L]` is what the canvas was noised from, of renoise_step the last argmax."""

    case: Case
    logits: torch.Tensor | None
    canvas: torch.Tensor
    uniform: torch.Tensor
    tokens: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    uncond: torch.Tensor | None = None
    clean: torch.Tensor | None = None

    @property
    def mask_id(self) -> int | None:
        return self.case.mask_id


def make_logits(case: Case, device: torch.device | str = "cpu") -> torch.Tensor | None:
    """Seeded logits of the case's distribution, `[B, L, V]` in its dtype, made on `device`. Filled row by row on the CPU
    (the fp32 source of a bf16 tensor must not leave the heap larger than the problem), in large blocks elsewhere."""
    if not case.has_logits:
        return None
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(case.seed)
    logits = torch.empty(case.rows, case.vocab, dtype=TORCH_DTYPE[case.dtype], device=device)
    step = 1 if device.type == "cpu" else max(1, _BLOCK_ELEMENTS // case.vocab)
    for first in range(0, case.rows, step):
        rows = torch.arange(first, min(first + step, case.rows), device=device)
        logits[first : first + step] = _block(case, rows, generator)
    if case.model == "gidd":
        logits[:, case.vocab - 1] = -1e6  # as GIDD's sampler does: the model never predicts the mask
    return logits.view(case.batch, case.length, case.vocab)


def _block(case: Case, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """fp32 logits of the given row numbers: `[n, V]`."""
    device, count = rows.device, rows.shape[0]
    z = torch.randn(count, case.vocab, generator=generator, device=device)
    if case.dist == "normal1":
        return z
    if case.dist == "normal3":
        return z * 3
    if case.dist == "huge":
        kind = (rows % 3)[:, None]
        sides = torch.where(kind == 0, z * 3 + 300, z * 3 - 300)
        return torch.where(kind == 2, (z * 100).clamp(-300, 300), sides)
    # Peaked: over N(0, 2) (log of the total about 13.7) a best token at 12..26 makes p(best) run from 0.15 to 1 - 1e-5;
    # the next seven follow at exponential distances. Each lies in an eighth of the vocabulary of its own.
    z *= 2
    raised = min(8, case.vocab)
    width = case.vocab // raised
    part = torch.rand(count, raised, generator=generator, device=device).argsort(-1)
    inside = torch.rand(count, raised, generator=generator, device=device)
    where = (part * width + (inside * width).long()).clamp(max=case.vocab - 1)
    steps = torch.empty(count, raised, device=device).exponential_(0.5, generator=generator)
    steps[:, 0] = 0
    best = 12 + 14 * torch.rand(count, 1, generator=generator, device=device)
    return z.scatter_(1, where, best - steps.cumsum(-1))


def make_inputs(case: Case, logits: torch.Tensor | None) -> Inputs:
    """The rest of the inputs around (shared) logits, on their device; deterministic in the case."""
    device = torch.device("cpu") if logits is None else logits.device
    generator = torch.Generator().manual_seed(case.seed + 1)
    shape = (case.batch, case.length)
    if case.op in UNIFORM_OPS:
        return _noised_inputs(case, logits, generator)
    canvas = torch.randint(case.vocab, shape, generator=generator)
    opened = torch.rand(shape, generator=generator).argsort(-1)[:, : case.open_rows // case.batch]
    canvas.scatter_(1, opened, case.vocab)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    if case.op != "topk_unmask":
        uncond = make_logits(dataclasses.replace(case, seed=case.seed + 2), device) if case.cfg_scale else None
        return Inputs(case, logits, canvas.to(device), uniform.to(device), uncond=uncond)
    tokens = torch.randint(case.vocab, shape, generator=generator)
    confidence = torch.rand(shape, generator=generator)
    return Inputs(case, None, canvas, uniform, tokens, confidence)


# The numbers a step needs per position: route, draw, noise; draw, noise; one draw.
_CHOICES = {"uniform_step": (3,), "transition_step": (3,), "renoise_step": (2,), "q_sample": (2,), "select_step": ()}


def _noised_inputs(case: Case, logits: torch.Tensor | None, generator: torch.Generator) -> Inputs:
    """A canvas as the step would meet it: the model's best tokens, noised to the level from which the step goes."""
    shape = (case.batch, case.length)
    tokens = case.vocab - (case.mask_id is not None)  # the mask is the last one
    clean = torch.randint(tokens, shape, generator=generator) if logits is None else logits.argmax(-1).cpu()
    level, share = schedule.noised(case)
    keep, kind = torch.rand((2, *shape), generator=generator)
    noise = torch.where(kind < share, torch.randint(tokens, shape, generator=generator), tokens)
    canvas = clean if case.op == "q_sample" else torch.where(keep < level.alpha, clean, noise)
    uniform = torch.rand(shape + _CHOICES[case.op], generator=generator, dtype=torch.float64)
    device = canvas.device if logits is None else logits.device
    return Inputs(case, logits, canvas.to(device), uniform.to(device), clean=clean.to(device))


def guided(inputs: Inputs, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The logits a step works on: `logits`, or under guidance u + (w + 1) (c - u), computed in `dtype` (None: theirs)."""
    logits, uncond = inputs.logits, inputs.uncond
    if uncond is None:
        return logits
    if dtype is not None:
        logits, uncond = logits.to(dtype), uncond.to(dtype)
    return uncond + (inputs.case.cfg_scale + 1) * (logits - uncond)
