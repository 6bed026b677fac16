"""The revision trace: counters of every position and sums of every step, updated in place where tokens are written.

A position's committed token changes by moves of the model alone. Noise may take it off the canvas; when the model puts it
back, that is ``same`` and no revision. ``positions`` int32 [B, L, 8] holds four tokens and then eight counters, two to a word,
the first in the low half:

    first                           the first committed token, -1 for none, as the next three
    cur, prev, older                the last three distinct ones, newest first
    revisions, round_trips          commits of another token than cur; those of prev (A -> B -> A)
    returns, same                   revisions to a token that is remembered here; commits of cur itself
    model_flips, noise_flips        changes of the canvas, by who made them
    first_step, last_step           of the first commit; of the last revision, or the first commit without one

``steps`` int64 [S, B, 8] holds the sums of ``COLUMNS``. Its last row stands for all later steps, its first for negative ones.
"""

from typing import NamedTuple

import torch

COLUMNS = ("model_flips", "noise_flips", "first_commits", "revisions", "round_trips", "returns", "same", "gain")
LAST = 0xFFFE  # counters and steps stop here
NEVER = 0xFFFF  # first_step and last_step of a position that has not committed
GAIN_UNIT = 2.0**-20  # nats: integers add up to the same in any order


class Positions(NamedTuple):
    """The fields of ``positions``, int64 [...] each."""

    first: torch.Tensor
    cur: torch.Tensor
    prev: torch.Tensor
    older: torch.Tensor
    revisions: torch.Tensor
    round_trips: torch.Tensor
    returns: torch.Tensor
    same: torch.Tensor
    model_flips: torch.Tensor
    noise_flips: torch.Tensor
    first_step: torch.Tensor
    last_step: torch.Tensor


def fresh(batch_size, length, max_steps, device=None):
    """(positions, steps) of a run that has not begun."""
    positions = torch.full((batch_size, length, 8), -1, dtype=torch.int32, device=device)
    positions[..., 4:7] = 0
    return positions, torch.zeros(max_steps, batch_size, len(COLUMNS), dtype=torch.int64, device=device)


def unpack(words):
    """``Positions`` [...] of int32 [..., 8]."""
    halves = words[..., 4:].contiguous().view(torch.int16).long() & 0xFFFF
    return Positions(*words[..., :4].long().unbind(-1), *halves.unbind(-1))


def pack(fields):
    """int32 [..., 8] of ``Positions`` [...]: the inverse of ``unpack``."""
    halves = torch.stack(fields[4:], -1).to(torch.int16).view(torch.int32)
    return torch.cat([torch.stack(fields[:4], -1).to(torch.int32), halves], -1)


def fixed_point(nats):
    """float64 nats as int64 counts of ``GAIN_UNIT``: within +-1e6, halves away from zero, NaN as 0."""
    units = torch.where(nats.isnan(), 0.0, nats.double()).clamp(-1e6, 1e6) / GAIN_UNIT
    whole = units.trunc()
    return (whole + torch.where((units - whole).abs() >= 0.5, units.sign(), 0.0)).long()


def record_(positions, steps, step, batch, position, *, before, after, by_noise, committed, gain):
    """Enter what one step did at n different positions (``batch``, ``position`` int64 [n]), in place.

    ``step``: int, or an int tensor of one element. ``before`` and ``after`` int64 [n]: the token on the canvas. ``by_noise`` bool
    [n]: where these differ, noise or a remask did it. ``committed`` int64 [n]: the token that the step committed, whatever the
    canvas then shows, -1 for none. ``gain`` float [n]: of a revision, log p(committed) - log p(what was committed before).
    Without a trace (``positions`` None) nothing happens.
    """
    if positions is None:
        return
    step = step.reshape(1) if isinstance(step, torch.Tensor) else torch.full((1,), step, device=positions.device)
    old = unpack(positions[batch, position])

    token = committed.to(torch.int32).long()  # vocabularies end below 2^31
    commit = token >= 0
    first = commit & (old.cur < 0)
    same = commit & (token == old.cur)
    revision = commit & ~first & ~same
    round_trip = revision & (token == old.prev)
    returned = revision & ((token == old.prev) | (token == old.first) | (token == old.older))
    changed = first | revision
    model_flip, noise_flip = (before != after) & ~by_noise, (before != after) & by_noise

    add = lambda counter, event: (counter + event).clamp(max=LAST)
    now = step.clamp(0, LAST)
    new = Positions(
        first=torch.where(first, token, old.first),
        cur=torch.where(changed, token, old.cur),
        prev=torch.where(revision, old.cur, old.prev),
        older=torch.where(revision & ~round_trip, old.prev, old.older),
        revisions=add(old.revisions, revision),
        round_trips=add(old.round_trips, round_trip),
        returns=add(old.returns, returned),
        same=add(old.same, same),
        model_flips=add(old.model_flips, model_flip),
        noise_flips=add(old.noise_flips, noise_flip),
        first_step=torch.where(first, now, old.first_step),
        last_step=torch.where(changed, now, old.last_step),
    )
    positions[batch, position] = pack(new)

    gain = torch.where(revision, fixed_point(gain), 0)
    events = torch.stack([model_flip, noise_flip, first, revision, round_trip, returned, same, gain], -1)
    sums = torch.zeros_like(steps[:1]).index_add_(1, batch, events[None])
    steps.index_add_(0, step.clamp(0, steps.shape[0] - 1), sums)
