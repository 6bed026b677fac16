"""Rules: hand-written tables, and csrc/core and the reference against the rules' definitions in plain Python."""

import math

import numpy as np
import pytest
import torch
from backends import ops
from dlm_kernels.reference.confidence import round_to
from dlm_kernels.reference.decide import RULES, decide
from hypothesis import given
from hypothesis import strategies as st

NAN = math.nan  # an ineligible position: whatever it holds must not matter

# (rule, parameters, value of each position, chosen positions). The key is the value; the entropy is its negative.
TABLE = [
    # topk: the k best, ties to the lowest position, k may exceed what is there
    ("topk", dict(quota=0), [0.1, 0.9, 0.5], []),
    ("topk", dict(quota=1), [0.1, 0.9, 0.5], [1]),
    ("topk", dict(quota=2), [0.1, 0.9, 0.5], [1, 2]),
    ("topk", dict(quota=9), [0.1, 0.9, 0.5], [0, 1, 2]),
    ("topk", dict(quota=2), [0.5, 0.9, 0.5, 0.5], [0, 1]),
    ("topk", dict(quota=2), [NAN, 0.2, NAN, 0.2, 0.2], [1, 3]),
    ("topk", dict(quota=2), [0.0, -0.0, 0.0], [0, 1]),
    ("topk", dict(quota=3), [NAN, NAN], []),
    ("topk", dict(quota=3), [], []),
    # threshold: above tau, or at least so many
    ("threshold", dict(level=0.5, quota=1), [0.6, 0.4, 0.9], [0, 2]),
    ("threshold", dict(level=0.5, quota=1), [0.5, 0.4, 0.75], [2]),
    ("threshold", dict(level=0.5, quota=1, strict=False), [0.5, 0.4, 0.75], [0, 2]),
    ("threshold", dict(level=0.9, quota=1), [0.3, 0.4, 0.4], [1]),
    ("threshold", dict(level=0.9, quota=0), [0.3, 0.4, 0.4], []),
    ("threshold", dict(level=0.9, quota=2), [0.95, 0.1, 0.4], [0, 2]),
    ("threshold", dict(level=0.9, quota=2), [0.95, 0.92, 0.91], [0, 1, 2]),
    ("threshold", dict(level=0.9, quota=5), [0.95, NAN, 0.4], [0, 2]),
    ("threshold", dict(level=0.0, quota=0, strict=False), [0.0, 0.1], [0, 1]),
    ("threshold", dict(level=0.0, quota=0), [0.0, 0.1], [1]),
    ("threshold", dict(level=1.0, quota=0, strict=False), [1.0, 0.1], [0]),
    ("threshold", dict(level=1.0, quota=0), [1.0, 0.1], []),
    # tau = 0.9 is 0.8984375 in bfloat16 and 0.89999998 in float32: each value at its own tau
    ("threshold", dict(level=0.9, quota=0, strict=False, conf_dtype="bfloat16"), [0.8984375, 0.89453125], [0]),
    ("threshold", dict(level=0.9, quota=0, conf_dtype="bfloat16"), [0.8984375, 0.90234375], [1]),
    (
        "threshold",
        dict(level=0.9, quota=0, strict=False, conf_dtype="float32"),
        [float(np.float32(0.9)), 0.8984375],
        [0],
    ),
    (
        "threshold",
        dict(level=0.9, quota=0, strict=False, conf_dtype="float64"),
        [float(np.float32(0.9)), 0.9000001],
        [1],
    ),
    # factor: ranks 2, 3, 4 need 1 - f / 3, 1 - f / 4, 1 - f / 5; the first is always in
    ("factor", dict(level=1.0), [0.1], [0]),
    ("factor", dict(level=1.0), [0.1, 0.05], [0]),
    ("factor", dict(level=1.0), [0.99, 0.98, 0.3], [0, 1]),
    ("factor", dict(level=1.0), [0.7, 0.99, 0.98], [1, 2]),
    ("factor", dict(level=1.0), [0.7, 0.99, 0.7], [0, 1]),
    ("factor", dict(level=1.0, conf_dtype="float64"), [0.8, 0.99, 0.8, 0.8], [0, 1, 2, 3]),
    (
        "factor",
        dict(level=1.0),
        [0.8125, 0.99, 0.8, 0.8125],
        [0, 1, 3],
    ),  # 0.8 is less than the float32 nearest to 1 - 1 / 5
    ("factor", dict(level=1.0), [0.8, 0.99, 0.79, 0.85], [0, 1, 3]),
    ("factor", dict(level=0.0), [1.0, 1.0, 0.99], [0, 1]),
    ("factor", dict(level=100.0), [0.0, 0.0, 0.0], [0, 1, 2]),
    ("factor", dict(level=0.5, conf_dtype="float64"), [0.9, 1 - 0.5 / 3], [0, 1]),
    ("factor", dict(level=1.0), [NAN, NAN], []),
    # entropy_budget: from the lowest entropy up, while what came before is within the bound (entropy = -value)
    ("entropy_budget", dict(level=0.0), [-0.5, -0.25, -2.0], [1]),
    ("entropy_budget", dict(level=0.25), [-0.5, -0.25, -2.0], [0, 1]),
    ("entropy_budget", dict(level=0.75), [-0.5, -0.25, -2.0], [0, 1, 2]),
    ("entropy_budget", dict(level=0.7), [-0.5, -0.25, -2.0], [0, 1]),
    ("entropy_budget", dict(level=0.0), [-0.0, 0.0, -0.0, -1.0, -0.5], [0, 1, 2, 4]),
    ("entropy_budget", dict(level=0.5), [-0.5, -0.5, -0.5], [0, 1]),
    ("entropy_budget", dict(level=3.0), [NAN, -1.0, NAN, -5.0], [1, 3]),
    ("entropy_budget", dict(level=math.inf), [-7.0, -9.0], [0, 1]),
    ("entropy_budget", dict(level=1.0), [NAN], []),
]


def by_reference(rule, value, key, entropy, eligible, *, quota=0, **kwargs):
    row = lambda values, dtype: torch.tensor([values], dtype=dtype)
    eligible = row(eligible, torch.bool)
    chosen = decide(
        rule,
        eligible,
        row(value, torch.float64),
        row(key, torch.float64),
        row(entropy, torch.float64),
        quota=torch.tensor([quota]),
        **kwargs,
    )
    assert chosen.shape == eligible.shape
    return chosen[0].nonzero()[:, 0].tolist()


def by_core(core, rule, value, key, entropy, eligible, **kwargs):
    seats = [i for i, yes in enumerate(eligible) if yes]
    pick = lambda values: [values[i] for i in seats]
    chosen = core.decide(rule, pick(value), pick(key), pick(entropy), **kwargs)
    return [i for i, yes in zip(seats, chosen) if yes]


def by_definition(rule, value, key, entropy, eligible, *, quota=0, level=0.0, strict=True, conf_dtype="float32"):
    """Each rule as its documentation words it."""
    level_in = lambda v: round_to(torch.tensor(v, dtype=torch.float64), conf_dtype).item()
    seats = [i for i, yes in enumerate(eligible) if yes]
    ranked = sorted(seats, key=lambda i: (-key[i], i))
    if rule == "topk":
        return sorted(ranked[:quota])
    if rule == "threshold":
        tau = level_in(level)
        high = [i for i in seats if (value[i] > tau if strict else value[i] >= tau)]
        return high if len(high) >= quota else sorted(ranked[:quota])
    if rule == "factor":
        taken = []
        for r, i in enumerate(ranked, 1):
            if r > 1 and value[i] < level_in(1 - level / (r + 1)):
                break
            taken.append(i)
        return sorted(taken)
    taken = []
    for i in sorted(seats, key=lambda i: (entropy[i], i)):
        if sum(entropy[j] for j in taken) > level:
            break
        taken.append(i)
    return sorted(taken)


@pytest.mark.parametrize("rule, parameters, values, chosen", TABLE)
def test_table(native_core, rule, parameters, values, chosen):
    eligible = [v == v for v in values]
    entropy = [-v if v == v else v for v in values]
    inputs = (rule, values, values, entropy, eligible)
    assert by_definition(*inputs, **parameters) == chosen
    assert by_reference(*inputs, **parameters) == chosen
    assert by_core(native_core, *inputs, **parameters) == chosen


def test_table_covers_every_rule():
    assert {row[0] for row in TABLE} == set(RULES)


@st.composite
def sequences(draw):
    """Few distinct values, so that ties and values at the level abound; the key orders as the value does."""
    n = draw(st.integers(0, 14))
    steps = draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    value = [step / 8 for step in steps]
    key = [float(np.float32(-(1 - v) / max(v, 1e-3))) for v in value]
    entropy = [draw(st.sampled_from([0.0, 0.125, 0.5, 0.75])) for _ in range(n)]
    return value, key, entropy, draw(st.lists(st.booleans(), min_size=n, max_size=n))


@given(
    rule=st.sampled_from(RULES),
    inputs=sequences(),
    quota=st.integers(0, 16),
    strict=st.booleans(),
    level=st.sampled_from([0.0, 0.125, 0.5, 0.75, 0.9, 1.0, 2.0]),
    conf_dtype=st.sampled_from(["float32", "bfloat16", "float64"]),
)
def test_properties(native_core, rule, inputs, quota, strict, level, conf_dtype):
    parameters = dict(quota=quota, strict=strict, level=level, conf_dtype=conf_dtype)
    chosen = by_definition(rule, *inputs, **parameters)
    assert by_reference(rule, *inputs, **parameters) == chosen
    assert by_core(native_core, rule, *inputs, **parameters) == chosen
    eligible = inputs[3]
    assert all(eligible[i] for i in chosen)
    if rule == "factor" or rule == "entropy_budget" or quota > 0:
        assert bool(chosen) == any(eligible)  # progress: no rule stalls where something can be committed
    if rule == "topk":
        assert len(chosen) == min(quota, sum(eligible))


@given(
    rule=st.sampled_from(RULES),
    inputs=st.lists(sequences(), min_size=1, max_size=4),
    quota=st.integers(0, 5),
    level=st.sampled_from([0.0, 0.5, 0.75]),
)
def test_sequences_of_a_batch_do_not_see_each_other(rule, inputs, quota, level):
    width = max(len(one[0]) for one in inputs)
    pad = lambda values, fill: values + [fill] * (width - len(values))
    value, key, entropy, eligible = (
        torch.tensor([pad(list(one[field]), 0) for one in inputs], dtype=torch.bool if field == 3 else torch.float64)
        for field in range(4)
    )
    chosen = decide(rule, eligible, value, key, entropy, quota=torch.full((len(inputs),), quota), level=level)
    for row, one in zip(chosen, inputs):
        assert row.nonzero()[:, 0].tolist() == by_definition(rule, *one, quota=quota, level=level)


# ---- the same tables through the op --------------------------------------------------------------------------------


def logits_for(probabilities, vocab=3):
    """Rows whose argmax has the given probability, the other tokens sharing the rest: [1, n, vocab]."""
    p = torch.tensor(probabilities, dtype=torch.float64).clamp(1e-30, 1 - 1e-12)
    others = torch.log((1 - p) / (vocab - 1))
    return torch.stack([torch.log(p), *[others] * (vocab - 1)], -1)[None].float()


@pytest.mark.parametrize(
    "rule, level, quota, probabilities, chosen",
    [
        ("topk", 0.0, 2, [0.5, 0.9, 0.5, 0.5], [0, 1]),
        ("threshold", 0.5, 1, [0.6, 0.45, 0.9], [0, 2]),
        ("threshold", 0.9, 1, [0.5, 0.6, 0.6], [1]),
        ("threshold", 0.9, 2, [0.95, 0.5, 0.6], [0, 2]),
        ("factor", 1.0, 0, [0.99, 0.98, 0.4], [0, 1]),
        ("factor", 1.0, 0, [0.81, 0.99, 0.79, 0.85], [0, 1, 3]),
        ("entropy_budget", 0.0, 0, [0.6, 0.9, 0.5], [1]),
        ("entropy_budget", 0.5, 0, [0.6, 0.9, 0.5], [0, 1]),
        ("entropy_budget", 5.0, 0, [0.6, 0.9, 0.5], [0, 1, 2]),
    ],
)
def test_op_follows_the_rule(backend, rule, level, quota, probabilities, chosen):
    for dtype in (torch.float32, torch.float16):
        x = torch.full((1, len(probabilities)), 3)
        logits = logits_for(probabilities).to(dtype)
        committed = ops.denoise_step_(
            x,
            logits,
            torch.zeros(1),
            torch.zeros(1, dtype=torch.int64),
            torch.tensor(0),
            torch.tensor([quota]),
            mask_id=3,
            rule=rule,
            level=level,
        )[2]
        assert committed[0].nonzero()[:, 0].tolist() == chosen
        assert (x == 0).nonzero()[:, 1].tolist() == chosen


def test_entropy_budget_ranks_on_entropy_whatever_the_confidence(backend):
    logits = torch.stack([logits_for([0.5, 0.5], 9)[0], torch.tensor([[9.0, 9.0] + [-20.0] * 7] * 2)], 1).reshape(
        1, 4, 9
    )
    want = [1, 3]  # p = 1/2 with one rival: ln 2 = 0.69 nats, less than p = 1/2 with eight
    for confidence in ("prob", "margin", "neg_entropy", "random"):
        x = torch.full((1, 4), -1)
        ops.denoise_step_(
            x,
            logits,
            torch.zeros(1),
            torch.zeros(1, dtype=torch.int64),
            torch.tensor(0),
            torch.tensor([0]),
            mask_id=-1,
            rule="entropy_budget",
            level=0.7,
            confidence=confidence,
        )
        assert (x != -1).nonzero()[:, 1].tolist() == want
