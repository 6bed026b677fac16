"""Duo's samplers at its vocabulary, GPT-2's with a mask, in float64 as they are by default. Its canvas has 1024 positions; both
sides of the ratio grow with them."""

from functools import partial

from .duo_client import UniformState
from .loops import Built, Loop
from .small_model import OfTokens, SmallModel

VOCAB, LENGTH, STEPS = 50258, 256, 3


def _build(sampler, vocab, **options):
    network = SmallModel(vocab, dtype=None)
    model = UniformState(OfTokens(network), vocab, **options)
    model.sampler = sampler
    return Built(lambda: model.generate_samples(1, num_steps=STEPS, length=LENGTH), network, model)


def _loop(name, sampler, **options):
    build = partial(_build, sampler, **options)
    return Loop(name, "dlm.accelerate(model)", VOCAB, LENGTH, STEPS + 1, build, same=False, at_least=3.0)


LOOPS = [
    _loop("Duo ancestral", "ancestral"),
    _loop("Duo ancestral, p_nucleus 0.9", "ancestral", p_nucleus=0.9),
    _loop("Duo Psi", "psi"),
]
