"""Geometry: which canvas position a row speaks for, and which row of logits it reads."""

import torch
from dlm_kernels.reference import geometry
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st


@given(
    batch=st.integers(1, 4),
    width=st.integers(1, 6),
    room=st.integers(0, 4),
    shift=st.sampled_from([0, -1]),
    data=st.data(),
)
def test_dense_rows(native_core, batch, width, room, shift, data):
    start = data.draw(
        st.one_of(
            st.none(),
            st.lists(st.integers(0, room), min_size=batch, max_size=batch),
            st.lists(st.integers(0, room), min_size=1, max_size=1),
        )
    )
    places = geometry.dense_rows(batch, width, None if start is None else torch.tensor(start), None)
    strides = (width * 1000, 1000, 1)
    got = native_core.places(batch, width, batch * width, width + room, shift, start, None, strides)
    for b in range(batch):
        for i in range(width):
            p = i + (0 if start is None else start[b if len(start) > 1 else 0])
            assert (places.batch[b, i], places.position[b, i], places.real[b, i]) == (b, p, True)
            read = b * strides[0] + max(i + shift, 0) * strides[1]
            assert got[b * width + i].tolist() == [b, p, read, b * strides[0] + i * strides[1]]


@given(batch=st.integers(1, 4), length=st.integers(1, 9), seed=st.integers(0, 1000))
def test_packed_rows(native_core, batch, length, seed):
    g = torch.Generator().manual_seed(seed)
    rows = torch.randperm(batch * length, generator=g)
    rows = torch.where(torch.rand(rows.shape, generator=g) < 0.3, -1, rows)
    places = geometry.packed_rows(rows, length)
    got = torch.from_numpy(native_core.places(1, len(rows), len(rows), length, 0, None, rows.tolist(), (7, 1)))
    assert_equal("real", places.real, got[:, 0] >= 0)
    for r, flat in enumerate(rows.tolist()):
        if flat >= 0:
            assert (places.batch[r], places.position[r]) == divmod(flat, length) == tuple(got[r, :2].tolist())
        assert got[r, 2:].tolist() == [7 * r, 7 * r]


def test_offsets_are_64_bit(native_core):
    """4096 rows of 262144 logits pass 2^30 elements, and two such requests 2^31 bytes: nothing here may be an int."""
    strides = (4096 * 262144, 262144, 1)
    got = native_core.places(3, 4096, 3 * 4096, 4096, -1, None, None, strides)
    assert got[-1].tolist() == [2, 4095, 2 * strides[0] + 4094 * strides[1], 2 * strides[0] + 4095 * strides[1]]


def test_candidates_by_hand():
    x = torch.tensor([[9, 1, 9, 9, 9], [9, 9, 9, 2, 9]], dtype=torch.int32)
    frozen = torch.zeros(2, 5, dtype=torch.bool)
    frozen[1, 2] = True
    rows = geometry.dense_rows(2, 3, torch.tensor([1, 2]), None)  # positions 1..3 and 2..4
    candidate = geometry.candidate_rows(x, rows, 9, 0, -1, frozen)
    assert candidate.tolist() == [[False, True, True], [False, False, True]]
    assert geometry.candidate_rows(x, rows, 9, 3, 4, None).tolist() == [[False, False, True], [False, False, False]]
    packed = geometry.packed_rows(torch.tensor([-1, 9, 0, 7, -1]), 5)
    assert geometry.candidate_rows(x, packed, 9, 0, -1, frozen).tolist() == [False, True, True, False, False]


def test_read_rows_gathers_and_shifts():
    z = torch.arange(2 * 3 * 2).reshape(2, 3, 2)
    index = (torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2]))
    assert_equal("unshifted", geometry.read_rows(z, index, 0), torch.stack([z[0, 0], z[1, 0], z[1, 2]]))
    assert_equal("shifted", geometry.read_rows(z, index, -1), torch.stack([z[0, 0], z[1, 0], z[1, 1]]))
