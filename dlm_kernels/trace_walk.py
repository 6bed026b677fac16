"""The history of a revision trace in mode "full", as one walk through its committed tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Walk(NamedTuple):
    """The history of the committed tokens, on the CPU."""

    tokens: torch.Tensor  # int32 [T + 1, B, L], before every entry and after the last; -1 for none
    revision: torch.Tensor  # bool [T, B, L]
    round_trip: torch.Tensor  # bool [T, B, L]
    clock: torch.Tensor  # int64 [T], the row of the table that counted the entry


def walk(trace):
    """The ``Walk`` of a trace in mode "full"."""
    now = previous = torch.full_like(trace.positions[..., 0], -1)
    tokens, revisions, round_trips = [now], [], []
    for entry in trace.history:
        token = torch.where(entry.committed >= 0, entry.committed, now)
        revision = (now >= 0) & (token != now)
        revisions.append(revision)
        round_trips.append(revision & (token == previous))
        previous, now = torch.where(revision, now, previous), token
        tokens.append(now)
    clock = [min(max(int(entry.step), 0), len(trace.steps) - 1) for entry in trace.history]
    none = torch.zeros(0, *now.shape, dtype=torch.bool)
    stack = lambda events: torch.stack(events).cpu() if events else none
    return Walk(stack(tokens), stack(revisions), stack(round_trips), torch.tensor(clock, dtype=torch.int64))
