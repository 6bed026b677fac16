"""remask_: the mirror of topk_unmask_, against its definition in plain Python, on every backend."""

import math

import pytest
import torch
from backends import ops
from dlm_kernels.reference import geometry
from helpers import assert_equal, clone, places_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import step_cases
from uniform_cases import a_trace, copied
from uniform_checks import check_trace

import dlm_kernels as dlm
from dlm_kernels import reference

NAMES = ("remasked", "num_remasked", "num_open", "num_bad")
SCORES = (-math.inf, -0.5, 0.0, 0.25, 0.25, 0.5, 1.0, math.inf, math.nan)


def build(case, dtype, below):
    """(x, args, kwargs) of remask_ over the canvas, rows and flags of a StepCase, with heavy ties and a past."""
    x, args, kwargs = case.build()
    g = torch.Generator().manual_seed(case.seed + 1)
    shape = args[0].shape[:-1]
    confidence = torch.tensor(SCORES)[torch.randint(len(SCORES), shape, generator=g)].to(dtype)
    if case.strided:
        confidence = torch.stack([confidence, torch.zeros_like(confidence)], -1)[..., 0]
    keep = ("mask_id", "window_start", "window_stop", "frozen", "start", "rows")
    kwargs = {name: kwargs[name] for name in keep} | dict(below=below, step=args[3]) | a_trace(g, x, case.vocab)
    return x, (confidence, args[4]), kwargs


def by_definition(x, confidence, quota, kwargs):
    """Sequence by sequence, position by position: which rows are remasked, and the counts."""
    places = places_of(x, confidence[..., None], kwargs["start"], kwargs["rows"])
    edges = kwargs["window_start"], kwargs["window_stop"], kwargs["frozen"]
    rows = geometry.candidate_rows(x, places, None, *edges).flatten().nonzero()[:, 0].tolist()
    batch, position = places.batch.flatten().tolist(), places.position.flatten().tolist()
    score = confidence.double().flatten().tolist()
    remasked, counts = [False] * len(score), []
    for b in range(x.shape[0]):
        mine = [r for r in rows if batch[r] == b]
        filled = [r for r in mine if x[b, position[r]] != kwargs["mask_id"]]
        ranked = sorted((r for r in filled if score[r] < kwargs["below"]), key=lambda r: (score[r], position[r]))
        gone = ranked[: quota.expand(x.shape[0])[b]]
        for r in gone:
            remasked[r] = True
        bad = [r for r in filled if math.isnan(score[r])]
        counts.append([len(gone), len(mine) - len(filled) + len(gone), len(bad)])
    return remasked, torch.tensor(counts, dtype=torch.int64).reshape(-1, 3)


@given(
    case=step_cases(vocab=9),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    below=st.sampled_from([math.inf, 0.5, 0.25, -0.5, -math.inf]),
)
def test_remask(backend, case, dtype, below):
    call = build(case, dtype, below)
    x, (confidence, quota), kwargs = call
    remasked, counts = by_definition(x, confidence, quota, kwargs)
    remasked = torch.tensor(remasked, dtype=torch.bool).reshape(confidence.shape)
    places = places_of(x, confidence[..., None], kwargs["start"], kwargs["rows"])
    index = remasked.nonzero(as_tuple=True)
    canvas = clone(x)
    canvas[places.batch[index], places.position[index]] = kwargs["mask_id"]
    for implementation in (ops, reference):
        mine = copied(call)
        got = implementation.remask_(mine[0], *mine[1], **mine[2])
        assert_equal("x", mine[0], canvas)
        assert_equal("remasked", got[0], remasked)
        for i, name in enumerate(NAMES[1:]):
            assert_equal(name, got[i + 1], counts[:, i])
        before = x[places.batch[index], places.position[index]].long()
        nothing = torch.full_like(before, -1)
        check_trace(
            (x, (), kwargs),
            mine,
            places.batch[index],
            places.position[index],
            before=before,
            after=torch.full_like(before, kwargs["mask_id"]),
            by_noise=torch.ones_like(before, dtype=torch.bool),
            committed=nothing,
            gain=torch.zeros(len(before), dtype=torch.float64),
        )


@pytest.mark.parametrize("length", [600, 4200])
def test_long_sequences(backend, length):
    """Too long to be sorted in shared memory; heavy ties go to the lowest position."""
    g = torch.Generator().manual_seed(0)
    confidence = torch.randint(0, 50, (2, length), generator=g).float() / 50
    for k in (0, 7, length // 3, length + 9):
        x = torch.randint(0, 9, (2, length), generator=g)
        want = torch.zeros(2, length, dtype=torch.bool).scatter(1, confidence.sort(stable=True).indices[:, :k], True)
        canvas = torch.where(want, -1, x)
        assert_equal("remasked", ops.remask_(x, confidence, torch.tensor([k]), mask_id=-1, below=math.inf)[0], want)
        assert_equal("x", x, canvas)


def test_undoes_an_unmasking(backend):
    """The k that were written last and least sure of are open again; then the two ops are inverse."""
    g = torch.Generator().manual_seed(3)
    x, tokens = torch.full((3, 40), 99), torch.randint(0, 50, (3, 40), generator=g)
    confidence = torch.randperm(120, generator=g).reshape(3, 40).float()
    first = ops.topk_unmask_(x, tokens, confidence, torch.tensor([12]), mask_id=99)[0]
    before = x.clone()
    second = ops.topk_unmask_(x, tokens, confidence, torch.tensor([5]), mask_id=99)[0]
    undone, _, num_open, _ = ops.remask_(x, confidence, torch.tensor([5]), mask_id=99, below=math.inf)
    assert_equal("remasked", undone, second)
    assert_equal("x", x, before)
    assert not (first & second).any() and num_open.tolist() == [28] * 3


def test_python_step_and_its_functional_twin():
    x = torch.tensor([[7, 7, 99, 7, 7]])
    confidence = torch.tensor([[0.9, 0.2, 0.0, 0.1, math.inf]])
    out = dlm.remask(x, confidence, 2, mask_id=99, below=0.15)
    assert out.remasked.tolist() == [[False, False, False, True, False]] and x[0, 3] == 7
    trace = dlm.RevisionTrace(1, 5, mode="full", mask_id=99)
    again = dlm.remask_(x, confidence, 3, mask_id=99, window=(1, 4), step=4, trace=trace)
    assert again.x is x and x.tolist() == [[7, 99, 99, 99, 7]]
    assert (again.num_remasked.item(), again.num_open.item(), again.num_bad.item()) == (2, 3, 0)
    assert trace.summary()["noise_flips"] == 2 and trace.summary()["model_flips"] == 0
    (entry,) = trace.history
    assert entry.by_noise.tolist() == [[False, True, False, True, False]] and bool((entry.committed == -1).all())


def test_check_names_the_first_bad_position():
    x, confidence = torch.tensor([[9, 1, 2], [3, 9, 4]]), torch.zeros(2, 3)
    confidence[0, 0] = confidence[1, 1] = math.nan  # of masks: nobody asks
    assert dlm.remask_(x.clone(), confidence, 1, mask_id=9, check=True).num_bad.tolist() == [0, 0]
    confidence[1, 2] = math.nan
    before = x.clone()
    rule = r"^confidence: must not be NaN at a filled position, got a bad one at \(b, i\) = \(1, 2\)$"
    with pytest.raises(ValueError, match=rule):
        dlm.remask_(x, confidence, 1, mask_id=9, check=True)
    assert_equal("x", x, before)
    assert dlm.remask_(x, confidence, 9, mask_id=9).num_bad.tolist() == [0, 1]
