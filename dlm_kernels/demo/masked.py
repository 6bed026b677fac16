"""Masked diffusion: start from masks and commit the most certain tokens of each step, block after block."""

from collections.abc import Iterator

import torch
from torch import Tensor

import dlm_kernels as dlm

from .frame import Frame, State
from .model import Denoiser

# Rank by low entropy: the order that reads best. This rank does not depend on the token drawn. The probability of
# the drawn token does: it favours frequent tokens and drifts into repetition.
CONFIDENCE = "neg_entropy"

# Without blocks, the easy ends of sentences are written first and the middle has to fit them.
BLOCK = 32


def denoise(
    model: Denoiser,
    canvas: Tensor,
    given: Tensor,
    *,
    steps: int,
    temperature: float,
    seed: int,
    trace: "dlm.RevisionTrace | None" = None,
) -> Iterator[Frame]:
    """Fill the positions of `canvas` int64 [1, L] that `given` bool [1, L] leaves open, in place; yields a Frame
    before the first step and one after each. `trace` takes note of the steps.

    Blocks of BLOCK positions are done one after another. The model sees a window around the block: the text before
    it, the block, and the masks after it. A step commits its share of the open tokens, at least one, so `steps`
    above their number acts like their number.
    """
    mask_id, length = model.config.mask_id, canvas.shape[1]
    canvas.masked_fill_(~given, mask_id)
    states = [State.GIVEN if fixed else State.OPEN for fixed in given[0].tolist()]
    begin = states.index(State.OPEN) if State.OPEN in states else length
    blocks = [(b, min(b + BLOCK, length)) for b in range(begin, length, BLOCK)]
    shares = split_evenly([states[b:e].count(State.OPEN) for b, e in blocks], steps)
    total, step = sum(map(len, shares)), 0
    yield Frame(0, total, canvas[0].tolist(), list(states))

    for (begin, end), quotas in zip(blocks, shares, strict=True):
        first, last = view(begin, length, model.config.window)
        for quota in quotas:
            with torch.no_grad():
                logits = model(canvas[:, first:last])
            result = dlm.denoise_step_(
                canvas, logits, mask_id=mask_id, rule=dlm.TopK(quota), confidence=CONFIDENCE, temperature=temperature,
                seed=seed, step=step, start=first, window=(begin, end), frozen=given, trace=trace,
            )  # fmt: skip
            step += 1
            states = [State.KEPT if state is State.COMMITTED else state for state in states]
            for row in result.committed[0].nonzero()[:, 0].tolist():
                states[first + row] = State.COMMITTED
            yield Frame(step, total, canvas[0].tolist(), list(states))


def view(begin: int, length: int, window: int) -> tuple[int, int]:
    """(first, last) position + 1 that the model sees for the block at `begin`: half a window of text before it, or more
    where the canvas ends or begins."""
    first = max(0, min(begin - window // 2, length - window))
    return first, min(length, first + window)


def split_evenly(opened: list[int], steps: int) -> list[list[int]]:
    """Tokens to commit at each step of each block. The steps go to the blocks by their open tokens, at least one each;
    a block's tokens go to its steps, the earlier ones taking the remainder as in LLaDA's schedule."""
    total, before, quotas = sum(opened), 0, []
    for tokens in opened:
        share = round(steps * (before + tokens) / total) - round(steps * before / total) if tokens else 0
        count = min(tokens, max(1, share))
        quotas.append([tokens // count + (i < tokens % count) for i in range(count)])
        before += tokens
    return quotas
