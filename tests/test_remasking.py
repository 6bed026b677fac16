"""WINO, P2 and dInfer's remasking as their authors have them, told again in plain Python, against the steps."""

import math
import re

import pytest
import torch
from helpers import assert_equal
from strategies import make_logits

import dlm_kernels as dlm
from dlm_kernels import remasking

MASK, VOCAB = 50, 50


def canvas(seed, open_share, size=3, length=24):
    """(x, logits): filled positions hold likely tokens, half of the time the likeliest."""
    g = torch.Generator().manual_seed(seed)
    logits = make_logits(g, "normal", (size, length, VOCAB))
    likely = torch.rand(size, length, generator=g) < 0.5
    x = torch.where(likely, logits.argmax(-1), torch.randint(0, VOCAB, (size, length), generator=g))
    x = torch.where(torch.rand(size, length, generator=g) < open_share, MASK, x)
    return x, logits, g


def assert_step(out, x, want):
    """The canvas, and the accounts that follow from it."""
    assert_equal("x", out.x, want)
    held, now = x == MASK, want == MASK
    assert_equal("num_open", out.num_open, now.sum(-1))
    assert_equal("remasked", out.remasked, now & ~held)
    assert not (out.committed & out.remasked).any()
    assert_equal("what was filled", out.committed & held, held & ~now)
    assert_equal("counts", out.num_committed, out.committed.sum(-1))
    assert_equal("counts of masks", out.num_remasked, out.remasked.sum(-1))


# ---- WINO ----------------------------------------------------------------------------------------------------------


def wino(x, logits, shadow, last_accept, threshold, threshold_back):
    """decoding_wino's step of one sequence: the block, and how many were accepted."""
    p, back = logits.double().softmax(-1), shadow.double().softmax(-1)
    confidence, best = p.max(-1)
    masks = [i for i in range(len(x)) if x[i] == MASK]
    filled = [i for i in range(len(x)) if x[i] != MASK]
    max_accept = min(max(int(torch.tensor(len(masks)) * 0.7), 5), 20)
    ranked = sorted(masks, key=lambda i: -confidence[i])
    accept = [i for i in ranked if confidence[i] > threshold][:max_accept] or ranked[:1]
    new = x.clone()
    for i in accept:
        new[i] = best[i]
    if len(accept) > 1:
        doubtful = sorted((i for i in filled if back[i, x[i]] < threshold_back), key=lambda i: back[i, x[i]])
        if len(doubtful) >= last_accept:
            doubtful = doubtful[: last_accept - 1]
        new[doubtful] = MASK
    return new, len(accept)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold, length", [(0.6, 24), (0.1, 24), (0.1, 60), (0.999, 24)])
def test_wino(seed, threshold, length):
    x, logits, g = canvas(seed, 0.5 if seed % 2 else 0.9, length=length)
    shadow = make_logits(g, "normal", logits.shape) + 4 * torch.nn.functional.one_hot(x.clamp(max=VOCAB - 1), VOCAB)
    accepted = torch.tensor([30, 3, 1])
    told = [wino(x[b], logits[b], shadow[b], int(accepted[b]), threshold, 0.7) for b in range(3)]
    before = x.clone()
    out = remasking.wino_step_(x, logits, shadow, accepted, mask_id=MASK, threshold=threshold, shadow_threshold=0.7)
    assert_step(out, before, torch.stack([new for new, _ in told]))
    assert accepted.tolist() == [n for _, n in told]


def test_wino_leaves_finished_sequences():
    x, logits, _ = canvas(1, 0.0)
    accepted, before = torch.tensor([4, 5, 6]), x.clone()
    out = remasking.wino_step_(x, logits, -logits, accepted, mask_id=MASK, shadow_threshold=1.0)
    assert_step(out, before, before)
    assert accepted.tolist() == [4, 5, 6]


# ---- P2 ------------------------------------------------------------------------------------------------------------


def p2(x, logits, kappa, eta, prompt):
    """p2_sampling's update of one sequence, greedy; what is held is scored by its own log-probability."""
    logp = logits.double().log_softmax(-1)
    best = logp.argmax(-1)
    movable = [i for i in range(len(x)) if not prompt[i]]
    masks = {i for i in movable if x[i] == MASK}
    score = {i: float(logp[i, best[i]]) if i in masks else eta * float(logp[i, x[i]]) for i in movable}
    to_mask = sorted(movable, key=lambda i: (score[i], i))[: int(torch.tensor(len(movable)).float() * (1 - kappa))]
    new = x.clone()
    for i in masks:
        new[i] = best[i]
    new[to_mask] = MASK
    return new


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kappa", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize("eta", [1.0, 2.5, 0.5, 0.0])
def test_p2(seed, kappa, eta):
    x, logits, _ = canvas(seed, 0.6)
    prompt = torch.arange(24) < 5
    frozen = prompt.expand(3, 24).clone()
    want = torch.stack([p2(x[b], logits[b], kappa, eta, prompt) for b in range(3)])
    out = remasking.p2_step_(x, logits, mask_id=MASK, kappa=kappa, eta=eta, frozen=frozen)
    assert_equal("x", out.x, want)
    assert_equal("num_open", out.num_open, (want == MASK)[:, 5:].sum(-1))
    if 0 < kappa < 1 and eta >= 1:
        assert out.num_remasked.any()


def test_p2_runs_to_the_end():
    """With kappa rising to 1 per sequence, a canvas of masks is full at the end, and some tokens were taken back."""
    g = torch.Generator().manual_seed(2)
    base, x = make_logits(g, "normal", (2, 20, VOCAB)), torch.full((2, 20), MASK)
    trace = dlm.RevisionTrace(2, 20, mask_id=MASK)
    for step in range(10):
        logits = base + torch.randn(base.shape, generator=g)
        kappa = torch.tensor([step + 1.0, min(step + 2.0, 10.0)]) / 10
        out = remasking.p2_step_(
            x, logits, mask_id=MASK, kappa=kappa, temperature=1.0, seed=step, step=step, trace=trace
        )
        assert_equal("num_open", out.num_open, (20 * (1 - kappa)).long())
    summary = trace.summary()
    assert not (x == MASK).any() and summary["noise_flips"] > 0
    assert summary["model_flips"] == 40 + summary["noise_flips"]


# ---- dInfer --------------------------------------------------------------------------------------------------------


def dinfer_remask(x, logits, threshold, low_threshold, remask_threshold):
    """get_transfer_index_hierarchy_remask and the write after it, of one sequence, greedy."""
    p, best = logits.softmax(-1).max(-1)
    masks = [i for i in range(len(x)) if x[i] == MASK]
    low = [i for i in range(len(x)) if x[i] != MASK and p[i] < remask_threshold]
    again = sorted(masks + low)
    runs = []
    for i in again:
        runs.append([]) if not runs or runs[-1][-1] != i - 1 else None
        runs[-1].append(i)
    chosen = {max(run, key=lambda i: p[i]) for run in runs}
    if low_threshold is not None:
        chosen = {i for i in chosen if p[i] > low_threshold}
    if threshold is not None:
        chosen |= {i for i in again if p[i] > threshold}
    rest = sorted((i for i in again if i not in chosen), key=lambda i: -p[i])
    chosen |= set(rest[: max(0, len(low) + 1 - len(chosen))])
    new = x.clone()
    for i in again:
        new[i] = best[i] if i in chosen else MASK
    return new


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold, low_threshold", [(None, None), (0.8, None), (0.5, 0.3), (None, 0.9)])
def test_dinfer_remask(seed, threshold, low_threshold):
    x, logits, _ = canvas(seed, 0.3)
    before = x.clone()
    want = torch.stack([dinfer_remask(x[b], logits[b], threshold, low_threshold, 0.4) for b in range(3)])
    how = dict(threshold=threshold, low_threshold=low_threshold)
    trace = dlm.RevisionTrace(3, 24, mask_id=MASK)
    out = remasking.dinfer_remask_step_(x, logits, mask_id=MASK, **how, trace=trace)
    assert_step(out, before, want)
    assert out.remasked.any() and (out.committed & (before != MASK)).any()
    assert trace.summary()["noise_flips"] == out.num_remasked.sum()


def test_best_of_runs():
    flags = torch.tensor([[1, 1, 1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0]]).bool()
    value = torch.tensor([[1.0, 3.0, 3.0, 9.0, 2.0, 2.0, 9.0, 9.0, 0.0]] * 2)
    assert remasking._best_of_runs(flags, value).int().tolist() == [[0, 1, 0, 0, 1, 0, 0, 0, 1], [0] * 9]


# ---- all of them ---------------------------------------------------------------------------------------------------

STEPS = {
    "wino": lambda x, z, **how: remasking.wino_step_(x, z, z, torch.full((len(x),), 30), mask_id=MASK, **how),
    "p2": lambda x, z, **how: remasking.p2_step_(x, z, mask_id=MASK, kappa=0.5, **how),
    "dinfer": lambda x, z, **how: remasking.dinfer_remask_step_(x, z, mask_id=MASK, **how),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_window_start_and_canvas_dtype(step):
    """A block in the middle of a canvas is that block alone; what is outside, or frozen, stays."""
    x, logits, _ = canvas(7, 0.5)
    frozen = torch.rand(3, 24, generator=torch.Generator().manual_seed(1)) < 0.2
    alone = x.clone()
    want = step(alone, logits, frozen=frozen)
    whole = torch.full((3, 40), MASK, dtype=torch.int32)
    whole[:, 8:32] = x
    wide = torch.ones(3, 40, dtype=torch.bool)
    wide[:, 8:32] = frozen
    got = step(whole, logits, frozen=wide, start=8, window=(8, 32))
    assert_equal("x", whole[:, 8:32].long(), alone)
    assert bool((whole[:, :8] == MASK).all()) and bool((whole[:, 32:] == MASK).all())
    for name, mine, theirs in zip(got._fields[:-1], got, want):
        assert_equal(name, mine.to(theirs.dtype), theirs)
    assert_equal("frozen", alone[frozen], x[frozen])


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_bad_rows_are_left_alone(step):
    x, logits, _ = canvas(9, 0.5)
    logits[0, :8, 3], logits[1, 8:, :] = math.nan, -math.inf
    before = x.clone()
    out = step(x, logits)
    bad = torch.zeros(3, 24, dtype=torch.bool)
    bad[0, :8], bad[1, 8:] = True, True
    assert not out.committed[bad].any() and out.num_bad.sum() > 0
    opened = bad & (before == MASK)
    assert bool((x[opened] == MASK).all())


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_draws_are_keyed_per_sequence(step):
    """Equal sequences with seeds of their own take different draws; the same seed repeats."""
    logits = torch.zeros(1, 30, VOCAB).expand(2, 30, VOCAB).contiguous()
    runs = [
        step(torch.full((2, 30), MASK), logits, temperature=1.0, seed=torch.tensor([3, 4]), step=5).tokens for _ in "ab"
    ]
    assert_equal("again", *runs)
    assert (runs[0][0] == runs[0][1]).float().mean() < 0.3
    fresh = step(torch.full((2, 30), MASK), logits, temperature=1.0).tokens
    assert (fresh[0] == fresh[1]).float().mean() < 0.3


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_arguments_of_the_draw_are_row_shaped(step):
    """uniform [B, W] and uncond_logits [B, W, V], as in every step; "change" knows what the positions hold."""
    x, logits, g = canvas(5, 0.5)
    other = make_logits(g, "normal", logits.shape)
    uniform = torch.rand(3, 24, generator=g, dtype=torch.float64)
    guided = other + 2.5 * (logits - other)
    runs = [
        step(x.clone(), z, temperature=0.7, uniform=uniform, top_k=torch.tensor([3, 0, 9]), **more)
        for z, more in ((guided, {}), (logits, dict(uncond_logits=other, cfg_scale=1.5)))
    ]
    for field in ("tokens", "confidence", "num_committed"):  # WINO's shadow logits are not guided
        assert_equal(field, getattr(runs[1], field), getattr(runs[0], field))
    drawn = runs[0].confidence > -math.inf
    want = dlm.draw_tokens(guided, temperature=0.7, uniform=uniform, top_k=torch.tensor([3, 0, 9])).tokens
    assert_equal("tokens", runs[0].tokens[drawn], want[drawn])
    change = step(x.clone(), logits, confidence="change")
    same = (change.confidence > -math.inf) & (logits.argmax(-1) == x)
    assert bool((change.confidence[same] == 0).all())


def test_p2_weighs_what_is_held_under_the_same_law():
    """Guidance, and what is suppressed, hold for tokens on the canvas too."""
    x, logits, g = canvas(6, 0.3)
    other = make_logits(g, "normal", logits.shape)
    plain = remasking.p2_step(x, other + 2.5 * (logits - other), mask_id=MASK, kappa=0.6)
    guided = remasking.p2_step(x, logits, mask_id=MASK, kappa=0.6, uncond_logits=other, cfg_scale=1.5)
    assert_equal("x", guided.x, plain.x)
    unwanted = int(x[0][x[0] != MASK].mode().values)
    out = remasking.p2_step(x, logits, mask_id=MASK, kappa=0.5, suppress=[unwanted])
    assert out.num_remasked[0] > 0 and not (out.x[0] == unwanted).any()


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("size, length, width", [(0, 4, 4), (2, 0, 0), (2, 4, 0), (0, 0, 0)])
def test_nothing_to_do(step, size, length, width):
    out = step(torch.full((size, length), MASK), torch.zeros(size, width, VOCAB))
    assert out.tokens.shape == (size, width) and out.num_committed.tolist() == [0] * size


@pytest.mark.parametrize("name", STEPS)
def test_a_copy(name):
    x, logits, _ = canvas(4, 0.5)
    before, accepted = x.clone(), torch.full((3,), 30)
    how = dict(mask_id=MASK, **({"kappa": 0.5} if name == "p2" else {}))
    more = (logits, accepted) if name == "wino" else ()
    full = {"dinfer": "dinfer_remask"}.get(name, name)
    out = getattr(remasking, f"{full}_step")(x, logits, *more, **how)
    assert_equal("x", x, before)
    want = STEPS[name](x, logits)
    for field, mine, theirs in zip(want._fields, out, want):
        assert_equal(field, mine, theirs)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_check_names_the_position(step):
    x, logits, _ = canvas(8, 1.0, length=20)
    logits[1, 4, 7], before = math.nan, torch.full((3, 30), MASK)
    whole = before.clone()
    text = r"^logits: must hold a finite value .* got a bad one at \(b, i\) = \(1, 9\)$"
    with pytest.raises(ValueError, match=text):
        step(whole, logits, start=5, check=True)
    assert_equal("x", whole, before)


BAD_OF_ALL = [
    (dict(start=4), "start: must be in [0, 0] (L - W), got 4"),
    (dict(start=torch.zeros(4).long()), "start: shape must be [1] or [3], got [4]"),
    (dict(window=(0, 99)), "window: must be -1 or in [0, 24], got 99"),
    (dict(frozen=torch.zeros(3, 23).bool()), "frozen: shape must be [3, 24], got [3, 23]"),
    (dict(frozen=torch.zeros(3, 24)), "frozen: dtype must be bool, got float32"),
    (dict(uniform=torch.rand(3, 23).double()), "uniform: shape must be [3, 24], got [3, 23]"),
    (dict(uncond_logits=torch.zeros(3, 24, 9)), "uncond_logits: shape must be [3, 24, 50], got [3, 24, 9]"),
    (dict(rows=None), "rows: must not be given to a remasking step, got None"),
    (dict(shift=-1), "shift: must not be given to a remasking step, got -1"),
    (dict(temperature=-1.0), "temperature: must be finite and >= 0, got -1"),
    (dict(top_p=2), "top_p: must be in [0, 1], got 2"),
    (dict(trace=3), "trace: must be a RevisionTrace, got int"),
    (dict(mask_id=2**31), "mask_id: must fit in int32 as x, got 2147483648"),
    (dict(logits=torch.zeros(3, 25, VOCAB)), "logits: dimension 1 must be at most 24 as in x, got 25"),
    (dict(logits=torch.zeros(2, 24, VOCAB)), "logits: dimension 0 must be 3 as in x, got 2"),
]
BAD_OF_ONE = [
    ("wino_step_", dict(threshold=math.nan), "threshold: must not be NaN, got nan"),
    ("wino_step_", dict(shadow_threshold=math.nan), "shadow_threshold: must not be NaN, got nan"),
    (
        "wino_step_",
        dict(shadow_logits=torch.zeros(3, 24, 9)),
        "shadow_logits: shape must be [3, 24, 50], got [3, 24, 9]",
    ),
    (
        "wino_step_",
        dict(shadow_logits=torch.zeros(3, 24, VOCAB).double()),
        "shadow_logits: dtype must be float32, float16 or bfloat16, got float64",
    ),
    ("wino_step_", dict(accepted=30), "accepted: must be a torch.Tensor, got int"),
    ("wino_step_", dict(accepted=torch.ones(3)), "accepted: dtype must be int64, got float32"),
    ("wino_step_", dict(accepted=torch.tensor([30])), "accepted: shape must be [3], got [1]"),
    (
        "wino_step_",
        dict(accepted=torch.tensor([30]).expand(3)),
        "accepted: must not overlap itself, got strides [0]",
    ),
    ("p2_step_", dict(kappa=1.5), "kappa: must be in [0, 1], got 1.5"),
    ("p2_step_", dict(kappa=torch.tensor([0.5, math.nan, 1.0])), "kappa: must be in [0, 1], got nan"),
    ("p2_step_", dict(kappa=torch.tensor([0.5, 0.5])), "kappa: shape must be [1] or [3], got [2]"),
    ("p2_step_", dict(kappa=torch.tensor([1])), "kappa: dtype must be a float dtype, got torch.int64"),
    ("p2_step_", dict(eta=-1.0), "eta: must be finite and >= 0, got -1.0"),
    ("p2_step_", dict(eta=math.inf), "eta: must be finite and >= 0, got inf"),
    ("dinfer_remask_step_", dict(threshold=math.nan), "threshold: must not be NaN, got nan"),
    ("dinfer_remask_step_", dict(low_threshold=math.nan), "low_threshold: must not be NaN, got nan"),
    ("dinfer_remask_step_", dict(remask_threshold=math.nan), "remask_threshold: must not be NaN, got nan"),
]
ALL = ("wino_step_", "p2_step_", "dinfer_remask_step_")


@pytest.mark.parametrize("name, spoilt, text", [(name, *bad) for bad in BAD_OF_ALL for name in ALL] + BAD_OF_ONE)
def test_bad_arguments(name, spoilt, text):
    """Nothing is written: neither the canvas nor what the step carries over."""
    x, logits, _ = canvas(3, 0.5)
    how = dict(x=x.int(), logits=logits, mask_id=MASK)
    if name == "wino_step_":
        how.update(shadow_logits=logits, accepted=torch.full((3,), 30))
    if name == "p2_step_":
        how.update(kappa=0.5)
    how.update(spoilt)
    before = {k: v.clone() for k, v in how.items() if k in ("x", "accepted") and isinstance(v, torch.Tensor)}
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        getattr(remasking, name)(**how)
    for k, v in before.items():
        assert_equal(k, how[k], v)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"^logits: must be 3-dimensional, \[B, W, V\], got \[4, 9\]$"):
        remasking.p2_step_(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(4, 9), mask_id=MASK, kappa=0.5)
    with pytest.raises(TypeError, match="^x: must be a torch.Tensor, got list$"):
        remasking.p2_step_([[1]], torch.zeros(1, 4, 9), mask_id=MASK, kappa=0.5)
