"""LLaDA2's sampler, accelerated on one model: a toy, no downloads.  Run: python examples/llada2.py"""

import torch

import dlm_kernels as dlm

VOCAB, MASK, BLOCK = 3000, 2999, 16


class LLaDA2(torch.nn.Module):
    """What of LLaDA2MoeModelLM matters here: a forward, a sampler method, and a loop that calls it."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(VOCAB, 64, padding_idx=MASK), torch.nn.Linear(64, VOCAB)
        self.place = torch.nn.Parameter(torch.randn(256, 64))

    def forward(self, x):
        return self.head(3 * self.place[: x.shape[1]] + self.embed(x).cumsum(dim=1))

    def _sample_with_temperature_topk_topp(self, logits, temperature=1.0, top_k=0, top_p=1.0):
        law = (logits / (temperature or 1)).flatten(0, -2).softmax(dim=-1)  # filters left out in this toy
        tokens = torch.multinomial(law, 1) if temperature > 0 else law.argmax(dim=-1, keepdim=True)
        return tokens.view(logits.shape[:-1]), law.gather(-1, tokens).view(logits.shape[:-1])

    @torch.no_grad()
    def generate(self, prompt, blocks=2, threshold=0.3, **options):
        x, steps = torch.nn.functional.pad(prompt, (0, blocks * BLOCK), value=MASK), 0
        for begin in range(prompt.shape[1], x.shape[1], BLOCK):
            block = x[:, begin : begin + BLOCK]
            while (masks := block == MASK).any():
                logits = self(x[:, : begin + BLOCK])[:, begin:]
                tokens, p = self._sample_with_temperature_topk_topp(logits, **options)
                p = torch.where(masks, p, -torch.inf)
                chosen = (p > threshold) | (p == p.max())
                block[chosen], steps = tokens[chosen], steps + 1
        return x[:, prompt.shape[1] :], steps


torch.manual_seed(0)
model, prompt = LLaDA2(), torch.randint(MASK, (1, 8))
before, steps = model.generate(prompt, temperature=0.0)
dlm.accelerate(model)  # <- the line that changes
after, _ = model.generate(prompt, temperature=0.0)
print(f"{before.numel()} tokens in {steps} steps; the same tokens: {torch.equal(before, after)}")
sampled, _ = model.generate(prompt, temperature=0.8, top_k=50, top_p=0.9)
print(f"temperature 0.8, top_k 50, top_p 0.9: {sampled[0, :10].tolist()}")
print(dlm.explain(model))
