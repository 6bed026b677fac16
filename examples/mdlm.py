"""MDLM's and ReMDM's steps as drop-ins: a toy model, no downloads.  Run: python examples/mdlm.py

With MDLM or ReMDM itself one line does it for the ``Diffusion`` object and whatever samples from it:

    dlm_kernels.accelerate(model)
"""

from types import SimpleNamespace

import torch

from dlm_kernels.integrations import mdlm, remdm

VOCAB, MASK = 500, 499


class Diffusion(torch.nn.Module):
    """What of MDLM's Diffusion matters here."""

    parameterization, mask_index, time_conditioning = "subs", MASK, False
    _ddpm_caching_update = mdlm._ddpm_caching_update  # <- the line that changes

    def __init__(self, **sampling):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(VOCAB, 32, padding_idx=MASK), torch.nn.Linear(32, VOCAB)
        sampling = SimpleNamespace(**{"nucleus_p": 1.0, **sampling})
        self.config = SimpleNamespace(noise=SimpleNamespace(type="loglinear"), sampling=sampling)

    def noise(self, t):
        return -torch.log1p(-(1 - 1e-3) * t), None

    def forward(self, x, sigma):
        logits = 3 * self.head(self.embed(x).cumsum(dim=1))
        logits[..., MASK] = -1e6
        token = torch.where(torch.nn.functional.one_hot(x, VOCAB).bool(), 0.0, -1e6)
        return torch.where((x != MASK)[..., None], token, logits.log_softmax(dim=-1))

    @torch.no_grad()
    def sample(self, steps, batch=2, length=16, eps=1e-5):
        x, cache, times, dt = (
            torch.full((batch, length), MASK),
            None,
            torch.linspace(1, eps, steps + 1),
            (1 - eps) / steps,
        )
        for t in times[:-1]:
            cache, after, *_ = self._ddpm_caching_update(x, t.expand(batch, 1), dt, p_x0=cache)
            cache, x = cache if torch.equal(after, x) else None, after
        return x


class Remasking(Diffusion):
    """ReMDM's."""

    _ddpm_caching_update = remdm._ddpm_caching_update  # <- the line that changes


torch.manual_seed(0)
for model in (Diffusion(), Remasking(sampler="remdm-cap", eta=0.02, nucleus_p=0.9)):
    print(f"{type(model).__name__}: {model.sample(steps=32)[0].tolist()}")
