"""Our own algorithm in plain PyTorch, to be compiled: the strongest competitor one can write without a kernel.

Same partition, same partials, same two-level draw as the native code. It is here to be beaten honestly: whatever the
native kernel gains over this is not algorithmic.
"""

from __future__ import annotations

import torch

MAX_CHUNKS, MIN_CHUNK = 32, 1024
LOG2E = 1.4426950408889634


def chunk_size(vocab: int) -> int:
    """The package's partition: at most 32 chunks, a multiple of 16 elements, by vocabulary alone."""
    return -(-max(MIN_CHUNK, -(-vocab // MAX_CHUNKS)) // 16) * 16


def _chunks(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`[B, L, V]` -> full chunks `[R, C, n]` as a view, and the ragged end `[R, < n]` or None."""
    vocab = logits.shape[-1]
    size = min(chunk_size(vocab), vocab)
    full = vocab // size
    flat = logits.reshape(-1, vocab)
    body = flat[:, : full * size].unflatten(-1, (full, size))
    return body, flat[:, full * size :] if vocab % size else None


def _partials(logits: torch.Tensor, beta: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Per chunk the maximum of z * beta and the sum of exp(z * beta - maximum), fp32 `[R, chunks]`.

    The maximum in the logits' own dtype and exp2 instead of exp: 20 % faster compiled than the obvious form.
    """
    tops, masses = [], []
    body, tail = _chunks(logits)
    for part in (body, *(() if tail is None else (tail[:, None],))):
        top = part.amax(-1).float()
        scale = beta * LOG2E
        masses.append((part.float() * scale - (top * scale)[..., None]).exp2().sum(-1))
        tops.append(top * beta)
    return (tops[0], masses[0]) if tail is None else (torch.cat(tops, -1), torch.cat(masses, -1))


def _take_chunk(logits: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """The logits of one chunk per row, fp32 `[R, n]`, padded with -inf behind the vocabulary's end."""
    body, tail = _chunks(logits)
    rows = torch.arange(which.shape[0], device=which.device)
    chosen = body[rows, which.clamp(max=body.shape[1] - 1)].float()
    if tail is None:
        return chosen
    padded = torch.nn.functional.pad(tail.float(), (0, body.shape[2] - tail.shape[1]), value=-torch.inf)
    return torch.where((which == body.shape[1])[:, None], padded, chosen)


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """logits `[B, L, V]` -> (argmax int64, p(argmax) fp32), `[B, L]`."""
    top, mass = _partials(logits)
    best, which = top.max(-1)
    total = (mass * (top - best[:, None]).exp()).sum(-1)
    tokens = which * min(chunk_size(logits.shape[-1]), logits.shape[-1]) + _take_chunk(logits, which).argmax(-1)
    shape = logits.shape[:-1]
    return tokens.view(shape), total.reciprocal().view(shape)


def draw(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One draw from softmax(z / T) per row by `uniform` fp64 `[B, L]`, and its probability under softmax(z)."""
    top, mass = _partials(logits, 1 / temperature)
    best = top.amax(-1, keepdim=True)
    weights = (mass * (top - best).exp()).double()
    cdf = weights.cumsum(-1)
    target = uniform.reshape(-1, 1) * cdf[:, -1:]
    which = (cdf <= target).sum(-1).clamp(max=cdf.shape[-1] - 1)
    chosen = which[:, None]
    before = cdf.gather(-1, chosen) - weights.gather(-1, chosen)
    # Inside the chunk everything is relative to the chunk's own maximum, or a light chunk would underflow.
    scale = (best - top.gather(-1, chosen)).double().exp()
    z = _take_chunk(logits, which)
    inner = (z / temperature - top.gather(-1, chosen)).exp().cumsum(-1)
    index = (inner <= ((target - before) * scale).float()).sum(-1).clamp(max=inner.shape[-1] - 1)
    vocab = logits.shape[-1]
    tokens = (which * min(chunk_size(vocab), vocab) + index).clamp(max=vocab - 1)
    if temperature != 1:
        top, mass = _partials(logits)
        best = top.amax(-1, keepdim=True)
    logsumexp = best[:, 0] + (mass * (top - best).exp()).sum(-1).log()
    confidence = (z.gather(-1, index[:, None])[:, 0] - logsumexp).exp()
    shape = logits.shape[:-1]
    return tokens.view(shape), confidence.view(shape)
