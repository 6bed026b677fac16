"""SGLang 0.5.23: the steps of its diffusion algorithms.

    DLM_KERNELS_ENGINE=1 python -m sglang.launch_server --dllm-algorithm LowConfidence ...

``register`` is an entry point of SGLang's plugins. It hooks ``step`` of ``LowConfidence`` and ``JointThreshold`` (LLaDA2, SDAR)
and of ``Gemma4Renoise`` (DiffusionGemma), and adds the algorithm ``FusedLowConfidence``: LowConfidence that can sample. Blocks,
caches and states are SGLang's own, and there is one wait for the device per step, as there.

- LowConfidence and JointThreshold write the same tokens up to near ties: thresholds and ranks see p in the dtype of the logits,
  but for float32 the fallback to the best position tells apart what rounds to p = 1.
- Gemma4Renoise draws with a seed of each request's own generator instead of V numbers of it per position: the same law,
  repeatable per request, other tokens.
- SGLang's code runs where something is not covered: float16 logits, ``penalty_lambda``, ``vectorized_decoding``, embeddings that
  are not bfloat16, thresholds outside [0, 1]; and where a row holds NaN, whose token it picks by chance.
"""

from __future__ import annotations

import hashlib
from importlib import import_module

import torch

from ..renoise import RenoiseState, renoise_step
from ..rules import Threshold
from ..seeds import fresh_seeds
from ..step import denoise_step
from .engines import report, wanted
from .seams import Report, Unsupported, function_seam, guarded, known_version

__all__ = ["ADAPTERS", "fused_low_confidence", "register"]

_PACKAGE = "sglang.srt.dllm.algorithm"


def register():
    """Hook the steps in this process, if DLM_KERNELS_ENGINE=1. Doing it twice changes nothing."""
    if not wanted():
        return
    try:
        known_version("SGLang", import_module("sglang").__version__, "0.5.23")
        algorithms = import_module(_PACKAGE).algo_name_to_cls
        hooks = import_module("sglang.srt.plugins.hook_registry")
    except (ImportError, AttributeError, Unsupported) as why:
        report("sglang", (), str(why))
        return
    if "FusedLowConfidence" in algorithms:
        return
    replaced = []
    for name, fast in _STEPS.items():
        if name in algorithms:  # SGLang leaves out what it cannot import
            kind = algorithms[name]
            replaced.append(f"{kind.__module__}.{name}.step")
            hook = guarded(fast, kind.step, Report())
            hooks.HookRegistry.register(replaced[-1], hook, hooks.HookType.REPLACE)
    if "LowConfidence" in algorithms:
        algorithms["FusedLowConfidence"] = fused_low_confidence(algorithms["LowConfidence"])
    report("sglang", replaced, None if replaced else "it has none of the known algorithms")


# ---- LowConfidence -----------------------------------------------------------------------------------------------------


def _low_confidence_step(self, forward_batch, full_logits, states):
    return _unmask(self, forward_batch, full_logits, conf_dtype=_confidence_dtype(full_logits))


def _unmask(self, forward_batch, full_logits, **law):
    """Commit what is surer than the threshold, at least one position of every block; returns which blocks had no mask."""
    x, logits = _block(self, forward_batch, full_logits)
    rule, frozen = _threshold("threshold", self.threshold), forward_batch.dllm_prompt_mask
    out = denoise_step(x, logits, mask_id=self.mask_id, rule=rule, frozen=frozen, **law)
    masks, bad = torch.stack([out.num_committed + out.num_open, out.num_bad]).tolist()
    _refuse_bad(bad)
    x.copy_(out.x)
    return [count == 0 for count in masks]


def fused_low_confidence(base):
    """A subclass of SGLang's LowConfidence, for ``algo_name_to_cls["FusedLowConfidence"]``.

    Its --dllm-algorithm-config knows, besides ``threshold``: temperature (0), top_k, top_p, min_p (off), confidence_from
    ("sampled", as LLaDA2 has it; or "raw", "tempered") and seed. Noise is keyed by the request's id, the block, the step and the
    position, and by the seed: the same request gets the same tokens in any batch.
    """

    class FusedLowConfidence(base):
        def __init__(self, config):
            super().__init__(config)
            options = config.algorithm_config
            self.temperature = float(options.get("temperature", 0.0))
            self.law = {name: options.get(name) for name in ("top_k", "top_p", "min_p")}
            self.law["confidence_from"] = options.get("confidence_from", "sampled")
            self.seed = options.get("seed", 0)

        def init_step_state(self, forward_batch):
            if self.temperature == 0:
                return super().init_step_state(forward_batch)
            first = forward_batch.positions.view(forward_batch.batch_size, -1)[:, 0].tolist()
            rids = forward_batch.rids or range(len(first))
            return [{"block": f"{self.seed} {rid} {at}", "step": 0} for rid, at in zip(rids, first)]

        def step(self, forward_batch, full_logits, states):
            try:
                if self.temperature == 0:
                    return _low_confidence_step(self, forward_batch, full_logits, states)
                seeds = torch.tensor([_hash(f"{state['block']} {state['step']}") for state in states])
                for state in states:
                    state["step"] += 1
                law = dict(temperature=self.temperature, seed=seeds.to(full_logits.device), **self.law)
                return _unmask(self, forward_batch, full_logits, **law)
            except Unsupported:  # of a sampled step, only NaN is
                return super().step(forward_batch, full_logits, states)

    return FusedLowConfidence


def _hash(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


# ---- JointThreshold ------------------------------------------------------------------------------------------------------


def _joint_threshold_step(self, forward_batch, full_logits, states):
    if self.vectorized_decoding:
        raise Unsupported("vectorized_decoding keeps another state")
    if self.penalty_lambda > 0:
        raise Unsupported("penalty_lambda changes the logits by what stands before")
    x, logits = _block(self, forward_batch, full_logits)
    edit = _threshold("edit_threshold", self.edit_threshold).tau
    frozen = torch.stack([state["prompt_mask"] for state in states])
    finished = [state["finished"] for state in states]
    if any(finished):
        frozen |= torch.tensor(finished, device=frozen.device)[:, None]
    left = [max(self.max_post_edit_steps - state["post_edit_steps"], 0) for state in states]
    out = denoise_step(
        x,
        logits,
        mask_id=self.mask_id,
        rule=_threshold("threshold", self.threshold),
        edit=edit,
        edits_left=torch.tensor(left, device=x.device),
        frozen=frozen,
        conf_dtype=_confidence_dtype(logits),
    )
    masks = out.num_committed + out.num_open
    masks, moved, bad = torch.stack([masks, out.num_committed + out.num_edited, out.num_bad]).tolist()
    _refuse_bad(bad)
    x.copy_(out.x)
    for i, state in enumerate(states):
        if not state["finished"]:
            state["post_edit_steps"] += masks[i] == 0
            state["finished"] = moved[i] == 0  # nothing to do, or no steps left to do it in
    return [state["finished"] for state in states]


# ---- Gemma4Renoise -------------------------------------------------------------------------------------------------------


def _gemma4_renoise_step(self, forward_batch, full_logits, states):
    if all(state["finished"] for state in states):
        self._write_input_ids(forward_batch, states)
        return [True] * len(states)
    if self.embed_tokens.weight.dtype != torch.bfloat16:
        raise Unsupported(f"embeddings of {self.embed_tokens.weight.dtype}")
    logits = full_logits.view(len(states), self.block_size, self.vocab_size)
    device, active = logits.device, [i for i, state in enumerate(states) if not state["finished"]]
    argmax = torch.stack([state["argmax"] for state in states])
    done = torch.tensor([state["finished"] for state in states], device=device)
    seeds = [
        argmax.new_zeros(1) if state["finished"] else fresh_seeds(1, device, state["generator"]) for state in states
    ]
    probs = torch.empty(logits.shape, dtype=torch.bfloat16, device=device)
    out = renoise_step(
        torch.stack([state["current"] for state in states]),
        logits,
        entropy_bound=self.entropy_bound,
        temperature=self._temperatures(logits, states).float(),
        seed=torch.cat(seeds),
        state=RenoiseState(argmax, _unchanged(self, states, device), done),
        stability_threshold=self.stability_threshold,
        confidence_threshold=self.confidence_threshold,
        probs=probs,
    )
    rest, bad = torch.stack([out.done.long(), out.num_bad]).tolist()
    _refuse_bad(bad)
    for i in active:
        state = states[i]
        state["current"], state["argmax"] = out.x[i], argmax[i]
        state["history"] = (
            [*state["history"], argmax[i]][-self.stability_threshold :] if self.stability_threshold else []
        )
        state["step"] -= 1
        state["finished"] = bool(rest[i]) or state["step"] == 0
    soft = None
    if not all(state["finished"] for state in states):
        soft = self._soft_embeddings(probs.view(-1, self.vocab_size)).view(len(states), self.block_size, -1)
    for i in active:
        state = states[i]
        state["self_conditioning"] = None if state["finished"] else soft[i]
        if state["finished"]:
            state["current"] = state["argmax"]
    self._write_input_ids(forward_batch, states)
    return [state["finished"] for state in states]


def _unchanged(self, states, device):
    """For how many steps every argmax has been the same, as far as the histories tell: int64 [B]."""
    counts = []
    for state in states:
        history = state["history"]
        if self.stability_threshold == 0 or len(history) < self.stability_threshold:
            counts.append(torch.full((), -1, device=device))
        else:
            same = torch.stack(history) == history[-1]
            counts.append(same.all(dim=-1).sum() - 1)
    return torch.stack(counts)


# ---- what they share -----------------------------------------------------------------------------------------------------


def _block(self, forward_batch, full_logits):
    """(canvas [B, block], logits [B, block, V])."""
    x = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
    return x, full_logits.view(*x.shape, -1)


def _confidence_dtype(logits):
    """That in which SGLang holds p."""
    if logits.dtype not in (torch.float32, torch.bfloat16):
        raise Unsupported(f"logits of {logits.dtype}")
    return logits.dtype


def _threshold(name, value):
    if not 0 <= value <= 1:
        raise Unsupported(f"{name} = {value}")
    return Threshold(float(value))


def _refuse_bad(counts):
    if any(counts):
        raise Unsupported("a row holds NaN or nothing finite")


_STEPS = {
    "LowConfidence": _low_confidence_step,
    "JointThreshold": _joint_threshold_step,
    "Gemma4Renoise": _gemma4_renoise_step,
}


class _Algorithm:
    """An algorithm's class, for all of its instances."""

    name = "SGLang's LowConfidence, JointThreshold or Gemma4Renoise"

    def matches(self, obj):
        return isinstance(obj, type) and obj.__name__ in _STEPS and obj.__module__.startswith(_PACKAGE)

    def seams(self, obj):
        known_version("SGLang", import_module("sglang").__version__, "0.5.23")
        yield function_seam(obj, "step", _STEPS[obj.__name__], "the denoising step of a batch of blocks")


ADAPTERS = (_Algorithm(),)
