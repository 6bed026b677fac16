"""dInfer's parallel decoding, with its names and signatures (``decoding/parallel_strategy.py`` of github.com/inclusionAI/dInfer).

    dlm.accelerate(decoder)                     # the object given to BlockWiseDiffusionLLM and the others
    # or: from dlm_kernels.integrations.dinfer import ThresholdParallelDecoder

ThresholdParallelDecoder and HierarchyDecoder are covered. CreditThresholdParallelDecoder changes the logits by a state of their
full size, and runs as it is; FixedParallelDecoder does not run upstream.

At temperature 0 the same tokens as the original, up to near ties. One read of the masked rows replaces softmaxes of all
rows. At temperature > 0 tokens follow the same law, from keyed noise whose seed torch's global generator draws. Kept are:

- below the threshold, every position within 1e-5 of the best is filled;
- a draw that is the mask counts for nothing (ThresholdParallelDecoder);
- of a run of masks all that tie for its best are filled (HierarchyDecoder).

HierarchyDecoder here ranks 16-bit logits on exact probabilities, and takes batches. The original has log-probabilities rounded to
16 bits and probabilities of those, so that behind ``accelerate`` its own code runs where logits are not float32.

A masked row with NaN stays masked. The original fills nothing of that sequence from then on.
"""

from __future__ import annotations

import types

import torch

from .. import SegmentMax, Threshold, denoise_step
from .fast_dllm import get_transfer_index, get_transfer_index_dynamic
from .seams import Unsupported, known_parameters, method_seam, require_inherited, step_seams
from .transfer import check_temperature, no_grad, propose, readable, refuse

__all__ = ["HierarchyDecoder", "ThresholdParallelDecoder", "get_transfer_index_threshold"]

_WITHIN = 1e-5  # of the best confidence


@no_grad
def get_transfer_index_threshold(
    logits, temperature, mask_index, x, mask_id, threshold, rm_mask=True, use_float64=False, **kwargs
):
    """Draw tokens and pick those of at least this confidence, or where there are none those within 1e-5 of the best.

    Args:
        logits: float32, float16 or bfloat16 [B, L, V].
        temperature: at least 0; 0 is the argmax.
        mask_index: bool [B, L], the positions that may be filled.
        x: int64 [B, L], the canvas, not written to.
        mask_id: the mask token; a draw of it is never picked, unless ``rm_mask`` is False.
        threshold: a number.
        rm_mask: see ``mask_id``.
        use_float64: compare p(token) in float64, else in float32.
        kwargs: not read, as in the original.

    Returns (x0, transfer_index): int64 [B, L] the draws where picked from, else x; bool [B, L].

    ValueError: a bad temperature.
    """
    result = propose(
        logits,
        x,
        mask_index,
        _rule(threshold),
        temperature=temperature,
        conf_dtype=torch.float64 if use_float64 else torch.float32,
        demote=mask_id if rm_mask else None,
    )
    counts = result.committed & (result.tokens != mask_id) if rm_mask else result.committed
    return result.tokens, counts


def _rule(threshold):
    """The best is within any distance of itself, whatever the threshold: ``at_least`` is 1."""
    refuse(not threshold == threshold, f"threshold: must be a number, got {threshold}")
    return Threshold(_fraction(threshold), strict=False, within=_WITHIN)


def _decode(decoder, rule, logits, block_start, block_end, x, **options):
    """Decode the block in place: one step of ``rule`` over its masks."""
    check_temperature(decoder.temperature)
    block = x[:, block_start:block_end]
    refuse(
        logits.shape[:2] != block.shape,
        f"logits: must be [{', '.join(map(str, block.shape))}, V], got {list(logits.shape)}",
    )
    result = denoise_step(
        block, readable(logits), mask_id=decoder.mask_id, rule=rule, temperature=decoder.temperature, **options
    )
    x[:, block_start:block_end] = result.x


def _decode_by_threshold(self, logits, block_start, block_end, x, iter_threshold=None):
    """Decode the logits in a block.

    Args:
        logits: float32, float16 or bfloat16 [B, block, V].
        block_start, block_end: where the block is.
        x: int64 [B, L], or an object with such slices (TokenArray); written to.
        iter_threshold: instead of the decoder's own.
    """
    rule = _rule(self.threshold if iter_threshold is None else iter_threshold)
    conf_dtype = torch.float64 if self.use_float64 else torch.float32
    _decode(self, rule, logits, block_start, block_end, x, conf_dtype=conf_dtype, demote=self.mask_id)


def _decode_by_runs(self, logits, block_start, block_end, x, iter_threshold=None):
    """Decode the logits in a block; as ThresholdParallelDecoder.decode, and of any batch size."""
    tau = self.threshold if iter_threshold is None else iter_threshold
    low = 0.0 if self.low_threshold is None else self.low_threshold
    rule = SegmentMax(None if tau is None else _fraction(tau), _fraction(low))
    _decode(self, rule, logits, block_start, block_end, x)
    self.iter += 1


def _fraction(level):
    """A level for confidences, which are in [0, 1]."""
    return min(max(float(level), 0.0), 1.0)


def _decode_by_runs_of_float32(self, logits, block_start, block_end, x, iter_threshold=None):
    refuse(
        logits.dtype != torch.float32,
        f"logits: HierarchyDecoder ranks on probabilities of {str(logits.dtype)[6:]}, rounded twice, which is not covered",
    )
    _decode_by_runs(self, logits, block_start, block_end, x, iter_threshold)


class _Decoder:
    def __init__(self, temperature, remasking="low_confidence", mask_id=126336):
        self.temperature, self.remasking, self.mask_id = temperature, remasking, mask_id

    def block_init(self, block_x, block_id):
        """Nothing is kept between blocks."""


class ThresholdParallelDecoder(_Decoder):
    """Fills what is sure: every masked position with at least ``threshold``, and always the best.

    ``temperature`` >= 0, ``threshold`` a number, ``use_float64``: compare confidences in float64. ``remasking`` and ``eos_id``
    are not read, as in the original.
    """

    def __init__(
        self,
        temperature,
        threshold,
        remasking="low_confidence",
        mask_id=126336,
        eos_id=126081,
        use_float64=False,
    ):
        super().__init__(temperature, remasking, mask_id)
        self.threshold, self.eos_id, self.use_float64 = threshold, eos_id, use_float64

    decode = no_grad(_decode_by_threshold)


class HierarchyDecoder(_Decoder):
    """Fills the best of every run of masks if it is above ``low_threshold``, all above ``threshold``, and always the best."""

    def __init__(
        self,
        temperature,
        remasking="low_confidence",
        mask_id=126336,
        eos_id=126081,
        threshold=None,
        low_threshold=0.4,
    ):
        super().__init__(temperature, remasking, mask_id)
        self.eos_id, self.threshold, self.low_threshold, self.iter = eos_id, threshold, low_threshold, 0

    def block_init(self, block_x, block_id):
        """A new block begins."""
        self.iter = 0

    decode = no_grad(_decode_by_runs)


class _ParallelDecoder:
    name = "dInfer decoder"

    def matches(self, obj):
        return any(
            k.__name__ == "ParallelDecoder" and k.__module__.endswith("parallel_strategy") for k in type(obj).__mro__
        )

    def seams(self, obj):
        owner = next(k for k in type(obj).__mro__ if "decode" in vars(k))
        fast = _DECODE.get(owner.__name__)
        if fast is None:
            raise Unsupported(f"the decode of {owner.__name__} is not covered")
        known_parameters(owner.decode, fast)
        if hasattr(owner, "get_transfer_index"):  # of HierarchyDecoder
            require_inherited(obj, "get_transfer_index")
        yield method_seam(obj, "decode", fast, "draws tokens and fills those to commit")


class _Strategies:
    name = "dInfer parallel_strategy module"

    def matches(self, obj):
        return isinstance(obj, types.ModuleType) and hasattr(obj, "get_transfer_index_threshold")

    def seams(self, obj):
        steps = get_transfer_index_threshold, get_transfer_index, get_transfer_index_dynamic
        return step_seams(obj, *((step, "draws tokens and picks those to commit") for step in steps))


_DECODE = {"ThresholdParallelDecoder": _decode_by_threshold, "HierarchyDecoder": _decode_by_runs_of_float32}

ADAPTERS = (_ParallelDecoder(), _Strategies())
