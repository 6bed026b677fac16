"""A one-pass sampler kernel in Triton, as serving engines have them: one program per row walks over the vocabulary in tiles
with a running maximum and sum, keeps the best token, with Gumbel noise on every element at temperature > 0, and the entropy
on the way. Needs triton: import it only where it is used.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096
WARPS = 8
# tl.rand may be 0, whose exponential variate is 0 as well and would win always.
_SMALLEST = tl.constexpr(2.0**-32)


@triton.jit
def _exponential(seed, offsets):
    """-log(1 - v) of v = tl.rand, by its series where 1 - v would lose the digits of v."""
    v = tl.maximum(tl.rand(seed, offsets), _SMALLEST)
    series = v * (1.0 + v * (0.5 + v * (0.333333333 + v * 0.25)))
    return tl.where(v < 0.01, series, -tl.log(1.0 - v))


@triton.jit
def _sweep(
    logits,
    tokens,
    confidences,
    vocab,
    row_stride,
    inverse_temperature,
    seed,
    DRAW: tl.constexpr,
    ENTROPY: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0)
    lane = tl.arange(0, TILE)
    source = logits + row.to(tl.int64) * row_stride
    top = -1.0e30
    mass = 0.0
    moment = 0.0
    best = float("-inf")
    best_logit = float("-inf")
    best_token = 0
    for first in range(0, vocab, TILE):
        at = first + lane
        z = tl.load(source + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(z, axis=0))
        weight = tl.exp(z - new_top)
        shrink = tl.exp(top - new_top)
        if ENTROPY:
            lost = tl.where(weight > 0, z - new_top, 0.0)
            moment = (moment + mass * (top - new_top)) * shrink + tl.sum(weight * lost, axis=0)
        mass = mass * shrink + tl.sum(weight, axis=0)
        top = new_top
        score = z
        if DRAW:
            score = z * inverse_temperature - tl.log(_exponential(seed, row * vocab + at))
        tile_best = tl.max(score, axis=0)
        tile_token = tl.argmax(score, axis=0)
        tile_logit = tl.max(tl.where(lane == tile_token, z, float("-inf")), axis=0)
        better = tile_best > best
        best_token = tl.where(better, first + tile_token, best_token)
        best_logit = tl.where(better, tile_logit, best_logit)
        best = tl.maximum(tile_best, best)
    tl.store(tokens + row, best_token.to(tl.int64))
    if ENTROPY:
        tl.store(confidences + row, moment / mass - tl.log(mass))
    else:
        tl.store(confidences + row, tl.exp(best_logit - top) / mass)


@triton.jit
def _noise(out, vocab, seed, TILE: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    place = row.to(tl.int64) * vocab + at
    tl.store(out + place, _exponential(seed, row * vocab + at), mask=at < vocab)


def sweep(logits: torch.Tensor, temperature: float, confidence: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """logits `[B, L, V]`, contiguous -> (tokens int64, confidence fp32), `[B, L]`; confidence "prob" or "neg_entropy"."""
    shape, vocab = logits.shape[:-1], logits.shape[-1]
    tokens = torch.empty(shape, dtype=torch.int64, device=logits.device)
    scores = torch.empty(shape, dtype=torch.float32, device=logits.device)
    _sweep[(tokens.numel(),)](
        logits,
        tokens,
        scores,
        vocab,
        vocab,
        1.0 / temperature if temperature else 1.0,
        seed,
        DRAW=temperature > 0,
        ENTROPY=confidence == "neg_entropy",
        TILE=BLOCK,
        num_warps=WARPS,
    )
    return tokens, scores


def exponentials(rows: int, vocab: int, seed: int, device: torch.device) -> torch.Tensor:
    """The exponential variates that `sweep` uses at temperature > 0, fp32 `[rows, vocab]`."""
    out = torch.empty(rows, vocab, dtype=torch.float32, device=device)
    _noise[(rows, triton.cdiv(vocab, BLOCK))](out, vocab, seed, TILE=BLOCK, num_warps=WARPS)
    return out
