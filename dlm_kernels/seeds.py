"""Seeds of requests. Noise is keyed by (seed of the request, position, step), so equal seeds mean equal noise."""

import torch

from .arguments import require, require_type

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio as int64: splitmix64's increment


def request_seeds(seed, batch_size, device=None):
    """``batch_size`` different seeds from one: int64 [B]. The same ``seed`` gives request b the same seed in any batch."""
    z = torch.arange(1, batch_size + 1, dtype=torch.int64, device=device) * _GOLDEN + int(seed)
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def fresh_seeds(batch_size, device, generator=None):
    """Seeds nobody chose: int64 [B], drawn on ``device`` from ``generator`` (default: torch's own)."""
    if generator is not None:
        known = isinstance(generator, torch.Generator)
        require_type(known, "generator", "must be a torch.Generator", type(generator).__name__)
        there = torch.device(device or "cpu")
        require(generator.device.type == there.type, "generator", f"must be on {there}", generator.device)
    seeds = torch.empty(batch_size, dtype=torch.int64, device=device)
    return seeds.random_() if generator is None else seeds.random_(generator=generator)
