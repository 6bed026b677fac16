"""The samplers of github.com/ZHZisZZ/dllm, with their functions' names and signatures.

    sampler = dllm.core.samplers.BD3LMSampler(model=model, tokenizer=tokenizer)
    dlm.accelerate(sampler)                     # in the module of its class, for all samplers there

Which functions there are depends on the sampler:

    BD3LMSampler                        _diffusion_step_block, get_num_transfer_tokens
    FastdLLMLLaDASampler                _get_transfer_index, get_num_transfer_tokens
    DreamSampler, FastdLLMDreamSampler  sample_tokens (``dream.sample_tokens``), get_num_transfer_tokens
    LLaDA2Sampler, LLaDA21Sampler       sample_tokens (this one)
    MDLMSampler                         sample, infill (``dllm_mdlm``: they draw and rank in their own bodies)

At temperature 0 the same tokens as the originals, up to ties, which go to the lowest position; they rank on probabilities in
float32, or in the dtype of the logits (BD3LM, MDLM), of which the bfloat16 ones are rounded here, too. At temperature > 0 tokens
follow the same law, from keyed noise whose seed torch's global generator draws. Masked rows with NaN are an error, behind
``accelerate`` the originals' own business.
"""

from __future__ import annotations

import sys

import torch

from .. import Factor
from . import dllm_mdlm
from .dllm_mdlm import get_num_transfer_tokens
from .dream import has_sample_tokens
from .dream import sample_tokens as dream_sample_tokens
from .llada2 import sample_with_temperature_topk_topp
from .seams import Unsupported, class_named, step_seams
from .transfer import at_least, no_grad, propose, refuse, take, top_k_of

__all__ = ["_diffusion_step_block", "_get_transfer_index", "get_num_transfer_tokens", "sample_tokens"]


@no_grad
def _get_transfer_index(
    logits, temperature, remasking, mask_index, x, num_transfer_tokens=None, threshold=None, factor=None
):
    """Draw tokens and pick those to commit: by ``factor``, else by ``threshold``, else so many.

    Arguments, result and errors as those of ``fast_dllm.get_transfer_index`` and ``get_transfer_index_dynamic``, which rank in
    float64 where this does in float32. The factor's slip is not in this one.
    """
    if factor is not None:
        refuse(not factor >= 0, f"factor: must be >= 0, got {factor}")
        rule = Factor(factor)
    else:
        rule = top_k_of(num_transfer_tokens, x) if threshold is None else at_least(threshold)
    return take(propose(logits, x, mask_index, rule, temperature=temperature, remasking=remasking))


@no_grad
def _diffusion_step_block(logits, x_block, mask_block, num_transfer_step, temperature, remasking):
    """One step over a block: fill the ``num_transfer_step`` int64 [B] most confident masks.

    ``logits`` float32 or bfloat16 [B, L, V], ``x_block`` int64 [B, L], ``mask_block`` bool [B, L]; ``temperature`` >= 0;
    ``remasking`` "low_confidence" or "random". Returns the new block; ``x_block`` is left alone. ValueError: as above.
    """
    refuse(logits.dtype == torch.float16, "logits: dtype must be float32 or bfloat16, got torch.float16")
    conf_dtype = torch.bfloat16 if logits.dtype == torch.bfloat16 else torch.float32
    rule = top_k_of(num_transfer_step, x_block)
    result = propose(
        logits, x_block, mask_block, rule, temperature=temperature, remasking=remasking, conf_dtype=conf_dtype
    )
    take(result)
    return result.x


def sample_tokens(logits, temperature, top_k, top_p):
    """Draw a token and score it: ``llada2.sample_with_temperature_topk_topp``, but top_p <= 0 is off, and top_k any number."""
    top_k = min(top_k, logits.shape[-1]) if top_k else 0
    top_p = top_p if top_p is not None and 0 < top_p < 1 else None
    return sample_with_temperature_topk_topp(logits, temperature, top_k, top_p)


# ---- accelerate ----------------------------------------------------------------------------------------------------


class _Sampler:
    name = "dllm sampler"

    def matches(self, obj):
        return class_named(obj, "BaseSampler") is not None and hasattr(obj, "infill") and hasattr(obj, "tokenizer")

    def seams(self, obj):
        module = sys.modules[type(obj).sample.__module__]
        draws = dream_sample_tokens if has_sample_tokens(module) else sample_tokens
        steps = (
            (_get_transfer_index, "draws tokens and picks those to commit"),
            (_diffusion_step_block, "draws, ranks and fills"),
            (draws, "filters, draws and scores"),
            (get_num_transfer_tokens, "plans the steps"),
        )
        found = list(step_seams(module, *steps))
        if class_named(obj, "MDLMSampler") is not None and hasattr(module, "MDLMSamplerConfig"):
            loops = (
                (dllm_mdlm.sample, "the loop, which draws, ranks and fills"),
                (dllm_mdlm.infill, "the same for infilling"),
            )
            found += step_seams(obj, *loops)
        if not found:
            raise Unsupported(f"{type(obj).__name__} draws in its own body")
        return found


ADAPTERS = (_Sampler(),)
