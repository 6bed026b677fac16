"""ReMDM's reverse steps, with its names and signatures (``Diffusion`` in ``diffusion.py`` of github.com/kuleshov-group/remdm).

    dlm.accelerate(model)                       # ``_ddpm_caching_update`` and ``_ddpm_update``

All its samplers: mdlm, remdm-cap, remdm-rescale, remdm-conf, remdm-loop, and forward-backward (arXiv 2503.00307), with
``nucleus_p``: the nucleus leaves out the token that crosses it. Where a forward-backward step asks for more remasking than the
marginals allow, as its last ones do, the model's own code runs. ``_dfm_caching_update`` is the model's own. The rest is as in
``mdlm``; p_x0 is returned, as in the original, where no token has changed.
"""

from __future__ import annotations

import torch

from .. import transition_step, transitions
from ..schedules import remask_cap, remask_max, remask_rescale
from .deferred import Law, law_of
from .levels import transition_of
from .mdlm import (
    DEFERRING,
    DOES,
    _ddpm_update,
    absorbing,
    check_log_linear,
    fill,
    forward,
    has_confidences,
    is_diffusion,
    level,
)
from .seams import Unsupported, step_seams

__all__ = ["_ddpm_caching_update", "_ddpm_update"]


@torch.no_grad()
def _ddpm_caching_update(self, x, t, dt, p_x0=None, conf=None):
    """One reverse step from t to t - dt, with remasking.

    Args:
        self, x, t, dt, p_x0: as in ``mdlm._ddpm_caching_update``; ``config.sampling`` has sampler, nucleus_p, eta, t_on, t_off
            and alpha_on. All sequences are at the time of the first.
        conf: float [B, L], for remdm-conf, which writes -p(token) where it fills a mask, and -inf where it remasks.

    Returns (p_x0 or None, x_s, conf).
    """
    check_log_linear(self)
    options, masks = self.config.sampling, x == self.mask_index
    transition = _transition(options, masks, t.flatten(), dt, conf)
    if p_x0 is None:
        nucleus = max(options.nucleus_p, 0.0) if options.nucleus_p < 1 else None
        p_x0 = Law(forward(self, x, self.noise(t)[0]), top_p=nucleus, top_p_crossing="drop")
    logits, law = law_of(p_x0)
    if transition.name == "absorbing":
        x_s = fill(self, x, logits, law, transition)
    else:
        out = transition_step(x, logits, transition=transition, mask_id=self.mask_index, **law)
        x_s = out.x
        if options.sampler == "remdm-conf":
            filled, gone = masks & (x_s != self.mask_index), ~masks & (x_s == self.mask_index)
            conf.copy_(torch.where(filled, -out.confidence.to(conf.dtype), conf).masked_fill(gone, -torch.inf))
    return (p_x0 if not self.time_conditioning and torch.equal(x_s, x) else None), x_s, conf


def _transition(options, masks, t, dt, conf):
    """Of the sampler that ``options`` names. Its numbers are read on the host, as in the original."""
    t, s = t[0].item(), (t - dt)[0].item()
    if options.sampler == "mdlm":
        return transition_of(absorbing, t, s)
    if options.sampler == "remdm-loop":
        return _looped(options, t, s)
    levels = level(t), level(s)
    if options.sampler == "remdm-cap":
        sigma = remask_cap(*levels, options.eta)
    elif options.sampler == "remdm-rescale":
        sigma = remask_rescale(*levels, options.eta)
    elif options.sampler == "remdm-conf":
        if conf is None:
            raise Unsupported("remdm-conf without conf is not covered")
        eta = conf.double().softmax(dim=-1).masked_fill(masks, 0.0)  # 0 / 0 where all is masked
        sigma = remask_rescale(*levels, eta)
    elif options.sampler == "forward-backward":
        alpha_t, alpha_s = levels[0].alpha, levels[1].alpha
        sigma = (alpha_s - alpha_t) / alpha_t if alpha_t > 0 else 1.0
        if sigma > remask_max(*levels):
            raise Unsupported("forward-backward steps that remask more than the marginals allow are not covered")
    else:
        raise Unsupported(f"the sampler {options.sampler} is not covered")
    return transitions.remdm(*levels, sigma)


def _looped(options, t, s):
    """MDLM at a faster clock before and after a time of remasking at one noise level."""
    on, off, alpha = options.t_on, options.t_off, options.alpha_on
    if t > on:
        return transition_of(absorbing, *(1 - (1 - time) * alpha / (1 - on) for time in (t, s)))
    if t <= off:
        return transition_of(absorbing, *(time * (1 - alpha) / off for time in (t, s)))
    if options.eta > remask_max(alpha, alpha):
        raise Unsupported("an eta above (1 - alpha_on) / alpha_on is not covered")
    return transitions.remdm(alpha, alpha, options.eta)


class _Diffusion:
    name = "ReMDM Diffusion"

    def matches(self, obj):
        return is_diffusion(obj) and has_confidences(obj)

    def seams(self, obj):
        return step_seams(obj, (_ddpm_caching_update, DOES), (_ddpm_update, DOES), DEFERRING)


ADAPTERS = (_Diffusion(),)
