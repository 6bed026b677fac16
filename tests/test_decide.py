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
    # threshold that follows the best: dInfer's min(tau, best - within)
    ("threshold", dict(level=0.9, quota=1, low=0.125, strict=False), [0.5, 0.375, 0.25], [0, 1]),
    ("threshold", dict(level=0.9, quota=1, low=0.125), [0.5, 0.375, 0.4375], [0, 2]),
    ("threshold", dict(level=0.9, quota=1, low=0.125), [0.5, 0.95, 0.875, 0.8], [1, 2]),
    ("threshold", dict(level=0.9, quota=1, low=0.0, strict=False), [0.5, 0.5, 0.25], [0]),
    ("threshold", dict(level=0.9, quota=3, low=0.125), [0.5, 0.375, 0.4375], [0, 1, 2]),
    ("threshold", dict(level=0.9, quota=0, low=0.125), [NAN, NAN], []),
    # as dInfer in fp32: 0.5 - 1e-5 is 0.49999 (16777216 * 0.49999 rounded: 8388440.2)
    (
        "threshold",
        dict(level=0.9, quota=1, low=1e-5, strict=False),
        [0.5, 8388440 / 2**24, 8388441 / 2**24],
        [0, 1, 2],
    ),
    ("threshold", dict(level=0.9, quota=1, low=1e-5, strict=False), [0.5, 8388439 / 2**24], [0]),
    (
        "threshold",
        dict(level=0.9, quota=1, low=1e-5, strict=False, conf_dtype="float64"),
        [0.5, 0.49999, 0.4998],
        [0, 1],
    ),
    ("threshold", dict(level=0.9, quota=1, low=1e-5, strict=False, conf_dtype="bfloat16"), [0.5, 0.498046875], [0]),
    # entropy_threshold: entropies (= -value) below the bound, or the lowest so many
    ("entropy_threshold", dict(level=0.5, quota=1), [-0.5, -0.25, -2.0], [1]),
    ("entropy_threshold", dict(level=0.5, quota=1, strict=False), [-0.5, -0.25, -2.0], [0, 1]),
    ("entropy_threshold", dict(level=0.25, quota=1), [-0.5, -0.25, -0.25], [1]),
    ("entropy_threshold", dict(level=0.0, quota=0), [-0.0, -0.25], []),
    ("entropy_threshold", dict(level=0.1, quota=2), [-0.5, -0.25, -2.0], [0, 1]),
    ("entropy_threshold", dict(level=9.0, quota=1), [NAN, -0.25, -2.0], [1, 2]),
    # the budget in order of confidence: where entropy = -value the two orders are the same; test_properties has others
    ("entropy_budget_by_confidence", dict(level=0.25), [-0.5, -0.25, -2.0], [0, 1]),
    ("entropy_budget_by_confidence", dict(level=0.7), [-0.5, -0.25, -2.0], [0, 1]),
    ("entropy_budget_by_confidence", dict(level=0.0), [NAN, -3.0], [1]),
    ("entropy_budget_by_confidence", dict(level=0.0), [], []),
    # segment_max: of each run its largest values if above low, all above level, and the best
    ("segment_max", dict(level=1.0, low=0.375), [0.5, 0.25, NAN, 0.375, 0.3, NAN, 0.625], [0, 6]),
    ("segment_max", dict(level=1.0, low=0.0), [0.5, 0.25, NAN, 0.375, 0.3, NAN, 0.625], [0, 3, 6]),
    ("segment_max", dict(level=0.8, low=0.375), [0.9, 0.95, 0.85, 0.5], [0, 1, 2]),
    ("segment_max", dict(level=1.0, low=0.375), [0.5, 0.25, 0.5, 0.5], [0, 2, 3]),  # equal ones of a run: all
    ("segment_max", dict(level=1.0, low=0.5), [0.5, 0.25, NAN, 0.5], [0]),  # equal best ones: the first
    ("segment_max", dict(level=1.0, low=0.4), [0.1, 0.3, NAN, 0.2], [1]),
    ("segment_max", dict(level=0.0, low=0.9), [0.1, 0.0, 0.2], [0, 2]),
    ("segment_max", dict(level=1.0, low=0.0), [0.0, NAN, 0.0], [0]),
    ("segment_max", dict(level=1.0, low=0.4), [NAN, NAN], []),
    ("segment_max", dict(level=1.0, low=0.4), [], []),
    ("segment_max", dict(level=1.0, low=0.9, conf_dtype="bfloat16"), [0.8984375, NAN, 0.90234375], [2]),
    ("segment_max", dict(level=1.0, low=0.9, conf_dtype="bfloat16"), [0.90234375, NAN, 0.90234375], [0, 2]),
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
    chosen = core.decide(rule, seats, pick(value), pick(key), pick(entropy), **kwargs)
    return [i for i, yes in zip(seats, chosen) if yes]


def by_definition(
    rule, value, key, entropy, eligible, *, quota=0, level=0.0, low=0.0, strict=True, conf_dtype="float32"
):
    """Each rule as its documentation words it."""
    level_in = lambda v: round_to(torch.tensor(v, dtype=torch.float64), conf_dtype).item()
    seats = [i for i, yes in enumerate(eligible) if yes]
    ranked = sorted(seats, key=lambda i: (-key[i], i))
    if rule == "topk":
        return sorted(ranked[:quota])
    if rule == "threshold":
        tau = level_in(level)
        if low > 0 and seats:
            scalar = low if conf_dtype == "float64" else float(np.float32(low))
            tau = min(tau, level_in(max(value[i] for i in seats) - scalar))
        high = [i for i in seats if (value[i] > tau if strict else value[i] >= tau)]
        return high if len(high) >= quota else sorted(ranked[:quota])
    if rule == "factor":
        taken = []
        for r, i in enumerate(ranked, 1):
            if r > 1 and value[i] < level_in(1 - level / (r + 1)):
                break
            taken.append(i)
        return sorted(taken)
    if rule == "segment_max":
        chosen = set(ranked[:1]) | {i for i in seats if value[i] > level_in(level)}
        for i in seats:
            run = [i]
            while run[0] - 1 in seats:
                run.insert(0, run[0] - 1)
            while run[-1] + 1 in seats:
                run.append(run[-1] + 1)
            if value[i] == max(value[j] for j in run) and value[i] > level_in(low):
                chosen.add(i)
        return sorted(chosen)
    uncertain = sorted(seats, key=lambda i: (entropy[i], i))
    if rule == "entropy_threshold":
        high = [i for i in seats if (entropy[i] < level if strict else entropy[i] <= level)]
        return high if len(high) >= quota else sorted(uncertain[:quota])
    taken = []
    for i in uncertain if rule == "entropy_budget" else ranked:
        spent = [entropy[j] for j in [*taken, i]]
        if sum(spent) - max(spent) > level:
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
    low=st.sampled_from([0.0, 0.125, 0.375]),
    conf_dtype=st.sampled_from(["float32", "bfloat16", "float64"]),
)
def test_properties(native_core, rule, inputs, quota, strict, level, low, conf_dtype):
    parameters = dict(quota=quota, strict=strict, level=level, low=low, conf_dtype=conf_dtype)
    chosen = by_definition(rule, *inputs, **parameters)
    assert by_reference(rule, *inputs, **parameters) == chosen
    assert by_core(native_core, rule, *inputs, **parameters) == chosen
    eligible = inputs[3]
    assert all(eligible[i] for i in chosen)
    if rule in ("factor", "entropy_budget", "entropy_budget_by_confidence", "segment_max") or quota > 0:
        assert bool(chosen) == any(eligible)  # progress: no rule stalls where something can be committed
    if rule == "topk":
        assert len(chosen) == min(quota, sum(eligible))


@given(
    rule=st.sampled_from(RULES),
    inputs=st.lists(sequences(), min_size=1, max_size=4),
    quota=st.integers(0, 5),
    level=st.sampled_from([0.0, 0.5, 0.75]),
    low=st.sampled_from([0.0, 0.125]),
)
def test_sequences_of_a_batch_do_not_see_each_other(rule, inputs, quota, level, low):
    width = max(len(one[0]) for one in inputs)
    pad = lambda values, fill: values + [fill] * (width - len(values))
    value, key, entropy, eligible = (
        torch.tensor([pad(list(one[field]), 0) for one in inputs], dtype=torch.bool if field == 3 else torch.float64)
        for field in range(4)
    )
    chosen = decide(rule, eligible, value, key, entropy, quota=torch.full((len(inputs),), quota), level=level, low=low)
    for row, one in zip(chosen, inputs):
        assert row.nonzero()[:, 0].tolist() == by_definition(rule, *one, quota=quota, level=level, low=low)


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
        ("entropy_threshold", 0.5, 1, [0.6, 0.9, 0.95], [1, 2]),
        ("entropy_threshold", 0.1, 1, [0.6, 0.9, 0.5], [1]),
        ("entropy_budget_by_confidence", 0.0, 0, [0.6, 0.9, 0.5], [1]),
        ("entropy_budget_by_confidence", 5.0, 0, [0.6, 0.9, 0.5], [0, 1, 2]),
        ("segment_max", 1.0, 0, [0.5, 0.7, 0.6, 0.65], [1]),
        ("segment_max", 0.62, 0, [0.5, 0.7, 0.6, 0.65], [1, 3]),
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


def committed_by(rule, logits, x, *, mask_id=-1, **kwargs):
    """Positions that a greedy step of the rule writes."""
    before = x.clone()
    zero = torch.zeros(1, dtype=torch.int64)
    ops.denoise_step_(x, logits, torch.zeros(1), zero, zero[0], zero, mask_id=mask_id, rule=rule, **kwargs)
    return (x != before).nonzero()[:, 1].tolist()


def test_budget_by_confidence_spends_entropies_in_another_order(backend):
    """Confident and uncertain are not the same: p = 0.6 with one rival has less entropy than p = 0.7 with thirty."""
    few, many = math.log(0.4), math.log(0.3 / 30)
    logits = torch.full((1, 3, 32), -torch.inf)
    logits[0, 0, :2] = torch.tensor([math.log(0.6), few])  # 0.67 nats
    logits[0, 1, :31] = torch.tensor([math.log(0.7), *[many] * 30])  # 1.63 nats
    logits[0, 2, :2] = torch.tensor([math.log(0.65), math.log(0.35)])  # 0.65 nats
    step = lambda rule, level: committed_by(rule, logits, torch.full((1, 3), -1), level=level)
    assert step("entropy_budget", 0.1) == [2]
    assert step("entropy_budget", 0.66) == [0, 2]
    assert step("entropy_budget_by_confidence", 0.1) == [1]
    assert step("entropy_budget_by_confidence", 0.66) == [1, 2]  # 1.63 + 0.65 without 1.63
    assert step("entropy_budget_by_confidence", 1.31) == [1, 2]
    assert step("entropy_budget_by_confidence", 1.33) == [0, 1, 2]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [40, 700])
def test_segments_of_a_canvas(backend, packed, length):
    """Runs end at filled and frozen positions, at the window's edge and at bad rows; rows may come in any order."""
    g = torch.Generator().manual_seed(length)
    p = 0.3 + 0.6 * torch.rand(length, generator=g, dtype=torch.float64)
    p = (p * 64).round() / 64  # some equal neighbours
    logits = logits_for(p.tolist())
    x = torch.where(torch.rand(1, length, generator=g) < 0.3, 0, -1)
    frozen = torch.rand(1, length, generator=g) < 0.1
    logits[0, torch.rand(length, generator=g) < 0.1] = torch.nan
    window = (3, length - 2)
    seats = [i for i in range(*window) if x[0, i] == -1 and not frozen[0, i] and not bool(logits[0, i].isnan().any())]
    value = logits.softmax(-1).amax(-1)[0].tolist()
    rows = {}
    if packed:
        order = torch.randperm(length, generator=g)
        logits, rows = logits[0, order].contiguous(), dict(rows=order)
    kwargs = dict(level=0.875, low=0.5, window_start=window[0], window_stop=window[1], frozen=frozen, **rows)
    got = committed_by("segment_max", logits, x, conf_dtype="bfloat16", **kwargs)
    rounded = round_to(torch.tensor(value, dtype=torch.float64), "bfloat16").tolist()
    inputs = rounded, rounded, rounded, [i in seats for i in range(length)]
    assert got == by_definition("segment_max", *inputs, level=0.875, low=0.5, conf_dtype="bfloat16")
    assert len(got) > length // 10
