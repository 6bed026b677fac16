"""Commit: what topk_unmask_ writes and counts, against plain Python; and nothing else in the canvas changes."""

import math

import pytest
import torch
from backends import ops
from helpers import assert_equal, clone
from hypothesis import given
from hypothesis import strategies as st

from dlm_kernels import reference

SCORES = [0.0, -0.0, 0.25, 0.5, 1.0, -3.0, math.inf, -math.inf, math.nan]


def by_definition(x, tokens, confidence, quota, mask_id, window_start, window_stop, frozen, start, rows):
    """The op in plain Python: lists in, (canvas, committed, counts) out."""
    size, length = len(x), len(x[0]) if x else 0
    stop = length if window_stop == -1 else window_stop
    canvas = [list(row) for row in x]
    committed = [False] * len(tokens)
    counts = [[0, 0, 0] for _ in range(size)]
    seats = [[] for _ in range(size)]
    covered = [[] for _ in range(size)]
    for r, place in enumerate(rows):
        if place < 0:
            continue
        b, p = divmod(place, length)
        if x[b][p] != mask_id or not window_start <= p < stop or (frozen and frozen[b][p]):
            continue
        covered[b].append(p)
        if math.isnan(confidence[r]):
            counts[b][2] += 1
        elif confidence[r] != -math.inf:
            seats[b].append((-confidence[r], p, r))
    for b in range(size):
        for _, p, r in sorted(seats[b])[: quota[b]]:
            canvas[b][p], committed[r] = tokens[r], True
            counts[b][0] += 1
        counts[b][1] = sum(canvas[b][p] == mask_id for p in covered[b])
    return canvas, committed, counts


@given(
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(0, 4),
    length=st.integers(0, 20),
    packed=st.booleans(),
    gaps=st.booleans(),
    per_request=st.booleans(),
    freeze=st.booleans(),
    windowed=st.booleans(),
    x_dtype=st.sampled_from([torch.int64, torch.int32]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
)
def test_topk_unmask(backend, data, seed, size, length, packed, gaps, per_request, freeze, windowed, x_dtype, dtype):
    g = torch.Generator().manual_seed(seed)
    mask_id = data.draw(st.sampled_from([5, 126336, -1]))
    x = torch.randint(0, 9, (size, length), generator=g)
    x = torch.where(torch.rand(x.shape, generator=g) < 0.7, mask_id, x).to(x_dtype)
    x = torch.stack([x, x], -1)[..., 1] if gaps else x
    width = data.draw(st.integers(0, length))
    start = rows = None
    if packed:
        rows = torch.randperm(size * length, generator=g)[: size * width]
        rows = places = torch.where(torch.rand(rows.shape, generator=g) < 0.2, -1, rows)
    else:
        start = torch.randint(0, length - width + 1, (size if per_request else 1,), generator=g)
        offsets = (torch.arange(size) * length + start.expand(size))[:, None] if size else torch.zeros(0, 1).long()
        places = (offsets + torch.arange(width)).flatten()
    shape = places.shape if packed else (size, width)
    tokens = torch.randint(0, 9, shape, generator=g).to(x_dtype)
    tokens = torch.where(torch.rand(shape, generator=g) < 0.1, mask_id, tokens).to(x_dtype)
    confidence = torch.tensor(SCORES)[torch.randint(len(SCORES), shape, generator=g)].to(dtype)
    if gaps and not packed:
        tokens, confidence = (torch.stack([t, t], -1)[..., 0] for t in (tokens, confidence))
    quota = torch.randint(0, 8, (size if per_request else 1,), generator=g)
    frozen = torch.rand(size, length, generator=g) < 0.3 if freeze else None
    window_start = data.draw(st.integers(0, length)) if windowed else 0
    window_stop = data.draw(st.integers(window_start, length)) if windowed else -1
    kwargs = dict(
        mask_id=mask_id, window_start=window_start, window_stop=window_stop, frozen=frozen, start=start, rows=rows
    )

    canvas, committed, counts = by_definition(
        x.tolist(),
        tokens.flatten().tolist(),
        confidence.flatten().tolist(),
        quota.expand(size).tolist(),
        mask_id,
        window_start,
        window_stop,
        None if frozen is None else frozen.tolist(),
        start,
        places.tolist(),
    )
    counts = torch.tensor(counts, dtype=torch.int64).reshape(size, 3)
    for implementation in (ops, reference):
        mine = clone(x)
        got = implementation.topk_unmask_(mine, tokens, confidence, quota, **kwargs)
        assert_equal("x", mine, torch.tensor(canvas, dtype=x_dtype).reshape(x.shape))
        assert_equal("committed", got[0], torch.tensor(committed, dtype=torch.bool).reshape(shape))
        for i, name in enumerate(("num_committed", "num_open", "num_bad")):
            assert_equal(name, got[i + 1], counts[:, i])


def test_strided_arguments(backend):
    """Every row of every sequence takes its own token and confidence, gaps or not."""
    x = torch.full((3, 4), -1)
    tokens, confidence = torch.arange(12).reshape(3, 4), torch.linspace(0.1, 0.9, 12).reshape(3, 4)
    tokens, confidence = (torch.stack([t, t + 100], -1)[..., 0] for t in (tokens, confidence))
    ops.topk_unmask_(x, tokens, confidence, torch.tensor([3]), mask_id=-1)
    assert_equal("x", x, torch.where(torch.arange(4) > 0, tokens, -1))


def test_a_sequence_without_rows_beside_a_long_one(backend):
    """5008 packed rows of the first of three sequences, too many for shared memory: the others have no space to touch."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randperm(5100, generator=g)[:5008]
    confidence, x = torch.rand(5008, generator=g), torch.full((3, 5100), -1)
    committed, num_committed, num_open, _ = ops.topk_unmask_(
        x, torch.arange(5008), confidence, torch.tensor([5]), mask_id=-1, rows=rows
    )
    best = confidence.topk(5).indices
    assert set(committed.nonzero()[:, 0].tolist()) == set(best.tolist())
    assert_equal("x", x[0, rows[best]], best)
    assert num_committed.tolist() == [5, 0, 0] and num_open.tolist() == [5003, 0, 0]


@pytest.mark.parametrize("length", [4096, 5001])
def test_long_sequences(backend, length):
    """Thousands of positions with heavy ties: the order is (confidence, lowest position), exactly."""
    g = torch.Generator().manual_seed(0)
    confidence = torch.randint(0, 50, (2, length), generator=g).float() / 50
    tokens = torch.randint(0, 1000, (2, length), generator=g)
    for k in (0, 1, 100, 1333, length, 6000):
        x = torch.full((2, length), -1)
        committed = ops.topk_unmask_(x, tokens, confidence, torch.tensor([k]), mask_id=-1)[0]
        order = confidence.sort(descending=True, stable=True).indices
        want = torch.zeros(2, length, dtype=torch.bool).scatter(1, order[:, :k], True)
        assert_equal("committed", committed, want)
        assert_equal("x", x, torch.where(want, tokens, -1))


@pytest.mark.parametrize("x_dtype", [torch.int64, torch.int32])
def test_only_the_canvas_itself_is_written(backend, x_dtype):
    """x is a window of a larger tensor: its surroundings keep their values."""
    whole = torch.full((4, 12), 77, dtype=x_dtype)
    x = whole[1:3, 2:10:2]
    x.fill_(-1)
    tokens = torch.arange(8, dtype=x_dtype).reshape(2, 4)
    ops.topk_unmask_(x, tokens, torch.rand(2, 4), torch.tensor([4]), mask_id=-1)
    assert_equal("x", x, tokens)
    surroundings = whole.clone()
    surroundings[1:3, 2:10:2] = 77
    assert bool((surroundings == 77).all())


def test_a_drawn_mask_token_stays_open(backend):
    """A model may predict the mask token itself: the row counts as committed, the position as open."""
    logits = torch.zeros(1, 3, 6)
    logits[0, 0, 5], logits[0, 1, 2], logits[0, 2, 5] = 9.0, 5.0, 8.0
    x = torch.full((1, 3), 5)
    zero = torch.zeros(1, dtype=torch.int64)
    _, _, committed, num_committed, num_open, _ = ops.denoise_step_(
        x, logits, torch.zeros(1), zero, zero, torch.tensor([2]), mask_id=5, rule="topk"
    )
    assert committed.tolist() == [[True, False, True]] and (num_committed.item(), num_open.item()) == (2, 3)
    assert x.tolist() == [[5, 5, 5]]


def test_mask_ids_beyond_int32_match_nothing_in_int32(backend):
    """2^32 + 5 is not 5, whatever the canvas can hold."""
    for implementation in (ops, reference):
        x = torch.full((1, 4), 5, dtype=torch.int32)
        out = implementation.topk_unmask_(x, x + 1, torch.ones(1, 4), torch.tensor([4]), mask_id=2**32 + 5)
        assert not out[0].any() and bool((x == 5).all())
