"""Odd values for fuzz.py, and what makes a good argument a bad one."""

import dataclasses
import fractions
import math

import numpy as np
import torch

import dlm_kernels as dlm

LOGIT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCORES = (*LOGIT_DTYPES, torch.float64)
ALL_DTYPES = (*SCORES, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.complex64)
INTS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, -(2**31) - 1, 2**32 + 5, 2**53 + 1, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-310, 1e-7, 3.4e38, -3.4e38, 1e39, 1e308, math.inf, -math.inf, math.nan)
OBJECTS = (
    None,
    "words",
    b"bytes",
    [1, 2],
    (0, 1),
    {},
    2**63,
    -(2**70),
    10**400,
    True,
    1.5,
    1j,
    fractions.Fraction(1, 3),
    np.ones(2),
    np.float32(0.5),
    np.int64(3),
)


def tensors_in(value):
    """Every tensor of a nest of arguments."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors_in(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors_in(v)]
    if dataclasses.is_dataclass(value) or isinstance(value, dlm.RevisionTrace):
        return tensors_in([v for k, v in vars(value).items() if k != "history"])
    return []


def spoil(random, arguments, names, made):
    """One of the arguments becomes another: of a wrong kind, shape, layout, place or value, or the very memory of another one."""
    name = random.choice([*arguments, *names])
    value = arguments.get(name)
    if dataclasses.is_dataclass(value) and random.random() < 0.8:  # a state, a rule, a transition
        fields = [f.name for f in dataclasses.fields(value)]
        field = "coefficients" if "coefficients" in fields else random.choice(fields)  # the rest is not for callers
        inner = _spoilt(random, getattr(value, field), arguments, made)
        try:
            arguments[name] = dataclasses.replace(value, **{field: inner})
        except (ValueError, TypeError):  # a rule says no by itself
            arguments[name] = inner
        return
    arguments[name] = _spoilt(random, value, arguments, made)


def _spoilt(random, value, arguments, made):
    if random.random() < 0.1:
        return random.choice(OBJECTS)
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or value.layout != torch.strided or value.numel() > 10**6:
            return value  # bad enough
        return random.choice(TENSOR_FAULTS)(random, value, arguments, made)
    if isinstance(value, bool) or value is None:
        return random.choice((True, False, None, 0, 1.0, "yes", torch.ones(1), torch.ones(2, 3).long()))
    if isinstance(value, int):
        return random.choice((*INTS, value + 1, value - 1, 0.5, made.V, made.L))
    if isinstance(value, float):
        return random.choice((*FLOATS, 1, torch.tensor(0.5)))
    if isinstance(value, str):
        return random.choice(("", "none", "topk", "min_p", "\0", value + " ", "é" * 2000, 3))
    if isinstance(value, (tuple, list)):
        return random.choice(
            ((), (0,), (3, 1), (0, 2**70), (-1, 2), (0.5, 1), [None, 1], (0, made.L + 1), [2**63 - 1] * 2)
        )
    return random.choice((*OBJECTS, object(), torch.zeros(2)))


def _other_dtype(random, value, arguments, made):
    return value.detach().to(random.choice(ALL_DTYPES))


def _other_shape(random, value, arguments, made):
    d = random.randrange(value.dim()) if value.dim() else 0
    ways = [lambda: value[None], lambda: value[..., None], lambda: torch.zeros((), dtype=value.dtype), value.flatten]
    if value.dim():
        ways += [lambda: torch.cat([value, value], d), lambda: value.narrow(d, 0, 0)]
        ways += [
            lambda: value.narrow(d, 0, max(0, value.shape[d] - 1)),
            lambda: value.select(d, 0) if value.shape[d] else value,
        ]
        ways += [lambda: value[:0].expand(0, *value.shape[1:]), lambda: value[(None,) * 6]]
        ways += [lambda: value.narrow(d, 0, min(1, value.shape[d])).expand(*value.shape[:d], 7, *value.shape[d + 1 :])]
        giant = random.choice((2**20, 2**33, 2**62))
        ways += [lambda: value[(0,) * value.dim()].expand(giant, *[1] * (value.dim() - 1)) if value.numel() else value]
    try:
        return random.choice(ways)()
    except RuntimeError:  # more than memory has
        return value


def _other_layout(random, value, arguments, made):
    ways = [
        lambda: (
            value.expand_as(value) if not value.dim() else value.narrow(0, 0, min(1, value.shape[0])).expand_as(value)
        )
    ]
    ways += [
        lambda: torch.stack([value, value], -1)[..., 0],
        lambda: value.mT if value.dim() > 1 else value,
        value.to_sparse,
    ]
    if value.dim() > 1 and value.numel():
        room = torch.zeros(sum(value.shape), dtype=value.dtype)
        ways += [lambda: room.as_strided(value.shape, (1,) * value.dim())]  # overlaps itself, though no stride is 0
    try:
        return random.choice(ways)()
    except RuntimeError:
        return value


def _other_values(random, value, arguments, made):
    value = value.detach().clone(memory_format=torch.contiguous_format)
    if value.dtype == torch.bool:
        return torch.full_like(value, 7, dtype=torch.uint8).view(torch.bool)
    odd = torch.tensor(random.choice(FLOATS if value.is_floating_point() else [*INTS, made.V, made.B * made.L]))
    limits = torch.iinfo(value.dtype) if value.dtype in (torch.int32, torch.int64) else None
    odd = odd.clamp(limits.min, limits.max) if limits else odd
    where = torch.rand(value.shape, generator=made.generator_) < random.choice((0.1, 1.0))
    return torch.where(where, odd.to(value.dtype), value)


def _other_place(random, value, arguments, made):
    if random.random() < 0.5 or not value.is_floating_point():
        return torch.empty_like(value, device="meta")
    return value.detach().clone().requires_grad_()


def _same_memory(random, value, arguments, made):
    """The memory of another argument, as what this one has to be."""
    others = [v for v in tensors_in(list(arguments.values())) if v is not value and v.device.type == "cpu"]
    if not others:
        return value
    other = random.choice(others)
    if other.dtype == value.dtype and other.layout == torch.strided and other.numel() >= value.numel():
        try:
            return other if random.random() < 0.3 else other.view(-1)[: value.numel()].view(value.shape)
        except RuntimeError:
            return other
    return other


TENSOR_FAULTS = (_other_dtype, _other_shape, _other_layout, _other_values, _other_values, _other_place, _same_memory)
