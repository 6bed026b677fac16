"""vLLM 0.33: the row statistics of its DiffusionGemma sampler.

    DLM_KERNELS_ENGINE=1 vllm serve google/diffusiongemma-26B-A4B-it

``register`` is an entry point of vLLM's general plugins. It replaces ``sample_row_stats``, and what stands in for it on CPUs, in
``vllm.model_executor.models.diffusion_gemma``: argmax, a draw, entropy and the probabilities for self-conditioning, from one
read of the logits and no noise per logit. Everything after that, acceptance and stopping, is vLLM's compiled code, as before.

The draw follows the same law from keyed noise: every request of a call has a seed of its own, derived from vLLM's, and a position
its own number, where vLLM numbers the rows of the call. Rows that hold NaN, or nothing finite: token 0, entropy NaN, which vLLM
never accepts, and probabilities 0. Probabilities other than bfloat16 are left to vLLM.
"""

from __future__ import annotations

import math
import sys
import types
from importlib import import_module

import torch

from ..renoise import RenoiseState, renoise_step_
from ..seeds import fresh_seeds, request_seeds
from .accelerate import accelerate
from .engines import report, wanted
from .seams import Unsupported, function_seam, known_version

__all__ = ["ADAPTERS", "register", "sample_row_stats", "sample_row_stats_reference"]

_HOME = "vllm.model_executor.models.diffusion_gemma_sampler"
_USER = "vllm.model_executor.models.diffusion_gemma"  # imports them by name


def register():
    """Replace the functions in this process, if DLM_KERNELS_ENGINE=1. Doing it twice changes nothing."""
    if not wanted():
        return
    try:
        known_version("vLLM", import_module("vllm").__version__, "0.33")
        accelerate(import_module(_HOME))  # the model's module is heavy, and finds the new functions when it is imported
    except (ImportError, AttributeError, Unsupported) as why:
        report("vllm", (), str(why))
    else:
        report("vllm", [f"{_USER}.{name}" for name in _FUNCTIONS])


def sample_row_stats(logits, temps, canvas_len, seed, probs_dtype):
    """Argmax, draw, entropy and probabilities of every row.

    Args:
        logits: float32, float16 or bfloat16 [n canvas_len, V].
        temps: float32 [n], of the requests. 0 is greedy; entropy and probabilities are those of the limit.
        canvas_len: rows of a request.
        seed: an int.
        probs_dtype: torch.bfloat16, or None for no probabilities.

    Returns (argmax int64 [rows], sample int64 [rows], entropy float32 [rows] in nats, probs [rows, V] or None).
    """
    requests = _requests(logits, temps, canvas_len)
    return _stats(
        logits, temps, requests, request_seeds(seed, requests).to(logits.device, non_blocking=True), probs_dtype
    )


def sample_row_stats_reference(logits, temps, canvas_len, probs_dtype):
    """The same on CPUs, with a seed from torch's global generator."""
    requests = _requests(logits, temps, canvas_len)
    return _stats(logits, temps, requests, fresh_seeds(requests, logits.device), probs_dtype)


_FUNCTIONS = {"sample_row_stats": sample_row_stats, "sample_row_stats_reference": sample_row_stats_reference}


def _requests(logits, temps, canvas_len):
    if canvas_len < 1 or len(logits) != canvas_len * len(temps):
        raise Unsupported(f"{len(logits)} rows for {len(temps)} canvases of {canvas_len}")
    if logits.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise Unsupported(f"logits of {logits.dtype}")
    return len(temps)


def _stats(logits, temps, requests, seeds, probs_dtype):
    if probs_dtype not in (None, torch.bfloat16):
        raise Unsupported(f"probabilities in {probs_dtype}")
    if requests == 0:
        raise Unsupported("no rows")
    canvases = logits.unflatten(0, (requests, -1))
    x = torch.zeros(canvases.shape[:-1], dtype=torch.int64, device=logits.device)
    probs = None if probs_dtype is None else torch.zeros(canvases.shape, dtype=probs_dtype, device=logits.device)
    out = renoise_step_(
        x,
        canvases,
        entropy_bound=math.inf,  # vLLM accepts; here all draws stay
        temperature=temps.float().clamp(min=1e-10),
        seed=seeds,
        probs=probs,
        state=RenoiseState.start(x),
    )
    sample = torch.where(temps[:, None] > 0, out.tokens, out.argmax)
    entropy = torch.where(out.confidence == -torch.inf, torch.nan, out.entropy)
    return out.argmax.flatten(), sample.flatten(), entropy.flatten(), None if probs is None else probs.flatten(0, 1)


class _DiffusionGemma:
    name = "vLLM's diffusion_gemma module"

    def matches(self, obj):
        return isinstance(obj, types.ModuleType) and obj.__name__ in (_HOME, _USER)

    def seams(self, obj):
        known_version("vLLM", import_module("vllm").__version__, "0.33")
        owners = [obj]
        user = sys.modules.get(_USER)
        if user not in (None, obj) and getattr(user, "sample_row_stats", None) is obj.sample_row_stats:
            owners.append(user)
        for owner in owners:
            for name, fast in _FUNCTIONS.items():
                yield function_seam(owner, name, fast, "argmax, draw, entropy, probabilities")


ADAPTERS = (_DiffusionGemma(),)
