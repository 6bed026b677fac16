"""SEDD's sampler for uniform noise at GPT-2's vocabulary. Under its autocast scores are 16-bit numbers."""

from functools import partial

import torch

from . import sedd_client
from .loops import Built, Loop
from .small_model import SmallModel

VOCAB, LENGTH, STEPS = 50257, 256, 3


class Scores(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, sigma):
        return self.network(x).logits.scatter(-1, x[..., None], 0.0)


def _build(predictor, vocab):
    network = SmallModel(vocab)
    graph, noise = sedd_client.Uniform(vocab), sedd_client.GeometricNoise()
    sample = sedd_client.get_pc_sampler(graph, noise, (1, LENGTH), predictor, STEPS)
    return Built(lambda: sample(Scores(network)), network, sedd_client)


def _loop(predictor):
    name, calls = f"SEDD uniform, {predictor}", STEPS + 1
    return Loop(name, "dlm.accelerate(sampling)", VOCAB, LENGTH, calls, partial(_build, predictor), same=False)


LOOPS = [_loop("euler"), _loop("analytic")]
