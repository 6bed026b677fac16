"""Uniform diffusion: start from random tokens, which any step may rewrite, and end by overwriting what the model doubts."""

from collections.abc import Iterator

import torch
from torch import Tensor

import dlm_kernels as dlm

from .frame import Frame, State
from .model import Denoiser

# Of a canvas longer than the model's window. Shorter blocks read worse: the model is not told the noise level, it
# reads that off the noisy tokens, of which there have to be enough.
BLOCK = 64

# One step in TAIL is left for the end, and overwrites DOUBTS tokens. There is little to do by then.
TAIL, DOUBTS = 10, 4

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

    Most are reverse steps of the diffusion from alpha = 0 to 1. The last ones give the model's first choice to the tokens
    that gain most by it. A canvas longer than the model's window is done in blocks: the model sees the text before a block,
    and nothing after it.
    """
    noise = torch.randint(model.config.vocab_size, canvas.shape, generator=torch.Generator().manual_seed(seed))
    canvas.copy_(torch.where(given, canvas, noise))
    states = [State.GIVEN if fixed else State.NOISE for fixed in given[0].tolist()]
    blocks = cut(states, model.config.window)
    shares = split_steps([states[begin:end].count(State.NOISE) for begin, end in blocks], steps)
    step, total = 0, sum(shares)
    yield Frame(0, total, canvas[0].tolist(), states)

    for (begin, end), share in zip(blocks, shares, strict=True):
        first, bridges = max(0, end - model.config.window), share - share // TAIL
        levels = [dlm.schedules.linear(1 - i / bridges) for i in range(bridges + 1)]
        for i in range(share):
            before = canvas[0].tolist()
            with torch.no_grad():
                logits = model(canvas[:, first:end])
            here = {"seed": seed, "step": step, "start": first, "window": (begin, end), "frozen": given, "trace": trace}
            if i < bridges:
                # The law of a network trained by cross-entropy counts the present token as evidence. To cool the evidence too
                # would make every token stay, so the temperature comes after it was taken out.
                result = dlm.uniform_step_(
                    canvas, logits, alpha_t=levels[i], alpha_s=levels[i + 1], prediction="denoiser", tempered="after",
                    temperature=temperature, **here,
                )  # fmt: skip
                route = result.route[0]
            else:
                rule = dlm.TopK(DOUBTS)
                result = dlm.denoise_step_(canvas, logits, mask_id=None, rule=rule, confidence="gain", **here)
                route = result.committed[0].long()
            step += 1
            states = follow(states, first, before, canvas[0].tolist(), route.tolist())
            yield Frame(step, total, canvas[0].tolist(), states)


def follow(states: list[State], first: int, before: list[int], now: list[int], route: list[int]) -> list[State]:
    """The states after a step that led the tokens `before` to `now`; its rows begin at position `first`."""
    states = [State.KEPT if state in (State.COMMITTED, State.REWRITTEN) else state for state in states]
    for i, taken in enumerate(route, start=first):
        if taken == NOISE:
            states[i] = State.NOISE
        elif taken == MODEL and states[i] is State.NOISE:
            states[i] = State.COMMITTED
        elif taken == MODEL and before[i] != now[i]:
            states[i] = State.REWRITTEN
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
