"""``sample`` and ``infill`` of ZHZisZZ/dllm's MDLMSampler, which draw, rank and fill in their own bodies: the loops anew, with
``denoise_step_`` for those lines; and the plan of the steps, which all its samplers share.

Same arguments, canvases, blocks, plans, guidance and histories. ``begin_suppress_tokens``, float16 logits and schedulers with a
``reverse_mask_prob`` of their own are left to the sampler itself; so is the whole call if a row that is read holds NaN.
"""

from __future__ import annotations

import math
import sys

import torch

from .. import TopK, denoise_step_, quotas
from ..arguments import FINITE_ROWS
from ..seeds import fresh_seeds
from .transfer import REMASKING, check_temperature, no_grad, readable, refuse, rewinding


def get_num_transfer_tokens(mask_index, steps, scheduler, stochastic=False):
    """How many tokens to fill at each step: int64 [B, at most steps], steps of nothing left out (``quotas.dllm``).

    ``mask_index`` bool [B, L]; ``scheduler`` of dllm, whose ``reverse_mask_prob`` must be the base class's; ``stochastic`` draws
    from a binomial law, with torch's global generator.
    """
    base = next((kind for kind in type(scheduler).__mro__ if "reverse_mask_prob" in vars(kind)), None)
    known = base is not None and base.__name__ == "BaseAlphaScheduler"
    refuse(not known, f"scheduler: must have dllm's own reverse_mask_prob, got {type(scheduler).__name__}")
    return quotas.dllm(mask_index.sum(dim=1), steps, scheduler.alpha, stochastic=stochastic)


@no_grad
@rewinding
def sample(self, inputs, config=None, **kwargs):
    """Append masks to the prompts and fill them, block after block.

    Args:
        inputs: prompts, 1-d int64 tensors or lists of ints.
        config: MDLMSamplerConfig; kwargs go before its fields.

    Returns int64 [B, T], or a BaseSamplerOutput with ``return_dict``.
    """
    options = _Options(self, config, kwargs)
    inputs = options.tensors(inputs)
    new, longest = options.max_new_tokens, max(map(len, inputs))
    if not new:
        new = options.max_length - longest
    x, lengths = options.canvas(inputs, longest + new)
    at = torch.arange(x.shape[1], device=x.device)
    x[(lengths <= at) & (at < lengths + new)] = options.mask_id
    blocks = []
    for begin in range(0, new, options.block_size):
        end = lengths + begin + options.block_size
        blocks.append((lengths + begin <= at, at < end, at < lengths + new))
    return _filled(self, options, x, at < lengths + new, blocks, earlier=True)


@no_grad
@rewinding
def infill(self, inputs, config, **kwargs):
    """Fill the masks that the inputs hold, block after block of the canvas. Arguments and result as those of ``sample``."""
    options = _Options(self, config, kwargs)
    inputs = options.tensors(inputs)
    x, lengths = options.canvas(inputs, max(map(len, inputs)))
    size = x.shape[1] if options.block_size is None else options.block_size
    at = torch.arange(x.shape[1], device=x.device)[None].expand(x.shape)
    blocks = [(begin <= at, at < begin + size, at < lengths) for begin in range(0, x.shape[1], size)]
    return _filled(self, options, x, at < lengths, blocks, earlier=False)


class _Options:
    """What a call asks for: a field of the config, unless it is among the keywords."""

    def __init__(self, sampler, config, kwargs):
        self._home = sys.modules[type(sampler).sample.__module__]
        self._config = self._home.MDLMSamplerConfig() if config is None else config
        self._kwargs, self._sampler = kwargs, sampler
        self.mask_id = sampler.tokenizer.mask_token_id
        refuse(bool(self.begin_suppress_tokens), "begin_suppress_tokens: must be None, got some")
        refuse(self.remasking not in REMASKING, f"remasking: must be low_confidence or random, got {self.remasking}")
        check_temperature(self.temperature)

    def __getattr__(self, name):
        return self._kwargs[name] if name in self._kwargs else getattr(self._config, name)

    def tensors(self, inputs):
        if self.right_shift_logits:
            begin = [self._sampler.tokenizer.bos_token_id]
            inputs = [begin if isinstance(p, list) and not p else p for p in inputs]
        device = self._sampler.model.device
        return [torch.as_tensor(p, dtype=torch.long, device=device) for p in inputs]

    def canvas(self, inputs, width):
        """(the inputs on a canvas [B, width] of EOS, their lengths [B, 1])."""
        x = torch.full((len(inputs), width), self._sampler.tokenizer.eos_token_id, dtype=torch.long)
        x = x.to(self._sampler.model.device)
        for row, tokens in zip(x, inputs):
            row[: len(tokens)] = tokens
        return x, torch.tensor([[len(tokens)] for tokens in inputs], device=x.device)

    def output(self, x, histories):
        return self._home.BaseSamplerOutput(sequences=x, histories=histories) if self.return_dict else x


def _filled(self, options, x, real, blocks, earlier):
    """Run the blocks: triples of bool [B, T] that together say where a block is. ``real`` is what the model attends to; with
    ``earlier`` masks that are left before a block may be filled, too."""
    seeds, number = fresh_seeds(len(x), x.device), 0
    given = (x != options.mask_id) & real
    if options.cfg_keep_tokens:
        given &= ~torch.isin(x, torch.as_tensor(options.cfg_keep_tokens, device=x.device))
    histories, num_bad = [x.clone()], torch.zeros((), dtype=torch.int64, device=x.device)
    for begun, before_end, inside in blocks:
        here = before_end & inside
        allowed = before_end if earlier else begun & here
        masks = begun & here & (x == options.mask_id)
        steps = math.ceil(options.steps / len(blocks))
        plan = get_num_transfer_tokens(masks, steps, self.scheduler, options.stochastic_transfer)
        for count in plan.T:
            logits = _logits(self.model, options, x, real.long(), given)
            refuse(logits.dtype == torch.float16, "logits: dtype must be float32 or bfloat16, got torch.float16")
            result = denoise_step_(
                x,
                readable(logits),
                mask_id=options.mask_id,
                rule=TopK(count),
                temperature=options.temperature,
                seed=seeds,
                step=number,
                confidence=REMASKING[options.remasking],
                conf_dtype=torch.bfloat16 if logits.dtype == torch.bfloat16 else torch.float32,
                frozen=~allowed,
                suppress=options.suppress_tokens or None,
                shift=-1 if options.right_shift_logits else 0,
            )
            number, num_bad = number + 1, num_bad + result.num_bad.sum()
            if options.return_dict:
                histories.append(x.clone())
    refuse(bool(num_bad > 0), f"logits: {FINITE_ROWS}, got a bad one")
    return options.output(x, histories)


def _logits(model, options, x, attention_mask, given):
    """The model's, guided in their own dtype as the original does."""
    if not options.cfg_scale > 0:
        return model(x, attention_mask=attention_mask).logits
    both = torch.cat([x, x.masked_fill(given, options.mask_id)])
    logits, free = model(both, attention_mask=attention_mask.repeat(2, 1)).logits.chunk(2)
    return free + (options.cfg_scale + 1) * (logits - free)
