"""Histories to trace: random ones, and stories told token by token."""

from typing import NamedTuple

import torch
from dlm_kernels.reference import trace as reference
from hypothesis import strategies as st

from dlm_kernels.trace import RevisionTrace

A, B, C, D, E = 7, 3, 11, 0, 2**31 - 1  # tokens of a story


class Step(NamedTuple):
    """What one step did: tensors [B, L]."""

    step: int
    before: torch.Tensor
    after: torch.Tensor
    by_noise: torch.Tensor
    committed: torch.Tensor
    gain: torch.Tensor


def history_of(seed, shape, length, tokens=3, start=0, stride=1):
    """``length`` random Steps over few tokens, so that returns and round trips abound. A fifth of the positions is frozen, noise
    flips tokens, commits need not show on the canvas, and what is committed may be there already."""
    g = torch.Generator().manual_seed(seed)
    chance = lambda p: torch.rand(shape, generator=g) < p
    token = lambda: torch.randint(0, tokens, shape, generator=g)
    frozen, x, out = chance(0.2), token(), []
    for t in range(length):
        before, by_noise = x, chance(0.3)
        x = torch.where(~frozen & chance(0.5), token(), x)
        commits = ~frozen & ~by_noise & chance(0.6)
        committed = torch.where(commits, torch.where(chance(0.7), x, token()), -1)
        gain = torch.randn(shape, generator=g, dtype=torch.float64) * 3
        out.append(Step(start + t * stride, before, x, by_noise, committed, gain))
    return out


def places_of(shape):
    return [(b, p) for b in range(shape[0]) for p in range(shape[1])]


def played(history, shape, **kwargs):
    """A RevisionTrace that has seen it, as the reference ops update one."""
    trace = RevisionTrace(*shape, **kwargs)
    batch, position = torch.tensor(places_of(shape)).unbind(-1)
    for step, before, after, by_noise, committed, gain in history:
        rows = dict(before=before, after=after, by_noise=by_noise, committed=committed, gain=gain)
        rows = {name: value.flatten() for name, value in rows.items()}
        reference.record_(trace.positions, trace.steps, step, batch, position, **rows)
        trace._append(step, before, after, by_noise, committed)
    return trace


def by_core(core, history, shape, max_steps=1024):
    """(positions, steps), the positions of a step in another order."""
    positions, steps = reference.fresh(*shape, max_steps)
    for step, before, after, by_noise, committed, gain in history:
        events = torch.stack([before, after, by_noise.long(), committed], -1).reshape(-1, 4)
        places = torch.tensor(places_of(shape))
        core.record(positions, steps, step, places.flip(0), events.flip(0), gain.flatten().flip(0))
    return positions, steps


def story(*tokens, start=0):
    """The Steps of one position that commits ``tokens`` one after the other, in which "~" is a flip by noise to token 99, and -1
    a step without an event."""
    x, out = 99, []
    for t, token in enumerate(tokens):
        noise = token == "~"
        after = 99 if noise else x if token < 0 else token
        row = [[x], [after], [noise], [-1 if noise else token]]
        out.append(Step(start + t, *(torch.tensor([v]) for v in row), torch.zeros(1, 1, dtype=torch.float64)))
        x = after
    return out


shapes = st.tuples(st.integers(1, 2), st.integers(1, 4))
histories = dict(
    seed=st.integers(0, 2**31), shape=shapes, length=st.integers(0, 14), tokens=st.sampled_from([1, 2, 3, 4, 6])
)
