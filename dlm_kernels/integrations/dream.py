"""Dream's sampler, with its name and signature (``generation_utils.py`` of huggingface.co/Dream-org; Fast-dLLM and ZHZisZZ/dllm
have copies of it).

    model = AutoModel.from_pretrained("Dream-org/Dream-v0-Instruct-7B", trust_remote_code=True)
    dlm.accelerate(model)                       # ``sample_tokens`` in the module of model.diffusion_generate

One read of the logits, or little more with filters, replaces the division, up to two sorts, the softmax and
multinomial. ``diffusion_generate`` stays Dream's own, and so do its hooks, schedule, ``alg`` and ``alg_temp``.

At temperature 0 the same tokens and, in the dtype of the logits, the same confidences, up to near ties of rounding.
At temperature > 0 tokens follow the same law, from keyed noise whose seed torch's global generator draws. What differs:

- The law at temperature > 0 is that of the logits as they are; with 16-bit logits the original divides, sums up
  and draws in 16 bits, which moves its probabilities by several percent.
- The entropy is exact. The original takes log(p + 1e-10), at most 1e-10 nats per token of the vocabulary away. In 16 bits
  its terms are rounded, and so is the order of its ranking: at temperature 0 that is not covered, nor is the margin
  there with filters. ``compat=False`` takes exact values rounded once.
- Of equal logits at the edge of top-p the lowest indices stay; the original leaves that to an unstable sort.
- Rows with NaN are an error, behind ``accelerate`` the original's own business: with one of them it takes the argmax
  of all rows.
"""

from __future__ import annotations

import sys
import types

import torch

from .. import row_stats
from .seams import has_parameters, step_seams
from .transfer import drawn, nucleus, of_no_gradient, refuse

__all__ = ["sample_tokens"]


@of_no_gradient
def sample_tokens(
    logits,
    temperature=0.0,
    top_p=None,
    top_k=None,
    margin_confidence=False,
    neg_entropy=False,
    *,
    compat=True,
):
    """Draw a token from softmax(logits / temperature), filtered by top-p and then top-k, and score it under that law.

    Args:
        logits: float32, float16 or bfloat16 [N, V], or any leading dimensions without ``margin_confidence``.
        temperature: at least 0. 0 takes the argmax; the law that scores it, and the filters, are then those at 1.
        top_p: keep the most probable tokens of this mass, the one that crosses it included; None or >= 1 is off.
        top_k: keep so many, and all that tie with the last; at least 1, None is off.
        margin_confidence: score by the gap to the second best.
        neg_entropy: score by the negative entropy, which goes first.
        compat: refuse what the original rounds in a way that is not reproduced, see the module.

    Returns (confidence [N] in the dtype of the logits, tokens int64 [N]).

    ValueError: a bad temperature or top_k, NaN in a row, logits that a gradient is wanted of, and what ``compat`` refuses.
    """
    refuse(top_k is not None and not top_k >= 1, f"top_k: must be >= 1 or None, got {top_k}")
    top_p, filtered = nucleus(top_p), (top_p is not None and top_p < 1) or top_k is not None
    kind = "neg_entropy" if neg_entropy else "margin" if margin_confidence else "prob"
    refuse(kind == "margin" and logits.dim() != 2, f"logits: must be [N, V] for margins, got {list(logits.shape)}")
    rounded = compat and temperature == 0 and logits.dtype != torch.float32
    if rounded and kind == "margin" and not filtered:
        return _rounded_margin(logits)
    refuse(
        rounded and kind != "prob", f"logits: the original ranks on {kind} in rounded terms of {str(logits.dtype)[6:]}"
    )
    draw = drawn(
        logits,
        temperature,
        top_p=top_p,
        top_k=top_k,
        filter_order="top_p_first",
        top_k_ties="all",
        confidence=kind,
        confidence_from="sampled",
    )
    return draw.confidence.to(logits.dtype), draw.tokens


def _rounded_margin(logits):
    """The gap between the two largest probabilities, each rounded to the dtype of the logits."""
    stats = row_stats(logits)
    refuse(bool(stats.bad.any()), "logits: must hold a finite value and no NaN or +inf in every row")
    best = 1 / (1 + stats.rest)
    second = best * torch.exp(stats.second - stats.max)
    return best.to(logits.dtype) - second.to(logits.dtype), stats.argmax


# ---- accelerate ----------------------------------------------------------------------------------------------------


def seams_of(module):
    """The seam of a module that has a copy of ``sample_tokens``."""
    return step_seams(module, (sample_tokens, "filters, draws and scores"))


def has_sample_tokens(module):
    names = ("logits", "temperature", "top_p", "top_k", "margin_confidence", "neg_entropy")
    return has_parameters(getattr(module, "sample_tokens", None), *names)


def _home(obj):
    """The module that diffusion_generate looks ``sample_tokens`` up in."""
    if isinstance(obj, types.ModuleType):
        return obj
    return sys.modules.get(getattr(getattr(obj, "diffusion_generate", None), "__module__", None))


class _Model:
    name = "Dream model, or its generation_utils module"

    def matches(self, obj):
        return has_sample_tokens(_home(obj))

    def seams(self, obj):
        return seams_of(_home(obj))


ADAPTERS = (_Model(),)
