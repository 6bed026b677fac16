"""LLaDA2.0's and 2.1's sampler, with its names and signatures (``modeling_llada2_moe.py`` of huggingface.co/inclusionAI).

    model = AutoModelForCausalLM.from_pretrained("inclusionAI/LLaDA2.0-mini", trust_remote_code=True)
    dlm.accelerate(model)                       # its ``_sample_with_temperature_topk_topp``

One read of the logits, or little more with filters, replaces the division, top-k, sort, softmax and multinomial.
``generate`` stays the model's own: blocks, thresholds, editing, early stop.

At temperature 0 the same tokens and confidences up to near ties: LLaDA2.0 takes the argmax of float32 probabilities, in
which logits may tie that differ in their last digits. At temperature > 0 tokens follow the same law, from keyed noise whose seed
torch's global generator draws. Rows with NaN are an error, behind ``accelerate`` the original's own business. 16-bit
logits, which its forward does not give, are not covered at temperature 0: there the argmax of probabilities is another.
"""

from __future__ import annotations

import torch

from .. import quotas
from .seams import has_parameters, step_seams
from .transfer import drawn, nucleus, of_no_gradient, refuse

__all__ = ["get_num_transfer_tokens", "sample_with_temperature_topk_topp"]


@of_no_gradient
def sample_with_temperature_topk_topp(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Draw a token from softmax(logits / temperature), filtered by top-k and then top-p, and score it under that law.

    Args:
        logits: float32 [..., V]; float16 and bfloat16 at temperature > 0.
        temperature: at least 0. 0 takes the argmax and its probability at temperature 1, without filters.
        top_k: keep so many, and all that tie with the last; None or <= 0 is off.
        top_p: keep the most probable tokens of this mass, the one that crosses it included; None or >= 1 is off.

    Returns (tokens int64 [...], p(token) [...] in the dtype of the logits).

    ValueError: a bad temperature, top_k above V, NaN in a row, logits that a gradient is wanted of.
    """
    if temperature == 0:
        refuse(logits.dtype != torch.float32, f"logits: dtype must be float32 at temperature 0, got {logits.dtype}")
        top_k = top_p = None
    top_k = max(top_k or 0, 0)
    refuse(top_k > logits.shape[-1], f"top_k: must be at most the vocabulary's {logits.shape[-1]}, got {top_k}")
    draw = drawn(logits, temperature, top_k=top_k, top_p=nucleus(top_p), top_k_ties="all", confidence_from="sampled")
    return draw.tokens, draw.confidence.to(logits.dtype)


def get_num_transfer_tokens(block_length, steps):
    """How many tokens to fill at each step of a block: int64 [steps], as even as can be, larger ones first; [0] for no steps."""
    return torch.tensor(quotas.even(block_length, steps) if steps else [], dtype=torch.int64)


def _sample_with_temperature_topk_topp(self, logits, temperature=1.0, top_k=0, top_p=1.0):
    return sample_with_temperature_topk_topp(logits, temperature, top_k, top_p)


class _Model:
    name = "LLaDA2 model"

    def matches(self, obj):
        method = getattr(type(obj), "_sample_with_temperature_topk_topp", None)
        return has_parameters(method, "logits", "temperature", "top_k", "top_p")

    def seams(self, obj):
        return step_seams(obj, (_sample_with_temperature_topk_topp, "filters, draws and scores the tokens of a block"))


ADAPTERS = (_Model(),)
