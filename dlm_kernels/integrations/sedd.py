"""SEDD's samplers for uniform noise, with its own names and signatures (``sampling.py`` of
github.com/louaaron/Score-Entropy-Discrete-Diffusion).

    import sampling
    dlm.accelerate(sampling)  # then sampling.get_pc_sampler(...) and get_sampling_fn(...) as before

Covered: ``EulerPredictor``, ``AnalyticPredictor`` and ``Denoiser`` with the ``Uniform`` graph; a predictor or denoiser can be
accelerated by itself too. The logarithms of the scores are read as the model made them (twice by the analytic step). The draw
follows the original's law, whose negative weights, up to 89 % of the analytic step's, count as 0 there and here, except:

- Scores are not rounded: the original takes ``exp`` of the model's bf16 numbers in bf16, which moves each by up to 0.4 %.
- A position whose scores hold NaN stays as it is.

Scores of another source than ``get_score_fn`` cost a pass of ``log``. ``torch.manual_seed`` makes a run reproducible; it is
another run than the original's.
"""

from __future__ import annotations

import functools
import types

from ..transitions import sedd_analytic, sedd_euler
from ..uniform import transition_step
from .deferred import Deferred, law_of
from .levels import per_sequence, transition_of
from .seams import Seam, class_named, step_seams
from .transfer import refuse

__all__ = ["AnalyticPredictor", "Denoiser", "EulerPredictor"]


class _OnUniformGraph:
    """``graph`` and ``noise`` as SEDD's ``graph_lib`` and ``noise_lib`` make them."""

    def __init__(self, graph, noise):
        self.graph, self.noise = graph, noise


class EulerPredictor(_OnUniformGraph):
    """SEDD's Euler step for its ``Uniform`` graph: ``graph`` and ``noise`` as ``graph_lib`` and ``noise_lib`` make them."""

    def update_fn(self, score_fn, x, t, step_size):
        """One Euler step of int64 [B, L] canvases from t [B, 1] to t - step_size. ``score_fn(x, sigma)``: scores [B, L, V]."""
        _require_uniform(self)
        sigma, rate = self.noise(t)
        scores, _ = law_of(score_fn(x, sigma))
        # Rates are of scores relative to x_t's own, which SEDD's network makes 1.
        own = scores.gather(-1, x[..., None])[..., 0].double().exp()
        transition = transition_of(sedd_euler, per_sequence(step_size, x.shape[0]), rate * own)
        return transition_step(x, scores, transition=transition).x


class AnalyticPredictor(_OnUniformGraph):
    """SEDD's analytic step (Tweedie tau-leaping), as ``EulerPredictor``."""

    def update_fn(self, score_fn, x, t, step_size):
        """One analytic step of int64 [B, L] canvases from t [B, 1] to t - step_size. ``score_fn(x, sigma)``: scores [B, L, V]."""
        sigma_t, sigma_s = self.noise(t)[0], self.noise(t - step_size)[0]
        return _analytic_step(self, score_fn, x, sigma_t, per_sequence(sigma_s, x.shape[0]))


class Denoiser(_OnUniformGraph):
    """The analytic step that ends a run, as ``EulerPredictor``."""

    def update_fn(self, score_fn, x, t):
        """The last step of int64 [B, L] canvases, from t [B, 1] to clean data. ``score_fn(x, sigma)``: scores [B, L, V]."""
        return _analytic_step(self, score_fn, x, self.noise(t)[0], 0.0)


def _analytic_step(self, score_fn, x, sigma_t, sigma_s):
    _require_uniform(self)
    transition = transition_of(sedd_analytic, per_sequence(sigma_t, x.shape[0]), sigma_s)
    scores, _ = law_of(score_fn(x, sigma_t))
    return transition_step(x, scores, transition=transition).x


def _require_uniform(self):
    refuse(class_named(self.graph, "Uniform") is None, f"graph: must be Uniform, got {type(self.graph).__name__}")


# ---- accelerate --------------------------------------------------------------------------------------------------------

_STEPS = (
    (EulerPredictor, "Euler step"),
    (AnalyticPredictor, "analytic step"),
    (Denoiser, "last step"),
)


class _Module:
    name = "SEDD's module sampling"

    def matches(self, obj):
        names = [kind.__name__ for kind, _ in _STEPS]
        return isinstance(obj, types.ModuleType) and all(isinstance(vars(obj).get(name), type) for name in names)

    def seams(self, obj):
        for kind, does in _STEPS:
            yield from step_seams(vars(obj)[kind.__name__], (kind.update_fn, does))
        if hasattr(vars(obj).get("mutils"), "get_score_fn"):
            yield Seam(obj.mutils, "get_score_fn", _deferring, "scores without their exp()")


class _Step:
    name = "SEDD predictor or denoiser"

    def matches(self, obj):
        return class_named(obj, *(kind.__name__ for kind, _ in _STEPS)) is not None and hasattr(obj, "update_fn")

    def seams(self, obj):
        name = class_named(obj, *(kind.__name__ for kind, _ in _STEPS)).__name__
        return step_seams(obj, *((kind.update_fn, does) for kind, does in _STEPS if kind.__name__ == name))


def _deferring(original, report):
    @functools.wraps(original)
    def get_score_fn(model, train=False, sampling=False):
        if not sampling:
            return original(model, train=train, sampling=sampling)
        log_score_fn = original(model, train=train, sampling=False)

        def score_fn(x, sigma):
            report.fast += 1
            log_score = log_score_fn(x, sigma)
            return Deferred(log_score, log_score.exp)

        return score_fn

    return get_score_fn


ADAPTERS = (_Module(), _Step())
