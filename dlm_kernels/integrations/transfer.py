"""What the drop-ins of the masked codebases share: ``propose``, after Fast-dLLM's ``get_transfer_index`` that several of them
have taken over (draw a token for every masked position, say which to take, leave the canvas alone), and ``drawn``, the draw
alone."""

from __future__ import annotations

import functools
import math

import torch

from .. import Threshold, TopK, denoise_step, draw_tokens
from ..arguments import FINITE_ROWS
from .seams import Unsupported

READABLE = (torch.float32, torch.float16, torch.bfloat16)
REMASKING = {"low_confidence": "prob", "random": "random"}


class Refused(Unsupported, ValueError):
    """What a drop-in does not do. Who imported it sees a ValueError; behind ``accelerate`` the client's own code runs."""


def refuse(condition, text):
    if condition:
        raise Refused(text)


def propose(
    logits, x, mask_index, rule, *, temperature, remasking="low_confidence", conf_dtype=torch.float32, **options
):
    """One step of ``rule`` over the positions of ``mask_index``, on a copy of the canvas.

    Args:
        logits: float32, float16 or bfloat16 [B, L, V]. x: int64 [B, L]. mask_index: bool [B, L].
        rule, conf_dtype and the options (demote, ...) as in ``denoise_step``; remasking "low_confidence" or "random".

    Returns the StepResult: ``tokens`` [B, L] the draws where masked, else x; ``committed`` [B, L] which to take.
    """
    refuse(remasking not in REMASKING, f"remasking: must be low_confidence or random, got {remasking}")
    check_temperature(temperature)
    return denoise_step(
        x,
        readable(logits),
        mask_id=None,  # mask_index says what is open
        frozen=~mask_index,
        rule=rule,
        temperature=temperature,
        confidence=REMASKING[remasking],
        conf_dtype=conf_dtype,
        **options,
    )


def rewinding(function):
    """``function``, which leaves torch's global generators as it found them where it says Unsupported: the client's own code
    then draws what it would have drawn. For whole loops."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        state, states = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]
        try:
            return function(*args, **kwargs)
        except Unsupported:
            torch.set_rng_state(state)
            for device, state in zip(devices, states):
                torch.cuda.set_rng_state(state, device)
            raise

    return call


def take(result):
    """(draws, which to take) of a StepResult, unless a row held NaN or nothing finite: left masked, it would keep the loops
    that wait for the last mask from ending. They wait for the device themselves right after."""
    refuse(bool(result.num_bad.any()), f"logits: {FINITE_ROWS}, got a bad one")
    return result.tokens, result.committed


def drawn(logits, temperature, **options):
    """The Draw of every row of ``logits`` [..., V]; options as in ``draw_tokens``. Refuses rows of NaN or nothing finite: what
    follows ranks them, and the codebases wait for the device there anyway."""
    check_temperature(temperature)
    rows = readable(logits).flatten(0, -2)
    draw = draw_tokens(rows, temperature=temperature, **options)
    refuse(bool(draw.bad.any()), f"logits: {FINITE_ROWS}, got a bad one")
    return draw._replace(**{name: getattr(draw, name).view(logits.shape[:-1]) for name in ("tokens", "confidence")})


def nucleus(top_p):
    """transformers' top-p as the ops take it: None or from 1 on it is off, and the first token always stays."""
    return None if top_p is None else min(max(float(top_p), 0.0), 1.0)


def readable(logits):
    """``logits`` as the ops take them."""
    refuse(logits.dtype not in READABLE, f"logits: dtype must be float32, float16 or bfloat16, got {logits.dtype}")
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def check_temperature(temperature):
    refuse(
        not (math.isfinite(temperature) and temperature >= 0),
        f"temperature: must be finite and >= 0, got {temperature}",
    )


@functools.lru_cache(maxsize=256)  # a run asks for the same one at every step
def at_least(threshold):
    """Fast-dLLM's threshold: every confidence from it up, and always the best. It may be any number."""
    refuse(math.isnan(threshold), f"threshold: must be a number, got {threshold}")
    return TopK(1) if threshold > 1 else Threshold(max(float(threshold), 0.0), strict=False)


def top_k_of(num_transfer_tokens, x):
    """TopK with one number per sequence, int64 [B] or [B, 1]; negative ones are 0."""
    refuse(num_transfer_tokens is None, "num_transfer_tokens: must be given where no threshold is, got None")
    return TopK(num_transfer_tokens.reshape(-1).to(x.device, torch.int64).clamp(min=0))


def no_grad(function):
    """As the originals are decorated, with the signature kept."""
    return functools.wraps(function)(torch.no_grad()(function))


def of_no_gradient(function):
    """Of originals that are not decorated so, and return what the logits, the first argument, could get a gradient from."""
    without = no_grad(function)

    @functools.wraps(function)
    def call(logits, *args, **kwargs):
        refuse(logits.requires_grad and torch.is_grad_enabled(), "logits: a gradient is not covered")
        return without(logits, *args, **kwargs)

    return call
