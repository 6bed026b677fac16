"""Calls of renoise_step_, transition_step_ and q_sample, built from the StepCases of denoise_step_."""

import torch
from dlm_kernels.reference import trace as tracing
from filter_cases import FILTERS
from transition_cases import KINDS, Numbers

STEPS = 4  # rows of a trace


def copied(call):
    """(x, args, kwargs) again, every tensor with memory of its own and the same strides."""
    x, args, kwargs = call
    copy = lambda t: (
        torch.empty_strided(t.size(), t.stride(), dtype=t.dtype).copy_(t) if isinstance(t, torch.Tensor) else t
    )
    return copy(x), tuple(map(copy, args)), {name: copy(value) for name, value in kwargs.items()}


def a_mask(generator, vocab, needed=False):
    """No mask, one inside the vocabulary, or one outside it; somewhere to go but there."""
    choices = [vocab, vocab + 7] + ([vocab // 2] if vocab > 1 else []) + ([] if needed else [-1, -1])
    return choices[torch.randint(len(choices), (1,), generator=generator).item()]


def a_trace(generator, x, vocab):
    """A trace of x with a past: in some places nothing, in others a token or two."""
    positions, steps = tracing.fresh(*x.shape, STEPS)
    batch, position = torch.ones(x.shape).nonzero(as_tuple=True)
    for _ in range(2 if x.numel() else 0):
        token = torch.randint(-1, vocab, batch.shape, generator=generator)
        tracing.record_(
            positions,
            steps,
            0,
            batch,
            position,
            before=token,
            after=token,
            by_noise=token < 0,
            committed=token,
            gain=torch.zeros(len(token)),
        )
    return dict(trace=positions, trace_steps=steps)


def uniforms(generator, case, logits, columns):
    return (
        torch.rand(*logits.shape[:-1], columns, generator=generator, dtype=torch.float64) if case.own_uniform else None
    )


def renoise_call(case, *, state=True, committed=False, probs=False, trace=False):
    """(x, args, kwargs) for ``renoise_step_``."""
    x, args, kwargs = case.build()
    g = torch.Generator().manual_seed(case.seed + 1)
    del kwargs["demote"], kwargs["rank_temperature"]
    flags = lambda share, *shape: torch.rand(shape, generator=g) < share
    kwargs["mask_id"] = a_mask(g, case.vocab)
    kwargs["uniform"] = uniforms(g, case, args[0], 2)
    if state:
        size, length = x.shape
        stale = torch.randint(-1, case.vocab, x.shape, generator=g).to(x.dtype)
        kwargs.update(
            argmax=torch.where(flags(0.5, size, 1), stale, torch.full_like(stale, -1)),
            unchanged=torch.randint(0, 3, (size,), generator=g),
            done=flags(0.2, size),
        )
    kwargs.update(
        stability=int(torch.randint(0, 3, (1,), generator=g)),
        confident=float(torch.rand(1, generator=g)) * 3,
    )
    if committed:
        kwargs["committed"] = flags(0.3, *x.shape)
    if probs:
        kwargs["probs"] = torch.full(args[0].shape, 0.5, dtype=torch.bfloat16)
    if trace:
        kwargs.update(a_trace(g, x, case.vocab))
    return x, args, kwargs


def transition_call(case, *, trace=False):
    """(x, args, kwargs) for ``transition_step_``: some transition, of all, of every sequence or of every position."""
    x, (logits, temperature, seed, step, _), kwargs = case.build()
    g = torch.Generator().manual_seed(case.seed + 1)
    size, length = x.shape
    pick = lambda choices: choices[torch.randint(len(choices), (1,), generator=g).item()]
    kind = KINDS[pick([name for name in KINDS if case.vocab > 1 or not KINDS[name].mask])]
    shape = pick([(1,), (size,), (size, length)])
    count = torch.Size(shape).numel()
    coefficients = kind.make(*kind.numbers(Numbers(case.seed, max(1, count)))).coefficients[:count].reshape(*shape, 14)

    mask_id = a_mask(g, case.vocab, kind.mask)
    known = (x >= 0) & (x < case.vocab)
    x = torch.where(known, x, mask_id if mask_id >= 0 else 0).to(x.dtype)
    suppress = kwargs["suppress"]
    if mask_id >= 0:  # a law never has the mask
        suppress = torch.cat(
            [torch.empty(0, dtype=torch.int64) if suppress is None else suppress, torch.tensor([mask_id])]
        )
    keep = ("window_start", "window_stop", "frozen", "start", "rows", "shift", "uncond_logits", "cfg_scale")
    kwargs = {name: value for name, value in kwargs.items() if name in (*keep, *FILTERS)}
    kwargs.update(mask_id=mask_id, tempered=pick(["before", "after"]), suppress=suppress)
    kwargs["uniform"] = uniforms(g, case, logits, 3)
    if trace:
        kwargs.update(a_trace(g, x, case.vocab))
    return x, (logits, temperature, seed, step, coefficients), kwargs


def noising_call(case):
    """((x, rates, seed, step), kwargs) for ``q_sample``."""
    x, (_, _, seed, step, _), kwargs = case.build()
    g = torch.Generator().manual_seed(case.seed + 1)
    mask_id = a_mask(g, case.vocab)
    shape = [(1,), (case.batch,), x.shape][torch.randint(3, (1,), generator=g).item()]
    share = torch.rand(*shape, 3, generator=g, dtype=torch.float64)
    rates = share[..., :2] / share.sum(-1, keepdim=True)
    if mask_id < 0:
        rates[..., 1] = 0
    uniform = torch.rand(*x.shape, 2, generator=g, dtype=torch.float64) if case.own_uniform else None
    more = dict(vocab_size=case.vocab, mask_id=mask_id, frozen=kwargs["frozen"], uniform=uniform)
    return (x, rates, seed, step), more
