"""GIDD's code and its model on the hub as their samplers see them: names and signatures, semantics told anew."""

import math
from types import SimpleNamespace

import dense_posteriors as dense
import torch
from toy_uniform import VOCAB, Network

MASK = 3


def sample_categorical(probs):
    """The inverse CDF, with what rounding lost given to the last token."""
    cdf = probs.cumsum(-1)
    cdf[..., -1] = 1 + 1e-4
    return torch.searchsorted(cdf, torch.rand(*probs.shape[:-1], 1, dtype=probs.dtype), right=True)[..., 0]


class Tokenizer:
    mask_token_id = MASK

    def __init__(self, vocab=VOCAB):
        self.vocab = vocab

    def __len__(self):
        return self.vocab


class Denoiser(Network):
    """Called with a time, as GIDD's models are."""

    def forward(self, z_t, t):
        return super().forward(z_t).clone()


class HybridDiffusion(torch.nn.Module):
    def __init__(self, tokenizer, clip_noise=20, gamma=1.0, p_uniform=0.0):
        super().__init__()
        self.tokenizer, self.mask_id, self.vocab_size = tokenizer, tokenizer.mask_token_id, len(tokenizer)
        self.p_uniform = max(math.exp(-clip_noise), p_uniform)
        log_b = gamma * math.log(2) + math.log(self.p_uniform) - math.log(1 - self.p_uniform)
        self.register_buffer("log_B", torch.tensor(log_b).clip(-clip_noise))
        self.register_buffer("log_gamma", torch.tensor(gamma).log())

    def _of_time(self, law, t):
        return dense.gidd_prior(law, self.mask_id, t.double(), self.log_B.double().exp())

    def probs_at_t(self, prs, t, eps=1e-4):
        prior, alpha = self._of_time(prs.flatten(0, -2), t.repeat_interleave(prs.shape[1]))
        return (alpha[:, None] * prs.flatten(0, -2) + prior).view_as(prs)

    def sample_zt(self, input_ids, t):
        return sample_categorical(self.probs_at_t(torch.nn.functional.one_hot(input_ids, self.vocab_size).double(), t))


class GiddSampler(torch.nn.Module):
    class DenoisingStep(torch.nn.Module):
        def __init__(self, model, noise_schedule, tokenizer, min_p=0.0):
            super().__init__()
            self.model, self.noise_schedule, self.tokenizer, self.min_p = model, noise_schedule, tokenizer, min_p

        def forward(self, z_t, t, s):
            logits = self.model(z_t, t)
            logits[..., self.tokenizer.mask_token_id] = -1e6
            law, here = logits.double().softmax(-1).flatten(0, 1), z_t.flatten()
            times = (time.double().expand(len(law)) for time in (t, s))
            self.law = dense.gidd(law, here, *times, self.noise_schedule.p_uniform, MASK).view_as(logits)
            if self.min_p > 0:
                self.law = torch.where(self.law < self.min_p, 0.0, self.law)
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
        z_t = torch.full((num_samples, max_length), MASK)
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

    def __init__(self, noise_type=0.0, vocab=VOCAB):
        super().__init__()
        self.config = SimpleNamespace(noise_type=noise_type, vocab_size=vocab, min_log_snr=-9.0, max_log_snr=9.0)
        self.network = Network(vocab)

    def _pi_lambda(self, log_snr, mask_token_id=3):
        share = torch.sigmoid(log_snr + self.config.noise_type)
        pi = (share / (self.config.vocab_size - 1)).expand(self.config.vocab_size).clone()
        pi[mask_token_id] = 1 - share
        return pi

    def _probs_with_topk_topp(self, logits, temperature, top_p, top_k):
        if temperature == 0.0:
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
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
        law, here = x_hat.double().flatten(0, 1), z.flatten()
        levels = [level.double().expand(len(law)) for level in (log_snr_t, log_snr_s)]
        self.law = dense.gidd_snr(law, here, *levels, self.config.noise_type, mask_token_id).view_as(x_hat)
        return torch.multinomial(self.law.flatten(0, 1).clamp(min=0), 1).view_as(z)

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
        return self.network(z).index_fill(-1, torch.tensor([MASK]), -torch.inf)

    @torch.no_grad()
    def generate(
        self, batch=2, block=30, steps=8, temperature=1.0, top_p=None, top_k=None, sampling_method="ancestral"
    ):
        z = torch.full((batch, block), MASK)
        log_snrs = torch.linspace(9.0, -9.0, steps + 1)
        for step in range(steps, 0, -1):
            if sampling_method == "ancestral":
                x_hat = self._probs_with_topk_topp(self.logits(z), temperature=temperature, top_p=top_p, top_k=top_k)
                z = self._sample_ancestral(z=z, x_hat=x_hat, log_snr_t=log_snrs[step], log_snr_s=log_snrs[step - 1])
            else:
                filters = dict(temperature=temperature, top_p=top_p, top_k=top_k)
                z = self._sample_adaptive(z=z, logits=self.logits(z), log_snr=log_snrs[step], n_tokens=4, **filters)
        return z
