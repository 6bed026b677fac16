"""LLaDA's sampler, with LLaDA's own names and signatures (``generate.py`` of github.com/ML-GSAI/LLaDA).

    - from generate import generate
    + from dlm_kernels.integrations.llada import generate

or ``dlm.accelerate(generate)`` of the imported module, which means ``compat=True`` below.

At temperature 0 with fp32 logits every step writes the tokens that the original semantics write, up to exact
ties. At temperature > 0 tokens follow the same law, from keyed noise. Apart from speed, this differs:

- One sweep over the positions that may still change replaces Gumbel noise, argmax, softmax and top-k over all of
  them. The model's logits are never written to, and no step waits for the device.
- Positions are ranked by the mass of all other tokens, which still differs where probabilities round to 1; what
  ties even then goes to the lowest position. With bf16 logits the original ranks bf16 values, many of them tied.
- A position whose logits hold NaN stays masked; the original fills such positions first.
- Steps that commit nothing (there are some if a block has more steps than tokens) do not call the model.
- Guidance works without an attention mask, and is computed in fp32 whatever the dtype of the logits.
- ``confidence_eos_eot_inf`` commits EOS and EoT draws last, as the paper means it (arXiv:2502.09992, appendix
  B.4); the original edits the logits after the draw, see ``compat``.

``compat=True`` brings back what can change a published number:

- Probabilities, and guidance, are rounded to the dtype of the logits (fp16 probabilities only in the next case).
- ``confidence_eos_eot_inf`` with low-confidence remasking does the original's edit. At temperature 0 EOS and EoT
  leave the softmax that scores every draw, so that either of them scores 0 and all others renormalise; at
  temperature > 0 only EoT does, and EOS keeps its full score. With random remasking the flag does nothing.

Not brought back: the random stream, the unspecified order of ties in ``torch.topk``, the overflow of ``exp`` above
709, filled NaN rows, forwards whose result is dropped, the crash of guidance without an attention mask.
"""

import inspect
import math
import types

import torch

from .. import TopK, denoise_step_, request_seeds, row_stats, topk_unmask_
from ..arguments import integer, number, require, require_type
from ..quotas import even
from ..seeds import fresh_seeds
from ..tensors import tensor
from .seams import Unsupported, function_seam, has_parameters, require_own
from .transfer import rewinding

__all__ = ["add_gumbel_noise", "generate", "get_num_transfer_tokens"]

MASK_ID, EOS_ID, EOT_ID = 126336, 126081, 126348  # [MASK], <|endoftext|> and <|eot_id|> of LLaDA's tokenizer


def add_gumbel_noise(logits, temperature, *, generator=None):
    """Perturb ``logits`` [..., V] so that their argmax is a sample of softmax(logits / temperature).

    At temperature 0 this is ``logits`` itself, as in the original; otherwise a new fp64 tensor. Its values are the
    logarithms of the original's ``exp(logits) / (-log u) ** temperature``: the same argmax, but no overflow above
    709 and no ties at 0 below -745. ``generate`` has no use for it; it is here for code that imports it.
    """
    temperature = _not_negative("temperature", temperature)
    if temperature == 0:
        return logits
    noise = torch.empty(logits.shape, dtype=torch.float64, device=logits.device)
    noise.exponential_(generator=generator).clamp_(min=torch.finfo(torch.float64).tiny)  # an exact 0 has no log
    return noise.log_().mul_(-temperature).add_(logits)


def get_num_transfer_tokens(mask_index, steps):
    """How many masked positions to fill at each step: int64 [B, steps], as even as can be, larger ones first.

    ``mask_index`` bool [B, L]. Raises ValueError if it has other dimensions or ``steps`` < 1.
    """
    require(mask_index.dim() == 2, "mask_index", "must have 2 dimensions [B, L]", list(mask_index.shape))
    return even(mask_index.sum(dim=1), steps)


@torch.no_grad()
def generate(
    model,
    prompt,
    attention_mask=None,
    steps=128,
    gen_length=128,
    block_length=128,
    temperature=0.0,
    cfg_scale=0.0,
    remasking="low_confidence",
    mask_id=MASK_ID,
    logits_eos_inf=False,
    confidence_eos_eot_inf=False,
    *,
    seed=None,
    compat=False,
    eos_id=EOS_ID,
    eot_id=EOT_ID,
    logits_to_keep="auto",
    on_step=None,
    check=False,
):
    """Append ``gen_length`` masks to ``prompt`` and fill them, block by block, most confident first.

    Args:
        model: called as ``model(x, attention_mask=...)``; returns logits [B, L, V] (fp32, bf16, fp16) or an object
            that has them as ``.logits``. Works on ``model.device``; without one, on the device of the prompt.
        prompt: int64 or int32 [B, P]. Masks in it compete with the first blocks, as they do in the original.
        attention_mask: [B, P] for the prompt, or None; extended by ones.
        steps: in total, a multiple of the number of blocks.
        gen_length, block_length: the first a multiple of the second.
        temperature: 0 takes the argmax, otherwise draws from softmax(logits / temperature).
        cfg_scale: w of ``u + (w + 1) * (c - u)``; above 0 every forward has twice the batch, u without prompt.
        remasking: 'low_confidence' or 'random'.
        mask_id: the mask token.
        logits_eos_inf: EOS is never drawn.
        confidence_eos_eot_inf: EOS and EoT draws are committed last.
        seed: an int, from which every sequence gets its own, or int64 [B], one per sequence. None takes fresh
            ones from torch's default generator, which is left alone if nothing is random.
        compat: do what the original code does where that is not what it says, see the module.
        eos_id, eot_id: the tokens that the two flags mean.
        logits_to_keep: how to spare a model logits that nobody reads, if its forward has an argument of that name
            (transformers): 'positions' passes the open positions up to the end of the block, int64 [n]; 'last'
            the number of positions from the first open one on; 'all' nothing; 'auto' means 'positions', but
            'last' where the argument is annotated ``int``. On the CPU, where that is free, open positions are
            looked up at every step, elsewhere once per block: the only wait for the device, and none with 'all'.
        on_step: called as ``on_step(step, x, result)`` after every step that called the model, with the canvas
            [B, L] and a ``StepResult`` whose tokens, confidence and committed are [B, L] as well.
        check: raise ValueError at the first open position whose logits hold NaN or nothing finite (waits).

    Returns int64 [B, P + gen_length]. Bad arguments raise ValueError or TypeError before the model is called.
    """
    steps, gen_length = _at_least_one("steps", steps), _at_least_one("gen_length", gen_length)
    block_length = _at_least_one("block_length", block_length)
    num_blocks, quotas = _plan(steps, gen_length, block_length)
    _check_inputs(prompt, attention_mask, seed)
    _check_options(remasking, logits_to_keep)
    temperature, cfg_scale = _not_negative("temperature", temperature), _not_negative("cfg_scale", cfg_scale)
    mask_id, eos_id, eot_id = integer("mask_id", mask_id), integer("eos_id", eos_id), integer("eot_id", eot_id)
    device = getattr(model, "device", None)
    if not isinstance(device, (str, torch.device)):
        device = prompt.device

    batch, prompt_length = prompt.shape
    x = torch.full((batch, prompt_length + gen_length), mask_id, dtype=torch.int64, device=device)
    x[:, :prompt_length] = prompt
    if batch == 0:
        return x

    by_chance = remasking == "random"
    eos, eot = torch.tensor([[eos_id], [eot_id]], device=x.device)
    step_, options = (
        denoise_step_,
        {
            "mask_id": mask_id,
            "temperature": temperature,
            "seed": _seeds(seed, batch, x.device) if temperature > 0 or by_chance else 0,
            "cfg_scale": cfg_scale,
            "confidence": "random" if by_chance else "prob",
            "suppress": eos if logits_eos_inf else None,
            "check": check,
        },
    )
    if confidence_eos_eot_inf and not compat:
        options["demote"] = torch.cat([eos, eot])
    elif confidence_eos_eot_inf and not by_chance:
        step_ = _rescored_step_
        options["unscored"] = torch.cat([eos, eot]) if temperature == 0 or logits_eos_inf else eot

    forward = _Forward(model, x, attention_mask, mask_id, cfg_scale > 0, logits_to_keep)
    for block in range(num_blocks):
        window = (0, prompt_length + (block + 1) * block_length)
        forward.enter(x, window[1])
        for i, quota in enumerate(quotas):
            if quota == 0:
                continue
            logits, uncond, place = forward(x)
            if compat and logits.dtype == torch.bfloat16:
                options["conf_dtype"] = torch.bfloat16
            if compat and uncond is not None:
                logits, uncond = uncond + (cfg_scale + 1) * (logits - uncond), None
            step = block * len(quotas) + i
            result = step_(
                x, logits, rule=TopK(quota), step=step, window=window, uncond_logits=uncond, **place, **options
            )
            if on_step is not None:
                on_step(step, x, _on_canvas(result, x, place))
    return x


class _Forward:
    """The model, asked for logits where the canvas may still change and, if it can be told so, nowhere else."""

    def __init__(self, model, x, attention_mask, mask_id, guided, keep):
        parameters = _parameters(model)
        self.model, self.mask_id, self.guided = model, mask_id, guided
        self.prompt = x != mask_id  # hidden from the unconditional half
        self.keep = _keep_mode(keep, parameters)
        self.kwargs = {}
        if attention_mask is not None:
            mask = attention_mask.to(x.device)
            mask = torch.cat([mask, mask.new_ones(x.shape[0], x.shape[1] - mask.shape[1])], dim=1)
            self.kwargs["attention_mask"] = torch.cat([mask, mask]) if guided else mask
        elif "attention_mask" in parameters:
            self.kwargs["attention_mask"] = None

    def enter(self, x, stop):
        """Begin a block: from now on masks before position ``stop`` may change."""
        self.stop, self.width = stop, x.shape[1]
        if self.keep != "all":
            self._look(x)

    def _look(self, x):
        """Find the positions open in any sequence. None opens within a block: old news is safe, if generous."""
        self.positions = (x[:, : self.stop] == self.mask_id).any(dim=0).nonzero()[:, 0]
        if self.keep == "positions":
            self.width, self.kwargs["logits_to_keep"] = len(self.positions), self.positions
        else:
            self.width = self.kwargs["logits_to_keep"] = x.shape[1] - int(self.positions[0])

    def __call__(self, x):
        """Returns (logits, unconditional logits or None, where they are on the canvas: ``start`` or ``rows``)."""
        if self.keep != "all" and _looking_is_free(x.device):
            self._look(x)
        batch, length = x.shape
        canvas = torch.cat([x, x.masked_fill(self.prompt, self.mask_id)]) if self.guided else x
        output = self.model(canvas, **self.kwargs)
        logits = getattr(output, "logits", output)
        require_type(
            isinstance(logits, torch.Tensor),
            "model",
            "must return logits, or an object that has them",
            type(output).__name__,
        )
        fits = logits.dim() == 3 and len(logits) == len(canvas) and logits.shape[1] in (self.width, length)
        require(fits, "model", f"must return logits [{len(canvas)}, {self.width}, V]", list(logits.shape))
        if logits.stride(-1) != 1:
            logits = logits.contiguous()

        if logits.shape[1] == length:  # all that there are, asked for or not
            place = {}
        elif self.keep == "last":
            place = {"start": length - self.width}
        else:
            sequence = torch.arange(batch, device=x.device)[:, None]
            place = {"rows": (sequence * length + self.positions).flatten()}
            logits = logits.flatten(0, 1)
        return (*logits.chunk(2), place) if self.guided else (logits, None, place)


def _rescored_step_(
    x, logits, *, rule, unscored, suppress, uncond_logits, cfg_scale, mask_id, window, start=None, rows=None, **options
):
    """A top-k step that scores draws under the law without the ``unscored`` tokens; one of those scores 0.

    ``unscored`` int64 [n], what is suppressed included. Other arguments and the result are those of ``denoise_step_``.
    """
    place = {"mask_id": mask_id, "window": window, "start": start, "rows": rows}
    law = {"uncond_logits": uncond_logits, "cfg_scale": cfg_scale}
    result = denoise_step_(x, logits, rule=TopK(0), suppress=suppress, **law, **place, **options)
    drawn = result.confidence > -torch.inf
    given = torch.where(drawn, result.tokens, -1)
    p = row_stats(logits, given=given, suppress=unscored, **law).p_given.to(logits.dtype)
    confidence = torch.where(drawn, p, -torch.inf)
    done = topk_unmask_(x, result.tokens, confidence, rule.k, **place)
    return result._replace(
        confidence=confidence.float(),
        committed=done.committed,
        num_committed=done.num_committed,
        num_open=done.num_open,
    )


def _on_canvas(result, x, place):
    """``result`` with its row-shaped fields laid out on the canvas [B, L]."""
    if not place:
        return result
    fields = {
        "tokens": x.clone(),
        "confidence": torch.full(x.shape, -torch.inf, device=x.device),
        "committed": torch.zeros(x.shape, dtype=torch.bool, device=x.device),
    }
    for name, canvas in fields.items():
        if "rows" in place:
            canvas.view(-1)[place["rows"]] = getattr(result, name)
        else:
            canvas[:, place["start"] :] = getattr(result, name)
    return result._replace(**fields)


def _seeds(seed, batch, device):
    """int64 [B]: two sequences of one prompt are two samples."""
    if seed is None:
        return fresh_seeds(batch, device)
    return seed.to(device) if isinstance(seed, torch.Tensor) else request_seeds(seed, batch, device)


def _parameters(model):
    """The named parameters of the model's forward; none if it does not tell."""
    try:
        return inspect.signature(getattr(model, "forward", model)).parameters
    except (TypeError, ValueError):
        return {}


def _looking_is_free(device):
    return device.type == "cpu"


def _keep_mode(keep, parameters):
    if keep != "auto":
        return keep
    if "logits_to_keep" not in parameters:
        return "all"
    return "last" if parameters["logits_to_keep"].annotation in (int, "int") else "positions"


# ---- arguments ---------------------------------------------------------------------------------------------------


def _plan(steps, gen_length, block_length):
    """(number of blocks, tokens to commit at each step of a block).

    A block is all masks when its turn comes, so that nothing has to be counted on the device.
    """
    require(
        gen_length % block_length == 0, "gen_length", f"must be a multiple of block_length ({block_length})", gen_length
    )
    blocks = gen_length // block_length
    require(steps % blocks == 0, "steps", f"must be a multiple of the number of blocks ({blocks})", steps)
    return blocks, even(block_length, steps // blocks)


def _check_inputs(prompt, attention_mask, seed):
    tensor("prompt", prompt)
    require_type(prompt.dtype in (torch.int64, torch.int32), "prompt", "dtype must be int64 or int32", _dtype(prompt))
    require(prompt.dim() == 2, "prompt", "must have 2 dimensions [B, P]", list(prompt.shape))
    if attention_mask is not None:
        tensor("attention_mask", attention_mask)
        require(
            attention_mask.shape == prompt.shape,
            "attention_mask",
            f"shape must be {list(prompt.shape)}",
            list(attention_mask.shape),
        )
    if isinstance(seed, torch.Tensor):
        require_type(seed.dtype == torch.int64, "seed", "dtype must be int64", _dtype(seed))
        require(list(seed.shape) == [len(prompt)], "seed", f"shape must be [{len(prompt)}]", list(seed.shape))
    elif seed is not None:
        integer("seed", seed)


def _check_options(remasking, logits_to_keep):
    require(remasking in ("low_confidence", "random"), "remasking", "must be low_confidence or random", remasking)
    require(
        logits_to_keep in ("auto", "positions", "last", "all"),
        "logits_to_keep",
        "must be auto, positions, last or all",
        logits_to_keep,
    )


def _not_negative(argument, value):
    value = number(argument, value)
    require(math.isfinite(value) and value >= 0, argument, "must be finite and >= 0", value)
    return value


def _at_least_one(argument, value):
    value = integer(argument, value)
    require(value >= 1, argument, "must be >= 1", value)
    return value


def _dtype(x):
    return str(x.dtype).removeprefix("torch.")


# ---- accelerate ----------------------------------------------------------------------------------------------------


class _GenerateModule:
    name = "LLaDA generate module"

    def matches(self, obj):
        return (
            isinstance(obj, types.ModuleType)
            and hasattr(obj, "get_num_transfer_tokens")
            and has_parameters(getattr(obj, "generate", None), "model", "prompt", "cfg_scale", "remasking")
        )

    def seams(self, obj):
        require_own(obj, "generate")
        signature, ours = inspect.signature(obj.generate), inspect.signature(generate).parameters
        for name, theirs in signature.parameters.items():  # in an order that has changed between releases
            if name not in ours or theirs.default != ours[name].default:
                raise Unsupported(f"generate has a parameter {theirs} that is not known")
        fast = lambda *args, **kwargs: _generate_or_refuse(**signature.bind(*args, **kwargs).arguments)
        yield function_seam(obj, "generate", fast, "draws, ranks and fills, at every step")


@rewinding
def _generate_or_refuse(model, prompt, **options):
    """``generate`` as the original does it, which fills NaN rows and ranks on probabilities of fp16."""
    bad = torch.zeros((), dtype=torch.int64, device=prompt.device)

    def count(step, x, result):
        nonlocal bad
        bad = bad + result.num_bad.sum().to(bad.device)

    watched = _Watched(model)
    try:
        x = generate(watched, prompt, **options, compat=True, on_step=count)
    except (TypeError, ValueError) as why:
        if watched.asked:
            raise
        raise Unsupported(str(why)) from None  # of the arguments, which are the original's to judge
    if bad > 0:
        raise Unsupported("logits hold NaN, +inf or nothing finite in a row that is read")
    return x


class _Watched:
    """A model whose logits are looked at: in some dtypes the original rounds in ways that are not reproduced."""

    def __init__(self, model):
        self._model, self.forward, self.asked = model, getattr(model, "forward", model), False

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, *args, **kwargs):
        self.asked = True
        output = self._model(*args, **kwargs)
        dtype = getattr(getattr(output, "logits", output), "dtype", None)
        if dtype in (torch.float16, torch.float64):
            raise Unsupported(f"logits of {str(dtype)[6:]} are not covered")
        return output


ADAPTERS = (_GenerateModule(),)
