"""A module shaped like Dream's generation_utils.py: its names and what they mean, told anew. A model has the mixin, a
``mask_token_id``, and a forward (tokens [B, L]) -> ``.logits`` [B, L, V], which say what follows each position."""

from types import SimpleNamespace

import torch


def filtered(logits, top_p, top_k):
    least = torch.finfo(logits.dtype).min
    if top_p is not None and top_p < 1:
        ordered, places = logits.sort(dim=-1, descending=True, stable=True)
        before = torch.nn.functional.pad(ordered.softmax(dim=-1).cumsum(dim=-1), (1, 0))[..., :-1]
        dropped = before > top_p
        dropped[..., 0] = False
        logits = logits.masked_fill(torch.zeros_like(dropped).scatter(-1, places, dropped), least)
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < kth, least)
    return logits


def sample_tokens(logits, temperature=0.0, top_p=None, top_k=None, margin_confidence=False, neg_entropy=False):
    law = filtered(logits / temperature if temperature > 0 else logits, top_p, top_k).softmax(dim=-1)
    try:
        if temperature == 0:
            raise ValueError("nothing to draw")
        tokens = torch.distributions.Categorical(probs=law).sample()
        confidence = law.gather(-1, tokens[..., None])[..., 0]
    except ValueError:  # NaN, too: then everybody is greedy
        confidence, tokens = law.max(dim=-1)
    if margin_confidence:
        best = law.topk(2).values
        confidence = best[:, 0] - best[:, 1]
    if neg_entropy:
        confidence = (law * (law + 1e-10).log()).sum(dim=-1)
    return confidence, tokens


class DreamGenerationMixin:
    @torch.no_grad()
    def diffusion_generate(
        self, inputs, steps=8, length=24, alg="maskgit_plus", alg_temp=None, temperature=0.0, top_p=None, top_k=None
    ):
        mask_id = self.mask_token_id
        x = torch.nn.functional.pad(inputs, (0, length - inputs.shape[1]), value=mask_id)
        times = torch.linspace(1, 1e-3, steps + 1)
        options = dict(temperature=temperature, top_p=top_p, top_k=top_k)
        kind = {"topk_margin": dict(margin_confidence=True), "entropy": dict(neg_entropy=True)}.get(alg, {})
        for i in range(steps):
            open_ = x == mask_id
            logits = self(x).logits
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)[open_]
            share = 1 - times[i + 1] / times[i] if i < steps - 1 else torch.tensor(1.0)
            if alg == "origin":
                moved = torch.arange(len(logits)) % steps == i  # by chance in the original
                tokens = torch.full((len(logits),), mask_id)
                _, tokens[moved] = sample_tokens(logits[moved], **options)
                x[open_] = tokens
                continue
            confidence, tokens = sample_tokens(logits, **options, **kind)
            scores = torch.full(x.shape, -torch.inf, dtype=logits.dtype)
            scores[open_] = confidence
            count = int(open_.sum() / len(x) * share)
            if count == 0:
                continue
            if alg_temp:
                chosen = torch.multinomial((scores / alg_temp).softmax(dim=-1), num_samples=count)
            else:
                chosen = scores.sort(dim=-1, descending=True, stable=True).indices[:, :count]
            proposal = torch.full_like(x, mask_id)
            proposal[open_] = tokens
            x.scatter_(1, chosen, proposal.gather(1, chosen))
        return SimpleNamespace(sequences=x)
