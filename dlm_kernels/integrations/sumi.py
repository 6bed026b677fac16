"""Sumi's sampler, with its own names and signatures (``generation_sumi.py`` of the tohoku-nlp Sumi checkpoints).

    model = AutoModelForCausalLM.from_pretrained("tohoku-nlp/...", trust_remote_code=True)
    dlm.accelerate(model)  # then model.generate(...) as before

The functions of the module that the model's class comes from are replaced, for all models of it: the logits are read once,
as the model made them, where the original converts, divides, normalises and multiplies copies of them. With
``sampler="greedy"``, and "adaptive" at temperature 0, tokens are the original's; sampled ones follow the law that the original
writes down:

- Rare noise is drawn as often as it should be. The original's fp32 ``1 - sigmoid(9)`` is off by 1e-4 of its value, and CUDA's
  multinomial draws too few of the rarest tokens.
- In the adaptive step ties of confidence go to the lowest position; the original leaves them to ``torch.topk``.
- A position whose logits hold NaN stays as it is; the original raises, or draws what multinomial makes of NaN.
- Frozen positions are not read: a step of ``generate`` knows the mask that it would be restored by.

``generator``, or else torch's own, seeds every step, so a seed makes a run reproducible; it is another run than the original's.
"""

from __future__ import annotations

import contextvars
import functools
import sys
import types

import torch

from ..rules import TopK
from ..schedules import from_log_snr
from ..step import denoise_step
from ..transitions import uniform
from ..uniform import transition_step
from .deferred import Deferred, Law, law_of, logits_of
from .levels import transition_of
from .seams import Seam, class_named, step_seams
from .transfer import no_grad, refuse

__all__ = ["_adaptive_step", "_ancestral_step", "_compute_logits", "_compute_x_hat", "_greedy_step"]

_NO_LIMIT = float("inf")
_run = contextvars.ContextVar("what the running generate() has said", default=None)  # {"noise_mask": bool [B, S]}


@no_grad
def _compute_logits(model, z, attention_mask, vocab_size):
    """The model's logits for z [B, S], fp32 [B, S, vocab_size]; converted if anything but a step here looks at them."""
    logits = model(input_ids=z, attention_mask=attention_mask, use_cache=False).logits[..., :vocab_size]
    return logits if logits.dtype == torch.float32 else Deferred(logits, logits.float, torch.float32)


@no_grad
def _compute_x_hat(model, z, attention_mask, vocab_size, temperature=1.0):
    """softmax(logits / temperature), fp32 [B, S, vocab_size], not computed unless somebody looks at it. Its ``max(dim=-1)``,
    which a progress callback is told, is one read of the logits."""
    logits = logits_of(_compute_logits(model, z, attention_mask, vocab_size))
    return Law(logits, 1.0 if temperature == 1.0 else max(float(temperature), 1e-6))


def _ancestral_step(z_t, x_hat, log_snr_t, log_snr_s, vocab_size, generator, eps=1e-12):
    """One step z_t -> z_s of int64 [B, S] canvases. ``x_hat`` as ``_compute_x_hat`` returns it, or probabilities [B, S, V] (whose
    logarithms are then taken). ``eps`` guards the original's divisions; there is none here."""
    refuse(x_hat.shape[-1] != vocab_size, f"x_hat: must have {vocab_size} tokens, got {list(x_hat.shape)}")
    transition = transition_of(_between, float(log_snr_t), float(log_snr_s))
    logits, options = law_of(x_hat)
    noise_mask = (_run.get() or {}).get("noise_mask")
    frozen = None if noise_mask is None or noise_mask.shape != z_t.shape else ~noise_mask
    return transition_step(z_t, logits, transition=transition, generator=generator, frozen=frozen, **options).x


def _between(log_snr_t, log_snr_s):
    return uniform(*(from_log_snr(log_snr, -_NO_LIMIT, _NO_LIMIT) for log_snr in (log_snr_t, log_snr_s)))


def _adaptive_step(z_t, logits, noise_mask, tokens_per_step, temperature, generator):
    """Commit the ``tokens_per_step`` positions whose best token gains most. Returns (int64 [B, S], positions int64 [B, k])."""
    quota = max(1, min(int(tokens_per_step), z_t.shape[-1]))
    draws = bool(temperature) and float(temperature) > 0.0
    step = denoise_step(
        z_t,
        logits_of(logits),
        mask_id=None,
        rule=TopK(quota),
        confidence="gain",
        temperature=max(float(temperature), 1e-6) if draws else 0.0,
        generator=generator if draws else None,
        frozen=~noise_mask.expand_as(z_t),
    )
    chosen = torch.where(step.committed, step.confidence, -torch.inf).topk(quota, dim=-1).indices
    return step.x, chosen


def _greedy_step(z_t, logits, noise_mask):
    """The argmax at every position of ``noise_mask``. Returns int64 [B, S]."""
    frozen = ~noise_mask.expand_as(z_t)
    return denoise_step(z_t, logits_of(logits), mask_id=None, rule=TopK(z_t.shape[-1]), frozen=frozen).x


# ---- accelerate --------------------------------------------------------------------------------------------------------


class _Sumi:
    name = "Sumi model (trust_remote_code), or its module generation_sumi"

    def matches(self, obj):
        module = _module_of(obj)
        return module is not None and callable(vars(module).get("_ancestral_step")) and "_compute_x_hat" in vars(module)

    def seams(self, obj):
        module = _module_of(obj)
        yield from step_seams(  # older revisions do not have all of them
            module,
            (_compute_x_hat, "probabilities of the ancestral step"),
            (_ancestral_step, "ancestral step"),
            (_compute_logits, "logits of the other steps"),
            (_adaptive_step, "adaptive step"),
            (_greedy_step, "greedy step"),
        )
        mixin = vars(module).get("SumiGenerationMixin")
        if mixin is not None and "_build_noise_mask" in vars(module):
            yield Seam(mixin, "generate", _listening, "lets its steps know what is frozen")
            yield Seam(module, "_build_noise_mask", _telling, "which positions are frozen")


def _module_of(obj):
    if isinstance(obj, types.ModuleType):
        return obj
    kind = class_named(obj, "SumiGenerationMixin")
    return None if kind is None else sys.modules.get(kind.__module__)


def _listening(original, report):
    @functools.wraps(original)
    def generate(*args, **kwargs):
        report.fast += 1
        token = _run.set({})
        try:
            return original(*args, **kwargs)
        finally:
            _run.reset(token)

    return generate


def _telling(original, report):
    @functools.wraps(original)
    def build(*args, **kwargs):
        report.fast += 1
        mask = original(*args, **kwargs)
        if _run.get() is not None:
            _run.get()["noise_mask"] = mask
        return mask

    return build


ADAPTERS = (_Sumi(),)
