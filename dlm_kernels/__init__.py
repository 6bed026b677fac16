"""Fused sampler steps of diffusion language models.

Importing this package does nothing: no torch, no native library, no patching. Names load what they need on first use;
``dlm_kernels.array`` (NumPy) never loads torch.
"""

from ._version import __version__

_HOMES = {
    "denoise_step": "step",
    "denoise_step_": "step",
    "draw_tokens": "step",
    "row_stats": "step",
    "remask": "step",
    "remask_": "step",
    "topk_unmask": "step",
    "topk_unmask_": "step",
    "uniform_step": "uniform",
    "uniform_step_": "uniform",
    "transition_step": "uniform",
    "transition_step_": "uniform",
    "renoise_step": "renoise",
    "renoise_step_": "renoise",
    "RenoiseState": "renoise",
    "q_sample": "noising",
    "row_kl": "stability",
    "klass_step": "stability",
    "klass_step_": "stability",
    "KlassState": "stability",
    "RevisionTrace": "trace",
    "accelerate": "integrations.accelerate",
    "restore": "integrations.accelerate",
    "accelerated": "integrations.accelerate",
    "explain": "integrations.accelerate",
    "request_seeds": "seeds",
    "TopK": "rules",
    "Threshold": "rules",
    "Factor": "rules",
    "EntropyBudget": "rules",
    "EntropyThreshold": "rules",
    "SegmentMax": "rules",
    "RowStats": "results",
    "Draw": "results",
    "StepResult": "results",
    "UnmaskResult": "results",
    "EditResult": "results",
    "RemaskResult": "results",
    "RemaskStepResult": "results",
    "TransitionResult": "results",
    "RenoiseResult": "results",
}
_MODULES = ("array", "bench", "demo", "integrations", "quotas", "reference", "remasking", "schedules", "transitions")

__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name):
    from importlib import import_module

    if name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _MODULES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
