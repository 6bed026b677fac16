"""The published samplers of the uniform family: what each code computes, in which dtype and in which order, written anew.

peers.py has them as providers, uniform_check.py judges them, uniform_careful.py is what PyTorch can do with care.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from . import schedule
from .inputs import Inputs
from .uniform_steps import CONFIDENT, Moved, Step, accept, is_stable, random_numbers, tempered

_MOST_BYTES = 1 << 30  # of one tensor of a peer


# -- Sumi


def sumi_posterior(x_hat: torch.Tensor, x: torch.Tensor, log_snr_t: float, log_snr_s: float):
    """(p(x_s | x_t) over the vocabulary, x_hat(x_t)) in the dtype of `x_hat`, with Sumi's clamps."""
    vocab = x_hat.shape[-1]
    alpha_t, alpha_s = (
        torch.sigmoid(torch.full((), v, dtype=x_hat.dtype, device=x.device)) for v in (log_snr_t, log_snr_s)
    )
    ratio = alpha_t / alpha_s.clamp(min=1e-12)
    noise_t, noise_s, noise_between = 1 - alpha_t, 1 - alpha_s, (1 - ratio).clamp(min=0)
    q_s = alpha_s * x_hat + noise_s / vocab
    likelihood = ratio * F.one_hot(x, vocab).to(x_hat.dtype) + noise_between / vocab
    held = x_hat.gather(-1, x[..., None]).squeeze(-1)
    q_t = (alpha_t * held + noise_t / vocab).clamp(min=1e-12)
    return (q_s * likelihood / q_t[..., None]).clamp(min=0), held


def multinomial(law: torch.Tensor) -> torch.Tensor:
    """A draw of each row. On a GPU torch.multinomial waits for the device to check the law; the race that it then runs can be
    captured, which favours the peer."""
    if law.is_cuda:
        return (law / torch.empty_like(law).exponential_()).argmax(-1)
    return torch.multinomial(law.reshape(-1, law.shape[-1]), 1).view(law.shape[:-1])


def _sumi_step(inputs: Inputs, compiled: bool) -> Step:
    from ..schedules import log_snr

    case = inputs.case
    log_snrs = [log_snr(level) for level in schedule.sumi(case)]

    def whole(x: torch.Tensor, logits: torch.Tensor):
        posterior, held = sumi_posterior(tempered(logits, case.temperature).softmax(-1), x, *log_snrs)
        tokens = multinomial(posterior)
        x.copy_(tokens)
        return tokens, held

    run = torch.compile(whole, fullgraph=True, dynamic=False) if compiled else whole
    return lambda x, uniform=None: Moved(*run(x, inputs.logits))


def sumi(inputs: Inputs) -> Step:
    if inputs.case.op == "select_step":
        return _sumi_greedy(inputs) if inputs.case.confidence == "prob" else _sumi_adaptive(inputs)
    return _sumi_step(inputs, compiled=False)


def sumi_compiled(inputs: Inputs) -> Step:
    return _sumi_step(inputs, compiled=True)


def _sumi_greedy(inputs: Inputs) -> Step:
    def step(x: torch.Tensor, uniform=None) -> Moved:
        tokens = inputs.logits.float().argmax(-1)
        x.copy_(tokens)
        return Moved(tokens)

    return step


def _sumi_adaptive(inputs: Inputs) -> Step:
    """A draw for every position, and the k with the largest p_max - p(x_t) take theirs."""
    case = inputs.case

    def step(x: torch.Tensor, uniform=None) -> Moved:
        z = inputs.logits.float()
        x_hat = z.softmax(-1)
        gain = x_hat.max(-1).values - x_hat.gather(-1, x[..., None]).squeeze(-1)
        best = gain.topk(case.k, -1).indices
        if case.temperature:
            tokens = multinomial((z / case.temperature).softmax(-1))
        else:
            tokens = z.argmax(-1)
        x.scatter_(1, best, tokens.gather(1, best))
        return Moved(tokens, gain)

    return step


def multinomial_noise(inputs: Inputs) -> torch.Tensor:
    """What torch.multinomial divides the probabilities by before it takes the largest: fp32 exponentials `[rows, V]`."""
    return torch.empty(inputs.case.rows, inputs.case.vocab, device=inputs.canvas.device).exponential_()


# -- GIDD


def _gidd_level(inputs: Inputs, time: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, noise per token `[V]`) in fp32, as its buffers hold them."""
    case, device = inputs.case, inputs.canvas.device
    t = torch.tensor(time)
    uniform = torch.full((case.vocab,), 1 / (case.vocab - 1))
    uniform[case.mask_id] = 0
    mask = torch.zeros(case.vocab)
    mask[case.mask_id] = 1
    growth = 2 * schedule.P_UNIFORM / (1 - schedule.P_UNIFORM) * t.sqrt() * (1 - t).sqrt()
    return ((1 - t) / (1 + growth)).to(device), ((t * mask + growth * uniform) / (1 + growth)).to(device)


def _inverse_cdf(law: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """GIDD's categorical: one uniform per position against the running sum, whose end is lifted over 1."""
    cdf = law.cumsum(-1)
    cdf[..., -1] = 1 + 1e-4
    return torch.searchsorted(cdf, uniform[..., None].to(cdf.dtype), right=True).squeeze(-1)


def _noised(law: torch.Tensor, level: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    alpha, noise = level
    return law.mul(alpha).add_(noise)


def _gidd_step(inputs: Inputs, compiled: bool) -> Step:
    """Two softmaxes, because it asks for q_s and q_t one after the other."""
    case = inputs.case
    levels = [_gidd_level(inputs, time) for time in schedule.times(case)]

    def whole(x: torch.Tensor, logits: torch.Tensor, uniform: torch.Tensor):
        (alpha_t, noise_t), (alpha_s, noise_s) = levels
        x_hat = logits.softmax(-1, dtype=torch.float32)
        q_s = _noised(x_hat, (alpha_s, noise_s))
        q_t = _noised(logits.softmax(-1, dtype=torch.float32), (alpha_t, noise_t))
        seen = F.one_hot(x, case.vocab)
        ratio = alpha_t / alpha_s
        between = (noise_t - ratio * noise_s).expand(seen.shape).gather(-1, x[..., None])
        posterior = (ratio * seen + between) * q_s / q_t.gather(-1, x[..., None])
        tokens = _inverse_cdf(posterior, uniform[..., 0])
        held = x_hat.gather(-1, x[..., None]).squeeze(-1)
        x.copy_(tokens)
        return tokens, held

    run = torch.compile(whole, fullgraph=True, dynamic=False) if compiled else whole
    return lambda x, uniform=None: Moved(*run(x, inputs.logits, random_numbers(x, 1, uniform)))


def gidd(inputs: Inputs) -> Step:
    return _gidd_q_sample(inputs) if inputs.case.op == "q_sample" else _gidd_step(inputs, compiled=False)


def gidd_compiled(inputs: Inputs) -> Step:
    return _gidd_step(inputs, compiled=True)


def _gidd_q_sample(inputs: Inputs) -> Step:
    """One-hots, noised, and a draw from each: three tensors of the size of the vocabulary."""
    case = inputs.case
    if (size := 8 * case.rows * case.vocab) > _MOST_BYTES:
        raise RuntimeError(f"its one-hots alone take {size / 2**30:.0f} GiB here")
    level = _gidd_level(inputs, 0.5)

    def step(x: torch.Tensor, uniform=None) -> Moved:
        clean = F.one_hot(x, case.vocab).to(torch.float32)
        return Moved(_inverse_cdf(_noised(clean, level), random_numbers(x, 1, uniform)[..., 0]))

    return step


# -- Duo


def duo_posterior(x_hat: torch.Tensor, x: torch.Tensor, alpha_t, alpha_s):
    """p(x_s | x_t) over the vocabulary as Duo and UDLM write it, in the dtype of `x_hat`; alphas are numbers or [B, 1, 1]."""
    vocab, ratio = x_hat.shape[-1], alpha_t / alpha_s
    seen = F.one_hot(x, vocab).to(torch.float32)
    top = alpha_t * vocab * x_hat * seen + (ratio - alpha_t) * seen + (alpha_s - alpha_t) * x_hat
    held = x_hat.gather(-1, x[..., None])
    return (top + (1 - ratio) * (1 - alpha_s) / vocab) / (alpha_t * vocab * held + 1 - alpha_t)


def duo(inputs: Inputs) -> Step:
    """The Psi sampler, in fp64: the posteriors at s and at 0, the latter noised again, and a Gumbel draw from their mean."""
    case = inputs.case
    t, s = schedule.duo(case)
    vocab = case.vocab

    def step(x: torch.Tensor, uniform=None) -> Moved:
        x_hat = inputs.logits.float().log_softmax(-1).exp()
        at_s = duo_posterior(x_hat.double(), x, t.alpha, s.alpha)
        at_0 = duo_posterior(x_hat.double(), x, t.alpha, 1.0)
        law = schedule.KAPPA * at_s + (1 - schedule.KAPPA) * (s.alpha * at_0 + (1 - s.alpha) / vocab)
        tokens = race(law)
        held = x_hat.double().gather(-1, x[..., None]).squeeze(-1)
        x.copy_(tokens)
        return Moved(tokens, held)

    return step


def race(law: torch.Tensor) -> torch.Tensor:
    """The draw of UDLM and Duo, in the dtype of the law."""
    return (law / exponentials(torch.rand_like(law))).argmax(-1)


def exponentials(uniform: torch.Tensor) -> torch.Tensor:
    """UDLM's and Duo's: 1e-10 - log(u + 1e-10), in the dtype of u."""
    return 1e-10 - (uniform + 1e-10).log()


def duo_noise(inputs: Inputs) -> torch.Tensor:
    shape = inputs.case.rows, inputs.case.vocab
    return exponentials(torch.rand(shape, dtype=torch.float64, device=inputs.canvas.device))


# -- DiffusionGemma


def diffusion_gemma(inputs: Inputs) -> Step:
    """transformers' step: multinomial and argmax of the tempered logits; the entropy once to accept by and once to stop by."""
    case = inputs.case

    def step(x: torch.Tensor, uniform=None) -> Moved:
        z = inputs.logits / case.temperature
        drawn = multinomial(z.softmax(-1, dtype=torch.float32))
        argmax = z.argmax(-1)
        entropy = _entropy(z)
        accepted = accept(entropy)
        canvas = torch.where(accepted, drawn, x)
        canvas = torch.where(~accepted, torch.randint(case.vocab, x.shape, device=x.device), canvas)
        confident = _entropy(z).mean(-1) < CONFIDENT
        done = is_stable(inputs, argmax) & confident
        x.copy_(canvas)
        return Moved(canvas, entropy, argmax, accepted, done)

    return step


def _entropy(z: torch.Tensor) -> torch.Tensor:
    """On a GPU without the check of the logits, which waits for the device and cannot be captured: that favours the peer."""
    return torch.distributions.Categorical(logits=z, validate_args=False if z.is_cuda else None).entropy()


def diffusion_gemma_noise(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    variates = multinomial_noise(inputs)
    return variates, torch.randint(inputs.case.vocab, inputs.canvas.shape, device=inputs.canvas.device)
