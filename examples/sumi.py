"""Sumi's three samplers with our steps: a random model, no downloads.  Run: python examples/sumi.py

With Sumi itself, after ``model = AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)`` and before
``model.generate(...)``:

    dlm_kernels.accelerate(model)
"""

from types import SimpleNamespace

import torch

from dlm_kernels.integrations.sumi import (  # <- the line that changes, from transformers_modules...generation_sumi
    _adaptive_step,
    _ancestral_step,
    _compute_logits,
    _compute_x_hat,
    _greedy_step,
)

VOCAB, PROMPT, LENGTH, STEPS = 2000, 4, 32, 16
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Embedding(VOCAB, 64), torch.nn.Linear(64, VOCAB))
model = lambda input_ids, attention_mask, use_cache: SimpleNamespace(logits=(3 * network(input_ids)).bfloat16())
canvas = torch.randint(VOCAB, (2, LENGTH))
open_positions = (torch.arange(LENGTH) >= PROMPT).expand(2, LENGTH)
log_snrs = torch.logit(torch.linspace(1e-4, 1 - 1e-4, STEPS + 1)).clamp(-9, 9).tolist()


def generate(sampler, generator):
    z = canvas
    for t, s in zip(log_snrs, log_snrs[1:]):
        if sampler == "ancestral":
            x_hat = _compute_x_hat(model, z, None, VOCAB, temperature=0.7)
            new = torch.where(open_positions, _ancestral_step(z, x_hat, t, s, VOCAB, generator), z)
        elif sampler == "adaptive":
            new, _ = _adaptive_step(z, _compute_logits(model, z, None, VOCAB), open_positions, 2, 0.7, generator)
        else:
            new = _greedy_step(z, _compute_logits(model, z, None, VOCAB), open_positions)
        z = new
    return z


for sampler in ("ancestral", "adaptive", "greedy"):
    z = generate(sampler, torch.Generator().manual_seed(1))
    print(f"{sampler}: {(z != canvas).sum()} of {open_positions.sum()} tokens are others now: {z[0, 4:12].tolist()}")
