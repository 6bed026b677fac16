"""Quotas: how many tokens each step of a run is to commit, planned before the first forward pass.

``count`` is an int, and the plan a list of ints, or int64 [B], and the plan int64 [B, steps] on the same device: step i then is
``TopK(plan[i])`` or ``TopK(plan[:, i])``, or the ``at_least`` of a threshold. A plan never asks for more than ``count``. Whose
plan is whose:

    LLaDA, Fast-dLLM, dInfer    ``even(masked positions of the block, steps)``: get_num_transfer_tokens
    LLaDA2, diffusers, vLLM     ``even(block_length, steps)``: the length of the block, whatever of it is masked
    ZHZisZZ/dllm                ``dllm(masked positions, steps, schedule)``, its ``stochastic`` too
    Dream                       ``dream(masked positions, steps, eps)``; alg "origin" is ``stochastic`` with confidence "random"
    dInfer's IterationSmooth    ``falling_threshold(i, tau)`` is no quota but the tau of step i

A quota may also follow what the model says, without a wait: Prophet, which commits all that is open once the mean gap between
the best and the second logit exceeds a level, is ``TopK(torch.where(gap > level, L, k))`` with a gap [B] out of ``row_stats``.
Remasking families plan by noise level: ``dlm_kernels.schedules`` and ``dlm_kernels.transitions``.
"""

from __future__ import annotations

import functools
import math

import torch

from .arguments import fraction, integer, number, require, require_type
from .tensors import check_values

SCHEDULES = ("linear", "cosine")


def _of_the_callers_kind(plan):
    """Lets a plan be written for counts [B]: an int in gives a list out."""

    @functools.wraps(plan)
    def wrapped(count, steps, *args, **kwargs):
        require(integer("steps", steps) >= 1, "steps", "must be >= 1", steps)
        if isinstance(count, torch.Tensor):
            require_type(count.dtype == torch.int64, "count", "dtype must be int64", str(count.dtype)[6:])
            require(count.dim() == 1, "count", "must be 1-dimensional, [B]", list(count.shape))
            check_values("count", count, count >= 0, "must be >= 0")
            return plan(count, steps, *args, **kwargs)
        require(integer("count", count) >= 0, "count", "must be >= 0", count)
        return plan(torch.tensor([count]), steps, *args, **kwargs)[0].tolist()

    return wrapped


@_of_the_callers_kind
def even(count, steps):
    """As even as can be, larger steps first: 32 in 5 is [7, 7, 6, 6, 6]."""
    count = count[:, None]
    return count // steps + (torch.arange(steps, device=count.device) < count % steps)


@_of_the_callers_kind
def dllm(count, steps, schedule="linear", *, stochastic=False, generator=None):
    """What is left times the share of it that a noise schedule clears in the step, rounded half to even, steps of nothing left
    out: ``get_num_transfer_tokens`` of github.com/ZHZisZZ/dllm.

    Args:
        count: int, or int64 [B].
        steps: of the schedule. The plan has no more columns than the longest sequence has steps that commit something, which
            waits for the device.
        schedule: "linear" or "cosine"; or alpha(t), the share of data at time t in [0, 1], from and to a float32 tensor.
        stochastic, generator: draw every step from Binomial(what is left, the share), from ``generator`` if given.

    Returns int64 [B, at most steps]; zeros come last. The arithmetic is the original's, fp32 up to the share.
    """
    shares = []
    for step in range(steps):
        t, s = (_masked((steps - step - gone) / steps, schedule) for gone in (0, 1))
        shares.append(1 - (s / t).item())
    plan = _step_by_step(count, shares, stochastic, generator, lambda left, share: (left.double() * share).round())
    plan = plan.gather(-1, (plan == 0).long().argsort(dim=-1, stable=True))
    return plan[:, : int((plan > 0).any(0).sum())]


def _masked(t, schedule):
    """1 - alpha(t), float32."""
    t = torch.tensor(t, dtype=torch.float32)
    if callable(schedule):
        return 1 - schedule(t)
    require(schedule in SCHEDULES, "schedule", "must be linear, cosine or a function", schedule)
    return 1 - (1 - t if schedule == "linear" else 1 - torch.cos((math.pi / 2) * (1 - t)))


@_of_the_callers_kind
def dream(count, steps, eps=1e-3, *, stochastic=False, generator=None):
    """int(what is left * (1 - s / t)) on the grid linspace(1, eps, steps + 1) of times, and in the last step all: Dream.

    With as many steps as tokens the first step commits nothing and the last one two. Every sequence has its own plan; Dream has
    one for the batch, of the mean of what is left, and there a sequence with fewer masks than that overwrites its prompt.
    ``stochastic``: Binomial(what is left, 1 - s / t) instead, from ``generator`` if given, as alg "origin" leaves to chance which
    positions are filled. Arithmetic in fp32 as there.
    """
    require(0 < number("eps", eps) < 1, "eps", "must be in (0, 1)", eps)
    times = torch.linspace(1, eps, steps + 1)
    shares = [*(1 - times[1:-1] / times[:-2]).tolist(), 1.0]
    return _step_by_step(count, shares, stochastic, generator, lambda left, share: left.float() * share)


def _step_by_step(count, shares, stochastic, generator, take):
    """The plan in which each step takes its share of what the steps before have left: int64 [B, steps]."""
    left, plan = count, []
    for share in shares:
        if stochastic:
            chance = torch.full(left.shape, min(max(share, 0.0), 1.0), dtype=torch.float64, device=left.device)
            taken = torch.binomial(left.double(), chance, generator=generator)
        else:
            taken = take(left, share)
        taken = torch.minimum(taken.long(), left)
        plan.append(taken)
        left = left - taken
    return torch.stack(plan, -1)


def falling_threshold(iteration, tau, decay=0.02):
    """max(1 - iteration * decay, tau): dInfer's tau of the given iteration, counted from 0 over the whole run."""
    require(integer("iteration", iteration) >= 0, "iteration", "must be >= 0", iteration)
    tau = fraction("tau", tau)
    require(number("decay", decay) >= 0, "decay", "must be >= 0", decay)
    return max(1 - iteration * decay, tau)
