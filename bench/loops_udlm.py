"""UDLM's samplers at GPT-2's vocabulary with a mask, in float32 as they are by default. Guidance has two forwards, and weighs
every token of two posteriors in a second read."""

from functools import partial

import torch

from .loops import Built, Loop
from .small_model import OfTokens, SmallModel
from .udlm_client import Diffusion

VOCAB, LENGTH, STEPS = 50258, 256, 4


def _build(guided, vocab, **options):
    network = SmallModel(vocab, dtype=None)
    model = Diffusion(OfTokens(network), vocab, **options)
    model.config.sampling.steps = STEPS
    cond = torch.zeros(1, dtype=torch.int64) if guided else None
    return Built(lambda: model._diffusion_sample(1, LENGTH, cond)[0], network, model)


def _loop(name, guided=False, at_least=3.0, **options):
    build, calls = partial(_build, guided, **options), (1 + guided) * STEPS
    return Loop(name, "dlm.accelerate(model)", VOCAB, LENGTH, calls, build, same=False, at_least=at_least)


LOOPS = [
    _loop("UDLM"),
    _loop("UDLM, float64", use_float64=True),
    _loop("UDLM, classifier-free guidance", guided=True, at_least=2.0),
]
