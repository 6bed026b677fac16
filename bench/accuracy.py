"""The promises about exactness that the bars state, measured on the package itself. Seconds to tens of seconds."""

from __future__ import annotations

import dataclasses

import torch

from . import native
from .cases import Case
from .inputs import make_inputs, make_logits

GRID_DRAWS = 20_000_000
_GRID_VOCAB = 4096  # four chunks: the grid crosses chunk edges
_GRID_BLOCK = 1 << 18


def confidence_error(case: Case) -> float:
    """Largest relative error of the confidence against fp64 over the open rows of `case`, in one step."""
    import dlm_kernels as dlm

    inputs = make_inputs(case, make_logits(case))
    x = inputs.canvas.clone()
    out = dlm.denoise_step_(
        x,
        inputs.logits,
        mask_id=inputs.mask_id,
        rule=dlm.TopK(case.k),
        temperature=case.temperature,
        seed=case.seed,
    )
    errors = []
    opened = inputs.canvas == inputs.mask_id
    for row, token, confidence in zip(inputs.logits[opened], out.tokens[opened], out.confidence[opened]):
        z = row.double()
        truth = (z[token] - z.logsumexp(0)).exp()
        errors.append((confidence.double() - truth).abs() / truth)
    return float(torch.stack(errors).max())  # NaN if any is


def grid_deviation(draws: int = GRID_DRAWS, vocab: int = _GRID_VOCAB) -> float:
    """Fed u = (i + 0.5) / N, an exact sampler returns token j just N p_j times, up to the rounding of each CDF step.
    Returns the largest |count - N p_j| over a row of N(0, 1) logits; chi-squared cannot see what this sees."""
    import dlm_kernels as dlm

    row = torch.randn(vocab, generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(vocab, dtype=torch.int64)
    for first in range(0, draws, _GRID_BLOCK):
        size = min(_GRID_BLOCK, draws - first)
        uniform = (torch.arange(first, first + size, dtype=torch.float64) + 0.5) / draws
        tokens = dlm.draw_tokens(row.expand(size, vocab), temperature=1.0, seed=0, uniform=uniform).tokens
        counts += torch.bincount(tokens, minlength=vocab)
    return float((counts - draws * row.double().softmax(0)).abs().max())


def rows(threads: int) -> list[dict]:
    """One result row per promise: {"accuracy": name, "value": measured, "skipped": reason or ""}."""
    torch.set_num_threads(threads)
    found = []
    base = Case(rows=16, temperature=1.0, k=4)
    with torch.inference_mode():
        for dtype in ("bf16", "fp32"):
            for dist in ("normal3", "peaked", "huge"):
                for temperature in (0.0, 1.0):
                    case = dataclasses.replace(base, dtype=dtype, dist=dist, temperature=temperature)
                    found.append(("confidence", case.id, confidence_error(case), ""))
        if native.available():
            found.append(("grid", f"{GRID_DRAWS} draws, V={_GRID_VOCAB}", grid_deviation(), ""))
        else:
            found.append(("grid", "", None, "native library not loaded; the reference would take hours"))
    return [{"accuracy": kind, "what": what, "value": value, "skipped": why} for kind, what, value, why in found]
