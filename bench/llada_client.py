"""A module shaped like LLaDA's generate.py: its names and what they mean, told anew. Ties, which the original leaves to
``torch.topk``, go to the lowest position."""

import torch


def add_gumbel_noise(logits, temperature):
    if temperature == 0:
        return logits
    noise = torch.rand(logits.shape, dtype=torch.float64)
    return logits.double().exp() / (-noise.log()) ** temperature


def get_num_transfer_tokens(mask_index, steps):
    masks = mask_index.sum(dim=1, keepdim=True)
    return masks // steps + (torch.arange(steps) < masks % steps)


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
    mask_id=126336,
    logits_eos_inf=False,
    confidence_eos_eot_inf=False,
):
    eos, eot = 126081, 126348
    x = torch.cat([prompt, torch.full((len(prompt), gen_length), mask_id)], dim=1)
    if attention_mask is not None:
        attention_mask = torch.nn.functional.pad(attention_mask, (0, gen_length), value=1)
    given = x != mask_id
    for begin in range(prompt.shape[1], x.shape[1], block_length):
        end = begin + block_length
        quotas = get_num_transfer_tokens(x[:, begin:end] == mask_id, steps * block_length // gen_length)
        for quota in quotas.T:
            masks = x == mask_id
            if cfg_scale > 0:
                blind = x.masked_fill(given, mask_id)
                twice = None if attention_mask is None else attention_mask.repeat(2, 1)
                logits, free = model(torch.cat([x, blind]), attention_mask=twice).logits.chunk(2)
                logits = free + (cfg_scale + 1) * (logits - free)
            else:
                logits = model(x, attention_mask=attention_mask).logits
            if logits_eos_inf:
                logits[..., eos] = -torch.inf
            noisy = add_gumbel_noise(logits, temperature)
            draws = noisy.argmax(dim=-1)
            if confidence_eos_eot_inf:  # at temperature 0 both names are of one tensor
                noisy[..., eos] = -torch.inf
                logits[..., eot] = -torch.inf
            if remasking == "low_confidence":
                scores = logits.softmax(dim=-1).gather(-1, draws[..., None])[..., 0]
            elif remasking == "random":
                scores = torch.rand(draws.shape)
            else:
                raise NotImplementedError(remasking)
            scores[:, end:] = -torch.inf
            scores = torch.where(masks, scores, -torch.inf)
            order = scores.sort(dim=1, descending=True, stable=True).indices
            for b in range(len(x)):
                chosen = order[b, : quota[b]]
                x[b, chosen] = torch.where(masks[b, chosen], draws[b, chosen], x[b, chosen])
    return x
