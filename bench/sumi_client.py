"""Sumi's remote code as its sampler sees it: the functions of ``generation_sumi`` with their names and signatures, semantics told
anew, and a model around a network(tokens [B, S]) -> logits [B, S, V]. Its vocabulary is padded by a logit that none may read."""

from types import SimpleNamespace

import torch

from .uniform_peers import sumi_posterior


def _make_log_snr_schedule(num_steps, schedule, min_log_snr, max_log_snr, device):
    alpha = torch.linspace(1e-4, 1 - 1e-4, num_steps + 1, device=device)
    return (alpha.log() - torch.log1p(-alpha)).clamp(min_log_snr, max_log_snr)


def _compute_logits(model, z, attention_mask, vocab_size):
    """Logits."""
    return model(input_ids=z, attention_mask=attention_mask, use_cache=False).logits[..., :vocab_size].float()


def _compute_x_hat(model, z, attention_mask, vocab_size, temperature=1.0):
    """Probabilities."""
    logits = _compute_logits(model, z, attention_mask, vocab_size)
    return (logits / (1.0 if temperature == 1.0 else max(float(temperature), 1e-6))).softmax(-1)


def _ancestral_step(z_t, x_hat, log_snr_t, log_snr_s, vocab_size, generator, eps=1e-12):
    """One step."""
    law, _ = sumi_posterior(x_hat, z_t, log_snr_t, log_snr_s)
    return torch.multinomial(law.flatten(0, 1), 1, generator=generator).view_as(z_t)


def _adaptive_step(z_t, logits, noise_mask, tokens_per_step, temperature, generator):
    x_hat = logits.softmax(-1)
    gain = x_hat.amax(-1) - x_hat.gather(-1, z_t[..., None])[..., 0]
    k = max(1, min(int(tokens_per_step), z_t.shape[-1]))
    chosen = gain.masked_fill(~noise_mask, -torch.inf).topk(k, dim=-1).indices
    if temperature and temperature > 0:
        law = (logits / max(temperature, 1e-6)).softmax(-1).flatten(0, 1)
        drawn = torch.multinomial(law, num_samples=1, generator=generator).view_as(z_t)
    else:
        drawn = logits.argmax(-1)
    return torch.where(noise_mask, z_t.scatter(-1, chosen, drawn.gather(-1, chosen)), z_t), chosen


def _greedy_step(z_t, logits, noise_mask):
    return torch.where(noise_mask, logits.argmax(-1), z_t)


def _build_noise_mask(generated_ids, prompt_length, frozen=None, denoise_end=None):
    noise_mask = torch.ones_like(generated_ids, dtype=torch.bool)
    noise_mask[:, :prompt_length] = False
    for position, token in frozen or []:
        generated_ids[:, position] = token
        noise_mask[:, position] = False
    return noise_mask


class SumiGenerationMixin:
    @torch.no_grad()
    def generate(
        self,
        input_ids,
        num_denoising_steps=6,
        generator=None,
        sampler="ancestral",
        temperature=1.0,
        tokens_per_step=1,
        frozen=None,
        canvas_length=30,
        progress_callback=None,
    ):
        """Denoise."""
        length = canvas_length - input_ids.shape[1]
        noise = torch.randint(0, self.vocab_size, (len(input_ids), length), generator=generator)
        z = torch.cat([input_ids, noise], dim=-1)
        noise_mask = _build_noise_mask(z, input_ids.shape[1], frozen)
        log_snrs = _make_log_snr_schedule(num_denoising_steps, "linear", -9.0, 9.0, z.device)
        for step in range(num_denoising_steps):
            selected = top = None
            if sampler == "ancestral":
                x_hat = _compute_x_hat(self, z, None, self.vocab_size, temperature)
                top = x_hat.max(dim=-1) if progress_callback else None
                levels = float(log_snrs[step]), float(log_snrs[step + 1])
                new = _ancestral_step(z, x_hat, *levels, self.vocab_size, generator)
            else:
                logits = _compute_logits(self, z, None, self.vocab_size)
                top = torch.softmax(logits, dim=-1).max(dim=-1) if progress_callback else None
                if sampler == "adaptive":
                    new, selected = _adaptive_step(z, logits, noise_mask, tokens_per_step, temperature, generator)
                else:
                    new = _greedy_step(z, logits, noise_mask)
            z = torch.where(noise_mask, new, z)
            if progress_callback:
                prob, best = top
                progress_callback({"z": z, "top1_z": best, "top1_prob": prob, "selected_pos": selected})
        return SimpleNamespace(sequences=z)


class SumiForDiffusionLM(SumiGenerationMixin, torch.nn.Module):
    def __init__(self, network, vocab_size):
        super().__init__()
        self.network, self.vocab_size = network, vocab_size

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        logits = self.network(input_ids)
        pad = torch.full_like(logits[..., :1], 99.0)
        return SimpleNamespace(logits=torch.cat([logits, pad], dim=-1))
