"""The discrete schedulers of diffusers 0.42, faster, and the pipelines that use them.

    pipe = dlm.accelerate(LLaDA2Pipeline(...))            # or DiffusionGemmaPipeline, or a scheduler by itself
    # or: pipe.scheduler = FusedBlockRefinementScheduler.from_config(pipe.scheduler.config)

``FusedBlockRefinementScheduler``, ``FusedDiscreteDDIMScheduler`` and ``FusedEntropyBoundScheduler`` are subclasses of the
schedulers they are named after, with the same config: what one saves the other loads. They are made on first use; importing
this module does not import diffusers.

Greedy steps give the same tokens as the original up to near ties, and all outputs are complete: tokens and probabilities
of every row, and pred_logits. One read of the logits replaces softmax, sort, multinomial and entropy over the vocabulary, and
no step waits for the device. Apart from speed:

- Drawn tokens follow the same law, from keyed noise whose seeds ``generator``, or torch's own, draws anew in each step.
- bf16 and fp16 logits are widened before they are divided by the temperature and filtered. The original does both in their
  dtype, where a cumulative sum of probabilities has no digits for top_p. (The entropy-bound scheduler draws from its
  pred_logits, which are rounded as the original's.)
- Entropies of bf16 and fp16 logits, and their sums, have float32's digits; the original's are rounded to the dtype.
- Ties go to the lowest position; the original leaves their order to ``torch.topk`` and ``argsort``.
- A row that holds NaN keeps its token and has probability -inf. The original commits such rows first, or raises.
- pred_logits of the block refinement and DDIM schedulers are the model's output itself, as they are in the original.

What is not covered runs the original's code, and ``dlm.explain`` says why: logits in float64, numbers that it
rejects, gradients, another release of diffusers, a ``step``, or anything that it calls, of your own.

What is saved bears the name of the original, so that it can be loaded where there is no dlm_kernels; of a pipeline whose
scheduler was replaced by ``accelerate``, too.

DiffusionGemmaPipeline computes the entropy of pred_logits once more, to see whether to stop. ``accelerate`` lets that be the
entropy of the step's own read where it is of the same law (any entropy-bound step; others at temperature 0 or 1), and one
read otherwise. The ``torch`` that the pipeline's module sees is a view of the real one for that, as long as one pipeline is
accelerated. Its argmax remains.
"""

from __future__ import annotations

import functools
import json
import math
import numbers
import sys
import types
import weakref
from importlib import import_module

import torch

from .. import EntropyBudget, Threshold, TopK, denoise_step, draw_tokens, row_stats
from ..reference.decide import decide
from .accelerate import is_accelerated
from .seams import Report, Seam, Unsupported, is_a, known_version, method_seam, serve
from .transfer import READABLE

__all__ = ["FusedBlockRefinementScheduler", "FusedDiscreteDDIMScheduler", "FusedEntropyBoundScheduler"]  # noqa: F822

_VERSIONS = ("0.42",)


# ---- the steps, as the schedulers call them --------------------------------------------------------------------------


def _block_refinement_step(
    self,
    model_output,
    timestep,
    sample,
    *,
    mask_token_id=None,
    temperature=0.0,
    top_p=None,
    top_k=None,
    sampling_method="auto",
    threshold=None,
    editing_threshold=None,
    minimal_topk=None,
    prompt_mask=None,
    generator=None,
    return_dict=True,
):
    threshold = self.config.threshold if threshold is None else threshold
    editing_threshold = self.config.editing_threshold if editing_threshold is None else editing_threshold
    if not _is_number(threshold):
        raise _uncovered(f"threshold={threshold}")
    if not (editing_threshold is None or _is_number(editing_threshold)):
        raise _uncovered(f"editing_threshold={editing_threshold}")
    draws = sampling_method == "multinomial" or (sampling_method == "auto" and temperature != 0.0)
    law = _law(model_output, temperature, generator)
    law = dict(law, **_filters(model_output, top_k, top_p)) if draws and temperature != 0 else dict(temperature=0.0)
    step_index = int(timestep)
    if step_index < 0:
        raise _uncovered(f"timestep={step_index}")
    if mask_token_id is None:
        return _refine_noise(
            self, model_output, step_index, sample, threshold, editing_threshold, law, generator, return_dict
        )

    # Editing at 1 edits nothing, and reads the filled rows all the same: their draws are reported.
    edits = editing_threshold is not None and editing_threshold > 0
    out = denoise_step(
        sample,
        _unit_stride(model_output),
        mask_id=mask_token_id,
        rule=_above(threshold, _quota(self._transfer_schedule, step_index, sample.device)),
        edit=min(editing_threshold, 1.0) if edits else 1.0,
        confidence_from="sampled",
        generator=generator,
        **law,
    )
    prev_sample, edited = out.x, out.edited
    if edits and prompt_mask is not None:  # masks in the prompt are filled
        prev_sample = torch.where(edited & prompt_mask, sample, prev_sample)
        edited &= ~prompt_mask
    return _output(self, return_dict, prev_sample, out.committed, edited, out.tokens, out.confidence, model_output)


def _refine_noise(self, model_output, step_index, sample, threshold, editing_threshold, law, generator, return_dict):
    """Block refinement without a mask: what is not committed is noise."""
    tokens, draw = _draw(model_output, sample, generator, confidence_from="sampled", **law)
    _remember(model_output, draw, law in (dict(temperature=0.0), dict(temperature=1.0)))
    if step_index == 0 or self._committed is None or self._committed.shape != sample.shape:
        self._committed = torch.zeros_like(sample, dtype=torch.bool)
    committed, length = self._committed, sample.shape[1]
    target = -(-(step_index + 1) * length // self.num_inference_steps)
    owed = (target - committed.sum(dim=-1)).clamp(min=0)
    transferred = _choose(_above(threshold, owed), ~committed & ~draw.bad, draw)
    edited = torch.zeros_like(transferred)
    if editing_threshold is not None:
        edited = committed & (draw.confidence > editing_threshold) & (tokens != sample)
    self._committed = committed | transferred
    noise = _noise(model_output, sample, generator)
    prev_sample = torch.where(self._committed, torch.where(transferred | edited, tokens, sample), noise)
    return _output(self, return_dict, prev_sample, transferred, edited, tokens, draw.confidence, model_output)


def _discrete_ddim_step(self, model_output, timestep, sample, *, temperature=0.0, generator=None, return_dict=True):
    law = _law(model_output, temperature, generator)
    t, steps = int(timestep), self.num_inference_steps
    if not 0 <= t < steps:
        raise _uncovered(f"timestep={t} of {steps}")
    tokens, draw = _draw(model_output, sample, generator, confidence_from="raw", **law)
    _remember(model_output, draw, True)

    # Three ways from x_t to x_s, given x_0: take it, stay, or noise. Where x_0 is x_t the first has V alpha_t more.
    alpha_t, alpha_s = t / steps, (t + 1) / steps
    stay, noise = (alpha_t / alpha_s * (1 - alpha_s), (1 - alpha_t / alpha_s) * (1 - alpha_s))
    take = alpha_s - alpha_t
    again = take + model_output.shape[-1] * alpha_t
    number = torch.rand(sample.shape, dtype=torch.float64, device=sample.device, generator=generator)
    quiet, quiet_again = ((way + stay) / (way + stay + noise) for way in (take, again))
    prev_sample = torch.where(number < take / (take + stay + noise), tokens, sample)
    to_noise = number >= torch.where(tokens == sample, quiet_again, quiet)
    prev_sample = torch.where(to_noise & ~draw.bad, _noise(model_output, sample, generator), prev_sample)
    return _output(self, return_dict, prev_sample, tokens, draw.confidence, model_output)


def _discrete_ddim_correct(self, model_output, timestep, sample, *, generator=None, return_dict=True):
    """Where the conditional is alpha_s loo(v) + (1 - alpha_s) / V, positions are chosen by its value at x_t and its largest
    elsewhere, which ``row_stats`` has; only the chosen rows are ever dense. The same random numbers as the original."""
    _check(model_output, generator)
    t, vocab = int(timestep), model_output.shape[-1]
    alpha = self._alpha(t + 1)
    if not 0 < alpha < 1:
        raise _uncovered(f"timestep={t} of {self.num_inference_steps}")
    stats = row_stats(_unit_stride(model_output), given=sample)
    holds_best, total = stats.argmax == sample, 1 + stats.rest.double()
    held = torch.where(holds_best, 1 / total, stats.p_given.double())
    others = torch.where(holds_best, stats.rest.double() / total, 1 - held)
    best_other = torch.where(holds_best, (stats.second.double() - stats.max.double()).exp(), 1.0) / total
    held = held / (1 + vocab * alpha / (1 - alpha))
    loo = torch.stack([held, best_other], dim=-1) / (held + others)[..., None]
    cond_log_probs = (alpha * loo + (1 - alpha) / vocab).log().masked_fill(stats.bad[..., None], torch.nan)

    # Among two tokens, of which x_t is the first, the original's own selection sees what it looks for.
    positions = self._select_positions(torch.zeros_like(sample), cond_log_probs, generator)
    rows = torch.arange(len(sample), device=sample.device)[:, None]
    chosen = self._to_loo_logits(model_output[rows, positions].double(), sample[rows, positions], alpha)
    probs = alpha * chosen.softmax(dim=-1) + (1 - alpha) / vocab
    resampled = torch.multinomial(probs.flatten(0, 1), num_samples=1, generator=generator).view_as(positions)
    prev_sample = sample.clone()
    prev_sample[rows, positions] = resampled
    sampled_probs = probs.gather(-1, resampled[..., None])[..., 0]
    return _output(self, return_dict, prev_sample, resampled, sampled_probs, model_output)


def _entropy_bound_step(self, model_output, timestep, sample, *, entropy_bound=None, generator=None, return_dict=True):
    entropy_bound = self.config.entropy_bound if entropy_bound is None else entropy_bound
    if not (_is_number(entropy_bound) and entropy_bound >= 0):
        raise _uncovered(f"entropy_bound={entropy_bound}")
    share_left = (self.num_inference_steps - int(timestep)) / self.num_inference_steps
    temperature = self.config.t_min + (self.config.t_max - self.config.t_min) * share_left
    if not 0 < temperature < math.inf:
        raise _uncovered(f"temperature={temperature}")
    _check(model_output, generator)
    pred_logits = model_output / temperature
    tokens, draw = _draw(pred_logits, sample, generator, temperature=1.0)
    _remember(pred_logits, draw, True)
    accepted = _choose(EntropyBudget(entropy_bound), ~draw.bad, draw)
    prev_sample = torch.where(accepted, tokens, _noise(pred_logits, sample, generator))
    return _output(self, return_dict, prev_sample, accepted, tokens, draw.confidence, pred_logits)


# ---- what they share -------------------------------------------------------------------------------------------------


def _uncovered(what):
    return Unsupported(f"{what} is not covered")


def _is_number(value):
    return (type(value) is float or isinstance(value, numbers.Real)) and value == value


def _unit_stride(logits):
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def _check(logits, generator=None):
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise _uncovered(f"generator={generator}")
    if logits.dtype not in READABLE or logits.dim() != 3:
        raise _uncovered(f"logits: {list(logits.shape)} {logits.dtype}")
    if logits.requires_grad and torch.is_grad_enabled():
        raise _uncovered("a gradient")


def _law(logits, temperature, generator):
    _check(logits, generator)
    if not (_is_number(temperature) and 0 <= temperature < math.inf):
        raise _uncovered(f"temperature={temperature}")
    return dict(temperature=float(temperature))


def _filters(logits, top_k, top_p):
    found = {}
    if top_k is not None and 0 < top_k < logits.shape[-1]:
        found.update(top_k=top_k, top_k_ties="all")
    if top_p is not None and not top_p >= 1:
        if not top_p > 0:
            raise _uncovered(f"top_p={top_p}")
        found.update(top_p=top_p)
    return found


def _draw(logits, sample, generator, **law):
    """(tokens, Draw) of every row; bad rows have what the position holds."""
    draw = draw_tokens(_unit_stride(logits), generator=generator, **law)
    return torch.where(draw.bad, sample, draw.tokens), draw


def _above(threshold, quota):
    """All confidences above it, at least ``quota`` (int64 [1] or [B]). It may be any number."""
    if threshold >= 1:
        return TopK(quota)
    return Threshold(max(threshold, 0.0), at_least=quota, strict=bool(threshold >= 0))


def _choose(rule, eligible, draw):
    """Which positions the rule takes: bool [B, L]."""
    scores = (of.double() for of in (draw.confidence, draw.key, draw.entropy))
    return decide(rule.name, eligible, *scores, quota=rule.quota, level=rule.level, strict=rule.strict)


def _quota(schedule, step_index, device):
    """int64 [1]; nothing is filled before ``set_timesteps``."""
    if schedule is None:
        return torch.zeros(1, dtype=torch.int64, device=device)
    at = min(step_index, len(schedule) - 1)
    return schedule[at : at + 1].to(device, non_blocking=True)


def _noise(logits, sample, generator):
    return torch.randint(logits.shape[-1], sample.shape, device=sample.device, generator=generator)


def _output(scheduler, return_dict, *values):
    """The fields of the output in their order, which is the order of the tuple."""
    return _output_class(type(scheduler))(*values) if return_dict else values


@functools.cache
def _output_class(kind):
    stock = _stock(kind)
    return getattr(sys.modules[stock.__module__], f"{stock.__name__}Output")


# ---- the scheduler classes -------------------------------------------------------------------------------------------

_STEPS = {
    "BlockRefinementScheduler": dict(step=_block_refinement_step),
    "DiscreteDDIMScheduler": dict(step=_discrete_ddim_step, step_correct=_discrete_ddim_correct),
    "EntropyBoundScheduler": dict(step=_entropy_bound_step),
}
_DOES = {
    "step": "draws tokens, scores them, decides which to take",
    "step_correct": "draws the least certain tokens again",
}


def __getattr__(name):
    stock = name.removeprefix("Fused")
    if stock == name or stock not in _STEPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, _fused(getattr(import_module("diffusers"), stock)))


def _fused(stock):
    body = {name: _method(vars(stock)[name], fast) for name, fast in _STEPS[stock.__name__].items()}
    body |= dict(
        to_json_string=_config_of_the_original,
        __module__=__name__,
        __doc__=f"``{stock.__name__}`` whose steps are dlm_kernels'. Same config, arguments and outputs; see this module.",
        _compatibles=[stock.__name__],
        report=property(
            lambda self: vars(self).setdefault("_report", Report()), doc="A seams.Report: what became of the calls."
        ),
    )
    return type(f"Fused{stock.__name__}", (stock,), body)


def _config_of_the_original(self):
    """JSON of the config, under the name of the original: it can be loaded where there is no dlm_kernels."""
    stock = _stock(type(self))
    config = json.loads(super(stock, self).to_json_string()) | {"_class_name": stock.__name__}
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _method(original, fast):
    known = _known(fast)

    @functools.wraps(original)
    def call(self, *args, **kwargs):
        return serve(known, original, self.report, (self, *args), kwargs)

    return call


def _known(fast):
    """``fast``, where the original's step is the one that it stands for."""

    def step(self, *args, **kwargs):
        _check_version()
        _require_originals(self)
        return fast(self, *args, **kwargs)

    return step


def _check_version():
    _require_version(sys.modules["diffusers"].__version__)


@functools.cache
def _require_version(version):
    known_version("diffusers", version, *_VERSIONS)


def _require_originals(scheduler):
    """A step does not call what the original's calls, so all of that must be diffusers' own."""
    stock = _stock(type(scheduler))
    home = vars(sys.modules[stock.__module__])
    for name in _behind_steps(stock):
        if getattr(getattr(scheduler, name), "__globals__", None) is not home:
            raise Unsupported(f"{type(scheduler).__name__} has a {name} of its own")


@functools.cache
def _behind_steps(stock):
    """The names of the functions that the steps of a class call."""
    functions = (types.FunctionType, staticmethod)
    return [n for n, f in vars(stock).items() if n[0] == "_" and n[1] != "_" and isinstance(f, functions)]


@functools.cache
def _stock(kind):
    """The class of diffusers that a scheduler class is, or derives from."""
    return next(c for c in kind.__mro__ if c.__name__ in _STEPS and c.__module__.startswith("diffusers."))


# ---- accelerate ------------------------------------------------------------------------------------------------------


def _scheduler_seams(scheduler):
    _require_originals(scheduler)
    for name, fast in _STEPS[_stock(type(scheduler)).__name__].items():
        yield method_seam(scheduler, name, _known(fast), _DOES[name])


class _Scheduler:
    name = "diffusers BlockRefinementScheduler, DiscreteDDIMScheduler or EntropyBoundScheduler"

    def matches(self, obj):
        return is_a(obj, *(f"diffusers.{stock}" for stock in _STEPS))

    def seams(self, obj):
        _check_version()
        return () if _is_fused(obj) else list(_scheduler_seams(obj))


class _Pipeline:
    def matches(self, obj):
        return is_a(obj, self.kind)

    def seams(self, obj):
        _check_version()
        scheduler = obj.scheduler
        if not _Scheduler().matches(scheduler):
            raise _uncovered(f"the scheduler {type(scheduler).__name__}")
        if _is_fused(scheduler) or is_accelerated(scheduler) or _is_as_made(scheduler):
            # Not as DiffusionPipeline does, which notes the class for what is saved.
            yield Seam(obj, "scheduler", _replace, _DOES["step"], put=object.__setattr__)
        else:
            yield from _scheduler_seams(scheduler)


class _LLaDA2(_Pipeline):
    name, kind = "diffusers LLaDA2Pipeline", "diffusers.LLaDA2Pipeline"


class _DiffusionGemma(_Pipeline):
    name, kind = "diffusers DiffusionGemmaPipeline", "diffusers.DiffusionGemmaPipeline"

    def seams(self, obj):
        yield from super().seams(obj)
        module = sys.modules[type(obj).__call__.__module__]
        if module.__name__.startswith("diffusers."):  # not a subclass with a loop of its own
            yield Seam(module, "torch", _with_entropies, "the entropy that says when to stop")


def _is_fused(scheduler):
    return any(kind.__module__ == __name__ for kind in type(scheduler).__mro__)


def _is_as_made(scheduler):
    """Whether nobody has given it methods of its own."""
    kind = type(scheduler)
    return kind is _stock(kind) and not any(hasattr(kind, name) for name in vars(scheduler))


def _replace(scheduler, report):
    if _is_fused(scheduler):
        return scheduler
    fused = __getattr__(f"Fused{type(scheduler).__name__}").from_config(scheduler.config)
    state = {name: value for name, value in vars(scheduler).items() if not hasattr(type(scheduler), name)}
    vars(fused).update(state | {"_internal_dict": fused.config})
    return fused


# ---- when DiffusionGemmaPipeline stops -------------------------------------------------------------------------------

_latest = None  # (logits, their version, Draw) of the latest step: the pipeline asks right after it


def _remember(logits, draw, same_law):
    global _latest
    _latest = (weakref.ref(logits), _version(logits), draw) if same_law else None


def _version(logits):
    return None if logits.is_inference() else logits._version


class _Law:
    """Of the parts of a torch.distributions.Categorical the one that the pipeline uses."""

    def __init__(self, logits):
        self._logits = logits

    def entropy(self):
        """float32 [B, L], nats; NaN for a bad row, so that it is never taken for certain."""
        known = _latest
        if known is None or known[0]() is not self._logits or known[1] != _version(self._logits):
            known = (None, None, row_stats(_unit_stride(self._logits)))
        return known[2].entropy.masked_fill(known[2].bad, torch.nan)


def _with_entropies(original, report):
    """``torch`` as the pipeline's module sees it: with a Categorical that reads no logits twice."""
    real = original.distributions.Categorical

    def fast(probs=None, logits=None, validate_args=None):
        if probs is not None or logits is None:
            raise _uncovered("another law than that of logits")
        _check(logits)
        return _Law(logits)

    categorical = lambda *args, **kwargs: serve(fast, real, report, args, kwargs)
    return _view(original, distributions=_view(original.distributions, Categorical=categorical))


def _view(module, **instead):
    """``module`` with some names exchanged, for one reader of it."""
    view = types.ModuleType(module.__name__, module.__doc__)
    vars(view).update(instead, __getattr__=lambda name: getattr(module, name))
    return view


ADAPTERS = (_Scheduler(), _LLaDA2(), _DiffusionGemma())
