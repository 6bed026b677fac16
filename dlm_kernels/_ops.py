"""The ops of ``torch.ops.dlm_kernels``: every schema, every fake kernel, and the reference as the kernel of last resort.

The compiled extension (csrc/torch) registers implementations per device; a device without one runs the reference, with
one warning that carries the loader's real error.
"""

from __future__ import annotations

import functools
import warnings

import torch

from . import _load, reference

_SWEEP = "Tensor? uncond_logits=None, float cfg_scale=0.0, Tensor? suppress=None"
_PLACE = "Tensor? start=None, Tensor? rows=None"
_FILTER = (
    "Tensor? top_k=None, Tensor? top_p=None, Tensor? min_p=None, "
    'str filter_order="top_k_first", bool drop_crossing=False, bool keep_ties=False'
)
_LAW = f"Tensor? uncond_logits=None, float cfg_scale=0.0, {_FILTER}"
_SCORE = 'str confidence="prob", str confidence_from="raw", str conf_dtype="float32"'
_RANKING = "float rank_temperature=0.0"
_DRAW = f"int shift=0, Tensor? suppress=None, Tensor? demote=None, {_LAW}, Tensor? uniform=None"
_RULE = "str rule, float level=0.0, float low=0.0, bool strict=True"
_WINDOW = "int window_start=0, int window_stop=-1, Tensor? frozen=None"
_EDIT = "float? edit=None, Tensor(b!)? edits_left=None, Tensor(c!)? edited=None, Tensor(d!)? num_edited=None"
_TRACE = "Tensor(t!)? trace=None, Tensor(u!)? trace_steps=None"

SCHEMAS = {
    "row_stats": f"(Tensor logits, Tensor temperature, *, Tensor? given=None, {_SWEEP}) -> "
    "(Tensor argmax, Tensor max, Tensor logsumexp, Tensor second, Tensor rest, Tensor entropy, Tensor p_given, Tensor bad)",
    "row_kl": "(Tensor logits, Tensor previous, Tensor temperature, *, Tensor? wanted=None) -> (Tensor kl, Tensor bad)",
    "draw_tokens": f"(Tensor logits, Tensor temperature, Tensor seed, Tensor step, *, {_PLACE}, int length=0, {_DRAW}, "
    f"Tensor? given=None, {_SCORE}, {_RANKING}) -> "
    "(Tensor tokens, Tensor confidence, Tensor key, Tensor logprob, Tensor entropy, Tensor bad)",
    "denoise_step_": "(Tensor(a!) x, Tensor logits, Tensor temperature, Tensor seed, Tensor step, Tensor quota, *, "
    f"int? mask_id=None, {_RULE}, Tensor? ready=None, {_EDIT}, {_WINDOW}, {_PLACE}, {_DRAW}, {_SCORE}, {_RANKING}, "
    f"{_TRACE}) -> "
    "(Tensor tokens, Tensor confidence, Tensor committed, Tensor num_committed, Tensor num_open, Tensor num_bad)",
    "topk_unmask_": "(Tensor(a!) x, Tensor tokens, Tensor confidence, Tensor quota, *, int? mask_id=None, "
    f"{_WINDOW}, {_PLACE}, Tensor? step=None, {_TRACE}) -> "
    "(Tensor committed, Tensor num_committed, Tensor num_open, Tensor num_bad)",
    "remask_": f"(Tensor(a!) x, Tensor confidence, Tensor quota, *, int mask_id, float below, {_WINDOW}, {_PLACE}, "
    f"Tensor? step=None, {_TRACE}) -> (Tensor remasked, Tensor num_remasked, Tensor num_open, Tensor num_bad)",
    "renoise_step_": "(Tensor(a!) x, Tensor logits, Tensor temperature, Tensor seed, Tensor step, Tensor quota, *, "
    f"int mask_id=-1, {_RULE}, Tensor(b!)? committed=None, "
    "Tensor(c!)? argmax=None, Tensor(d!)? unchanged=None, Tensor(e!)? done=None, Tensor(f!)? probs=None, "
    f"int stability=1, float confident=0.0, {_WINDOW}, {_PLACE}, int shift=0, Tensor? suppress=None, {_LAW}, "
    f"float softcap=0.0, Tensor? uniform=None, {_SCORE}, {_TRACE}) -> (Tensor tokens, Tensor best, Tensor entropy, "
    "Tensor confidence, Tensor accepted, Tensor num_accepted, Tensor num_bad, Tensor at_rest)",
    "transition_step_": "(Tensor(a!) x, Tensor logits, Tensor temperature, Tensor seed, Tensor step, Tensor coefficients, *, "
    f'int mask_id=-1, str tempered="before", str redraw="none", float level=0.0, {_WINDOW}, {_PLACE}, int shift=0, '
    f"Tensor? suppress=None, {_LAW}, Tensor? uniform=None, {_TRACE}) -> "
    "(Tensor tokens, Tensor route, Tensor p_current, Tensor confidence, Tensor num_changed, Tensor num_bad)",
    "q_sample": "(Tensor x, Tensor rates, Tensor seed, Tensor step, *, int vocab_size, int mask_id=-1, "
    "Tensor? frozen=None, Tensor? uniform=None) -> (Tensor x_t, Tensor route)",
}


def _fake_row_stats(logits, temperature, *, given=None, uncond_logits=None, cfg_scale=0.0, suppress=None):
    shape = logits.shape[:-1]
    floats = [logits.new_empty(shape, dtype=torch.float32) for _ in range(6)]
    return logits.new_empty(shape, dtype=torch.int64), *floats, logits.new_empty(shape, dtype=torch.bool)


def _fake_row_kl(logits, previous, temperature, *, wanted=None):
    shape = logits.shape[:-1]
    return logits.new_empty(shape, dtype=torch.float32), logits.new_empty(shape, dtype=torch.bool)


def _fake_draw_tokens(logits, temperature, seed, step, **_):
    shape = logits.shape[:-1]
    floats = [logits.new_empty(shape, dtype=torch.float32) for _ in range(4)]
    return logits.new_empty(shape, dtype=torch.int64), *floats, logits.new_empty(shape, dtype=torch.bool)


def _fake_counts(x):
    return [x.new_empty(x.shape[0], dtype=torch.int64) for _ in range(3)]


def _fake_denoise_step_(x, logits, temperature, seed, step, quota, **_):
    shape = logits.shape[:-1]
    rows = [x.new_empty(shape, dtype=dtype) for dtype in (x.dtype, torch.float32, torch.bool)]
    return *rows, *_fake_counts(x)


def _fake_topk_unmask_(x, tokens, confidence, quota, **_):
    return x.new_empty(tokens.shape, dtype=torch.bool), *_fake_counts(x)


def _fake_remask_(x, confidence, quota, **_):
    return x.new_empty(confidence.shape, dtype=torch.bool), *_fake_counts(x)


def _fake_renoise_step_(x, logits, temperature, seed, step, quota, **_):
    shape, dtypes = logits.shape[:-1], (x.dtype, x.dtype, torch.float32, torch.float32, torch.bool)
    rows = [x.new_empty(shape, dtype=dtype) for dtype in dtypes]
    return *rows, *_fake_counts(x)[:2], x.new_empty(x.shape[0], dtype=torch.bool)


def _fake_transition_step_(x, logits, temperature, seed, step, coefficients, **_):
    shape, dtypes = logits.shape[:-1], (x.dtype, torch.uint8, torch.float32, torch.float32)
    return *[x.new_empty(shape, dtype=dtype) for dtype in dtypes], *_fake_counts(x)[:2]


def _fake_q_sample(x, rates, seed, step, **_):
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=torch.uint8)


def _home(arguments, args):
    """The device of a call. What a schema calls a Tensor may be None nevertheless."""
    if not isinstance(args[0], torch.Tensor):
        raise TypeError(f"{arguments[0]}: must be a torch.Tensor, got {type(args[0]).__name__}")
    return args[0].device


def _on_one_device(name, fake):
    """A fake kernel that looks where its tensors are, as the kernels do: one on "meta" would else make a step do nothing."""
    arguments = [a.name for a in torch._C.parse_schema(name + SCHEMAS[name]).arguments]

    def checked(*args, **kwargs):
        anchor = _home(arguments, args)
        for argument, value in [*zip(arguments, args), *kwargs.items()]:
            if isinstance(value, torch.Tensor) and value.device != anchor:
                raise ValueError(f"{argument}: must be on {anchor} as {arguments[0]}, got {value.device}")
        return fake(*args, **kwargs)

    return checked


@functools.cache
def _warn_of_fallback(device_type):
    if _load.requested_backend() == "reference" and device_type == "cpu":
        return
    why = f"there is no kernel for {device_type} tensors"
    if device_type == "cuda":
        why = _load.why_not_cuda() or why
    elif _load.load().error is not None:
        why = f"the compiled extension cannot be used: {_load.load().error}"
    text = f"dlm_kernels runs its PyTorch reference on {device_type}: {why}"
    if _load.strict():
        raise RuntimeError(f"{text} (DLM_KERNELS_STRICT=1 forbids that)")
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _fallback(name):
    reference_op = getattr(reference, name)
    arguments = [a.name for a in torch._C.parse_schema(name + SCHEMAS[name]).arguments]

    def op(*args, **kwargs):
        for argument, value in [*zip(arguments, args), *kwargs.items()]:  # others have no strides: no kernel takes them
            if isinstance(value, torch.Tensor) and value.layout is not torch.strided:
                raise ValueError(f"{argument}: layout must be torch.strided, got {value.layout}")
        _warn_of_fallback(_home(arguments, args).type)
        return reference_op(*args, **kwargs)

    return op


_library = torch.library.Library("dlm_kernels", "DEF")
for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _fallback(_name), "CompositeExplicitAutograd")
    torch.library.register_fake(
        f"dlm_kernels::{_name}", _on_one_device(_name, globals()[f"_fake_{_name}"]), lib=_library
    )
_load.load()

row_stats = torch.ops.dlm_kernels.row_stats.default
row_kl = torch.ops.dlm_kernels.row_kl.default
draw_tokens = torch.ops.dlm_kernels.draw_tokens.default
denoise_step_ = torch.ops.dlm_kernels.denoise_step_.default
topk_unmask_ = torch.ops.dlm_kernels.topk_unmask_.default
remask_ = torch.ops.dlm_kernels.remask_.default
renoise_step_ = torch.ops.dlm_kernels.renoise_step_.default
transition_step_ = torch.ops.dlm_kernels.transition_step_.default
q_sample = torch.ops.dlm_kernels.q_sample.default
