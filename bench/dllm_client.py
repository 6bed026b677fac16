"""Samplers shaped like those of ZHZisZZ/dllm, all in one module, and its schedule: their names and what they mean, told anew. A
sampler's ``model(x [B, L], ...)`` gives ``.logits`` [B, L, V], of which it may keep what it likes."""

from dataclasses import dataclass

import torch

from .fast_dllm_client import add_gumbel_noise, ranked


class BaseAlphaScheduler:
    def reverse_mask_prob(self, s, t):
        masked = [1 - self.alpha(torch.tensor(time, dtype=torch.float32)) for time in (s, t)]
        return (masked[0] / masked[1]).item()


class LinearAlphaScheduler(BaseAlphaScheduler):
    def alpha(self, t):
        return 1 - t


def get_num_transfer_tokens(mask_index, steps, scheduler, stochastic=False):
    plans = []
    for left in mask_index.sum(dim=1).tolist():
        plan = []
        for step in range(steps, 0, -1):
            share = 1 - scheduler.reverse_mask_prob(s=(step - 1) / steps, t=step / steps)
            if stochastic:
                count = int(torch.distributions.Binomial(left, share).sample())
            else:
                count = int((torch.tensor(left, dtype=torch.float64) * share).round())
            plan.append(min(count, left))
            left -= plan[-1]
        plans.append([count for count in plan if count])
    most = max(map(len, plans))
    return torch.tensor([plan + [0] * (most - len(plan)) for plan in plans], dtype=torch.long)


def proposed(logits, temperature, remasking, masks, x, dtype):
    draws = add_gumbel_noise(logits, temperature).argmax(dim=-1)
    if remasking == "low_confidence":
        scores = logits.to(dtype).softmax(dim=-1).gather(-1, draws[..., None])[..., 0]
    elif remasking == "random":
        scores = torch.rand(draws.shape)
    else:
        raise NotImplementedError(remasking)
    return torch.where(masks, draws, x), torch.where(masks, scores, -torch.inf)


def _get_transfer_index(
    logits, temperature, remasking, mask_index, x, num_transfer_tokens=None, threshold=None, factor=None
):
    x0, confidence = proposed(logits, temperature, remasking, mask_index, x, torch.float32)
    chosen = torch.zeros_like(mask_index)
    for b, scores in enumerate(confidence):
        order, left = ranked(scores), int(mask_index[b].sum())
        if factor is not None:
            passes = [r == 0 or scores[p] >= 1 - factor / (r + 2) for r, p in enumerate(order[:left])]
            count = sum(passes)
        elif threshold is not None:
            count = max(int((scores >= threshold).sum()), min(left, 1))
        else:
            count = min(int(num_transfer_tokens[b]), left)
        chosen[b, order[:count]] = True
    return x0, chosen


def _diffusion_step_block(logits, x_block, mask_block, num_transfer_step, temperature, remasking):
    x0, confidence = proposed(logits, temperature, remasking, mask_block, x_block, logits.dtype)
    out = x_block.clone()
    for b, scores in enumerate(confidence):
        chosen = ranked(scores)[: min(int(num_transfer_step[b]), int(mask_block[b].sum()))]
        out[b, chosen] = x0[b, chosen]
    return out


def sample_tokens(logits, temperature, top_k, top_p):
    if temperature > 0:
        logits = logits / temperature
        if top_k is not None and top_k > 0:
            kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < kth, -torch.inf)
        if top_p is not None and 0 < top_p < 1:
            ordered, places = logits.sort(dim=-1, descending=True, stable=True)
            before = torch.nn.functional.pad(ordered.softmax(dim=-1).cumsum(dim=-1), (1, 0))[..., :-1]
            dropped = torch.zeros_like(ordered, dtype=torch.bool).scatter(-1, places, before > top_p)
            logits = logits.masked_fill(dropped, -torch.inf)
    law = logits.softmax(dim=-1)
    if temperature > 0:
        tokens = torch.multinomial(law.flatten(0, -2), num_samples=1).view(law.shape[:-1])
    else:
        tokens = law.argmax(dim=-1)
    return tokens, law.gather(-1, tokens[..., None])[..., 0]


@dataclass
class BaseSampler:
    model: object
    tokenizer: object
    scheduler: object = None

    def __post_init__(self):
        self.scheduler = self.scheduler or LinearAlphaScheduler()

    def infill(self, inputs, config=None, **kwargs):
        raise NotImplementedError


class BD3LMSampler(BaseSampler):
    """Also the others' functions, where asked to."""

    @torch.no_grad()
    def sample(self, prompt, length=24, block=8, steps=6, temperature=0.0, kind="block", **options):
        mask = self.tokenizer.mask_token_id
        x = torch.nn.functional.pad(prompt, (0, length), value=mask)
        for begin in range(prompt.shape[1], x.shape[1], block):
            window = x[:, begin : begin + block]
            plan = get_num_transfer_tokens(window == mask, steps, self.scheduler)
            for quota in plan.T:
                masks, logits = window == mask, self.model(x).logits[:, begin : begin + block]
                if kind == "block":
                    window[:] = _diffusion_step_block(logits, window, masks, quota, temperature, "low_confidence")
                elif kind == "index":
                    x0, chosen = _get_transfer_index(
                        logits, temperature, "low_confidence", masks, window, quota, **options
                    )
                    window[chosen] = x0[chosen]
                else:
                    tokens, p = sample_tokens(logits, temperature, options.get("top_k"), options.get("top_p"))
                    chosen = torch.where(masks, p, -torch.inf).argmax(dim=1, keepdim=True)
                    window.scatter_(1, chosen, tokens.gather(1, chosen))
        return x


@dataclass
class BaseSamplerOutput:
    sequences: torch.Tensor
    histories: list = None


@dataclass
class MDLMSamplerConfig:
    return_dict: bool = False
    max_new_tokens: int = 16
    max_length: int = None
    block_size: int = 8
    steps: int = 12
    temperature: float = 0.0
    remasking: str = "low_confidence"
    stochastic_transfer: bool = False
    cfg_scale: float = 0.0
    cfg_keep_tokens: list = None
    suppress_tokens: list = None
    begin_suppress_tokens: list = None
    right_shift_logits: bool = False


class MDLMSampler(BaseSampler):
    @torch.no_grad()
    def sample(self, inputs, config=None, **kwargs):
        o = MDLMSamplerConfig(**(vars(config or MDLMSamplerConfig()) | kwargs))
        new = o.max_new_tokens or o.max_length - max(map(len, inputs))
        prompts = [[self.tokenizer.bos_token_id] if o.right_shift_logits and not len(p) else list(p) for p in inputs]
        rows = [p + [self.tokenizer.mask_token_id] * new for p in prompts]
        ends = [[len(p) + min(e, new) for e in range(o.block_size, new + o.block_size, o.block_size)] for p in prompts]
        spans = [[(len(p) + b * o.block_size, end, 0) for b, end in enumerate(e)] for p, e in zip(prompts, ends)]
        return self._run(o, rows, spans)

    @torch.no_grad()
    def infill(self, inputs, config, **kwargs):
        o = MDLMSamplerConfig(**(vars(config) | kwargs))
        width = max(map(len, inputs))
        size = o.block_size or width
        spans = [[(b, min(b + size, len(row)), b) for b in range(0, width, size)] for row in inputs]
        return self._run(o, [list(row) for row in inputs], spans)

    def _run(self, o, rows, spans):
        mask, width = self.tokenizer.mask_token_id, max(map(len, rows))
        x = torch.tensor([row + [self.tokenizer.eos_token_id] * (width - len(row)) for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        given = (x != mask) & seen.bool() & ~torch.isin(x, torch.tensor(o.cfg_keep_tokens or [-1]))
        histories, at = [x.clone()], torch.arange(width)
        for block in zip(*spans):
            begins, ends, firsts = torch.tensor(block).T[..., None]
            masks = (x == mask) & (begins <= at) & (at < ends)
            steps = -(-o.steps // len(spans[0]))
            for quota in get_num_transfer_tokens(masks, steps, self.scheduler, o.stochastic_transfer).T:
                z = self.model(x, attention_mask=seen).logits
                if o.cfg_scale > 0:
                    both, twice = torch.cat([x, x.masked_fill(given, mask)]), torch.cat([seen, seen])
                    z, u = self.model(both, attention_mask=twice).logits.chunk(2)
                    z = u + (o.cfg_scale + 1) * (z - u)
                for token in o.suppress_tokens or []:
                    z[..., token] = -torch.inf
                z = torch.cat([z[:, :1], z[:, :-1]], dim=1) if o.right_shift_logits else z
                draws = add_gumbel_noise(z, o.temperature).argmax(dim=-1)
                for token in o.begin_suppress_tokens or []:
                    z[..., token] = -torch.inf
                p = z.softmax(dim=-1).gather(-1, draws[..., None])[..., 0]
                open_ = (x == mask) & (firsts <= at) & (at < ends)
                chosen = torch.zeros_like(open_)
                for b, scores in enumerate(torch.where(open_, p, -torch.inf)):
                    chosen[b, ranked(scores)[: quota[b]]] = True
                x = torch.where(chosen & open_, draws, x)
                histories.append(x.clone())
        return BaseSamplerOutput(x, histories) if o.return_dict else x
