"""UDLM's sampler with our steps: a random model in the shape of UDLM's, no downloads.  Run: python examples/udlm.py

With UDLM itself (discrete-diffusion-guidance), after ``model = diffusion.Diffusion.load_from_checkpoint(...)`` and before
``model.sample()``:

    dlm_kernels.accelerate(model)
"""

import time

import torch
from dlm_kernels.bench.udlm_client import Diffusion  # stands for UDLM's own diffusion.Diffusion

import dlm_kernels as dlm

VOCAB = 5000
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Embedding(VOCAB, 64), torch.nn.Linear(64, VOCAB))
model = Diffusion(lambda x, cond: 3 * network(x), VOCAB)


def sample(cond):
    begin = time.perf_counter()
    tokens, _ = model._diffusion_sample(2, 64, cond)
    return tokens, time.perf_counter() - begin


kinds = {"unguided": None, "guided": torch.tensor([0, 1])}
before = {kind: sample(cond)[1] for kind, cond in kinds.items()}
dlm.accelerate(model)  # <- the line that changes
for kind, cond in kinds.items():
    tokens, seconds = sample(cond)
    print(f"{kind}: {tokens.shape[0]} x {tokens.shape[1]} tokens in {seconds:.2f} s, {before[kind]:.2f} s before")
print(dlm.explain(model))
