"""DiffusionGemma's ``generate`` in transformers, 5.23 and 5.24: everything of a denoising step that comes after the decoder.

    dlm.accelerate(model)     # a DiffusionGemmaForBlockDiffusion
    model.generate(...)       # as before

One sweep over the logits replaces softmax, ``torch.multinomial``, argmax, both entropies, the acceptance and the stopping
criterion. The client's logits processors run first and as they are, so that all of them are covered. Tokens, early stops
and self-conditioning logits are those of the original, given the same uniform numbers and up to the rounding of fp32 sums: an
entropy that meets the bound, or a number the edge of a token's probability, to within 1e-6. Apart from speed this differs:

- Noise is keyed. The seeds of a step are drawn from torch's global generator, where the original draws all of its noise, so
  that ``torch.manual_seed`` makes a run repeatable; its tokens are other ones than the original's for that seed.
- With a static cache the original keeps the ``entropy_bound`` of the first ``generate`` of a model; here that of the call holds.
- ``sampler.accepted_token_mask`` is False in sequences that have come to rest; the original goes on deciding there.
- NaN, or nothing finite, in the logits raises ValueError with the position, where ``torch.multinomial`` raises RuntimeError. In
  sequences at rest it does not.

The argmax history of the stopping criterion is kept as the original keeps it. Where sampler, stopping criterion or the model's
own methods are not the stock ones, the client's code runs.
"""

from __future__ import annotations

from types import MethodType

import torch

from ..renoise import RenoiseState, renoise_step
from .seams import Unsupported, is_a, is_written_in, known_version, method_seam

__all__ = ["ADAPTERS"]


class _DiffusionGemma:
    name = "transformers DiffusionGemmaForBlockDiffusion"

    def matches(self, obj):
        return is_a(obj, "transformers.models.diffusion_gemma.DiffusionGemmaForBlockDiffusion")

    def seams(self, obj):
        from transformers import __version__

        known_version("transformers", __version__, "5.23", "5.24")
        return [method_seam(obj, "_denoising_step", _denoising_step, "draw, accept, renoise, stop")]


ADAPTERS = (_DiffusionGemma(),)


def _generation():
    from transformers.models.diffusion_gemma import generation_diffusion_gemma

    return generation_diffusion_gemma


def _denoising_step(
    self,
    *,
    decoder_forward,
    current_canvas,
    argmax_canvas,
    input_ids,
    decoder_position_ids,
    self_conditioning_logits,
    mask_mapping,
    finished_denoising,
    cur_step,
    sampler,
    logits_processor,
    diffusion_stopping_criteria,
    **model_kwargs,  # the cache among them, under the name that it has in this version
):
    stopping = diffusion_stopping_criteria
    _require_stock(self, sampler, stopping)
    if current_canvas.dtype != torch.int64:
        raise Unsupported(f"a canvas of {current_canvas.dtype}")

    # An int would recompile what is compiled.
    cur_step = torch.tensor(cur_step, device=current_canvas.device, dtype=torch.int32)
    torch.compiler.cudagraph_mark_step_begin()
    logits = decoder_forward(
        decoder_input_ids=current_canvas,
        self_conditioning_logits=self_conditioning_logits,
        decoder_attention_mask=mask_mapping,
        decoder_position_ids=decoder_position_ids,
        **model_kwargs,
    ).logits
    own = _is_own_forward(self, decoder_forward)
    logits = _processed(logits, logits_processor, input_ids, cur_step, nobody_else=own)

    # Without a stopping criterion nobody comes to rest, and `finished_denoising` is not read.
    state, limits, resting = RenoiseState.start(current_canvas), {}, None
    if stopping is not None:
        resting = finished_denoising.clone()
        state = RenoiseState(argmax_canvas.clone(), _unchanged(stopping, argmax_canvas), finished_denoising)
        limits = {
            "stability_threshold": stopping.stability_threshold,
            "confidence_threshold": stopping.confidence_threshold,
        }
    # multinomial looks for NaN, too, and waits for the device.
    readable, bound = _readable(logits), sampler.entropy_bound
    out = renoise_step(current_canvas, readable, entropy_bound=bound, state=state, check=True, **limits)
    sampler.accepted_token_mask = out.accepted
    logits = logits.to(self.model.decoder.embed_tokens.weight.dtype)
    if stopping is not None:
        _note(stopping, state.argmax)
        if resting.any():
            logits = torch.where(resting[:, None, None], self_conditioning_logits, logits)
    return out.x, state.argmax, logits, finished_denoising


def _require_stock(model, sampler, stopping):
    client = _generation()
    if type(sampler) is not client.EntropyBoundSampler:
        raise Unsupported(f"the sampler is a {type(sampler).__name__}, not an EntropyBoundSampler")
    for name in ("accept_canvas", "renoise_canvas", "initialize_canvas"):
        own = vars(sampler).get(name)
        compiled = own is not None and own is getattr(model, f"_compiled_{name}", None)
        if not is_written_in(client.__name__, getattr(type(sampler), name) if compiled else getattr(sampler, name)):
            raise Unsupported(f"the sampler has a {name} of its own")
    vocab_size = model.config.text_config.vocab_size
    if sampler.vocab_size != vocab_size:
        raise Unsupported(f"the sampler renoises with {sampler.vocab_size} tokens, the model has {vocab_size}")
    if stopping is not None:
        if type(stopping) is not client.StableAndConfidentStoppingCriteria:
            raise Unsupported(f"the stopping criterion is a {type(stopping).__name__}")
        if not is_written_in(client.__name__, type(stopping).__call__):
            raise Unsupported("the stopping criterion has a __call__ of its own")


def _processed(logits, processors, input_ids, cur_step, nobody_else):
    """What the processors make of the logits. Where that is only to cool them, and ``nobody_else`` has them, in place."""
    client = _generation()
    cooling = client.LinearTemperatureScheduleLogitsProcessor
    only_cooled = type(processors) is client.LogitsProcessorList and all(type(p) is cooling for p in processors)
    only_cooled = only_cooled and is_written_in(client.__name__, cooling.__call__)
    if not (nobody_else and only_cooled and not logits.requires_grad):
        return processors(input_ids, logits, cur_step=cur_step)
    for p in processors:
        logits.div_(p.t_min + ((p.t_max - p.t_min) * (cur_step / p.max_denoising_steps)))
    return logits


def _readable(logits):
    """As the op takes them; processors may return anything that softmax takes."""
    logits = logits.float() if logits.dtype == torch.float64 else logits
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def _is_own_forward(model, forward):
    """Whether forward is the model's as it was written: its logits are new tensors. A compiled one's belong to a CUDA graph,
    and a wrapper may keep them."""
    from transformers import DiffusionGemmaForBlockDiffusion

    own = isinstance(forward, MethodType) and forward.__self__ is model
    return own and forward.__func__ is DiffusionGemmaForBlockDiffusion.forward


# ---- the argmax history of the stopping criterion, [stability_threshold, B, L]: all the state there is ------------------


def _unchanged(stopping, argmax_canvas):
    """For how many steps the argmax has been the same, int64 [B]; -1 before the first. The history is the last ones; what it does
    not reach back to makes no difference."""
    history = stopping.argmax_canvas_history
    if stopping.stability_threshold == 0 or history is None:
        return torch.full(argmax_canvas.shape[:1], -1, device=argmax_canvas.device)
    return (history[:-1] == history[-1:]).all(dim=-1).sum(dim=0)


def _note(stopping, argmax_canvas):
    if stopping.stability_threshold == 0:
        return
    if stopping.argmax_canvas_history is None:
        shape = (stopping.stability_threshold, *argmax_canvas.shape)
        stopping.argmax_canvas_history = argmax_canvas.new_full(shape, -1)
    stopping.argmax_canvas_history = torch.cat([stopping.argmax_canvas_history[1:], argmax_canvas[None]])
