"""The cutoff: which tokens top-k, top-p and min-p leave of a row's law."""

import math

import pytest
import torch
from backends import is_slow, ops
from dlm_kernels.reference.cutoff import Filters, keep
from helpers import check_step
from hypothesis import given
from hypothesis import strategies as st
from strategies import StepCase, step_cases

SEED, STEP = torch.tensor([11]), torch.tensor([5])
f64 = lambda *values: torch.tensor(values, dtype=torch.float64)


def by_definition(row, temperature, top_k, top_p, min_p, filters):
    """The tokens kept, one by one and in words, with exact sums."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    weight = [math.exp((z - max(row)) / (temperature or 1.0)) for z in row]
    by_k = set(order[:top_k] if top_k else order)
    if top_k and filters.keep_ties:
        by_k |= {i for i in order if row[i] >= row[order[min(top_k, len(row)) - 1]]}
    counted = [i for i in order if filters.order == "top_p_first" or i in by_k]
    total, by_p = math.fsum(weight[i] for i in counted), set()
    for n, i in enumerate(counted):
        reached = math.fsum(weight[j] for j in counted[: n + filters.drop_crossing])
        if top_p == 1 or n == 0 or reached <= top_p * total:
            by_p.add(i)
    return {i for i in order if i in by_k and i in by_p and weight[i] >= min_p}


@given(
    row=st.lists(st.sampled_from([-math.inf, -3.0, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 100]),
    top_p=st.sampled_from([0.0, 0.237, 0.6, 0.913, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.4, 1.0]),
    order=st.sampled_from(["top_k_first", "top_p_first"]),
    drop_crossing=st.booleans(),
    keep_ties=st.booleans(),
)
def test_reference_is_the_definition(row, temperature, top_k, top_p, min_p, order, drop_crossing, keep_ties):
    if max(row) == -math.inf:
        return
    tensors = (torch.tensor([top_k]), torch.tensor([top_p]).double(), torch.tensor([min_p]).double())
    filters = Filters(*tensors, order, drop_crossing, keep_ties)
    kept = keep(torch.tensor([row]), torch.tensor([temperature]).double(), torch.tensor([0]), filters)[0]
    want = by_definition(row, temperature, top_k, tensors[1].item(), tensors[2].item(), filters)
    assert {i for i, z in enumerate(kept.tolist()) if z > -math.inf} == {i for i in want if row[i] > -math.inf}


def test_examples_of_others():
    """Probabilities .5, .3, .15, .05: transformers keeps three at p = .8, equality included; ReMDM two, and one at .79."""
    row = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double().log().float()

    def kept(top_p, **how):
        one, filters = torch.ones(1).double(), Filters(top_p=torch.tensor([top_p]).double(), **how)
        return int((keep(row, one, torch.tensor([0]), filters) > -math.inf).sum())

    assert kept(0.8 + 1e-6) == 3 and kept(0.8 - 1e-6) == 2
    assert kept(0.8 + 1e-6, drop_crossing=True) == 2 and kept(0.79, drop_crossing=True) == 1


# ---- the ops against the reference ---------------------------------------------------------------------------------


@given(case=step_cases(filtered=True))
def test_denoise_step(isa, case):
    check_step(ops, case)


@pytest.mark.parametrize("kind", ["normal", "peaked", "ties", "equal"])
def test_large_vocabulary(isa, kind):
    """Where a row has many chunks and candidates, and 16-bit logits tie by the hundred."""
    size = dict(batch=2, length=2, width=2, vocab=20_000 if is_slow(isa) else 60_000)
    case = StepCase(seed=3, kind=kind, temperature="mixed", per_request=True, filtered=True, **size)
    for seed, dtype in enumerate(["float32", "bfloat16", "float16"]):
        check_step(ops, case.but(seed=seed, dtype=dtype, confidence_from="sampled", guidance=[None, None, 0.5][seed]))
