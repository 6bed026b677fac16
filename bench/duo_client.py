"""Models shaped like Duo's (``trainer_base.py``, ``algo.py``): their names and what they mean, told anew. The network
``backbone`` takes (tokens [B, L], labels) and returns logits [B, L, V]."""

from types import SimpleNamespace

import torch

from .uniform_peers import duo_posterior, race


def nucleus(log_probs, top_p):
    """Without the tokens before which the more probable ones already have more than ``top_p``; renormalised."""
    ordered, index = log_probs.sort(dim=-1, descending=True)
    mass = ordered.softmax(-1).cumsum(-1)
    out = torch.nn.functional.pad(mass, (1, 0))[..., :-1] > top_p
    out[..., 0] = False
    return log_probs.masked_fill(out.scatter(-1, index, out), -torch.inf).log_softmax(-1)


class Diffusion(torch.nn.Module):
    def __init__(self, backbone, vocab_size, num_classes=None, guid_weight=None, p_nucleus=1.0, use_float64=True):
        super().__init__()
        self.backbone, self.vocab_size = backbone, vocab_size
        self.num_classes, self.class_conditional = num_classes, num_classes is not None
        self.p_nucleus, self.ignore_bos, self.time_conditioning = p_nucleus, False, True
        self.sampler, self.parameterization, self.neg_infinity = "ancestral", "mean", -1e6
        self.config = SimpleNamespace(
            sampling=SimpleNamespace(
                use_float64=use_float64, guid_weight=guid_weight, steps=8, noise_removal="ancestral"
            )
        )
        self.posteriors = 0

    def noise(self, t):
        return None, 1 - (1 - 1e-3) * t

    def _sigma_from_alphat(self, alpha_t):
        return -torch.log(alpha_t)

    def forward(self, xt, sigma, labels=None):
        return self._process_model_output(self.backbone(xt, labels), xt, sigma)

    def _get_ancestral_posterior(self, xt, sigma, labels, alpha_s, alpha_t, p_x0):
        gamma = self.config.sampling.guid_weight
        if self.class_conditional and gamma not in (None, 0.0, 1.0):
            raise TypeError("one argument too many")  # as the original does, where it meant to guide
        if labels is not None and (not self.class_conditional or gamma in (None, 0.0)):
            labels = torch.full_like(labels, self.num_classes)
        if p_x0 is None:
            log_x0 = self.forward(xt, sigma, labels)
            if self.config.sampling.use_float64:
                log_x0 = log_x0.double()
            p_x0 = (nucleus(log_x0, self.p_nucleus) if self.p_nucleus < 1 else log_x0).exp()
        return p_x0, self._posterior_from_x0(p_x0, xt, alpha_s, alpha_t)

    def _alphas(self, t, dt, noise_removal_step):
        alpha_t = self.noise(t)[1]
        return alpha_t, torch.ones_like(alpha_t) if noise_removal_step else self.noise(t - dt)[1]

    def _ancestral_update(self, x, t, labels, dt, p_x0=None, noise_removal_step=False):
        alpha_t, alpha_s = self._alphas(t, dt, noise_removal_step)
        sigma = self._sigma_from_alphat(alpha_t)
        p_x0, self.law = self._get_ancestral_posterior(x, sigma, labels, alpha_s, alpha_t, p_x0)
        return p_x0, race(self.law)

    def _psi_update(self, x, t, labels, dt, kappa, p_x0=None, noise_removal_step=False):
        alpha_t, alpha_s = self._alphas(t, dt, noise_removal_step)
        sigma = self._sigma_from_alphat(alpha_t)
        p_x0, straight = self._get_ancestral_posterior(x, sigma, labels, alpha_s, alpha_t, p_x0)
        _, q_x0 = self._get_ancestral_posterior(x, sigma, labels, torch.ones_like(alpha_t), alpha_t, p_x0)
        self.law = kappa * straight + (1 - kappa) * self._forward_process(q_x0, alpha_s)
        return p_x0, race(self.law)

    @torch.no_grad()
    def generate_samples(self, num_samples, labels=None, num_steps=8, eps=1e-5, length=40):
        x, cache, timesteps = self.prior_sample(num_samples, length), None, torch.linspace(1, eps, num_steps + 1)
        for t, s in zip(timesteps, timesteps[1:]):
            update = dict(x=x, t=t * torch.ones(num_samples, 1), labels=labels, dt=t - s)
            if self.sampler == "ancestral_cache":
                cache, x_next = self._ancestral_update(**update, p_x0=cache)
                if not torch.allclose(x_next, x) or self.time_conditioning:
                    cache = None
                x = x_next
            elif self.sampler == "psi":
                _, x = self._psi_update(**update, kappa=torch.tensor(0.9))
            else:
                _, x = self._ancestral_update(**update)
        t0 = timesteps[-1] * torch.ones(num_samples, 1)
        if self.config.sampling.noise_removal == "ancestral":
            _, x = self._ancestral_update(x=x, t=t0, labels=labels, dt=None, p_x0=cache, noise_removal_step=True)
        return x


class UniformState(Diffusion):
    def _process_model_output(self, model_output, xt, sigma):
        return model_output.log_softmax(dim=-1)

    def _posterior_from_x0(self, x0, xt, alpha_s, alpha_t):
        self.posteriors += 1
        return duo_posterior(x0, xt, alpha_t[..., None], alpha_s[..., None])

    def _forward_process(self, x0, alpha_s):
        return alpha_s[..., None] * x0 + (1 - alpha_s[..., None]) / self.vocab_size

    def q_xt(self, x, alpha_t):
        moved = torch.rand(x.shape) < 1 - alpha_t
        xt = torch.where(moved, torch.randint_like(x, self.vocab_size), x)
        if self.ignore_bos:
            xt[:, 0] = x[:, 0]
        return xt

    def prior_sample(self, *batch_dims):
        return torch.randint(self.vocab_size, batch_dims)


class AbsorbingState(Diffusion):
    """The last token is the mask. ``parameterization="subs"``: MDLM's, which copies what is there."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mask_index, self.parameterization = self.vocab_size - 1, "subs"

    def _process_model_output(self, model_output, xt, sigma):
        log_probs = model_output.index_fill(-1, torch.tensor([self.mask_index]), self.neg_infinity).log_softmax(-1)
        copied = torch.nn.functional.one_hot(xt, self.vocab_size).log().clamp(min=self.neg_infinity)
        return torch.where((xt == self.mask_index)[..., None], log_probs, copied)

    def _posterior_from_x0(self, x0, xt, alpha_s, alpha_t):
        masked = ((alpha_s - alpha_t) / (1 - alpha_t))[..., None] * x0
        masked[..., self.mask_index] = (1 - alpha_s) / (1 - alpha_t)
        return torch.where((xt == self.mask_index)[..., None], masked, x0)

    def _forward_process(self, x0, alpha_s):
        out = alpha_s[..., None] * x0
        out[..., self.mask_index] = 1 - alpha_s
        return out

    def q_xt(self, x, alpha_t):
        return torch.where(torch.rand(x.shape) < 1 - alpha_t, self.mask_index, x)

    def prior_sample(self, *batch_dims):
        return torch.full(batch_dims, self.mask_index)
