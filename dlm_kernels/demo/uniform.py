"""Uniform diffusion: start from random tokens, which any step may rewrite, and end by correcting what does not fit."""

from collections.abc import Iterator

import torch
from torch import Tensor

import dlm_kernels as dlm
from dlm_kernels.schedules import Level, linear

from .frame import Frame, State
from .model import Denoiser

# Of a canvas longer than the model's window. Shorter blocks read worse: the model is not told the noise level, it
# reads that off the noisy tokens, of which there have to be enough.
BLOCK = 64

# One step in TAIL is left for the end. These start from alpha = SURE, as if one token in ten were still noise, and go to 1:
# what the model finds implausible is written anew. Tokens that went wrong early are else stuck.
TAIL, SURE = 5, 0.9

MODEL, NOISE = 1, 2  # of the routes that a step reports


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
    """Fill the positions of `canvas` int64 [1, L] that `given` bool [1, L] leaves open, in place; yields a Frame before the
    first step and one after each. `trace` takes note of the steps.

    They are reverse steps of the diffusion from alpha = 0 to 1, and some more to correct. A canvas longer than the model's
    window is done in blocks: the model sees the text before a block, and nothing after it.
    """
    noise = torch.randint(model.config.vocab_size, canvas.shape, generator=torch.Generator().manual_seed(seed))
    canvas.copy_(torch.where(given, canvas, noise))
    states = [State.GIVEN if fixed else State.NOISE for fixed in given[0].tolist()]
    blocks = cut(states, model.config.window)
    shares = split_steps([states[begin:end].count(State.NOISE) for begin, end in blocks], steps)
    step, total = 0, sum(shares)
    yield Frame(0, total, canvas[0].tolist(), states)

    for (begin, end), share in zip(blocks, shares, strict=True):
        first = max(0, end - model.config.window)
        for alpha_t, alpha_s in schedule(share):
            with torch.no_grad():
                logits = model(canvas[:, first:end])
            # The law of a network trained by cross-entropy counts the present token as evidence. To cool the evidence too would
            # make every token stay, so the temperature comes after it was taken out.
            result = dlm.uniform_step_(
                canvas, logits, alpha_t=alpha_t, alpha_s=alpha_s, prediction="denoiser", tempered="after",
                temperature=temperature, seed=seed, step=step, start=first, window=(begin, end), frozen=given, trace=trace,
            )  # fmt: skip
            step += 1
            states = follow(states, first, result.route[0].tolist())
            yield Frame(step, total, canvas[0].tolist(), states)


def schedule(steps: int) -> list[tuple[Level, Level]]:
    """(level before, level after) of each of `steps` steps."""
    even = steps - steps // TAIL
    levels = [linear(1 - i / even) for i in range(even + 1)]
    return list(zip(levels, levels[1:], strict=False)) + [(linear(1 - SURE), linear(0.0))] * (steps - even)


def follow(states: list[State], first: int, route: list[int]) -> list[State]:
    """The states after a step, whose rows begin at position `first`. What the model writes is another token, always."""
    states = [State.KEPT if state in (State.COMMITTED, State.REWRITTEN) else state for state in states]
    for i, taken in enumerate(route, start=first):
        if taken == NOISE:
            states[i] = State.NOISE
        elif taken == MODEL:
            states[i] = State.COMMITTED if states[i] is State.NOISE else State.REWRITTEN
    return states


def cut(states: list[State], window: int) -> list[tuple[int, int]]:
    """(first, last + 1) position of each block: one for a canvas within the window, else as even as they can be."""
    if State.NOISE not in states:
        return []
    begin, length = states.index(State.NOISE), len(states)
    count = 1 if length <= window else -(-(length - begin) // BLOCK)
    edges = [begin + (length - begin) * i // count for i in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def split_steps(opened: list[int], steps: int) -> list[int]:
    """Steps of each block, by its open tokens; at least one."""
    edges = [round(steps * sum(opened[:i]) / sum(opened)) for i in range(len(opened) + 1)] if opened else []
    return [max(1, after - before) for before, after in zip(edges, edges[1:], strict=False)]
