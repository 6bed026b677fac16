"""The denoising steps of SGLang 0.5.23 told anew, with what they need of the engine around them."""

from dataclasses import dataclass, field

import torch


@dataclass
class Config:
    block_size: int
    mask_id: int
    algorithm_config: dict = field(default_factory=dict)
    first_done_first_out_mode: bool = False
    capture_input_preparation: bool = False


@dataclass
class Batch:
    input_ids: torch.Tensor  # [B * block]
    batch_size: int
    dllm_prompt_mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    rids: list | None = None


class Algorithm:
    def __init__(self, config):
        self.block_size, self.mask_id = config.block_size, config.mask_id
        self.options = config.algorithm_config

    def init_step_state(self, forward_batch):
        return [None] * forward_batch.batch_size

    def canvas(self, forward_batch):
        return forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)


class LowConfidence(Algorithm):
    def __init__(self, config):
        super().__init__(config)
        self.threshold = self.options.get("threshold", 0.95)

    def step(self, forward_batch, full_logits, states):
        x = self.canvas(forward_batch)
        logits = full_logits.view(*x.shape, -1)
        open_ = x == self.mask_id
        if forward_batch.dllm_prompt_mask is not None:
            open_ = open_ & ~forward_batch.dllm_prompt_mask
        best = logits.argmax(dim=-1)
        p = logits.softmax(dim=-1).gather(-1, best[..., None])[..., 0].masked_fill(~open_, -torch.inf)
        take = p > self.threshold
        surest = torch.nn.functional.one_hot(p.argmax(dim=1), x.shape[1]).bool()
        take = torch.where(take.any(dim=1, keepdim=True), take, surest & open_)
        x[take] = best[take]
        return (~open_.any(dim=1)).tolist()


class JointThreshold(Algorithm):
    def __init__(self, config):
        super().__init__(config)
        self.threshold = self.options.get("threshold", 0.5)
        self.edit_threshold = self.options.get("edit_threshold", 0)
        self.max_post_edit_steps = self.options.get("max_post_edit_steps", 16)
        self.penalty_lambda = self.options.get("penalty_lambda", 0)
        self.vectorized_decoding = self.options.get("vectorized_decoding", False)

    def init_step_state(self, forward_batch):
        prompts = forward_batch.dllm_prompt_mask
        prompts = self.canvas(forward_batch) != self.mask_id if prompts is None else prompts
        return [{"post_edit_steps": 0, "finished": False, "prompt_mask": prompt} for prompt in prompts]

    def step(self, forward_batch, full_logits, states):
        canvas = self.canvas(forward_batch)
        for x, logits, state in zip(canvas, full_logits.view(*canvas.shape, -1), states):
            if not state["finished"]:
                self.advance(x, logits, state)
        return [state["finished"] for state in states]

    def advance(self, x, logits, state):
        if self.penalty_lambda > 0:
            logits[torch.arange(1, len(x)), x[:-1]] -= self.penalty_lambda
        best = logits.argmax(dim=-1)
        p = logits.softmax(dim=-1).gather(-1, best[:, None])[:, 0]
        writable = ~state["prompt_mask"]
        masked = (x == self.mask_id) & writable
        take = masked & (p > self.threshold)
        if masked.any():
            if not take.any():
                take[p.masked_fill(~masked, -torch.inf).argmax()] = True
        else:
            state["post_edit_steps"] += 1
            if state["post_edit_steps"] > self.max_post_edit_steps:
                state["finished"] = True
                return
        take = take | (writable & ~masked & (p > self.edit_threshold) & (x != best))
        x[take] = best[take]
        state["finished"] = not bool(take.any())


class Embedding:
    """The part of an embedding that Gemma4Renoise looks at."""

    def __init__(self, vocab, hidden, dtype=torch.bfloat16):
        self.weight = torch.randn(vocab, hidden, generator=torch.Generator().manual_seed(0)).to(dtype)
        self.embed_scale = 2.0


def sample_denoiser(probabilities, generator):
    return (probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax(dim=-1)


class Gemma4Renoise(Algorithm):
    def __init__(self, config):
        super().__init__(config)
        self.max_denoising_steps = self.options.get("max_denoising_steps", 48)
        self.entropy_bound = self.options.get("sampler_config", {}).get("entropy_bound", 0.1)
        self.stability_threshold = self.options.get("stability_threshold", 1)
        self.confidence_threshold = self.options.get("confidence_threshold", 0.005)
        self.vocab_size = self.embed_tokens = None

    def init_step_state(self, forward_batch):
        states = []
        for i in range(forward_batch.batch_size):
            generator = torch.Generator().manual_seed(i)
            x = torch.randint(self.vocab_size, (self.block_size,), generator=generator)
            fresh = dict(step=self.max_denoising_steps, current=x, argmax=x, history=[], generator=generator)
            states.append(fresh | dict(self_conditioning=None, finished=False))
        return states

    def _temperatures(self, logits, states):
        return logits.new_tensor([0.4 + 0.4 * state["step"] / self.max_denoising_steps for state in states])

    def _soft_embeddings(self, probabilities):
        weight = self.embed_tokens.weight
        return probabilities.to(weight.dtype) @ weight * self.embed_tokens.embed_scale

    def _write_input_ids(self, forward_batch, states):
        self.canvas(forward_batch).copy_(torch.stack([state["current"] for state in states]))

    def step(self, forward_batch, full_logits, states):
        logits = full_logits.view(len(states), self.block_size, self.vocab_size)
        active = [i for i, state in enumerate(states) if not state["finished"]]
        if active:
            logp = torch.log_softmax(logits / self._temperatures(logits, states)[:, None, None], dim=-1)
            soft = self._soft_embeddings(logp.exp().flatten(0, 1)).view(len(states), self.block_size, -1)
        for i in active:
            self.advance(states[i], logits[i], logp[i])
        if not all(state["finished"] for state in states):
            for i in active:
                states[i]["self_conditioning"] = None if states[i]["finished"] else soft[i]
        self._write_input_ids(forward_batch, states)
        return [state["finished"] for state in states]

    def advance(self, state, logits, logp):
        entropy = -(logp * logp.exp()).sum(dim=-1)
        ordered, order = entropy.sort()
        accepted = torch.zeros_like(order, dtype=torch.bool)
        accepted[order] = ordered.cumsum(0) - ordered <= self.entropy_bound
        drawn = sample_denoiser(logp.exp(), state["generator"])
        noise = torch.randint(self.vocab_size, (self.block_size,), device=logits.device, generator=state["generator"])
        best, n = logits.argmax(dim=-1), self.stability_threshold
        stable = n == 0 or (len(state["history"]) == n and all(torch.equal(best, past) for past in state["history"]))
        state["history"] = [*state["history"], best][-n:] if n else []
        state["step"] -= 1
        state["argmax"] = best
        at_rest = stable and bool(entropy.mean() < self.confidence_threshold)
        state["finished"] = at_rest or state["step"] == 0
        state["current"] = best if state["finished"] else torch.where(accepted, drawn, noise)
        if state["finished"]:
            state["self_conditioning"] = None
