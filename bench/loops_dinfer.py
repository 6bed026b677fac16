"""dInfer's decoders, with LLaDA's vocabulary and LLaDA2's. The original compiles the threshold decoder; here both are eager. A
random model is never sure, so that the threshold fills one token per step; of runs one or two."""

from functools import partial

import torch

from . import dinfer_client
from .loops import Built, Loop
from .small_model import LLADA_VOCAB, SmallModel, prompt

LLADA2_VOCAB, BLOCK = 157184, 16


def _build(decoder, dtype, options, vocab):
    model, tokens = SmallModel(vocab, dtype=dtype), prompt(1, BLOCK, vocab - 1)
    decoder = getattr(dinfer_client, decoder)(temperature=0.0, mask_id=vocab - 1, **options)
    return Built(lambda: dinfer_client.decoded(model, decoder, tokens, BLOCK, BLOCK)[0], model, decoder)


def _loop(name, vocab, decoder, dtype=torch.bfloat16, **options):
    build = partial(_build, decoder, dtype, options)
    return Loop(f"dInfer {name}", "dlm.accelerate(decoder)", vocab, BLOCK, BLOCK, build)


LOOPS = [
    _loop("threshold, eager", LLADA_VOCAB, "ThresholdParallelDecoder", threshold=0.99),
    _loop("threshold, eager, LLaDA2's vocabulary", LLADA2_VOCAB, "ThresholdParallelDecoder", threshold=0.99),
    _loop("hierarchy, float32", LLADA_VOCAB, "HierarchyDecoder", dtype=None, low_threshold=0.99),
]
