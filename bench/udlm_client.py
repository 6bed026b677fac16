"""A model shaped like UDLM's (``diffusion.py`` of discrete-diffusion-guidance): its names and what they mean, told anew. The
network ``backbone`` takes (tokens [B, L], classes [B] or None) and returns logits [B, L, V]."""

from types import SimpleNamespace

import torch

from .uniform_peers import duo_posterior, race


class Diffusion(torch.nn.Module):
    def __init__(self, backbone, vocab_size, diffusion="uniform", use_float64=False):
        super().__init__()
        self.backbone, self.vocab_size = backbone, vocab_size
        self.diffusion, self.mask_index, self.T = diffusion, vocab_size - 1, 0
        sampling = SimpleNamespace(use_float64=use_float64, steps=8, use_cache=True)
        guidance, data = SimpleNamespace(method=None, gamma=2.0, condition=1), SimpleNamespace(num_classes=2)
        self.config = SimpleNamespace(sampling=sampling, guidance=guidance, data=data)
        self.posteriors = 0

    def noise(self, t):
        return -torch.log1p(-(1 - 1e-3) * t), None

    def forward(self, x, sigma, cond=None):
        return self.backbone(x, cond).log_softmax(dim=-1)

    def _compute_posterior(self, x, xt, alpha_s, alpha_t):
        self.posteriors += 1
        return duo_posterior(x, xt, alpha_t, alpha_s)

    def _ddpm_denoise(self, xt, time_conditioning, move_chance_t, move_chance_s, cache=None):
        """One step."""
        log_x_theta = self.forward(xt, time_conditioning, cond=None) if cache is None else cache["log_x_theta"]
        if cache is None and self.config.sampling.use_float64:
            log_x_theta = log_x_theta.to(torch.float64)
        if self.diffusion == "absorbing_state":
            q_xs = log_x_theta.exp() * (move_chance_t - move_chance_s) / move_chance_t
            q_xs[..., self.mask_index] = (move_chance_s / move_chance_t)[..., 0]
            return torch.where(xt == self.mask_index, race(q_xs), xt), q_xs, {"log_x_theta": log_x_theta}
        q_xs = self._compute_posterior(log_x_theta.exp(), xt, 1 - move_chance_s, 1 - move_chance_t)
        return race(q_xs), q_xs, {"log_x_theta": log_x_theta}

    def _cfg_denoise(self, cond, gamma, xt, time_conditioning, move_chance_t, move_chance_s, cache=None):
        laws = {}
        for name, without, labels in (
            ("log_x_theta_cond", 0.0, cond),
            ("log_x_theta_uncond", 1.0, torch.full_like(cond, self.config.data.num_classes)),
        ):
            known = cache is not None
            laws[name] = cache[name] if known else None if gamma == without else self.forward(xt, None, cond=labels)
        logs = {
            name: self._compute_posterior(law.exp(), xt, 1 - move_chance_s, 1 - move_chance_t).log()
            for name, law in laws.items()
            if law is not None
        }
        if len(logs) == 1:
            [log_q] = logs.values()
        else:
            log_q = gamma * logs["log_x_theta_cond"] + (1 - gamma) * logs["log_x_theta_uncond"]
        q_xs = log_q.softmax(dim=-1)
        return race(q_xs), q_xs, laws

    def _cbg_denoise(
        self,
        conditioning_class,
        gamma,
        classifier_model,
        xt,
        time_conditioning,
        move_chance_t,
        move_chance_s,
        use_approx=False,
        cache=None,
    ):
        xs, q_xs, cache = self._ddpm_denoise(xt, time_conditioning, move_chance_t, move_chance_s, cache)
        return xs, q_xs, {**cache, "classifier_log_prob": classifier_model(xt)[..., conditioning_class]}

    def _q_xt(self, x, move_chance):
        moved = torch.rand(x.shape) < move_chance
        return torch.where(moved, torch.randint_like(x, self.vocab_size), x)

    @torch.no_grad()
    def _diffusion_sample(self, batch, length, cond=None, eps=1e-5):
        """Returns (samples, what the progress bar was told)."""
        xt, cache, told = torch.randint(self.vocab_size, (batch, length)), None, []
        timesteps = torch.linspace(1, eps, self.config.sampling.steps + 1)
        for t, s in zip(timesteps, timesteps[1:]):
            chances = [(1 - torch.exp(-self.noise(time * torch.ones(batch))[0]))[:, None, None] for time in (t, s)]
            moves = dict(xt=xt, time_conditioning=None, move_chance_t=chances[0], move_chance_s=chances[1], cache=cache)
            if cond is None:
                xs, q_xs, cache = self._ddpm_denoise(**moves)
            else:
                xs, q_xs, cache = self._cfg_denoise(cond=cond, gamma=self.config.guidance.gamma, **moves)
            told.append(((q_xs.sum() / xt.numel()).item(), bool(q_xs.isnan().sum() > 0)))
            if not self.config.sampling.use_cache or not torch.allclose(xs, xt):
                cache = None
            xt = xs
        return xt, told
