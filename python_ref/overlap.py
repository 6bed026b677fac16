"""Whether elements of tensors share memory, exactly, as csrc/core/overlap.h: writing one would then change the other."""

import torch


def span(tensor):
    """(low, high): byte addresses of the elements; empty where there are none."""
    if tensor.numel() == 0 or tensor.is_meta:
        return 0, 0
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def meet(one, other):
    return one[0] < other[1] and other[0] < one[1]


def share_memory(a, b):
    """Slices of one buffer may lie between each other's elements, and share nothing."""
    (low, high), (other_low, other_high) = span(a), span(b)
    if a.device != b.device or not meet(span(a), span(b)):
        return False
    low, size = min(low, other_low), max(high, other_high) - min(low, other_low)
    return bool((_bytes_of(a, low, size) & _bytes_of(b, low, size)).any())


def overlaps_itself(tensor):
    if tensor.numel() == 0:
        return False
    reach = 0  # of the dimensions inside: each index of this one is clear of them
    for stride, size in sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride()) if size > 1):
        if stride == 0:
            return True
        if stride <= reach:
            low, high = span(tensor)
            size = tensor.element_size()
            return int(_bytes_of(tensor, low, high - low).sum()) < tensor.numel() * size
        reach += (size - 1) * stride
    return False


def _bytes_of(tensor, low, size):
    """bool [size]: which bytes from address ``low`` on are of an element."""
    marks, each = torch.zeros(size, dtype=torch.bool), tensor.element_size()
    strides = [stride * each for stride in tensor.stride()]
    marks.as_strided((*tensor.shape, each), (*strides, 1), tensor.data_ptr() - low).fill_(True)
    return marks
