"""Dream's sampler as a drop-in: a toy model, no downloads.  Run: python examples/dream.py

With Dream itself, and Fast-dLLM's copy of it, one line does it for ``model.diffusion_generate``:

    dlm_kernels.accelerate(model)
"""

import torch

from dlm_kernels.integrations.dream import sample_tokens  # <- the line that changes

VOCAB, MASK, LENGTH, STEPS = 3000, 2999, 24, 12


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(VOCAB, 64, padding_idx=MASK), torch.nn.Linear(64, VOCAB)
        self.place = torch.nn.Parameter(torch.randn(LENGTH, 64))

    def forward(self, x):
        return self.head(3 * self.place + self.embed(x).cumsum(dim=1))


def diffusion_generate(model, prompt, temperature, top_p):
    """Dream's loop with alg="entropy": fill the positions of least entropy."""
    x = torch.nn.functional.pad(prompt, (0, LENGTH - prompt.shape[1]), value=MASK)
    for step in range(STEPS):
        masks = x == MASK
        logits = model(x)
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        confidence, tokens = sample_tokens(logits[masks], temperature, top_p, neg_entropy=True)
        scores = torch.full(x.shape, -torch.inf).masked_scatter(masks, confidence)
        drawn = x.masked_scatter(masks, tokens)
        chosen = scores.topk(int(masks.sum()) // (STEPS - step)).indices
        x.scatter_(1, chosen, drawn.gather(1, chosen))
    return x


torch.manual_seed(0)
model, prompt = Model(), torch.randint(MASK, (1, 6))
with torch.no_grad():
    for temperature, top_p in ((0.0, None), (0.6, 0.9)):
        x = diffusion_generate(model, prompt, temperature, top_p)
        print(f"temperature {temperature}, top_p {top_p}: {x[0, 6:16].tolist()}")
