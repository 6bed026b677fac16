"""GIDD's denoising and self-correction with our steps: a random model, no downloads.  Run: python examples/gidd.py

With GIDD itself one line does it, for a pipeline, a sampler, the model on the hub, or the module of the self-correction:

    pipe = GiddPipeline.from_pretrained(...)
    dlm_kernels.accelerate(pipe)
"""

import math
from types import SimpleNamespace

import torch

from dlm_kernels.integrations.gidd import DenoisingStep, correction_step  # <- the line that changes

VOCAB, MASK, P_UNIFORM = 2000, 3, 0.2
torch.manual_seed(0)
tokenizer = SimpleNamespace(mask_token_id=MASK)
network = torch.nn.Sequential(torch.nn.Embedding(VOCAB, 64), torch.nn.Linear(64, VOCAB))
model = lambda z, t: 3 * network(z)


class Schedule(torch.nn.Module):
    """What a step reads of diffusion_process.HybridDiffusion: B = 2 p / (1 - p) and gamma = 1, as logarithms."""

    def __init__(self):
        super().__init__()
        self.register_buffer("log_B", torch.tensor(math.log(2 * P_UNIFORM / (1 - P_UNIFORM))))
        self.register_buffer("log_gamma", torch.tensor(0.0))


step = DenoisingStep(model, Schedule(), tokenizer)
z, times = torch.full((2, 32), MASK), torch.linspace(1e-4, 1 - 1e-4, 17)[:, None]
with torch.no_grad():
    for i in range(16, 0, -1):
        z = step(z, times[i], times[i - 1])
    print(f"denoised: {z[0, :10].tolist()}")
    for _ in range(8):
        z, accuracy = correction_step(model, tokenizer, z, torch.tensor([0.01]), temp=0.1, tokens_per_step=4)
    print(f"corrected: {z[0, :10].tolist()}, {100 * accuracy:.0f} % the model's best token")
