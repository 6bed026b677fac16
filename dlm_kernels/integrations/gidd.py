"""GIDD's samplers, with their own names and signatures: ``gidd/sampling.py``, ``gidd/diffusion_process.py`` and
``gidd/eval/self_correction.py`` of github.com/dvruette/gidd, and ``modeling_gidd_hf.py`` of its checkpoints on the hub
(gidd-easydel), whose noise is a function of log-SNR.

    pipe = GiddPipeline.from_pretrained(...)      # or a GiddSampler, its DenoisingStep, or a HybridDiffusion
    dlm.accelerate(pipe)  # then pipe.generate(...) as before

    model = AutoModelForCausalLM.from_pretrained("dvruette/gidd-unif-...", trust_remote_code=True)
    dlm.accelerate(model)  # then model.generate(...) as before

Covered: the denoising step with gamma = 1, its ``min_p``, the self-correction step (``accelerate`` takes its module) and the
forward noising, which makes nothing of the vocabulary's size; of the hub's model the ancestral and the adaptive step with their
top-k and top-p. A sampler that compiles its step compiles the model alone instead. What follows the original's law is the draw:

- All of a posterior is drawn from. The original's ``sample_categorical`` gives mass that rounding has lost to the last id.
- Of the hub's model under pure uniform noise, positions that hold the mask (its prior draws it) get a fresh token; the original
  divides 0 by 0 there.
- The steps that rank positions tell apart what rounds to probability 1 (at the self-correction's T = 0.1 most of it), and ties
  go to the lowest position.
- A position whose logits hold NaN stays as it is. The law never holds the mask; the model's logits are not written to.

``torch.manual_seed`` makes a run reproducible; it is another run than the original's.
"""

from __future__ import annotations

import math
import types
import weakref

import torch

from .. import schedules
from ..noising import q_sample
from ..rules import TopK
from ..step import denoise_step, draw_tokens, row_stats, topk_unmask
from ..transitions import gidd, gidd_snr, with_min_p
from ..uniform import transition_step
from .deferred import Law, law_of, logits_of
from .levels import per_sequence, transition_of
from .seams import Seam, Unsupported, class_named, guarded, has_parameters, require_inherited, step_seams
from .transfer import refuse

__all__ = ["DenoisingStep", "correction_step", "sample_zt"]


class DenoisingStep(torch.nn.Module):
    """``GiddSampler.DenoisingStep``: called as step(z_t [B, L], t [1], s [1]), returns z_s [B, L]."""

    def __init__(self, model, noise_schedule, tokenizer, min_p=0.0):
        super().__init__()
        self.model, self.noise_schedule, self.tokenizer, self.min_p = model, noise_schedule, tokenizer, min_p

    def forward(self, z_t, t, s):
        times = _time(t), _time(s)
        transition = transition_of(gidd, *times, _p_uniform(self.noise_schedule))
        if self.min_p > 0.0:
            transition = with_min_p(transition, self.min_p)
        logits = logits_of(self.model(z_t, t))
        return transition_step(z_t, logits, transition=transition, mask_id=self.tokenizer.mask_token_id).x


def sample_zt(self, input_ids, t):
    """``HybridDiffusion.sample_zt``: noise int64 [B, L] to times t [B]."""
    refuse(t.dim() != 1, f"t: must have 1 dimension [B], got {list(t.shape)}")
    level, share = schedules.gidd(t.double(), _p_uniform(self))
    return q_sample(input_ids, level, vocab_size=self.vocab_size, mask_id=self.mask_id, uniform_share=share)


def correction_step(model, tokenizer, z_t, t, temp, tokens_per_step):
    """Redraw every token of z_t [B, L] at temperature ``temp`` and keep the ``tokens_per_step`` most probable changes. Returns
    (z [B, L], the share of tokens that are the model's best), for which it waits as the original does."""
    mask_id, logits = tokenizer.mask_token_id, logits_of(model(z_t, t))
    options = dict(confidence="change", confidence_from="sampled", temperature=float(temp), suppress=[mask_id])
    z = denoise_step(z_t, logits, mask_id=None, rule=TopK(tokens_per_step), **options).x
    best = row_stats(logits, suppress=[mask_id]).argmax
    return z, (z == best).float().mean().item()


def _time(t):
    refuse(t.numel() != 1, f"t, s: must be [1], got {list(t.shape)}")
    return per_sequence(t, 1)


_p_uniforms = weakref.WeakKeyDictionary()  # noise schedule -> (its buffers' state, p_uniform)


def _p_uniform(noise_schedule):
    """Of a HybridDiffusion, from its buffers, which a checkpoint may have set. Read once, for that waits."""
    buffers = noise_schedule.log_B, noise_schedule.log_gamma
    state = [(id(buffer), None if buffer.is_inference() else buffer._version) for buffer in buffers]
    known = _p_uniforms.get(noise_schedule)
    if known is None or known[0] != state:
        log_b, log_gamma = (float(buffer) for buffer in buffers)
        refuse(abs(log_gamma) > 1e-6, f"gamma: must be 1, got {math.exp(log_gamma):g}")
        known = _p_uniforms[noise_schedule] = (state, math.exp(log_b) / (2 + math.exp(log_b)))
    return known[1]


# ---- the model on the hub, over log-SNR --------------------------------------------------------------------------------


def _probs_with_topk_topp(self, logits, temperature, top_p, top_k):
    """softmax(logits / temperature) [B, L, V], not computed unless somebody looks at it."""
    return Law(logits, float(temperature), logits.dtype, **_filters(top_p, top_k, logits.shape[-1]))


def _sample_ancestral(self, z, x_hat, log_snr_t, log_snr_s, mask_token_id=3):
    """One step of int64 [B, L] canvases. ``x_hat`` as ``_probs_with_topk_topp`` returns it, or probabilities [B, L, V]."""
    levels = (per_sequence(log_snr, 1) for log_snr in (log_snr_t, log_snr_s))
    transition = transition_of(gidd_snr, *levels, float(self.config.noise_type))
    logits, options = law_of(x_hat)
    return transition_step(z, logits, transition=transition, mask_id=mask_token_id, **options).x


def _sample_adaptive(self, z, logits, log_snr, n_tokens=1, mask_token_id=3, temperature=0.0, top_p=None, top_k=None):
    """Commit the ``n_tokens`` positions whose best token gains most, each weighed by what the noise prior has for its token."""
    law = Law(logits, float(temperature), logits.dtype, **_filters(top_p, top_k, logits.shape[-1]))
    draw = draw_tokens(logits_of(logits), given=z, confidence="gain", **law.options)
    prior = self._pi_lambda(log_snr, mask_token_id=mask_token_id)[z]
    rank = draw.confidence * (prior / prior.sum(dim=-1, keepdim=True))
    return topk_unmask(z, draw.tokens, rank, n_tokens, mask_id=None).x


def _filters(top_p, top_k, vocab):
    """As the original reads them: what is out of range is off."""
    on = top_p is not None and 0.0 < top_p < 1.0
    return dict(top_p=top_p if on else None, top_k=top_k if top_k is not None and 0 < top_k < vocab else None)


# ---- accelerate --------------------------------------------------------------------------------------------------------


def _require_hybrid(noise_schedule):
    """Unsupported unless what the original step calls is GIDD's own."""
    if class_named(noise_schedule, "HybridDiffusion") is None:
        raise Unsupported(f"the noise schedule {type(noise_schedule).__name__} is not covered")
    for name in ("probs_at_t", "get_alpha_betapi"):
        require_inherited(noise_schedule, name)


class _Pipeline:
    name = "GIDD pipeline or sampler"

    def matches(self, obj):
        return class_named(obj, "GiddPipeline", "GiddSampler") is not None

    def seams(self, obj):
        sampler = getattr(obj, "sampler", obj)
        if class_named(sampler, "GiddSampler") is None:
            raise Unsupported(f"the sampler {type(sampler).__name__} is not covered")
        step = getattr(sampler.sampling_step, "_orig_mod", sampler.sampling_step)
        if isinstance(step, _AcceleratedStep):
            raise Unsupported("its step is accelerated already, with a pipeline or by itself")
        require_inherited(step, "forward")
        _require_hybrid(step.noise_schedule)
        yield Seam(sampler, "sampling_step", _AcceleratedStep, "denoising step")


class _Step:
    name = "GIDD denoising step"

    def matches(self, obj):
        noise_schedule = getattr(obj, "noise_schedule", None)
        return (
            class_named(obj, "DenoisingStep") is not None and class_named(noise_schedule, "HybridDiffusion") is not None
        )

    def seams(self, obj):
        _require_hybrid(obj.noise_schedule)
        return step_seams(obj, (DenoisingStep.forward, "denoising step"))


class _Noise:
    name = "GIDD noise schedule (HybridDiffusion)"

    def matches(self, obj):
        return class_named(obj, "HybridDiffusion") is not None

    def seams(self, obj):
        return step_seams(obj, (sample_zt, "forward noising"))


class _Correction:
    name = "GIDD's module eval.self_correction"

    def matches(self, obj):
        return isinstance(obj, types.ModuleType) and has_parameters(
            vars(obj).get("correction_step"), "model", "tokenizer", "z_t", "t", "temp", "tokens_per_step"
        )

    def seams(self, obj):
        return step_seams(obj, (correction_step, "self-correction step"))


class _HubModel:
    name = "GIDD model (trust_remote_code)"

    def matches(self, obj):
        return class_named(obj, "GiddForDiffusionLM") is not None

    def seams(self, obj):
        return step_seams(
            obj,
            (_probs_with_topk_topp, "probabilities of the ancestral step"),
            (_sample_ancestral, "ancestral step"),
            (_sample_adaptive, "adaptive step"),
        )


class _AcceleratedStep(DenoisingStep):
    """In the place of a sampler's step, which may be compiled: then the model is, and nothing else has to be."""

    def __init__(self, original, report):
        step = getattr(original, "_orig_mod", original)
        model = step.model if step is original else torch.compile(step.model)
        super().__init__(model, step.noise_schedule, step.tokenizer, step.min_p)
        self.__dict__["_original"], self.report = original, report  # no part of this one: it has the same parts

    def forward(self, z_t, t, s):
        return guarded(super().forward, self._original.forward, self.report)(z_t, t, s)


ADAPTERS = (_Pipeline(), _Step(), _Noise(), _Correction(), _HubModel())
