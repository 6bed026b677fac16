"""Samplers of ZHZisZZ/dllm with LLaDA's vocabulary: MDLMSampler's loop is replaced as a whole, of the others their functions."""

from functools import partial
from types import SimpleNamespace

from . import dllm_client
from .loops import Built, Loop
from .small_model import LLADA_VOCAB, SmallModel, prompt

BLOCK, STEPS = 32, 8


def _build(kind, options, vocab):
    model, tokens = SmallModel(vocab), prompt(1, BLOCK, vocab - 3)
    tokenizer = SimpleNamespace(mask_token_id=vocab - 1, eos_token_id=vocab - 2, bos_token_id=vocab - 3)
    sampler = getattr(dllm_client, kind)(model, tokenizer)
    return Built(lambda: sampler.sample(tokens, steps=STEPS, **options), model, sampler)


def _mdlm(name, rows=2 * BLOCK, same=False, **options):
    options = dict(max_new_tokens=BLOCK, block_size=BLOCK) | options
    return _loop(f"MDLMSampler {name}", rows, partial(_build, "MDLMSampler", options), same)


def _blocks(name, same=False, **options):
    options = dict(length=BLOCK, block=BLOCK) | options
    return _loop(name, BLOCK, partial(_build, "BD3LMSampler", options), same)


def _loop(name, rows, build, same):
    return Loop(f"dllm {name}", "dlm.accelerate(sampler)", LLADA_VOCAB, rows, STEPS, build, same)


LOOPS = [
    _mdlm("T=0", same=True),
    _mdlm("T=1", temperature=1.0),
    _blocks("BD3LMSampler T=0", same=True),
    _blocks("BD3LMSampler T=1", temperature=1.0),
    _blocks("LLaDA2Sampler's draws T=1 top-p 0.9", kind="tokens", temperature=1.0, top_p=0.9),
]
