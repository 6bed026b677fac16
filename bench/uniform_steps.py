"""Our steps of the uniform family, and what every provider's steps of it return. Numbers of the schedule: schedule.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from . import schedule
from .inputs import Inputs

ENTROPY_BOUND, STABLE_STEPS, CONFIDENT = 0.1, 1, 0.005  # DiffusionGemma's


class Moved(NamedTuple):
    """What a step of the family returns, all `[B, L]` but done `[B]`: the tokens that the canvas now holds; p(x_t) under the
    law of the draw, the gain (select_step), or the entropy (renoise_step); the rest of renoise_step only."""

    tokens: torch.Tensor
    confidence: torch.Tensor | None = None
    argmax: torch.Tensor | None = None
    accepted: torch.Tensor | None = None
    done: torch.Tensor | None = None


Step = Callable[..., Moved]


def ours(inputs: Inputs, **numbers) -> Step:
    """`numbers`: seed, and temperature and step where the op has logits, if these are to be tensors."""
    case = inputs.case
    numbers = {"seed": case.seed, **({"temperature": case.temperature} if case.has_logits else {}), **numbers}
    return {
        "uniform_step": _our_uniform,
        "transition_step": _our_transition,
        "renoise_step": _our_renoise,
        "select_step": _our_select,
        "q_sample": _our_q_sample,
    }[case.op](inputs, numbers)


def _our_uniform(inputs: Inputs, numbers: dict) -> Step:
    import dlm_kernels as dlm

    case = inputs.case
    t, s = schedule.sumi(case)

    def step(x: torch.Tensor, uniform=None) -> Moved:
        out = dlm.uniform_step_(
            x,
            inputs.logits,
            alpha_t=t.alpha,
            alpha_s=s.alpha,
            uniform=uniform,
            **numbers,
        )
        return Moved(out.tokens, out.p_current)

    return step


def _our_transition(inputs: Inputs, numbers: dict) -> Step:
    import dlm_kernels as dlm

    case = inputs.case
    if case.model == "gidd":
        transition = dlm.transitions.gidd(*schedule.times(case), schedule.P_UNIFORM)
    else:
        transition = dlm.transitions.duo_psi(*schedule.duo(case), schedule.KAPPA)

    def step(x: torch.Tensor, uniform=None) -> Moved:
        out = dlm.transition_step_(
            x,
            inputs.logits,
            transition=transition,
            mask_id=inputs.mask_id,
            uniform=uniform,
            **numbers,
        )
        return Moved(out.tokens, out.p_current)

    return step


def _our_renoise(inputs: Inputs, numbers: dict) -> Step:
    import dlm_kernels as dlm

    state = dlm.RenoiseState.start(inputs.canvas)

    def step(x: torch.Tensor, uniform=None) -> Moved:
        # The second step of a run, every time: a few hundred bytes.
        state.argmax.copy_(inputs.clean)
        state.unchanged.zero_()
        state.done.zero_()
        out = dlm.renoise_step_(
            x,
            inputs.logits,
            state=state,
            entropy_bound=ENTROPY_BOUND,
            stability_threshold=STABLE_STEPS,
            confidence_threshold=CONFIDENT,
            uniform=uniform,
            **numbers,
        )
        return Moved(out.tokens, out.entropy, out.argmax, out.accepted, out.done.clone())

    return step


def _our_select(inputs: Inputs, numbers: dict) -> Step:
    import dlm_kernels as dlm

    case, rule = inputs.case, dlm.TopK(inputs.case.k)

    def step(x: torch.Tensor, uniform=None) -> Moved:
        out = dlm.denoise_step_(
            x,
            inputs.logits,
            mask_id=None,
            rule=rule,
            confidence=case.confidence,
            uniform=uniform,
            **numbers,
        )
        return Moved(out.tokens, out.confidence)

    return step


def _our_q_sample(inputs: Inputs, numbers: dict) -> Step:
    import dlm_kernels as dlm

    case = inputs.case
    level, share = schedule.noised(case)

    def step(x: torch.Tensor, uniform=None) -> Moved:
        x_t = dlm.q_sample(
            x,
            level,
            vocab_size=case.vocab,
            mask_id=inputs.mask_id,
            uniform_share=share,
            uniform=uniform,
            **numbers,
        )
        return Moved(x_t)

    return step


# -- what several peers do alike


def random_numbers(x: torch.Tensor, count: int, uniform: torch.Tensor | None) -> torch.Tensor:
    """The given numbers, or fresh ones: fp64 `[B, L, count]`."""
    if uniform is not None:
        return uniform
    return torch.rand((*x.shape, count), dtype=torch.float64, device=x.device)


def tempered(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """fp32 z / T."""
    z = logits.float()
    return z if temperature == 1 else z / temperature


def accept(entropy: torch.Tensor) -> torch.Tensor:
    """From the lowest entropy up, while those before sum to at most the bound."""
    ordered, order = entropy.sort(-1)
    chosen = ordered.cumsum(-1) - ordered <= ENTROPY_BOUND
    return torch.zeros_like(chosen).scatter(-1, order, chosen)


def is_stable(inputs: Inputs, argmax: torch.Tensor) -> torch.Tensor:
    """Whether the argmax is that of the last STABLE_STEPS = 1 steps."""
    return (argmax == inputs.clean).all(-1)
