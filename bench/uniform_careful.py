"""The steps of the uniform family in PyTorch as one would write them with care, and our own algorithm compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import chunked, schedule
from .cases import Case
from .inputs import Inputs
from .uniform_steps import CONFIDENT, Moved, Step, accept, is_stable, random_numbers, tempered


def careful(inputs: Inputs) -> Step:
    """fp32, no tensor of the size of the logits beyond one law, draws only for the rows that take one."""
    return {
        "uniform_step": _careful_transition,
        "transition_step": _careful_transition,
        "renoise_step": _careful_renoise,
        "select_step": _careful_select,
        "q_sample": _careful_q_sample,
    }[inputs.case.op](inputs)


def routes(case: Case) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A function of p(x_t) and "x_t is the mask": the weights of noise, mask and a draw from the model's law, as closed forms.
    What is left stays at x_t."""
    vocab = case.vocab
    if case.model == "gidd":
        return _gidd_routes(case)
    t, s = schedule.sumi(case) if case.model == "sumi" else schedule.duo(case)
    kappa = 1.0 if case.model == "sumi" else schedule.KAPPA
    ratio = t.alpha / s.alpha

    def weights(p: torch.Tensor, is_mask=None):
        evidence = t.alpha * vocab * p + t.noise
        noise = kappa * (1 - ratio) * s.noise / evidence + (1 - kappa) * s.noise
        model = (kappa * (s.alpha - t.alpha) + (1 - kappa) * s.alpha * t.noise) / evidence
        return noise, torch.zeros_like(noise), model

    return weights


def _gidd_routes(case: Case):
    t, s = schedule.times(case)
    b = 2 * schedule.P_UNIFORM / (1 - schedule.P_UNIFORM)
    c_t, c_s = (b * (v * (1 - v)) ** 0.5 for v in (t, s))
    support = case.vocab - 1
    alpha_t, alpha_s = (1 - t) / (1 + c_t), (1 - s) / (1 + c_s)
    growth = (t / (1 - t)) ** 0.5 - (s / (1 - s)) ** 0.5
    leave_token, leave_mask = b * (1 - t) * growth / ((1 + c_t) * support), (t - s) / ((1 - s) * (1 + c_t))
    prior_token, prior_mask = c_t / ((1 + c_t) * support), t / (1 + c_t)

    def weights(p: torch.Tensor, is_mask: torch.Tensor):
        def either(of_mask: float, of_token: float) -> torch.Tensor:
            return torch.full_like(p, of_token).masked_fill(is_mask, of_mask)

        evidence = alpha_t * p + either(prior_mask, prior_token)
        leave = either(leave_mask, leave_token) / evidence
        to_mask = torch.where(is_mask, 0.0, leave * s / (1 + c_s))  # a mask that falls to the mask stays
        return leave * c_s / (1 + c_s), to_mask, leave * alpha_s

    return weights


def _noise_tokens(case: Case, uniform: torch.Tensor) -> torch.Tensor:
    """Uniform tokens; GIDD's mask is the last one, and not among them."""
    support = case.vocab - (case.mask_id is not None)
    return (uniform * support).long().clamp(max=support - 1)


def _route(case: Case, weights, x: torch.Tensor, p: torch.Tensor, uniform: torch.Tensor):
    """(tokens of those that do not draw, who draws). A draw is from the law without x_t: one that returned would stay."""
    is_mask = x == (-1 if case.mask_id is None else case.mask_id)
    noise, mask, model = weights(p, is_mask)
    u = uniform[..., 0]
    tokens = x
    if case.mask_id is not None:
        tokens = torch.where(u < noise + mask, case.mask_id, tokens)
    tokens = torch.where(u < noise, _noise_tokens(case, uniform[..., 2]), tokens)
    edge = noise + mask
    return tokens, (u >= edge) & (u < edge + model * (1 - p))


def _draw_rows(law: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """law `[n, V]`, uniform `[n]` -> tokens `[n]`; the law need not sum to 1."""
    cdf = law.cumsum(-1)
    target = uniform[:, None].float() * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True).clamp(max=law.shape[-1] - 1)[:, 0]


def _careful_transition(inputs: Inputs) -> Step:
    """The mixture: softmax, p(x_t), a route; the model's law again only in the rows that are routed to it."""
    case = inputs.case
    weights = routes(case)

    def step(x: torch.Tensor, uniform=None) -> Moved:
        uniform = random_numbers(x, 3, uniform)
        if case.temperature == 1:
            law = inputs.logits.softmax(-1, dtype=torch.float32)
        else:
            law = tempered(inputs.logits, case.temperature).softmax(-1)
        p = law.gather(-1, x[..., None]).squeeze(-1)
        tokens, draws = _route(case, weights, x, p.double(), uniform)
        if len(rows := draws.flatten().nonzero()[:, 0]):
            others = law.view(-1, case.vocab)[rows].scatter_(-1, x.flatten()[rows, None], 0.0)
            tokens.view(-1)[rows] = _draw_rows(others, uniform[..., 1].flatten()[rows])
        x.copy_(tokens)
        return Moved(tokens, p)

    return step


def _careful_renoise(inputs: Inputs) -> Step:
    """One log-softmax for law and entropy, which serves both decisions; draws for the accepted rows."""
    case = inputs.case

    def step(x: torch.Tensor, uniform=None) -> Moved:
        uniform = random_numbers(x, 2, uniform)
        logprob = tempered(inputs.logits, case.temperature).log_softmax(-1)
        argmax = logprob.argmax(-1)
        law = logprob.exp()
        entropy = -logprob.mul_(law).sum(-1)
        accepted = accept(entropy)
        tokens = _noise_tokens(case, uniform[..., 1])
        rows = accepted.flatten().nonzero()[:, 0]
        tokens.view(-1)[rows] = _draw_rows(law.view(-1, case.vocab)[rows], uniform[..., 0].flatten()[rows])
        x.copy_(tokens)
        return Moved(tokens, entropy, argmax, accepted, is_stable(inputs, argmax) & (entropy.mean(-1) < CONFIDENT))

    return step


def _careful_select(inputs: Inputs) -> Step:
    case = inputs.case

    def step(x: torch.Tensor, uniform=None) -> Moved:
        if case.confidence == "prob":
            tokens = inputs.logits.max(-1).indices  # several times faster than argmax on bf16
            x.copy_(tokens)
            return Moved(tokens)
        law = inputs.logits.softmax(-1, dtype=torch.float32)
        top, tokens = law.max(-1)
        gain = top - law.gather(-1, x[..., None]).squeeze(-1)
        best = gain.topk(case.k, -1).indices
        if case.temperature:
            chosen = inputs.logits.gather(1, best[..., None].expand(-1, -1, case.vocab))
            law = tempered(chosen, case.temperature).softmax(-1).flatten(0, 1)
            u = torch.rand(x.shape, dtype=torch.float64) if uniform is None else uniform
            tokens.scatter_(1, best, _draw_rows(law, u.gather(1, best).flatten()).view(best.shape))
        x.scatter_(1, best, tokens.gather(1, best))
        return Moved(tokens, gain)

    return step


def _careful_q_sample(inputs: Inputs) -> Step:
    case = inputs.case
    level, share = schedule.noised(case)
    noise = level.noise * share

    def step(x: torch.Tensor, uniform=None) -> Moved:
        uniform = random_numbers(x, 2, uniform)
        u = uniform[..., 0]
        x_t = torch.where(u < noise, _noise_tokens(case, uniform[..., 1]), x)
        if case.mask_id is not None:
            x_t = torch.where((u >= noise) & (u < level.noise), case.mask_id, x_t)
        return Moved(x_t)

    return step


# -- our own algorithm, compiled


def compiled_chunked(inputs: Inputs) -> Step:
    case = inputs.case
    weights = None if case.op == "renoise_step" else routes(case)

    def transition(x: torch.Tensor, logits: torch.Tensor, uniform: torch.Tensor):
        p, drawn = chunked.transition(logits, x, uniform[..., 1], case.temperature)
        tokens, draws = _route(case, weights, x, p, uniform)
        tokens = torch.where(draws, drawn, tokens)
        x.copy_(tokens)
        return tokens, p

    def renoise(x: torch.Tensor, logits: torch.Tensor, uniform: torch.Tensor):
        argmax, drawn, entropy = chunked.renoise(logits, uniform[..., 0], case.temperature)
        accepted = accept(entropy)
        tokens = torch.where(accepted, drawn, _noise_tokens(case, uniform[..., 1]))
        x.copy_(tokens)
        return tokens, entropy, argmax, accepted, is_stable(inputs, argmax) & (entropy.mean(-1) < CONFIDENT)

    whole, count = (renoise, 2) if case.op == "renoise_step" else (transition, 3)
    run = torch.compile(whole, fullgraph=True, dynamic=False)
    return lambda x, uniform=None: Moved(*run(x, inputs.logits, random_numbers(x, count, uniform)))
