"""Sumi's generate with its three samplers and 16-bit logits, which the original makes float32."""

from functools import partial

from .loops import Built, Loop
from .small_model import OfTokens, SmallModel, prompt
from .sumi_client import SumiForDiffusionLM

VOCAB, LENGTH, STEPS = 100278, 256, 3


def _build(options, vocab):
    network = SmallModel(vocab)
    model, tokens = SumiForDiffusionLM(OfTokens(network), vocab), prompt(1, 16, vocab)
    options = dict(num_denoising_steps=STEPS, canvas_length=LENGTH) | options
    return Built(lambda: model.generate(tokens, **options).sequences, network, model)


def _loop(name, **options):
    return Loop(f"Sumi {name}", "dlm.accelerate(model)", VOCAB, LENGTH, STEPS, partial(_build, options), same=False)


LOOPS = [
    _loop("ancestral"),
    _loop("ancestral T=0.7", temperature=0.7),
    _loop("adaptive T=0.7", sampler="adaptive", temperature=0.7, tokens_per_step=4),
    _loop("greedy", sampler="greedy"),
]
