"""What the toy clients of the uniform family share: a network that knows nothing but tokens, and how their draws are judged."""

import torch
from scipy.stats import poisson
from transition_laws import assert_frequencies

VOCAB = 7


class Network(torch.nn.Module):
    """Logits [B, L, V] from each token, and the class of its sequence, by a table. Counts its calls."""

    def __init__(self, vocab=VOCAB, classes=3, seed=0, scale=1.5, dtype=torch.float32):
        super().__init__()
        table = torch.randn(classes, vocab, vocab, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("table", (scale * table).to(dtype))
        self.calls = 0

    def forward(self, x, cond=None):
        self.calls += 1
        cond = torch.zeros(len(x), dtype=torch.int64) if cond is None else cond
        return self.table[cond[:, None], x]


def canvas(batch=2, length=60_000, vocab=VOCAB, seed=1):
    """int64 [batch, length]: 120,000 positions, whose draws under one token's logits are draws of one law."""
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def assert_drawn(before, after, posterior):
    """``after`` [B, L] was drawn from ``posterior`` [B, L, V], which depends on the sequence and the token ``before`` alone."""
    assert after.dtype == before.dtype and after.shape == before.shape
    for b in range(len(before)):
        for token in before[b].unique():
            here = before[b] == token
            law = posterior[b][here][0].double().clamp(min=0)
            law, counts = law / law.sum(), torch.bincount(after[b][here], minlength=len(law))
            rare = law * counts.sum() < 5  # too few for chi-squared
            assert bool((counts[law == 0] == 0).all()), (counts, law)
            assert poisson.sf(counts[rare].sum() - 1, law[rare].sum() * len(before[b][here])) > 1e-5, (counts, law)
            assert_frequencies(counts[~rare], law[~rare])
