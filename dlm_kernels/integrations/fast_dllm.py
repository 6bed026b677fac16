"""Fast-dLLM's selectors, with its names and signatures (``llada/generate.py`` of github.com/NVlabs/Fast-dLLM).

    import generate
    dlm.accelerate(generate)                              # all of its loops, with and without cache
    # or: generate.get_transfer_index = dlm_kernels.integrations.fast_dllm.get_transfer_index

At temperature 0 the same tokens as the original, up to near ties: it ranks on softmax in float64, which is
``conf_dtype=torch.float64`` here. One read of the masked rows replaces float64 copies of all rows. Apart from speed:

- At temperature > 0 tokens follow the same law, from keyed noise whose seed torch's global generator draws.
- Ties go to the lowest position (the original leaves their order to ``torch.topk``).
- A sequence with fewer masks than its quota takes all of them. The release of June 2025 marks unmasked positions
  besides, where writing changes nothing; newer ones do not.
- ``get_transfer_index_dynamic`` accepts sequences without a mask, as newer releases do.
- A masked position whose logits hold NaN is an error, behind ``accelerate`` the original's own business: it commits
  NaN rows first.

``compat=True``, the default of ``get_transfer_index_dynamic``, keeps a slip of the original: if of the ranking only the last
position fails its bound, it is taken, too.

``generate_with_prefix_cache`` draws a token for every position of the suffix besides, and drops it. That is its own code,
and at temperature > 0 most of what remains.
"""

from __future__ import annotations

import types

import torch

from .. import Factor
from .llada import add_gumbel_noise, get_num_transfer_tokens
from .seams import has_parameters, step_seams
from .transfer import at_least, no_grad, propose, refuse, take, top_k_of

__all__ = ["add_gumbel_noise", "get_num_transfer_tokens", "get_transfer_index", "get_transfer_index_dynamic"]


@no_grad
def get_transfer_index(logits, temperature, remasking, mask_index, x, num_transfer_tokens, threshold=None):
    """Draw tokens and pick those to commit.

    Args:
        logits: float32, float16 or bfloat16 [B, L, V].
        temperature: at least 0; 0 is the argmax.
        remasking: "low_confidence" ranks on p(token) at temperature 1, "random" by chance.
        mask_index: bool [B, L], the positions that may be filled.
        x: int64 [B, L], the canvas, which is not written to.
        num_transfer_tokens: int64 [B] or [B, 1], how many to fill; not read with a threshold.
        threshold: fill all with at least this confidence, and always the best.

    Returns (x0, transfer_index): int64 [B, L] the draws where masked, else x; bool [B, L].

    ValueError: another remasking, a bad temperature, NaN in a row that is masked.
    """
    rule = top_k_of(num_transfer_tokens, x) if threshold is None else at_least(threshold)
    return take(_step(logits, temperature, remasking, mask_index, x, rule))


@no_grad
def get_transfer_index_dynamic(
    logits, temperature, remasking, mask_index, x, num_transfer_tokens, factor=1, *, compat=True
):
    """The same, picking the longest run of the ranking in which rank n >= 2 has confidence >= 1 - factor / (n + 1).

    ``num_transfer_tokens`` is not read. ``compat`` keeps the original's slip, see the module. ValueError also for factor < 0.
    """
    refuse(not factor >= 0, f"factor: must be >= 0, got {factor}")
    x0, chosen = take(_step(logits, temperature, remasking, mask_index, x, Factor(factor)))
    if compat:
        all_but_one = chosen.sum(dim=1, keepdim=True) == mask_index.sum(dim=1, keepdim=True) - 1
        chosen = torch.where(all_but_one, mask_index, chosen)
    return x0, chosen


def _step(logits, temperature, remasking, mask_index, x, rule):
    return propose(logits, x, mask_index, rule, temperature=temperature, remasking=remasking, conf_dtype=torch.float64)


class _GenerateModule:
    name = "Fast-dLLM generate module"

    def matches(self, obj):
        return (
            isinstance(obj, types.ModuleType)
            and hasattr(obj, "generate_with_prefix_cache")
            and has_parameters(getattr(obj, "get_transfer_index", None), "logits", "mask_index", "threshold")
        )

    def seams(self, obj):
        steps = get_transfer_index, get_transfer_index_dynamic
        return step_seams(obj, *((step, "draws tokens and picks those to commit") for step in steps))


ADAPTERS = (_GenerateModule(),)
