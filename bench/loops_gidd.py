"""GIDD's sampler at GPT-2's vocabulary with a mask, its step not compiled (the original compiles it by default), and the model
on the hub, with a vocabulary of its own."""

from functools import partial

from . import gidd_client
from .loops import Built, Loop
from .small_model import OfTokens, SmallModel

VOCAB, LENGTH, STEPS = 50258, 256, 4
HUB_VOCAB, BLOCK = 131072, 128


def _build(options, vocab):
    network = SmallModel(vocab, dtype=None)
    tokenizer = gidd_client.Tokenizer(vocab, mask_token_id=vocab - 1)
    noise = gidd_client.HybridDiffusion(tokenizer, p_uniform=0.2)
    sampler = gidd_client.GiddSampler(OfTokens(network), tokenizer, noise, compile_step=False, **options)
    return Built(lambda: sampler.generate(1, STEPS, LENGTH), network, sampler)


def _build_hub(options, vocab):
    network = SmallModel(vocab, dtype=None)
    model = gidd_client.GiddForDiffusionLM(OfTokens(network), vocab)
    return Built(lambda: model.generate(batch=1, block=BLOCK, steps=STEPS, **options), network, model)


def _loop(name, build, vocab=VOCAB, rows=LENGTH, line="dlm.accelerate(pipe)"):
    return Loop(f"GIDD {name}", line, vocab, rows, STEPS, build, same=False)


def _hub(name, **options):
    return _loop(f"hub model, {name}", partial(_build_hub, options), HUB_VOCAB, BLOCK, "dlm.accelerate(model)")


LOOPS = [
    _loop("denoising, eager", partial(_build, {})),
    _loop("denoising, min_p 0.01, eager", partial(_build, dict(min_p=0.01))),
    _hub("ancestral"),
    _hub("ancestral top-p 0.9", top_p=0.9),
    _hub("adaptive T=0.7", sampling_method="adaptive", temperature=0.7),
]
