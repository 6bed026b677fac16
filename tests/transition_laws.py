"""Where the positions of a transition end, counted and compared with the law of x_s."""

import torch
from helpers import assert_equal
from scipy.stats import chisquare
from transition_cases import NO_MASK

SEED, STEP = torch.tensor([11]), torch.tensor(5)


def move_(ops, x, logits, transition, temperature=1.0, **kwargs):
    """transition_step_ as its transition wants it."""
    more = dict(tempered=transition.tempered, redraw=transition.redraw, level=transition.level, **kwargs)
    return ops.transition_step_(x, logits, torch.tensor([temperature]), SEED, STEP, transition.coefficients, **more)


def assert_frequencies(counts, law):
    """Counts [n] of independent draws from ``law`` [n], which may have zeros."""
    possible = law > 1e-12
    assert bool((counts[~possible] == 0).all()), (counts, law)
    if possible.sum() > 1:
        expected = law[possible] / law[possible].sum() * counts.sum()
        assert chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-4, (counts, expected)


def check_law(ops, x_t, logits, transition, want, n, mask_id=NO_MASK, temperature=1.0, uncond=None):
    """Many positions that hold x_t [m] under logits [m, V], one sequence for each: ``want`` [m, V] is the law of x_s."""
    x = x_t[:, None].expand(-1, n).clone()
    many = lambda z: None if z is None else z.float()[:, None].expand(-1, n, -1)
    mask = dict(mask_id=mask_id, suppress=torch.tensor([mask_id])) if mask_id != NO_MASK else {}
    tokens, route, *_ = move_(ops, x, many(logits), transition, temperature, uncond_logits=many(uncond), **mask)
    assert_equal("x", x, tokens)
    for b in range(len(x)):
        assert_frequencies(torch.bincount(tokens[b], minlength=logits.shape[-1]), want[b])
    return route
