"""Outputs are checked before anything is timed: a provider that computes something else gets no number.

The truth is computed here in fp64, row block by row block, with no code of any provider. "Proven tie" means that the
provider's answer is a right one too: an equal logit, a uniform within rounding of a CDF step, or a rank whose
confidence differs by less than the provider's arithmetic can resolve.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch

from .inputs import Inputs
from .peers import Provider, Step

# How far the CDF of an fp32 implementation may be from the fp64 one, as mass: a uniform closer than this to a step of
# the CDF may fall on either side.
DRAW_TOLERANCE = 2e-6
_BLOCK_ELEMENTS = 1 << 21


@dataclasses.dataclass
class Result:
    """id_mismatch: open rows with a wrong token. ties: open rows settled by a proven tie. conf_relerr: largest
    relative error over the open rows. commit_mismatch: positions written, or left, that should not be."""

    passed: bool
    why: str = ""
    id_mismatch: int = 0
    ties: int = 0
    conf_relerr: float = 0.0
    commit_mismatch: int = 0

    def to_json(self) -> dict:
        fields = dataclasses.asdict(self)
        return {**fields, "conf_relerr": self.conf_relerr if math.isfinite(self.conf_relerr) else None}


def check(provider: Provider, step: Step, inputs: Inputs) -> Result:
    """Run `step` once on a fresh canvas and compare tokens, confidences and the canvas with fp64 ground truth."""
    case, x = inputs.case, inputs.canvas.clone()
    torch.manual_seed(case.seed)
    with provider.context():
        tokens, confidence = step(x, inputs.uniform if provider.noise == "uniform" and case.temperature else None)
    shape = tuple(inputs.canvas.shape)
    if tuple(tokens.shape) != shape or tuple(confidence.shape) != shape:
        return Result(False, f"shapes {tuple(tokens.shape)}, {tuple(confidence.shape)}, expected {shape}")
    opened = inputs.canvas == inputs.mask_id
    result, truth = Result(True), inputs.confidence
    if case.op == "denoise_step":
        result, truth = _check_rows(provider, inputs, tokens, confidence, opened)
    rtol = 0.0 if case.op == "topk_unmask" else provider.conf_rtol(inputs.logits.dtype)
    result.commit_mismatch = _commit_mismatches(inputs, x, tokens, truth, opened, rtol)
    problems = [
        f"{result.id_mismatch} wrong tokens" * bool(result.id_mismatch),
        f"confidence off by {result.conf_relerr:.1e} (allowed {rtol:.1e})" * (not result.conf_relerr <= rtol),
        f"{result.commit_mismatch} positions wrongly written or left" * bool(result.commit_mismatch),
    ]
    result.why = "; ".join(filter(None, problems))
    result.passed = not result.why
    return result


def _blocks(inputs: Inputs) -> Iterator[tuple[slice, torch.Tensor]]:
    """fp64 logits in blocks of rows: `[r, V]`."""
    flat = inputs.logits.reshape(-1, inputs.case.vocab)
    step = max(1, _BLOCK_ELEMENTS // inputs.case.vocab)
    for first in range(0, flat.shape[0], step):
        yield slice(first, first + step), flat[first : first + step].double()


def _check_rows(provider, inputs, tokens, confidence, opened) -> tuple[Result, torch.Tensor]:
    """Token and confidence of every open row. Returns the true confidences of the provider's tokens, fp64 `[B, L]`."""
    case = inputs.case
    given, uniform, wanted = tokens.reshape(-1), inputs.uniform.reshape(-1), opened.reshape(-1)
    truth = torch.zeros(case.rows, dtype=torch.float64)
    wrong, tied = (torch.zeros(case.rows, dtype=torch.bool) for _ in range(2))
    in_range = (given >= 0) & (given < case.vocab)
    torch.manual_seed(case.seed)  # the replay reads the stream that the provider read
    for rows, z in _blocks(inputs):
        token = given[rows].clamp(0, case.vocab - 1)[:, None]
        chosen = z.gather(-1, token)[:, 0]
        truth[rows] = (chosen - z.logsumexp(-1)).exp()
        if case.temperature == 0:
            wrong[rows], tied[rows] = _judge_greedy(z, token[:, 0], chosen)
        elif provider.noise == "gumbel":
            noise = torch.rand(z.shape, dtype=torch.float64)
            wrong[rows] = (z - case.temperature * (-noise.log()).log()).argmax(-1) != token[:, 0]
        else:
            wrong[rows], tied[rows] = _judge_draw(z / case.temperature, token[:, 0], uniform[rows])
    wrong |= ~in_range
    got = confidence.reshape(-1).double()
    relerr = ((got - truth).abs() / truth)[wanted]
    worst = float("inf") if relerr.isnan().any() else float(relerr.max())
    result = Result(True, "", int((wrong & wanted).sum()), int((tied & wanted).sum()), worst)
    return result, truth.view_as(opened)


def _judge_greedy(z: torch.Tensor, token: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(wrong, tied): wrong if the logit is not the maximum, tied if it is but a lower index has it as well."""
    best = z.amax(-1)
    return chosen != best, (chosen == best) & (z.argmax(-1) != token)


def _judge_draw(z: torch.Tensor, token: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(wrong, tied) by the bracket cdf(token - 1) <= u <= cdf(token): outside it by more than rounding, or by less.
    A token without mass is wrong."""
    weights = (z - z.amax(-1, keepdim=True)).exp()
    total = weights.sum(-1)
    below = (weights * (torch.arange(z.shape[-1]) < token[:, None])).sum(-1) / total
    own = weights.gather(-1, token[:, None])[:, 0] / total
    outside = torch.maximum(below - uniform, uniform - (below + own))
    wrong = (outside > DRAW_TOLERANCE) | (own == 0)
    return wrong, (outside > 0) & ~wrong


def _commit_mismatches(inputs, x, tokens, truth, opened, rtol) -> int:
    """Positions written wrongly: not open, not the provider's token, not among the best k, or one of those missing.

    With `cut` the true k-th best confidence of a sequence, every position above cut * (1 + 2 rtol) must be written and
    none below cut * (1 - 2 rtol) may be: both confidences of a compared pair may be off by rtol.
    """
    k = inputs.case.k
    written = x != inputs.canvas
    bad = (written & ~opened) | (written & (x != tokens))
    if k == 0:
        return int((bad | written).sum())
    ranked = truth.double().masked_fill(~opened, -torch.inf)
    cut = ranked.topk(k, -1).values[:, -1:]
    must = opened & (ranked > cut * (1 + 2 * rtol))
    may = opened & (ranked >= cut * (1 - 2 * rtol))
    bad |= (must & ~written) | (written & ~may)
    return int(bad.sum()) + int((written.sum(-1) - k).abs().sum())
