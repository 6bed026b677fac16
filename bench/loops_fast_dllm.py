"""Fast-dLLM's threshold decoding. A random model is never sure, so that every step fills one token."""

from functools import partial

from . import fast_dllm_client
from .loops import Built, Loop
from .small_model import LLADA_VOCAB, SmallModel, prompt

LINE = "dlm.accelerate(generate)"


def _build(loop, batch, vocab, **options):
    model, tokens, mask = SmallModel(vocab), prompt(batch, 32, vocab - 1), vocab - 1
    options = dict(steps=32, gen_length=32, block_length=32, mask_id=mask, threshold=0.9) | options
    run = lambda: getattr(fast_dllm_client, loop)(model, tokens, **options)[0]
    return Built(run, model, fast_dllm_client)


def _loop(name, loop, batch=1, rows=32, **fields):
    return Loop(name, LINE, LLADA_VOCAB, rows * batch, 32, partial(_build, loop, batch), **fields)


LOOPS = [
    _loop("Fast-dLLM threshold, dual cache", "generate_with_dual_cache", at_least=1.4),
    _loop("Fast-dLLM threshold, dual cache, 4 sequences", "generate_with_dual_cache", batch=4),
    _loop("Fast-dLLM threshold, no cache", "generate", rows=64),
]
