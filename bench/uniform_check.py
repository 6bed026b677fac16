"""check.py's part for the uniform family: the truth is p(x_s | x_t) by Bayes' rule in fp64, with no code of any provider.

How a draw is judged depends on the provider's noise. "uniform": the step decides its route by the first number given, noise
before mask before model before staying, then draws the token (from the law without x_t) by the second and the noise by the
third: each choice must lie in its bracket. "cdf": one number, inverted on the whole posterior. "own": a race, replayed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from . import schedule
from .cases import Case
from .check import DRAW_TOLERANCE, ENTROPY_SLACK, NOISE_TOLERANCE, Result, _judge_draw, _judge_greedy
from .inputs import Inputs
from .peers import Provider, Step
from .uniform_steps import CONFIDENT, ENTROPY_BOUND

_BLOCK_ELEMENTS = 1 << 21


def check(provider: Provider, step: Step, inputs: Inputs) -> Result:
    """Run `step` once on a fresh canvas and compare what it returns, and the canvas, with the truth.

    In the result: id_mismatch counts wrong tokens, route included; commit_mismatch positions wrongly accepted, selected or
    written; conf_relerr is that of p(x_t) (gain, entropy: relative to max(1, truth)); ties as in check.py.
    """
    case, x = inputs.case, inputs.canvas.clone()
    torch.manual_seed(case.seed)
    with provider.context():
        out = step(x, inputs.uniform if provider.noise in ("uniform", "cdf") else None)
    torch.manual_seed(case.seed)  # the replay reads the stream that the provider read
    if out.tokens.shape != x.shape:
        return Result(False, f"shape {tuple(out.tokens.shape)}, expected {tuple(x.shape)}")
    if not ((out.tokens >= 0) & (out.tokens < case.vocab)).all():
        return Result(False, f"tokens outside 0..{case.vocab - 1}")
    judge = {"renoise_step": _renoise, "select_step": _select, "q_sample": _q_sample}.get(case.op, _transition)
    result, rtol = judge(provider, inputs, out, x)
    problems = [
        f"{result.id_mismatch} wrong tokens" * bool(result.id_mismatch),
        f"{_MEASURED[case.op]} off by {result.conf_relerr:.1e} (allowed {rtol:.1e})" * (not result.conf_relerr <= rtol),
        f"{result.commit_mismatch} positions wrongly written or left" * bool(result.commit_mismatch),
    ]
    result.why = result.why or "; ".join(filter(None, problems))
    result.passed = not result.why
    return result


_MEASURED = {
    "uniform_step": "p(x_t)",
    "transition_step": "p(x_t)",
    "renoise_step": "entropy",
    "select_step": "gain",
    "q_sample": "",
}


def _blocks(inputs: Inputs) -> Iterator[tuple[slice, torch.Tensor]]:
    """fp64 logits over the temperature (1 for greedy steps), block by block: `[r, V]`; without the mask's."""
    case = inputs.case
    flat = inputs.logits.reshape(-1, case.vocab)
    rows = max(1, _BLOCK_ELEMENTS // case.vocab)
    for first in range(0, case.rows, rows):
        z = flat[first : first + rows].double() / (case.temperature or 1)
        if case.mask_id is not None:
            z[:, case.mask_id] = -torch.inf
        yield slice(first, first + rows), z


def _worst(errors: list[torch.Tensor]) -> float:
    """The largest; NaN if there is one."""
    joined = torch.cat(errors)
    return math.nan if joined.isnan().any() else float(joined.max())


# -- reverse steps


def bridge(p, alpha_t: float, alpha_s: float, prior_t, prior_s, noise_s: float, mask_s: float):
    """Bayes' rule, q(x_t | x_s) q_s(x_s) / q_t(x_t), as weights of staying, the model's law, uniform noise and the mask.

    `p` fp64: the model's probability of x_t; `prior_t`, `prior_s`: the noise at x_t, per token, at either end; `noise_s`,
    `mask_s`: of all uniform tokens together and of the mask, at s.
    """
    ratio = alpha_t / alpha_s
    reach = prior_t - ratio * prior_s  # from any token to x_t
    q_t = alpha_t * p + prior_t
    stay = ratio * (alpha_s * p + prior_s) / q_t
    return stay, reach * alpha_s / q_t, reach * noise_s / q_t, reach * mask_s / q_t


def weights(case: Case, p: torch.Tensor, is_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(stay, model, noise, mask) of the case's step, fp64 like `p`."""
    if case.model == "gidd":
        parts = []
        for time in schedule.times(case):
            grown = 2 * schedule.P_UNIFORM / (1 - schedule.P_UNIFORM) * math.sqrt(time * (1 - time))
            total = 1 + grown
            prior = torch.full_like(p, grown / total / (case.vocab - 1)).masked_fill(is_mask, time / total)
            parts.append(((1 - time) / total, prior, grown / total, time / total))
        (alpha_t, prior_t, _, _), (alpha_s, prior_s, noise_s, mask_s) = parts
        return bridge(p, alpha_t, alpha_s, prior_t, prior_s, noise_s, mask_s)
    t, s = schedule.sumi(case) if case.model == "sumi" else schedule.duo(case)
    prior_t = t.noise / case.vocab
    found = bridge(p, t.alpha, s.alpha, prior_t, s.noise / case.vocab, s.noise, 0.0)
    if case.model == "duo":
        stay, model, _, _ = bridge(p, t.alpha, 1.0, prior_t, 0.0, 0.0, 0.0)
        fresh = torch.full_like(p, s.noise)
        anew = (s.alpha * stay, s.alpha * model, fresh, torch.zeros_like(p))
        kappa = schedule.KAPPA
        found = tuple(kappa * a + (1 - kappa) * b for a, b in zip(found, anew))
    return found


def posterior(case: Case, law: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """p(x_s | x_t) over the vocabulary, `[r, V]`, from the law fp64 and x_t `[r]`."""
    mask_id = -1 if case.mask_id is None else case.mask_id
    p = law.gather(-1, x[:, None])[:, 0]
    stay, model, noise, mask = weights(case, p, x == mask_id)
    out = model[:, None] * law + (noise / (case.vocab - (mask_id >= 0)))[:, None]
    if mask_id >= 0:
        out[:, mask_id] = mask
    return out.scatter_add(-1, x[:, None], stay[:, None])


def _transition(provider: Provider, inputs: Inputs, out, canvas) -> tuple[Result, float]:
    case, rtol = inputs.case, provider.conf_rtol(inputs.logits.dtype)
    x, tokens, claimed = inputs.canvas.flatten(), out.tokens.flatten(), out.confidence.double().flatten()
    variates = provider.replay(inputs) if provider.noise == "own" else None
    mismatch = ties = 0
    errors = []
    for rows, z in _blocks(inputs):
        law = z.softmax(-1)
        p = law.gather(-1, x[rows, None])[:, 0]
        errors.append(torch.where(p > 0, (claimed[rows] - p).abs() / p.clamp(min=1e-300), claimed[rows]))
        if provider.noise == "uniform":
            uniform = inputs.uniform.flatten(0, 1)[rows]
            wrong, tied = _judge_route(case, law, p, x[rows], tokens[rows], uniform, rtol)
        else:
            target = posterior(case, law, x[rows])
            if provider.noise == "cdf":
                wrong, tied = _judge_cdf(target, tokens[rows], inputs.uniform.flatten(0, 1)[rows, 0], rtol)
            else:
                wrong, tied = _judge_race(target, tokens[rows], variates[rows], rtol)
        mismatch, ties = mismatch + int(wrong.sum()), ties + int(tied.sum())
    return Result(True, "", mismatch, ties, _worst(errors), int((canvas != out.tokens).sum())), rtol


def _judge_route(case, law, p, x, tokens, uniform, rtol: float):
    """(wrong, tied). A token is right if some route leads to it whose bracket holds the first number, up to what `rtol` of
    p(x_t) moves its edges, and the token's own bracket the second or third; tied if it needs that slack."""
    mask_id = -1 if case.mask_id is None else case.mask_id
    is_mask = x == mask_id
    stay, model, noise, mask = weights(case, p, is_mask)
    mask = torch.where(is_mask, 0.0, mask)  # from the mask to the mask is staying
    edges = torch.stack([torch.zeros_like(noise), noise, noise + mask, noise + mask + model * (1 - p)], -1)
    support = case.vocab - (mask_id >= 0)
    fallen = (uniform[:, 2] * support).long().clamp(max=support - 1)
    others = law.scatter(-1, x[:, None], 0.0)
    # Taking x_t out leaves 1 - p, of which rounding is a larger share.
    allowed = DRAW_TOLERANCE + rtol / (1 - p).clamp(min=1e-12)
    missed, passed = _outside(others, tokens, uniform[:, 1])
    drawn = [(missed <= most) & passed for most in (allowed, torch.zeros_like(allowed))]
    leads, strictly = (torch.stack([tokens == fallen, tokens == mask_id, way, tokens == x], -1) for way in drawn)
    upper = torch.cat([edges[:, 1:], torch.ones_like(edges[:, :1])], -1)
    u = uniform[:, :1]
    off = torch.maximum(edges - u, u - upper)  # how far the number is outside each bracket
    slack = rtol * upper.clamp(max=1) + 1e-12
    right = (leads & (off <= slack)).any(-1)
    exact = (strictly & (off <= 0)).any(-1)
    return ~right, right & ~exact


def _outside(weights, token, uniform) -> tuple[torch.Tensor, torch.Tensor]:
    """(how far `uniform` is outside the token's step of the CDF, whether it has any mass); `weights` need not sum to 1."""
    total = weights.sum(-1)
    before = weights.cumsum(-1).gather(-1, token[:, None])[:, 0]
    own = weights.gather(-1, token[:, None])[:, 0]
    return torch.maximum((before - own) / total - uniform, uniform - before / total), own > 0


def _judge_cdf(law, tokens, uniform, rtol: float):
    off, possible = _outside(law, tokens, uniform)
    wrong = (off > rtol + DRAW_TOLERANCE) | ~possible
    return wrong, (off > 0) & ~wrong


def _judge_race(law, tokens, variates, rtol: float):
    """argmax of law / variates; numerator and denominator of the posterior both carry the law's error."""
    scores = law.log() - variates.double().log()
    chosen = scores.gather(-1, tokens[:, None])[:, 0]
    best, where = scores.max(-1)
    wrong = chosen < best - 2 * rtol - NOISE_TOLERANCE
    return wrong, ~wrong & (where != tokens)


# -- the other steps


def _renoise(provider: Provider, inputs: Inputs, out, canvas) -> tuple[Result, float]:
    case, shape = inputs.case, inputs.canvas.shape
    rtol = ENTROPY_SLACK * provider.conf_rtol(inputs.logits.dtype)
    tokens, argmax = out.tokens.flatten(), out.argmax.flatten()
    variates = fallen = None
    if provider.noise == "own":
        variates, fallen = provider.replay(inputs)
    else:
        fallen = (inputs.uniform[..., 1] * case.vocab).long().clamp(max=case.vocab - 1)
    wrong, tied, entropies = [], [], []
    for rows, z in _blocks(inputs):
        logprob = z.log_softmax(-1)
        law = logprob.exp()
        entropies.append(-(law * logprob).sum(-1))
        chosen = z.gather(-1, argmax[rows, None])[:, 0]
        wrong_best, tied_best = _judge_greedy(z, argmax[rows], chosen, 1e-6)  # l / T rounded to fp32
        if provider.noise == "own":
            wrong_draw, tied_draw = _judge_race(law, tokens[rows], variates[rows], rtol)
        else:
            wrong_draw, tied_draw = _judge_draw(z, tokens[rows], inputs.uniform[..., 0].flatten()[rows])
            if provider.kind != "ours":
                off, possible = _outside(law, tokens[rows], inputs.uniform[..., 0].flatten()[rows])
                wrong_draw = (off > rtol + DRAW_TOLERANCE) | ~possible
        accepted = out.accepted.flatten()[rows]
        wrong.append(wrong_best | (wrong_draw & accepted))
        tied.append(tied_best | (tied_draw & accepted & ~wrong_draw))
    truth = torch.cat(entropies).view(shape)
    error = ((out.confidence.double() - truth).abs() / truth.clamp(min=1)).flatten()
    must, may = _acceptable(truth, rtol)
    misplaced = (must & ~out.accepted) | (out.accepted & ~may)
    misplaced |= (~out.accepted & (out.tokens != fallen)) | (canvas != out.tokens)
    result = Result(
        True, "", int(torch.cat(wrong).sum()), int(torch.cat(tied).sum()), _worst([error]), int(misplaced.sum())
    )
    mean = truth.mean(-1)
    done = (out.argmax == inputs.clean).all(-1) & (mean < CONFIDENT)
    clear = (mean - CONFIDENT).abs() > rtol
    if ((out.done != done) & clear).any():
        result.why = f"done {out.done.tolist()}, expected {done.tolist()}"
    return result, rtol


def _acceptable(entropy: torch.Tensor, rtol: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(must be accepted, may be): the entropies below a position's sum to at most the bound, whichever way equal ones within
    the error are ordered, or one way."""
    slack = rtol * entropy.clamp(min=1)
    below = entropy[:, None, :] + slack[:, None, :] < (entropy - slack)[:, :, None]
    near = (entropy[:, None, :] - slack[:, None, :] <= (entropy + slack)[:, :, None]) & ~below
    near &= ~torch.eye(entropy.shape[-1], dtype=torch.bool, device=entropy.device)
    least = (below * entropy[:, None, :]).sum(-1)
    most = least + (near * entropy[:, None, :]).sum(-1)
    error = (below | near).sum(-1) * slack.amax(-1, keepdim=True)
    return most + error <= ENTROPY_BOUND, least - error <= ENTROPY_BOUND


def _select(provider: Provider, inputs: Inputs, out, canvas) -> tuple[Result, float]:
    case, rtol = inputs.case, provider.conf_rtol(inputs.logits.dtype)
    x, tokens = inputs.canvas.flatten(), out.tokens.flatten()
    ranked = case.confidence == "gain"
    variates = provider.replay(inputs) if provider.noise == "own" and case.temperature else None
    wrong, tied, gains = [], [], []
    for rows, z in _blocks(inputs):
        raw = (z * (case.temperature or 1)).softmax(-1)
        gains.append(raw.amax(-1) - raw.gather(-1, x[rows, None])[:, 0])
        if not case.temperature:
            judged = _judge_greedy(z, tokens[rows], z.gather(-1, tokens[rows, None])[:, 0], 0.0)
        elif provider.noise == "own":
            judged = _judge_race(z.softmax(-1), tokens[rows], variates[rows], rtol)
        else:
            judged = _judge_cdf(z.softmax(-1), tokens[rows], inputs.uniform.flatten()[rows], rtol)
        wrong.append(judged[0])
        tied.append(judged[1])
    truth = torch.cat(gains).view(inputs.canvas.shape)
    error = (out.confidence.double() - truth).abs().flatten() if ranked else torch.zeros(1)
    cut = truth.topk(case.k, -1).values[:, -1:] if ranked else -torch.inf
    must, may = truth > cut + 2 * rtol, truth >= cut - 2 * rtol
    misplaced = (must & (canvas != out.tokens)) | (~may & (canvas != inputs.canvas))
    misplaced |= (canvas != out.tokens) & (canvas != inputs.canvas)
    changed = (canvas != inputs.canvas).sum(-1)
    unseen = (may & (out.tokens == inputs.canvas)).sum(-1)  # written or not, they look the same
    miscounted = (changed - case.k).clamp(min=0) + (case.k - changed - unseen).clamp(min=0)
    written = may.flatten()  # tokens of the others need not have been drawn
    counts = (int((torch.cat(flags) & written).sum()) for flags in (wrong, tied))
    return Result(True, "", *counts, _worst([error]), int(misplaced.sum() + miscounted.sum())), rtol


def _q_sample(provider: Provider, inputs: Inputs, out, canvas) -> tuple[Result, float]:
    case = inputs.case
    level, share = schedule.noised(case)
    clean, tokens = inputs.clean.flatten(), out.tokens.flatten()
    uniform = inputs.uniform.flatten(0, 1)
    support = case.vocab - (case.mask_id is not None)
    if provider.noise == "cdf":
        law = torch.full((case.vocab,), level.noise * share / support, dtype=torch.float64)
        if case.mask_id is not None:
            law[case.mask_id] = level.noise * (1 - share)
        below = (law.cumsum(0) - law)[tokens] + torch.where(clean < tokens, level.alpha, 0.0)
        own = law[tokens] + torch.where(clean == tokens, level.alpha, 0.0)
        off = torch.maximum(below - uniform[:, 0], uniform[:, 0] - below - own)
        allowed = provider.conf_rtol(torch.float32)
        wrong, tied = off > allowed, (off > 0) & (off <= allowed)
    else:
        u, noise = uniform[:, 0], level.noise * share
        expected = torch.where(u < noise, (uniform[:, 1] * support).long().clamp(max=support - 1), clean)
        if case.mask_id is not None:
            expected = torch.where((u >= noise) & (u < level.noise), case.mask_id, expected)
        near = ((u - noise).abs() < 1e-12) | ((u - level.noise).abs() < 1e-12)
        wrong, tied = (tokens != expected) & ~near, (tokens != expected) & near
    untouched = int((canvas != inputs.canvas).sum())
    return Result(True, "", int(wrong.sum()), int(tied.sum()), 0.0, untouched), 0.0
