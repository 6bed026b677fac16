"""Fast-dLLM's threshold decoding with our selector: a toy model, no downloads.  Run: python examples/fast_dllm.py

In Fast-dLLM's own folder one line does it for all its loops, with and without cache:

    import generate, dlm_kernels
    dlm_kernels.accelerate(generate)
"""

import torch

from dlm_kernels.integrations.fast_dllm import get_transfer_index  # <- the line that changes

VOCAB, MASK = 5000, 4999


def decode(model, prompt, gen_length, threshold):
    """Fill the masks, at every step all that the model is sure of and at least one. Returns (tokens, model calls)."""
    x = torch.cat([prompt, torch.full((len(prompt), gen_length), MASK)], dim=1)
    calls = 0
    while (masks := x == MASK).any():
        x0, chosen = get_transfer_index(model(x), 0.0, "low_confidence", masks, x, None, threshold)
        x[chosen], calls = x0[chosen], calls + 1
    return x, calls


class Model(torch.nn.Module):
    """Surer of a position the more of the canvas before it is filled."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(VOCAB, 64, padding_idx=MASK), torch.nn.Linear(64, VOCAB)

    def forward(self, x):
        return self.head(self.embed(x).cumsum(dim=1))


torch.manual_seed(0)
model, prompt = Model(), torch.randint(MASK, (2, 8))
with torch.no_grad():
    for threshold in (1.0, 0.5, 0.2):
        x, calls = decode(model, prompt, 24, threshold)
        print(f"threshold {threshold}: {2 * 24} tokens in {calls} steps, the first {x[0, 8:14].tolist()}")
