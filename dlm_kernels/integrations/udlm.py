"""UDLM's sampler, with its own names and signatures (``diffusion.py`` of github.com/kuleshov-group/discrete-diffusion-guidance).

    model = diffusion.Diffusion.load_from_checkpoint(...)
    dlm.accelerate(model)  # then model.sample(...) as before

Covered: ``diffusion="uniform"``, without guidance and with classifier-free guidance, and its forward noising. The logits are
read once (guidance: of both forwards, and again), where the original makes x_theta, a one-hot, the posterior and noise for
each of its entries. What follows the original's law is the draw; the arithmetic is not its own:

- ``sampling.use_float64`` changes nothing but the dtype of what is returned: rare noise is drawn exactly either way. In fp32
  the original's ``-log(rand)`` race draws down to a quarter of it at 1000 steps.
- The posterior that is returned, and with float64 the cache, hold no values until somebody looks: the sum and the NaN
  count that the loop shows are known without them.
- A position whose logits hold NaN stays as it is.

``torch.manual_seed`` makes a run reproducible; it is another run than the original's.
"""

from __future__ import annotations

import torch

from ..noising import q_sample
from ..schedules import Level
from ..transitions import guided, uniform
from ..uniform import transition_step
from .deferred import Deferred, Posterior, logits_of
from .levels import per_sequence, transition_of
from .seams import Unsupported, class_named, require_inherited, step_seams
from .transfer import Refused, refuse

__all__ = ["_cbg_denoise", "_cfg_denoise", "_ddpm_denoise", "_nos_denoise", "_q_xt"]


def _ddpm_denoise(self, xt, time_conditioning, move_chance_t, move_chance_s, cache=None):
    """One step of int64 [B, L] canvases. Returns (xs, its posterior [B, L, V], {"log_x_theta": [B, L, V]})."""
    transition = _transition(self, xt, move_chance_t, move_chance_s)
    if cache is not None:
        log_x_theta = cache["log_x_theta"]
    else:
        log_x_theta = self.forward(xt, time_conditioning, cond=None)
        if self.config.sampling.use_float64:
            log_x_theta = Deferred(log_x_theta, log_x_theta.double, torch.float64)
    step = transition_step(xt, logits_of(log_x_theta), transition=transition)
    posterior = lambda: _posterior(self, log_x_theta, xt, move_chance_t, move_chance_s)
    return step.x, Posterior(log_x_theta, posterior, step.num_bad), {"log_x_theta": log_x_theta}


def _cfg_denoise(self, cond, gamma, xt, time_conditioning, move_chance_t, move_chance_s, cache=None):
    """The same, guided by ``cond`` with strength ``gamma``: 0 is unconditional, 1 conditional, and anything else draws from the
    conditional posterior to the power gamma times the unconditional one to the power 1 - gamma."""
    transition = _transition(self, xt, move_chance_t, move_chance_s)
    if cache is not None:
        conditional, unconditional = cache["log_x_theta_cond"], cache["log_x_theta_uncond"]
    else:
        nothing = torch.ones_like(cond) * self.config.data.num_classes
        conditional = self.forward(xt, time_conditioning, cond=cond) if gamma != 0.0 else None
        unconditional = self.forward(xt, time_conditioning, cond=nothing) if gamma != 1.0 else None
    posterior_of = lambda law: _posterior(self, law, xt, move_chance_t, move_chance_s)
    if conditional is None or unconditional is None:
        law = conditional if unconditional is None else unconditional
        step = transition_step(xt, logits_of(law), transition=transition)
        posterior = lambda: posterior_of(law)
    else:
        law, other = conditional, logits_of(unconditional)
        step = transition_step(xt, logits_of(law), transition=guided(transition, gamma), uncond_logits=other)
        powers = lambda: gamma * posterior_of(law).log() + (1 - gamma) * posterior_of(unconditional).log()
        posterior = lambda: powers().softmax(dim=-1)
    cache = {"log_x_theta_uncond": unconditional, "log_x_theta_cond": conditional}
    return step.x, Posterior(law, posterior, step.num_bad), cache


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
    """Not covered: says so to ``explain``."""
    raise Refused("classifier-based guidance adds a classifier's gradient to every token of the posterior")


def _nos_denoise(
    self,
    classifier_model,
    num_nos_steps,
    nos_step_size,
    nos_stability_coef,
    conditioning_class,
    xt,
    time_conditioning,
    move_chance_t,
    move_chance_s,
):
    """Not covered: says so to ``explain``."""
    raise Refused("NOS guidance optimises hidden states through a classifier")


def _q_xt(self, x, move_chance):
    """Noise int64 [B, L]: every token becomes a uniform one with probability ``move_chance`` [B, 1]."""
    _require_uniform(self)
    level = _level(per_sequence(move_chance, x.shape[0]))
    return q_sample(x, level, vocab_size=self.vocab_size)


def _transition(self, xt, move_chance_t, move_chance_s):
    _require_uniform(self)
    moves = (per_sequence(move_chance, xt.shape[0]) for move_chance in (move_chance_t, move_chance_s))
    return transition_of(_between, *moves)


def _between(move_t, move_s):
    return uniform(_level(move_t), _level(move_s))


def _level(move_chance):
    return Level(1 - move_chance, move_chance)


def _require_uniform(self):
    refuse(self.diffusion != "uniform", f"diffusion: must be uniform, got {self.diffusion}")


def _posterior(self, log_x_theta, xt, move_chance_t, move_chance_s):
    chances = dict(alpha_s=1 - move_chance_s, alpha_t=1 - move_chance_t)
    return self._compute_posterior(x=log_x_theta.exp(), xt=xt, **chances)


# ---- accelerate --------------------------------------------------------------------------------------------------------


class _Udlm:
    name = "UDLM model (discrete-diffusion-guidance)"

    def matches(self, obj):
        return class_named(obj, "Diffusion") is not None and hasattr(obj, "_ddpm_denoise")

    def seams(self, obj):
        if not hasattr(obj, "_compute_posterior"):
            raise Unsupported("this revision has no _compute_posterior")
        require_inherited(obj, "_compute_posterior")
        return step_seams(
            obj,
            (_ddpm_denoise, "ancestral step"),
            (_cfg_denoise, "ancestral step with classifier-free guidance"),
            (_cbg_denoise, "ancestral step with classifier-based guidance"),
            (_nos_denoise, "ancestral step with NOS guidance"),
            (_q_xt, "forward noising"),
        )


ADAPTERS = (_Udlm(),)
