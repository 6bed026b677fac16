"""The providers on a GPU: those of peers.py, our step with its arguments in device tensors, and two that only run there."""

from __future__ import annotations

import dataclasses

import torch

from . import uniform_steps
from .cases import FILTERS, OURS, UNIFORM_OPS
from .inputs import Inputs, guided
from .peers import PROVIDERS, Provider, Step, commit_topk, fused


def ours(inputs: Inputs) -> Step:
    """As one calls it under a captured graph: temperature, seed, step and k are device tensors made beforehand; numbers
    would be sent to the device at every call."""
    case = inputs.case

    def tensor(value, dtype):
        return torch.full((1,), value, dtype=dtype, device=inputs.logits.device)

    temperature, seed, step = (
        tensor(case.temperature, torch.float32),
        tensor(case.seed, torch.int64),
        tensor(0, torch.int64),
    )
    if case.op in UNIFORM_OPS:
        return uniform_steps.ours(inputs, temperature=temperature, seed=seed, step=step)
    filter = None
    if case.filter:
        filter = tensor(getattr(case, case.filter), torch.int64 if case.filter == "top_k" else torch.float64)
    return fused(
        inputs, k=tensor(case.k, torch.int64), temperature=temperature, seed=seed, step_number=step, filter=filter
    )


def triton_one_pass(inputs: Inputs) -> Step:
    from . import triton_peer

    case, mask_id = inputs.case, inputs.mask_id

    def step(x: torch.Tensor, uniform=None):
        logits = guided(inputs, torch.float32 if inputs.uncond is not None else None)
        tokens, confidence = triton_peer.sweep(logits, case.temperature, case.confidence, case.seed)
        commit_topk(x, tokens, confidence, case.k, mask_id)
        return tokens, confidence

    return step


def triton_noise(inputs: Inputs) -> torch.Tensor:
    from . import triton_peer

    return triton_peer.exponentials(inputs.case.rows, inputs.case.vocab, inputs.case.seed, inputs.logits.device)


def flashinfer(inputs: Inputs) -> Step:
    """Tokens only: its samplers take logits, or with a filter probabilities, in fp32, and have neither confidence nor canvas."""
    from flashinfer import sampling

    case = inputs.case
    draw = getattr(sampling, f"{case.filter}_sampling_from_probs") if case.filter else sampling.sampling_from_logits
    number = (getattr(case, case.filter),) if case.filter else ()

    def step(x: torch.Tensor, uniform=None):
        z = guided(inputs, torch.float32).reshape(case.rows, case.vocab).float()
        if case.temperature != 1:
            z = z / case.temperature
        z = z.softmax(-1) if case.filter else z
        return draw(z, *number, deterministic=True).long().view(x.shape), None

    return step


GPU_PROVIDERS: dict[str, Provider] = {
    **PROVIDERS,
    OURS: dataclasses.replace(PROVIDERS[OURS], build=ours, about="this package, arguments in device tensors"),
    "triton_one_pass": Provider(
        "triton_one_pass",
        "triton",
        "one Triton program per row, one pass, Gumbel noise by tl.rand at T > 0; batched topk in PyTorch",
        triton_one_pass,
        noise="own",
        replay=triton_noise,
        confidences=("prob", "neg_entropy"),
    ),
    "flashinfer": Provider(
        "flashinfer",
        "library",
        "FlashInfer's samplers with the casts, and for filters the softmax, that they need: tokens only",
        flashinfer,
        filters=("", *FILTERS),
        noise="hidden",
        greedy=False,
        outputs=("tokens",),
    ),
}


def resolve(names) -> list[Provider]:
    """Ours, then the named ones; ValueError listing the known names for an unknown one."""
    for name in names:
        if name not in GPU_PROVIDERS:
            raise ValueError(f"provider: must be one of {', '.join(GPU_PROVIDERS)}, got {name!r}")
    return [GPU_PROVIDERS[name] for name in dict.fromkeys([OURS, *names])]
