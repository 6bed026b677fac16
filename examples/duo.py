"""Duo's samplers with our steps: a random model in the shape of Duo's, no downloads.  Run: python examples/duo.py

With Duo itself, after ``model = algo.DUO_BASE.load_from_checkpoint(...)`` and before ``model.generate_samples(...)``:

    dlm_kernels.accelerate(model)
"""

import time

import torch
from dlm_kernels.bench.duo_client import UniformState  # stands for Duo's own algo.DUO_BASE

import dlm_kernels as dlm

VOCAB = 5000
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Embedding(VOCAB, 64), torch.nn.Linear(64, VOCAB))
model = UniformState(lambda x, labels: 3 * network(x), VOCAB)


def sample(sampler):
    model.sampler, begin = sampler, time.perf_counter()
    tokens = model.generate_samples(2, num_steps=16, length=64)
    return tokens, time.perf_counter() - begin


before = {sampler: sample(sampler)[1] for sampler in ("ancestral", "psi")}
dlm.accelerate(model)  # <- the line that changes
for sampler, seconds in before.items():
    tokens, now = sample(sampler)
    print(f"{sampler}: {tokens.shape[0]} x {tokens.shape[1]} tokens in {now:.2f} s, {seconds:.2f} s before")
print(dlm.explain(model))
