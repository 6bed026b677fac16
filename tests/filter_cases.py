"""Filters for the property tests, and which tokens a backend may keep: all but those at the edge of top_p, where rounding
decides.

The edge: a token stays by the mass before it. A backend knows that, and the total, to ``Law.mass_error`` (helpers.py), so what
it keeps lies between what the reference keeps at p - 2 errors and at p + 2 errors.
"""

import torch
from dlm_kernels.reference.cutoff import Filters, keep

FILTERS = ("top_k", "top_p", "min_p", "filter_order", "drop_crossing", "keep_ties")


def some_filters(generator, per, vocab):
    """Keyword arguments of an op: some filters, ``per`` values of each, in some order."""
    pick = lambda choices, shape=(): choices[torch.randint(len(choices), shape, generator=generator)]
    flag = lambda: bool(pick(torch.tensor([True, False])))
    kinds = dict(
        top_k=torch.tensor([0, 1, 2, 5, 50, max(1, vocab // 3), max(1, vocab - 1), vocab + 3]),
        top_p=torch.tensor([0.0, 0.1, 0.37, 0.5, 0.9, 0.99, 0.99999, 1.0], dtype=torch.float64),
        min_p=torch.tensor([0.0, 1e-4, 0.05, 0.3, 1.0], dtype=torch.float64),
    )
    given = [flag() or flag() for _ in kinds]
    return dict(
        **{name: pick(values, (per,)) if here else None for here, (name, values) in zip(given, kinds.items())},
        filter_order="top_k_first" if flag() else "top_p_first",
        drop_crossing=flag(),
        keep_ties=flag(),
    )


def filters_of(kwargs):
    """The reference's Filters of an op's keyword arguments; None if there are none."""
    if all(kwargs.get(name) is None for name in FILTERS[:3]):
        return None
    return Filters(*(kwargs[name] for name in FILTERS))


def kept_between(z, temperature, batch, filters, error):
    """(inner, outer): ``z`` [n, V] with -inf for what may be cut off, and for what must be. ``error`` [n]: Law.mass_error."""
    top_p = filters.of(batch)[1]
    rows = torch.arange(len(batch))
    ends = []
    for shift in (-2 * error, 2 * error):
        mine = filters._replace(
            top_k=filters.of(batch)[0],
            top_p=torch.where(top_p < 1, (top_p + shift).clamp(0, 1), 1.0),
            min_p=filters.of(batch)[2],
        )
        ends.append(keep(z, temperature, rows, mine))
    return ends


def upto(z, token):
    """bool [n, V]: the tokens that come no later than ``token`` [n] in the order of the cutoff."""
    at = z.gather(-1, token[:, None])
    return (z > at) | ((z == at) & (torch.arange(z.shape[-1]) <= token[:, None]))
