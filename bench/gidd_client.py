"""GIDD's code and its model on the hub as their samplers see them: names and signatures, semantics told anew. A GiddSampler's
``model(tokens [B, L], t)`` gives logits [B, L, V] of which it may keep what it likes; the hub's has a network(tokens)."""

import math
from types import SimpleNamespace

import torch


def sample_categorical(probs):
    """The inverse CDF, with what rounding lost given to the last token."""
    cdf = probs.cumsum(-1)
    cdf[..., -1] = 1 + 1e-4
    return torch.searchsorted(cdf, torch.rand(*probs.shape[:-1], 1, dtype=probs.dtype), right=True)[..., 0]


class Tokenizer:
    def __init__(self, vocab, mask_token_id):
        self.vocab, self.mask_token_id = vocab, mask_token_id

    def __len__(self):
        return self.vocab


class HybridDiffusion(torch.nn.Module):
    def __init__(self, tokenizer, clip_noise=20, gamma=1.0, p_uniform=0.0):
        super().__init__()
        self.tokenizer, self.mask_id, self.vocab_size = tokenizer, tokenizer.mask_token_id, len(tokenizer)
        self.p_uniform = max(math.exp(-clip_noise), p_uniform)
        log_b = gamma * math.log(2) + math.log(self.p_uniform) - math.log(1 - self.p_uniform)
        self.register_buffer("log_B", torch.tensor(log_b).clip(-clip_noise))
        self.register_buffer("log_gamma", torch.tensor(gamma).log())
        mask = torch.nn.functional.one_hot(torch.tensor(self.mask_id), self.vocab_size).float()
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("unif", (1 - mask) / (self.vocab_size - 1), persistent=False)

    def get_alpha_betapi(self, t, eps=1e-4):
        t, half = t[:, None], self.log_gamma.exp() / 2
        spread = t.pow(half) * (1 - t).pow(half) * self.log_B.exp()
        total = (1 + spread).clip(eps)
        return (1 - t) / total, (t * self.mask + spread * self.unif) / total

    def probs_at_t(self, prs, t, eps=1e-4):
        alpha, beta_pi = self.get_alpha_betapi(t, eps=eps)
        return prs.mul(alpha[..., None]).add_(beta_pi[:, None]).to(prs.dtype)

    def sample_zt(self, input_ids, t):
        return sample_categorical(
            self.probs_at_t(torch.nn.functional.one_hot(input_ids, self.vocab_size).to(t.dtype), t)
        )


class GiddSampler(torch.nn.Module):
    class DenoisingStep(torch.nn.Module):
        def __init__(self, model, noise_schedule, tokenizer, min_p=0.0):
            super().__init__()
            self.model, self.noise_schedule, self.tokenizer, self.min_p = model, noise_schedule, tokenizer, min_p

        def forward(self, z_t, t, s):
            logits = self.model(z_t, t)
            logits[..., self.tokenizer.mask_token_id] = -1e6
            q_s = self.noise_schedule.probs_at_t(logits.softmax(-1), s)
            q_t = self.noise_schedule.probs_at_t(logits.softmax(-1), t).gather(-1, z_t[..., None])
            (alpha_t, pi_t), (alpha_s, pi_s) = map(self.noise_schedule.get_alpha_betapi, (t, s))
            here = torch.nn.functional.one_hot(z_t, len(self.tokenizer))
            fresh = (pi_t - alpha_t / alpha_s * pi_s)[:, None].expand_as(here).gather(-1, z_t[..., None])
            self.law = (alpha_t / alpha_s * here + fresh) * q_s / q_t
            if self.min_p > 0:
                self.law = (1 - (self.law < self.min_p).float()) * self.law
                self.law = self.law / self.law.sum(-1, keepdim=True)
            return sample_categorical(self.law)

    def __init__(self, model, tokenizer, noise_schedule, t_eps=1e-4, compile_step=True, min_p=0.0):
        super().__init__()
        self.model, self.tokenizer, self.noise_schedule, self.t_eps = model, tokenizer, noise_schedule, t_eps
        self.sampling_step = self.DenoisingStep(model, noise_schedule, tokenizer, min_p=min_p)
        if compile_step:
            self.sampling_step = torch.compile(self.sampling_step)

    @torch.no_grad()
    def generate(self, num_samples=1, num_denoising_steps=8, max_length=40):
        ts = self.t_eps + (1 - 2 * self.t_eps) * torch.linspace(0, 1, num_denoising_steps + 1)[:, None]
        z_t = torch.full((num_samples, max_length), self.tokenizer.mask_token_id)
        for i in range(num_denoising_steps - 1, -1, -1):
            z_t = self.sampling_step(z_t, ts[i], ts[max(0, i - 1)]).clone()
        return z_t


class GiddPipeline(torch.nn.Module):
    def __init__(self, sampler):
        super().__init__()
        self.sampler = sampler


def correction_step(model, tokenizer, z_t, t, temp, tokens_per_step):
    logits = model(z_t, t)
    logits[..., tokenizer.mask_token_id] = -1e6
    law = (logits / temp).softmax(-1)
    drawn = sample_categorical(law)
    score = (drawn != z_t) * law.gather(-1, drawn[..., None])[..., 0]
    chosen = score.topk(tokens_per_step, dim=-1).indices
    z = z_t.scatter(-1, chosen, drawn.gather(-1, chosen))
    return z, (z == logits.argmax(-1)).float().mean().item()


class GiddForDiffusionLM(torch.nn.Module):
    """Over log-SNR. ``noise_type``: +-1000 pure uniform or mask noise, 0 both."""

    mask_token_id = 3

    def __init__(self, network, vocab_size, noise_type=0.0):
        super().__init__()
        self.config = SimpleNamespace(noise_type=noise_type, vocab_size=vocab_size, min_log_snr=-9.0, max_log_snr=9.0)
        self.network = network

    def _pi_lambda(self, log_snr, mask_token_id=3):
        share = torch.sigmoid(log_snr + self.config.noise_type)
        pi = share * torch.ones(self.config.vocab_size) / (self.config.vocab_size - 1)
        pi[mask_token_id] = 1 - share
        return pi

    def _probs_with_topk_topp(self, logits, temperature, top_p, top_k):
        if temperature == 0.0:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        x = logits / temperature
        if top_k is not None and 0 < top_k < x.shape[-1]:
            x = x.masked_fill(x < x.topk(top_k, dim=-1).values[..., -1:], -torch.inf)
        if top_p is not None and 0.0 < top_p < 1.0:
            ordered, index = x.sort(dim=-1, descending=True)
            out = torch.nn.functional.pad(ordered.softmax(-1).cumsum(-1), (1, 0))[..., :-1] > top_p
            out[..., 0] = False
            x = x.masked_fill(out.scatter(-1, index, out), -torch.inf)
        return x.softmax(-1)

    def _sample_ancestral(self, z, x_hat, log_snr_t, log_snr_s, mask_token_id=3):
        alpha_t, alpha_s = torch.sigmoid(log_snr_t), torch.sigmoid(log_snr_s)
        noise_t, noise_s = (
            (1 - alpha) * self._pi_lambda(log_snr, mask_token_id=mask_token_id)
            for alpha, log_snr in ((alpha_t, log_snr_t), (alpha_s, log_snr_s))
        )
        q_t, q_s = alpha_t * x_hat + noise_t, alpha_s * x_hat + noise_s
        here = torch.nn.functional.one_hot(z, self.config.vocab_size).to(q_t.dtype)
        forward = alpha_t / alpha_s * here + (noise_t - alpha_t / alpha_s * noise_s)[z, None]
        self.law = q_s * forward / q_t.gather(-1, z[..., None])
        return torch.multinomial(self.law.flatten(0, 1), 1).view_as(z)

    def _sample_adaptive(
        self, z, logits, log_snr, n_tokens=1, mask_token_id=3, temperature=0.0, top_p=None, top_k=None
    ):
        prior = self._pi_lambda(log_snr, mask_token_id=mask_token_id)[z]
        p = logits.softmax(-1)
        gain = (p.amax(-1) - p.gather(-1, z[..., None])[..., 0]) * (prior / prior.sum(-1, keepdim=True))
        chosen = gain.topk(n_tokens, dim=-1).indices
        probs = self._probs_with_topk_topp(logits, temperature, top_p, top_k)
        drawn = torch.multinomial(probs.flatten(0, 1), num_samples=1).view_as(z)
        return z.scatter(-1, chosen, drawn.gather(-1, chosen))

    def logits(self, z):
        return self.network(z).index_fill(-1, torch.tensor([self.mask_token_id]), -torch.inf)

    @torch.no_grad()
    def generate(
        self, batch=2, block=30, steps=8, temperature=1.0, top_p=None, top_k=None, sampling_method="ancestral"
    ):
        z = torch.full((batch, block), self.mask_token_id)
        log_snrs = torch.linspace(9.0, -9.0, steps + 1)
        for step in range(steps, 0, -1):
            if sampling_method == "ancestral":
                x_hat = self._probs_with_topk_topp(self.logits(z), temperature=temperature, top_p=top_p, top_k=top_k)
                z = self._sample_ancestral(z=z, x_hat=x_hat, log_snr_t=log_snrs[step], log_snr_s=log_snrs[step - 1])
            else:
                filters = dict(temperature=temperature, top_p=top_p, top_k=top_k)
                z = self._sample_adaptive(z=z, logits=self.logits(z), log_snr=log_snrs[step], n_tokens=4, **filters)
        return z
