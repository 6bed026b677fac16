"""A model so small that on a CPU the sampler is most of a step: embedding, running sum, head; random, and the same each time."""

from types import SimpleNamespace

import torch

LLADA_VOCAB = 126464


class SmallModel(torch.nn.Module):
    """``model(x [B, L]).logits`` [B, L, V] of this dtype, of standard deviation 3, computed in float32 as every CPU can (None:
    left so)."""

    def __init__(self, vocab, hidden=64, dtype=torch.bfloat16, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = torch.randn(vocab, hidden, generator=generator)
        self.head = 3 * hidden**-0.5 * torch.randn(hidden, vocab, generator=generator)
        self.place = torch.randn(4096, hidden, generator=generator)
        self.dtype, self.device = dtype, torch.device("cpu")

    def forward(self, x, attention_mask=None):
        around = self.embed[x].cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None] ** 0.5
        hidden = torch.nn.functional.normalize(around + self.place[: x.shape[1]], dim=-1) * self.head.shape[0] ** 0.5
        logits = hidden @ self.head
        return SimpleNamespace(logits=logits if self.dtype is None else logits.to(self.dtype))


class OfTokens(torch.nn.Module):
    """``network(x [B, L], whatever else)``: the logits themselves."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, *args):
        return self.network(x).logits


def prompt(batch, length, below, seed=1):
    return torch.randint(below, (batch, length), generator=torch.Generator().manual_seed(seed))
