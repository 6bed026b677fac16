"""A model shaped like LLaDA2's (``modeling_llada2_moe.py``): its names and what they mean, told anew. A model has the mixin, a
``mask_token_id``, and a forward (tokens [1, L]) -> ``.logits`` [1, L, V] in float32."""

import torch


def _top_k_logits(logits, k):
    if k is None or k <= 0:
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -torch.inf)


def _top_p_logits(logits, p):
    if p is None or p >= 1:
        return logits
    ordered, places = logits.sort(dim=-1, descending=True, stable=True)
    before = torch.nn.functional.pad(ordered.softmax(dim=-1).cumsum(dim=-1), (1, 0))[..., :-1]
    dropped = before > p
    dropped[..., 0] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, places, dropped), -torch.inf)


def filtered(logits, top_k, top_p):
    return _top_p_logits(_top_k_logits(logits, top_k), top_p)


class LLaDA2Generation:
    def _sample_with_temperature_topk_topp(self, logits, temperature=1.0, top_k=0, top_p=1.0):
        rows = logits.reshape(-1, logits.shape[-1])
        if temperature == 0:
            law = rows.softmax(dim=-1)
            token = law.argmax(dim=-1, keepdim=True)
        else:
            law = filtered(rows if temperature == 1 else rows / temperature, top_k, top_p).softmax(dim=-1)
            token = torch.multinomial(law, num_samples=1)
        return token.view(logits.shape[:-1]), law.gather(-1, token).view(logits.shape[:-1])

    @torch.no_grad()
    def generate(
        self,
        inputs,
        temperature=0.0,
        block_length=32,
        steps=32,
        gen_length=32,
        top_p=None,
        top_k=None,
        threshold=0.95,
        editing_threshold=None,
    ):
        """Batches of one. With ``editing_threshold`` as 2.1 has it: filled tokens of the block change, too, and all the steps
        are taken."""
        mask_id = self.mask_token_id
        x = torch.nn.functional.pad(inputs, (0, gen_length), value=mask_id)
        for begin in range(inputs.shape[1], x.shape[1], block_length):
            window = x[:, begin : begin + block_length]
            for _ in range(steps):
                masks = window == mask_id
                if editing_threshold is None and not masks.any():
                    break
                logits = self(x[:, : begin + block_length]).logits[:, -block_length:]
                tokens, p = self._sample_with_temperature_topk_topp(
                    logits, temperature=temperature, top_k=top_k, top_p=top_p
                )
                confidence = torch.where(masks, p, -torch.inf)[0]
                chosen = confidence > threshold
                if not chosen.any() and masks.any():
                    chosen[confidence.argmax()] = True
                if editing_threshold is not None:
                    chosen |= (~masks & (p > editing_threshold))[0]
                window[0, chosen] = tokens[0, chosen]
        return x
