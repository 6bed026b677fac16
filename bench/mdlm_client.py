"""Models shaped like MDLM's and ReMDM's (``Diffusion`` in ``diffusion.py``): their names and what they mean, told anew. The
network ``backbone(tokens [B, L])`` gives ``.logits`` [B, L, V], which are the model's own; the last token is the mask."""

from types import SimpleNamespace

import torch

from .uniform_peers import race as sample_categorical


def nucleus(p, mass):
    """The most probable tokens of at most this mass, the first whatever it has."""
    ordered, places = p.sort(dim=-1, descending=True, stable=True)
    kept = ordered.cumsum(dim=-1) <= mass
    kept[..., 0] = True
    ordered = ordered * kept
    return torch.zeros_like(p).scatter(-1, places, ordered / ordered.sum(dim=-1, keepdim=True))


class Diffusion(torch.nn.Module):
    draws_in = torch.float32

    def __init__(
        self, backbone, vocab_size, parameterization="subs", time_conditioning=False, noise="loglinear", **sampling
    ):
        super().__init__()
        self.backbone, self.vocab_size, self.mask_index = backbone, vocab_size, vocab_size - 1
        self.parameterization, self.time_conditioning, self.neg_infinity = parameterization, time_conditioning, -1e6
        self.config = SimpleNamespace(
            noise=SimpleNamespace(type=noise), sampling=SimpleNamespace(**{"nucleus_p": 1.0, **sampling})
        )

    def noise(self, t):
        return -torch.log1p(-(1 - 1e-3) * t), None

    def forward(self, x, sigma):
        return self._subs_parameterization(logits=self.backbone(x).logits, xt=x)

    def _subs_parameterization(self, logits, xt):
        """log p(x_0): no mask, and tokens are what they are."""
        tokens = xt != self.mask_index
        logits[..., self.mask_index] += self.neg_infinity
        logits = logits - logits.logsumexp(dim=-1, keepdim=True)
        logits[tokens] = self.neg_infinity
        logits[tokens, xt[tokens]] = 0
        return logits

    def _chances(self, t, dt):
        t = t.flatten()[:, None, None]
        return t, t - dt

    def _fill(self, x, p_x0, mask_t, mask_s):
        weights = p_x0 * (mask_t - mask_s)
        weights[..., self.mask_index] = mask_s[..., 0]
        return torch.where(x != self.mask_index, x, sample_categorical(weights.to(self.draws_in)))

    def _ddpm_caching_update(self, x, t, dt, p_x0=None):
        if p_x0 is None:
            p_x0 = self.forward(x, self.noise(t)[0]).exp()
        return p_x0, self._fill(x, p_x0, *self._chances(t, dt))

    def _ddpm_update(self, x, t, dt):
        sigma_t, sigma_s = (self.noise(time)[0].flatten() for time in (t, t - dt))
        p_x0 = self.forward(x, sigma_t).exp()
        return self._fill(x, p_x0, *(1 - torch.exp(-sigma)[:, None, None] for sigma in (sigma_t, sigma_s)))

    @torch.no_grad()
    def sample(self, batch=4, length=10, steps=12, cached=True):
        x, eps, p_x0 = torch.full((batch, length), self.mask_index), 1e-5, None
        times, dt = torch.linspace(1, eps, steps + 1), (1 - eps) / steps
        for time in times[:-1]:
            t = time.expand(batch, 1)
            if cached:
                p_x0, after = self._ddpm_caching_update(x, t, dt, p_x0=p_x0)
                p_x0 = p_x0 if torch.equal(after, x) and not self.time_conditioning else None
                x = after
            else:
                x = self._ddpm_update(x, t, dt)
        return x


class Remasking(Diffusion):
    draws_in = torch.float64

    def _ddpm_caching_update(self, x, t, dt, p_x0=None, conf=None):
        options, masks = self.config.sampling, x == self.mask_index
        if p_x0 is None:
            p_x0 = self.forward(x, self.noise(t)[0]).exp()
            p_x0 = nucleus(p_x0, options.nucleus_p) if options.nucleus_p < 1 else p_x0
        mask_t, mask_s = self._chances(t, dt)
        alpha_t, alpha_s = (1 - mask_t)[0].item(), (1 - mask_s)[0].item()
        most = min(1, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1
        if options.sampler == "mdlm":
            after = self._fill(x, p_x0, mask_t, mask_s)
        elif options.sampler == "remdm-loop" and not options.t_off < t[0] <= options.t_on:
            clock = (lambda u: 1 - (1 - u) * options.alpha_on / (1 - options.t_on)) if t[0] > options.t_on else (
                lambda u: u * (1 - options.alpha_on) / options.t_off
            )  # fmt: skip
            after = self._fill(x, p_x0, clock(mask_t), clock(mask_s))
        else:
            if options.sampler == "remdm-cap":
                sigma = min(options.eta, (1 - alpha_s) / alpha_t) if alpha_t > 0 else options.eta
            elif options.sampler == "remdm-rescale":
                sigma = options.eta * most
            elif options.sampler == "forward-backward":
                sigma = (alpha_s - alpha_t) / alpha_t if alpha_t > 0 else 1
            elif options.sampler == "remdm-conf":
                sigma = conf.softmax(dim=-1).masked_fill(masks, 0) * most
            else:
                sigma, alpha_t, alpha_s = options.eta, options.alpha_on, options.alpha_on
            after = self._remask(x, p_x0, alpha_t, alpha_s, torch.as_tensor(sigma).expand(x.shape))
            if options.sampler == "remdm-conf":
                masked = after == self.mask_index
                filled, gone = masks & ~masked, ~masks & masked
                conf[filled] = -p_x0.gather(-1, after[..., None])[..., 0][filled].to(conf.dtype)
                conf[gone] = -torch.inf
        same = torch.equal(after, x) and not self.time_conditioning
        return (p_x0 if same else None), after, conf

    def _remask(self, x, p_x0, alpha_t, alpha_s, sigma):
        of_tokens = p_x0 * (1 - sigma[..., None])
        of_tokens[..., self.mask_index] = sigma
        of_masks = p_x0 * ((alpha_s - (1 - sigma[..., None]) * alpha_t) / (1 - alpha_t))
        of_masks[..., self.mask_index] = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
        weights = torch.where((x != self.mask_index)[..., None], of_tokens, of_masks)
        return sample_categorical(weights.to(self.draws_in))

    @torch.no_grad()
    def sample(self, batch=4, length=10, steps=12, conf_dtype=torch.bfloat16):
        x, eps, p_x0 = torch.full((batch, length), self.mask_index), 1e-5, None
        times, dt = torch.linspace(1, eps, steps + 1), (1 - eps) / steps
        conf = torch.full(x.shape, -torch.inf, dtype=conf_dtype)
        for time in times[:-1]:
            p_x0, x, conf = self._ddpm_caching_update(x, time.expand(batch, 1), dt, p_x0=p_x0, conf=conf)
        self.conf = conf
        return x
