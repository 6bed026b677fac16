"""A sampler of ZHZisZZ/dllm with our selector: a toy model, no downloads.  Run: python examples/dllm.py

With dllm itself one line does it for any of its samplers, MDLMSampler, BD3LMSampler and those of Fast-dLLM, Dream and LLaDA2:

    sampler = dllm.core.samplers.MDLMSampler(model=model, tokenizer=tokenizer)
    dlm_kernels.accelerate(sampler)
"""

import torch

from dlm_kernels import quotas
from dlm_kernels.integrations.dllm import _diffusion_step_block  # <- the line that changes

VOCAB, MASK, BLOCK = 3000, 2999, 16


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(VOCAB, 64, padding_idx=MASK), torch.nn.Linear(64, VOCAB)
        self.place = torch.nn.Parameter(torch.randn(256, 64))

    def forward(self, x):
        return self.head(3 * self.place[: x.shape[1]] + self.embed(x).cumsum(dim=1))


def sample(model, x, blocks, steps_per_block, temperature):
    """dllm's block diffusion: a block of masks is appended and filled along a plan, then the next."""
    for _ in range(blocks):
        block = torch.full((len(x), BLOCK), MASK)
        for count in quotas.dllm(BLOCK, steps_per_block):
            logits = model(torch.cat([x, block], dim=1))[:, x.shape[1] :]
            count = torch.full((len(x),), count)
            block = _diffusion_step_block(logits, block, block == MASK, count, temperature, "low_confidence")
        x = torch.cat([x, block], dim=1)
    return x


torch.manual_seed(0)
model, prompt = Model(), torch.randint(MASK, (2, 8))
with torch.no_grad():
    for temperature in (0.0, 0.8):
        x = sample(model, prompt, 2, 6, temperature)
        print(f"temperature {temperature}: {x[0, 8:18].tolist()} ...")
