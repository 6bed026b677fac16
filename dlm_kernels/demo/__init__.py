"""A demo with real text: a tiny diffusion language model that takes every step with this package's kernels.

    from dlm_kernels.demo import generate
    print(generate("And God said", seed=3).text)

`run` also shows the canvas while it is denoised and times the step at a real vocabulary; `python -m
dlm_kernels demo` calls it. Needs the packages rich, safetensors and tokenizers, which the kernels themselves
do not.
"""

__all__ = ["Generation", "generate", "load", "run"]


def __getattr__(name: str):
    # Lazy: the command line builds its parser from this package, which should not import torch.
    if name in ("Generation", "generate", "load"):
        from . import sampling

        return getattr(sampling, name)
    if name == "run":
        from .show import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
