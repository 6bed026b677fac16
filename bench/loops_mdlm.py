"""MDLM's and ReMDM's samplers at GPT-2's vocabulary with a mask: MDLM draws in float32, ReMDM in float64. Their canvas has 1024
positions; both sides of the ratio grow with them."""

from functools import partial

from . import mdlm_client
from .loops import Built, Loop
from .small_model import SmallModel

VOCAB, LENGTH, STEPS = 50258, 256, 4


def _build(kind, options, sampling, vocab):
    network = SmallModel(vocab, dtype=None)
    model = getattr(mdlm_client, kind)(network, vocab, **sampling)
    return Built(lambda: model.sample(batch=1, length=LENGTH, steps=STEPS, **options), network, model)


def _mdlm(name, **options):
    return _loop(f"MDLM {name}", partial(_build, "Diffusion", options, {}))


def _remdm(name, **sampling):
    return _loop(f"ReMDM {name}", partial(_build, "Remasking", {}, sampling))


def _loop(name, build):
    return Loop(name, "dlm.accelerate(model)", VOCAB, LENGTH, STEPS, build, same=False)


LOOPS = [
    _mdlm("cached step"),
    _mdlm("plain step", cached=False),
    _remdm("remdm-cap", sampler="remdm-cap", eta=0.02),
    _remdm("remdm-cap, nucleus_p 0.9", sampler="remdm-cap", eta=0.02, nucleus_p=0.9),
    _remdm("remdm-conf", sampler="remdm-conf"),
]
