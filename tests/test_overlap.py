"""Whether tensors share memory: exactly, in the reference and in the compiled checks, against counting every byte."""

import random

import pytest
import torch
from backends import ops
from dlm_kernels.reference.overlap import overlaps_itself, share_memory

from dlm_kernels.calling import public_error


def some_view(chance, room):
    """A view of ``room`` [100] int64 with small strides: many overlap themselves or each other."""
    shape = [chance.randint(0 if chance.random() < 0.1 else 1, 3) for _ in range(2)]
    strides = [chance.randint(0, 7) for _ in shape]
    return room.as_strided(shape, strides, chance.randint(0, 20))


def addresses(view):
    return [
        view.storage_offset() + i * view.stride(0) + j * view.stride(1)
        for i in range(len(view))
        for j in range(view.shape[1])
    ]


@pytest.mark.parametrize("seed", range(6))
def test_sharing(seed):
    chance, room = random.Random(seed), torch.zeros(100, dtype=torch.int64)
    seen = set()
    for _ in range(300):
        a, b = some_view(chance, room), some_view(chance, room)
        shared = bool(set(addresses(a)) & set(addresses(b)))
        within = len(set(addresses(a))) < a.numel()
        assert share_memory(a, b) == share_memory(b, a) == shared
        assert overlaps_itself(a) == within
        seen |= {(shared, within)}
        if a.shape == b.shape and not overlaps_itself(b):  # what the op says: x is written, tokens are read
            problem = "itself" if within else "of its own" if shared else ""
            try:
                ops.topk_unmask_(a, b, torch.zeros(b.shape), torch.tensor([0]), mask_id=-1)
                said = ""
            except (RuntimeError, ValueError) as error:
                said = str(public_error(error))
            assert (problem in said) if problem else said == ""
    assert len(seen) == 4  # all of it happened


def test_bytes_count_and_not_elements():
    room = torch.zeros(16, dtype=torch.uint8)
    assert share_memory(room[:8].view(torch.int64), room[7:8])
    assert not share_memory(room[:8].view(torch.int64), room[8:])
    assert not share_memory(room[::2], room[1::2])
