"""Toy models for the LLaDA tests, and the chi-squared test of their samples."""

from types import SimpleNamespace

import torch
from scipy.stats import chisquare

EOS, EOT, VOCAB = 3, 5, 11
IN_VOCAB, OUTSIDE = VOCAB - 1, VOCAB + 4  # two places for the mask token


class Toy:
    """Logits that depend on the whole canvas by an integer hash: the same bits in every batch and for every slice."""

    def __init__(self, seed=0, vocab=VOCAB, dtype=torch.float32, scale=2.0):
        generator = torch.Generator().manual_seed(seed)
        self.table = (scale * torch.randn(1009, vocab, generator=generator)).to(dtype)
        self.calls = []

    def logits(self, x, attention_mask=None):
        seen = x + 1 if attention_mask is None else (x + 1) * attention_mask
        position = torch.arange(x.shape[1])
        context = (seen * (2 * position + 3)).sum(dim=1, keepdim=True)
        return self.table[(97 * context + 61 * position + 7 * x) % len(self.table)]

    def answer(self, x, attention_mask, keep=0):
        self.calls.append(SimpleNamespace(batch=len(x), keep=keep, canvas=x.clone()))
        kept = slice(-keep, None) if isinstance(keep, int) else keep
        return SimpleNamespace(logits=self.logits(x, attention_mask)[:, kept])

    def forward(self, x, attention_mask=None):
        return self.answer(x, attention_mask)

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


class Keeping(Toy):
    """The transformers convention: the last n positions, or the positions in a tensor."""

    def forward(self, x, attention_mask=None, logits_to_keep=0):
        return self.answer(x, attention_mask, logits_to_keep)


class KeepingLast(Toy):
    def forward(self, x, attention_mask=None, logits_to_keep: int = 0):
        return self.answer(x, attention_mask, logits_to_keep)


class Fixed:
    """Hands out the very same tensor at every call, whatever the canvas."""

    def __init__(self, logits):
        self.fixed = logits

    def __call__(self, x, attention_mask=None):
        return self.fixed[: len(x), : x.shape[1]]


def assert_fits(counts, law):
    """Chi-squared, with a fixed seed: far below one false alarm in a lifetime."""
    counts, law = counts.double().flatten(), law.flatten()
    assert counts[law == 0].sum() == 0
    assert chisquare(counts[law > 0], (law / law.sum())[law > 0] * counts.sum()).pvalue > 1e-6
