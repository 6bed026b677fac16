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

from . import filtering
from .inputs import Inputs, guided
from .peers import Provider, Step

# How far the CDF of an fp32 implementation may be from the fp64 one, as mass: a uniform closer than this to a step of
# the CDF may fall on either side.
DRAW_TOLERANCE = 2e-6
# Relative to the best score: what fp32 noise, or guided logits in another order of roundings, may be off by.
NOISE_TOLERANCE, GUIDED_TOLERANCE = 1e-4, 1e-6
# Of a margin, whose terms are at most 1, the absolute error counts; of an entropy the error relative to max(1, entropy),
# over this factor: its terms carry the logarithm's error as well.
ENTROPY_SLACK = 5
_BLOCK_ELEMENTS, _DEVICE_BLOCK_ELEMENTS = 1 << 21, 1 << 26


@dataclasses.dataclass
class Result:
    """id_mismatch: open rows with a wrong token. ties: open rows settled by a proven tie. conf_relerr: largest
    relative error over the open rows (margin, entropy: relative to max(1, truth)). commit_mismatch: positions written, or
    left, that should not be."""

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
    """Run `step` once on a fresh canvas and compare tokens, confidences and the canvas with fp64 ground truth. Of a
    partial provider only what it produces is judged."""
    case, x = inputs.case, inputs.canvas.clone()
    torch.manual_seed(case.seed)
    with provider.context():
        tokens, confidence = step(x, inputs.uniform if provider.noise == "uniform" and case.temperature else None)
    shape = tuple(inputs.canvas.shape)
    if provider.partial:
        confidence = torch.zeros(shape, device=x.device)
    if tuple(tokens.shape) != shape or tuple(confidence.shape) != shape:
        return Result(False, f"shapes {tuple(tokens.shape)}, {tuple(confidence.shape)}, expected {shape}")
    opened = inputs.canvas == inputs.mask_id
    result, truth = Result(True), inputs.confidence
    if case.op == "denoise_step":
        result, truth = _check_rows(provider, inputs, tokens, confidence, opened)
    rtol = 0.0 if case.op == "topk_unmask" else provider.conf_rtol(inputs.logits.dtype)
    if case.confidence == "neg_entropy":
        rtol *= ENTROPY_SLACK
    if provider.partial:
        result.conf_relerr, result.passed = 0.0, not result.id_mismatch
        result.why = f"{result.id_mismatch} wrong tokens" * bool(result.id_mismatch)
        return result
    result.commit_mismatch = _commit_mismatches(inputs, x, tokens, truth, opened, rtol)
    problems = [
        f"{result.id_mismatch} wrong tokens" * bool(result.id_mismatch),
        f"confidence off by {result.conf_relerr:.1e} (allowed {rtol:.1e})" * (not result.conf_relerr <= rtol),
        f"{result.commit_mismatch} positions wrongly written or left" * bool(result.commit_mismatch),
    ]
    result.why = "; ".join(filter(None, problems))
    result.passed = not result.why
    return result


def _blocks(inputs: Inputs, dtype: torch.dtype | None) -> Iterator[tuple[slice, torch.Tensor]]:
    """fp64 logits in blocks of rows: `[r, V]`; guided ones as computed in `dtype`."""
    vocab = inputs.case.vocab
    flat = inputs.logits.reshape(-1, vocab)
    other = None if inputs.uncond is None else inputs.uncond.reshape(-1, vocab)
    step = max(1, (_DEVICE_BLOCK_ELEMENTS if flat.is_cuda else _BLOCK_ELEMENTS) // vocab)
    for first in range(0, flat.shape[0], step):
        rows = slice(first, first + step)
        part = dataclasses.replace(inputs, logits=flat[rows], uncond=None if other is None else other[rows])
        yield rows, guided(part, dtype).double()


def _check_rows(provider, inputs, tokens, confidence, opened) -> tuple[Result, torch.Tensor]:
    """Token and confidence of every open row. Returns the true confidences of the provider's tokens, fp64 `[B, L]`."""
    case = inputs.case
    given, uniform, wanted = tokens.reshape(-1), inputs.uniform.reshape(-1), opened.reshape(-1)
    device = given.device
    truth = torch.zeros(case.rows, dtype=torch.float64, device=device)
    wrong, tied = (torch.zeros(case.rows, dtype=torch.bool, device=device) for _ in range(2))
    in_range = (given >= 0) & (given < case.vocab)
    noise = _Noise(provider, inputs)
    edge = torch.zeros(case.rows, dtype=torch.float64, device=device)
    for rows, z in _blocks(inputs, provider.guided_in):
        if case.filter:
            z, edge[rows] = filtering.kept(z, case)
        token = given[rows].clamp(0, case.vocab - 1)[:, None].long()
        chosen = z.gather(-1, token)[:, 0]
        truth[rows] = _confidence(z, chosen, case.confidence)
        if case.temperature == 0:
            wrong[rows], tied[rows] = _judge_greedy(z, token[:, 0], chosen, GUIDED_TOLERANCE if case.cfg_scale else 0.0)
        elif provider.noise == "gumbel":
            wrong[rows] = noise.scores(rows, z).argmax(-1) != token[:, 0]
        elif provider.noise == "own":
            scores = noise.scores(rows, z)
            best = scores.amax(-1)
            wrong[rows] = scores.gather(-1, token)[:, 0] < best - NOISE_TOLERANCE * best.abs().clamp(min=1)
        elif provider.noise == "hidden":
            wrong[rows] = chosen == -torch.inf
        else:
            wrong[rows], tied[rows] = _judge_draw(z / case.temperature, token[:, 0], uniform[rows], edge[rows])
    wrong |= ~in_range
    got = confidence.reshape(-1).double()
    size = truth if case.confidence == "prob" else truth.abs().clamp(min=1)
    relerr = ((got - truth).abs() / size - edge).clamp(min=0)[wanted]
    worst = float("inf") if relerr.isnan().any() else float(relerr.max())
    result = Result(True, "", int((wrong & wanted).sum()), int((tied & wanted).sum()), worst)
    return result, truth.view_as(opened)


class _Noise:
    """The noise of a provider, drawn again, and the scores whose maximum is its draw."""

    def __init__(self, provider: Provider, inputs: Inputs) -> None:
        self.temperature, shape = inputs.case.temperature, (inputs.case.rows, inputs.case.vocab)
        self.whole = None
        torch.manual_seed(inputs.case.seed)  # the replay reads the stream that the provider read
        if self.temperature and provider.noise == "own":
            self.whole = provider.replay(inputs)
        elif self.temperature and provider.noise == "gumbel" and inputs.logits.is_cuda:
            # Which number goes where depends on the size of the tensor there: no replay in blocks.
            self.whole = -torch.rand(shape, dtype=torch.float64, device=inputs.logits.device).log()

    def scores(self, rows: slice, z: torch.Tensor) -> torch.Tensor:
        variates = -torch.rand(z.shape, dtype=torch.float64).log() if self.whole is None else self.whole[rows].double()
        return z - self.temperature * variates.log()


def _confidence(z: torch.Tensor, chosen: torch.Tensor, kind: str) -> torch.Tensor:
    norm = z.logsumexp(-1)
    if kind == "prob":
        return (chosen - norm).exp()
    if kind == "margin":
        first, second = z.topk(2, -1).values.unbind(-1)
        return (first - norm).exp() - (second - norm).exp()
    logprob = z - norm[:, None]
    return torch.where(z > -torch.inf, logprob.exp() * logprob, 0.0).sum(-1)


def _judge_greedy(z: torch.Tensor, token: torch.Tensor, chosen: torch.Tensor, slack: float):
    """(wrong, tied): wrong if the logit is below the maximum by more than `slack` of it; tied if it is not, but a lower
    index has the maximum as well, or the maximum is elsewhere within the slack."""
    best = z.amax(-1)
    wrong = chosen < best - slack * best.abs()
    return wrong, ~wrong & (z.argmax(-1) != token)


def _judge_draw(z, token, uniform, edge=0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(wrong, tied) by the bracket cdf(token - 1) <= u <= cdf(token): outside it by more than rounding, or by less.
    A token without mass is wrong. `edge`: how far off the CDF may be beside rounding."""
    weights = (z - z.amax(-1, keepdim=True)).exp()
    total = weights.sum(-1)
    below = (weights * (torch.arange(z.shape[-1], device=z.device) < token[:, None])).sum(-1) / total
    own = weights.gather(-1, token[:, None])[:, 0] / total
    outside = torch.maximum(below - uniform, uniform - (below + own))
    wrong = (outside > DRAW_TOLERANCE + edge) | (own == 0)
    return wrong, (outside > 0) & ~wrong


def _commit_mismatches(inputs, x, tokens, truth, opened, rtol) -> int:
    """Positions written wrongly: not open, not the provider's token, not among the best k, or one of those missing.

    With `cut` the true k-th best confidence of a sequence, every position above cut by 2 rtol (relative to it; of a margin
    or an entropy to max(1, cut)) must be written and none as far below may be: both of a compared pair may be off by rtol.
    """
    k = inputs.case.k
    written = x != inputs.canvas
    bad = (written & ~opened) | (written & (x != tokens))
    if k == 0:
        return int((bad | written).sum())
    ranked = truth.double().masked_fill(~opened, -torch.inf)
    cut = ranked.topk(k, -1).values[:, -1:]
    slack = 2 * rtol * (cut.abs() if inputs.case.confidence == "prob" else cut.abs().clamp(min=1))
    must = opened & (ranked > cut + slack)
    may = opened & (ranked >= cut - slack)
    bad |= (must & ~written) | (written & ~may)
    return int(bad.sum()) + int((written.sum(-1) - k).abs().sum())
