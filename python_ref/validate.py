"""Host checks of the arguments, before anything is written. The same checks, order and texts as csrc/core/validate.h.

Arguments are checked in the order of the signature, each one completely: dtype (TypeError), then device, shape, strides
and range (ValueError). The text is "{argument}: {rule}, got {value}". Values of tensors are checked on the CPU only:
elsewhere that would synchronise with the device, so kernels there must survive any value.
"""

from types import SimpleNamespace

import torch

from .check import (
    SCORE_DTYPES,
    check_apart,
    check_coefficients,
    check_current_tokens,
    check_editing,
    check_filters,
    check_fits,
    check_frozen,
    check_guidance,
    check_ids,
    check_like_rows,
    check_logits,
    check_noise_prior,
    check_not_empty,
    check_per_request,
    check_previous,
    check_probs,
    check_quota,
    check_rates,
    check_ready,
    check_redraw,
    check_rows,
    check_rows_on_canvas,
    check_rule,
    check_scoring,
    check_shift,
    check_softcap,
    check_start,
    check_state,
    check_step,
    check_temperature,
    check_trace,
    check_uniform,
    check_window,
    check_x,
    dtype_name,
    require,
    require_device,
    require_dtype,
    require_name,
    require_shape,
)
from .confidence import COMPARING


def row_stats(**arguments):
    a = SimpleNamespace(**arguments)
    check_logits(a.logits, packed=None)
    check_temperature(a.temperature, a.logits.shape[0], "logits", a.logits, above_zero=True)
    check_like_rows("given", a.given, "int64", a.logits)
    check_guidance(a.uncond_logits, a.cfg_scale, a.logits)
    check_ids("suppress", a.suppress, a.logits)


def row_kl(**arguments):
    a = SimpleNamespace(**arguments)
    check_logits(a.logits, packed=None)
    check_previous(a.previous, a.logits)
    check_temperature(a.temperature, a.logits.shape[0], "logits", a.logits, above_zero=True)
    check_like_rows("wanted", a.wanted, "bool", a.logits)


def draw_tokens(**arguments):
    a = SimpleNamespace(**arguments)
    check_logits(a.logits, packed=None if a.rows is None else True)
    packed = a.logits.dim() == 2
    if a.rows is None:
        batch_size = 1 if packed else a.logits.shape[0]
        check_temperature(a.temperature, batch_size, "logits", a.logits)
        check_per_request("seed", a.seed, "int64", batch_size, "logits", a.logits)
    else:  # the per-request tensors say how many sequences there are
        check_temperature(a.temperature, None, "logits", a.logits)
        check_not_empty("temperature", a.temperature, a.logits)
        batch_size = a.temperature.shape[0]
        check_per_request("seed", a.seed, "int64", None if batch_size == 1 else batch_size, "logits", a.logits)
        check_not_empty("seed", a.seed, a.logits)
        batch_size = max(batch_size, a.seed.shape[0])
        for each in (a.top_k, a.top_p, a.min_p):
            if batch_size == 1 and each is not None and each.dim() == 1 and each.shape[0] > 1:
                batch_size = each.shape[0]
    check_step(a.step, "logits", a.logits)
    check_start(a.start, packed, batch_size, None, "logits", a.logits)
    if a.rows is not None:
        require(a.length >= 1, "length", "must be >= 1 with rows", a.length)
        # b * length + p of any int64 is on a canvas that is too long to count
        endless = batch_size <= 1 or a.length > (2**63 - 1) // batch_size
        check_rows(a.rows, a.logits.shape[0], None if endless else batch_size * a.length, "logits", a.logits)
    else:
        require(a.length == 0, "length", "must be 0 without rows", a.length)
    check_shift(a.shift, packed)
    check_ids("suppress", a.suppress, a.logits)
    check_ids("demote", a.demote, a.logits)
    check_guidance(a.uncond_logits, a.cfg_scale, a.logits)
    check_filters(a, batch_size, "logits", a.logits)
    check_uniform(a.uniform, a.logits.shape[:-1], "logits", a.logits)
    check_like_rows("given", a.given, "int64", a.logits)
    check_scoring(a.confidence, a.confidence_from, a.conf_dtype, a.rank_temperature)
    needless = a.confidence not in COMPARING
    require(needless or a.given is not None, "given", f"must be given for confidence {a.confidence}", "none")


def _sampler(a):
    """What every step that draws begins with."""
    check_x(a.x)
    check_logits(a.logits, a.rows is not None, a.x)
    check_temperature(a.temperature, a.x.shape[0], "x", a.x)
    check_per_request("seed", a.seed, "int64", a.x.shape[0], "x", a.x)
    check_step(a.step, "x", a.x)


def _places(a, tensor):
    """Where ``tensor`` [B, W, ...] or [R, ...] lies on the canvas, and what of it may change."""
    packed, (size, length) = a.rows is not None, a.x.shape
    check_window(a.window_start, a.window_stop, length)
    check_frozen(a.frozen, a.x)
    check_start(a.start, packed, size, None if packed else length - tensor.shape[1], "x", a.x)
    check_rows(a.rows, tensor.shape[0], size * length, "x", a.x)


def places(x, logits, *, mask_id=None, window_start=0, window_stop=-1, frozen=None, start=None, rows=None, shift=0):
    """Of a step that is put together from ops, what it looks at itself; ``mask_id`` if it writes that."""
    a = SimpleNamespace(**locals())
    check_x(x)
    check_logits(logits, rows is not None, x)
    if mask_id is not None:
        check_fits("mask_id", mask_id, x)
    _places(a, logits)
    check_shift(shift, rows is not None)


def denoise_step(**arguments):
    # Any mask_id is legal, also one outside the vocabulary, and both values of strict.
    a = SimpleNamespace(**arguments)
    _sampler(a)
    check_quota(a.quota, a.x)
    check_rule(a.rule, a.level, a.low)
    check_ready(a)
    check_editing(a)
    _places(a, a.logits)
    check_shift(a.shift, a.rows is not None)
    check_ids("suppress", a.suppress, a.logits)
    check_ids("demote", a.demote, a.logits)
    check_guidance(a.uncond_logits, a.cfg_scale, a.logits)
    check_filters(a, a.x.shape[0], "x", a.x)
    check_uniform(a.uniform, a.logits.shape[:-1], "logits", a.logits)
    check_scoring(a.confidence, a.confidence_from, a.conf_dtype, a.rank_temperature)
    ranked = a.rank_temperature == 0 or a.rule == "topk"
    require(ranked, "rank_temperature", f"must be 0 for rule {a.rule}", format(a.rank_temperature, "g"))
    check_trace(a.trace, a.trace_steps, a.x)
    _apart(arguments, "x", "edits_left", "edited", "num_edited")


def topk_unmask(**arguments):
    a = SimpleNamespace(**arguments)
    check_x(a.x)
    require_dtype("tokens", a.tokens, [dtype_name(a.x)])
    check_rows_on_canvas("tokens", a.tokens, a.rows is not None, a.x)
    require_dtype("confidence", a.confidence, SCORE_DTYPES)
    require_device("confidence", a.confidence, "x", a.x)
    require_shape("confidence", a.confidence, a.tokens.shape)
    check_quota(a.quota, a.x)
    _places(a, a.tokens)
    _noted(a)
    _apart(arguments, "x")


def remask(**arguments):
    a = SimpleNamespace(**arguments)
    check_x(a.x)
    require_dtype("confidence", a.confidence, SCORE_DTYPES)
    check_rows_on_canvas("confidence", a.confidence, a.rows is not None, a.x)
    check_quota(a.quota, a.x)
    check_fits("mask_id", a.mask_id, a.x)
    require(a.below == a.below, "below", "must not be NaN", format(a.below, "g"))
    _places(a, a.confidence)
    _noted(a)
    _apart(arguments, "x")


def _noted(a):
    """By a step that has no other use for its number."""
    if a.step is not None:
        check_step(a.step, "x", a.x)
    require(a.step is not None or a.trace is None, "step", "must be given with trace", "none")
    check_trace(a.trace, a.trace_steps, a.x)


def _apart(arguments, *written):
    """Last: what a step writes, a trace among it, and what of the tensors is read then."""
    written += ("trace", "trace_steps")
    tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    read = {name: value for name, value in tensors.items() if name not in written}
    check_apart({name: tensors[name] for name in written if name in tensors}, read)


def renoise_step(**arguments):
    a = SimpleNamespace(**arguments)
    _sampler(a)
    check_quota(a.quota, a.x)
    check_noise_prior(a.mask_id, a.logits.shape[-1], a.x)
    check_rule(a.rule, a.level, a.low)
    check_state("committed", a.committed, "bool", a.x.shape, a.x)
    check_state("argmax", a.argmax, dtype_name(a.x), a.x.shape, a.x)
    check_state("unchanged", a.unchanged, "int64", a.x.shape[:1], a.x)
    require(a.unchanged is None or a.argmax is not None, "unchanged", "must be given with argmax", "without")
    check_state("done", a.done, "bool", a.x.shape[:1], a.x)
    require(a.done is None or a.unchanged is not None, "done", "must be given with argmax and unchanged", "without")
    check_probs(a.probs, a.logits, a.x)
    require(a.stability >= 0, "stability", "must be >= 0", a.stability)
    require(a.confident >= 0, "confident", "must be >= 0", format(a.confident, "g"))
    _places(a, a.logits)
    check_shift(a.shift, a.rows is not None)
    check_ids("suppress", a.suppress, a.logits)
    check_guidance(a.uncond_logits, a.cfg_scale, a.logits)
    check_filters(a, a.x.shape[0], "x", a.x)
    check_softcap(a.softcap)
    check_uniform(a.uniform, [*a.logits.shape[:-1], 2], "logits", a.logits)
    check_scoring(a.confidence, a.confidence_from, a.conf_dtype)
    check_trace(a.trace, a.trace_steps, a.x)
    _apart(arguments, "x", "committed", "argmax", "unchanged", "done", "probs")


def transition_step(**arguments):
    a = SimpleNamespace(**arguments)
    _sampler(a)
    check_coefficients(a.coefficients, a.mask_id, a.x)
    check_noise_prior(a.mask_id, a.logits.shape[-1], a.x)
    require_name("tempered", a.tempered, ("before", "after"))
    check_redraw(a)
    _places(a, a.logits)
    check_shift(a.shift, a.rows is not None)
    check_ids("suppress", a.suppress, a.logits)
    check_guidance(a.uncond_logits, a.cfg_scale, a.logits)
    check_filters(a, a.x.shape[0], "x", a.x)
    check_uniform(a.uniform, [*a.logits.shape[:-1], 3], "logits", a.logits)
    check_trace(a.trace, a.trace_steps, a.x)
    _apart(arguments, "x")
    check_current_tokens(a)


def q_sample(**arguments):
    a = SimpleNamespace(**arguments)
    check_x(a.x, written=False)
    check_rates(a.rates, a.mask_id, a.x)
    check_per_request("seed", a.seed, "int64", a.x.shape[0], "x", a.x)
    check_step(a.step, "x", a.x)
    require(a.vocab_size >= 1, "vocab_size", "must be >= 1", a.vocab_size)
    fits = dtype_name(a.x) == "int64" or a.vocab_size <= 2**31
    require(fits, "vocab_size", "must fit in int32 as x", a.vocab_size)
    check_noise_prior(a.mask_id, a.vocab_size, a.x)
    check_frozen(a.frozen, a.x)
    check_uniform(a.uniform, [*a.x.shape, 2], "x", a.x)
