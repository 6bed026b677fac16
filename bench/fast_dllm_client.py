"""A module shaped like Fast-dLLM's llada/generate.py: its names and what they mean, told anew. Ties, which the original leaves to
``torch.topk``, go to the lowest position."""

import torch

from .llada_client import add_gumbel_noise, get_num_transfer_tokens


def proposed(logits, temperature, remasking, mask_index, x):
    """(draws where masked, confidence in float64, -inf elsewhere)."""
    draws = add_gumbel_noise(logits, temperature).argmax(dim=-1)
    if remasking == "low_confidence":
        scores = logits.double().softmax(dim=-1).gather(-1, draws[..., None])[..., 0]
    elif remasking == "random":
        scores = torch.rand(draws.shape)
    else:
        raise NotImplementedError(remasking)
    return torch.where(mask_index, draws, x), torch.where(mask_index, scores, -torch.inf)


def ranked(confidence):
    """Positions by confidence, ties (which the original leaves open) to the left."""
    return confidence.sort(descending=True, stable=True).indices


def get_transfer_index_of_june_2025(logits, temperature, remasking, mask_index, x, num_transfer_tokens, threshold=None):
    x0, confidence = proposed(logits, temperature, remasking, mask_index, x)
    transfer_index = torch.zeros_like(mask_index)
    for j, (masks, scores) in enumerate(zip(mask_index, confidence)):
        count = num_transfer_tokens[j] if threshold is None else masks.sum()
        chosen = ranked(scores)[:count]
        if threshold is not None:
            chosen = [p for rank, p in enumerate(chosen) if rank == 0 or not scores[p] < threshold]
        transfer_index[j, chosen] = True
    return x0, transfer_index


def get_transfer_index_of_2026(logits, temperature, remasking, mask_index, x, num_transfer_tokens, threshold=None):
    x0, confidence = proposed(logits, temperature, remasking, mask_index, x)
    if threshold is not None:
        best = torch.nn.functional.one_hot(confidence.argmax(dim=1), x.shape[1]).bool()
        return x0, ((confidence >= threshold) | best) & mask_index
    order = confidence.sort(dim=1, descending=True, stable=True).indices
    wanted = torch.arange(x.shape[1]) < num_transfer_tokens.reshape(-1, 1)
    return x0, torch.zeros_like(mask_index).scatter(1, order, wanted) & mask_index


def get_transfer_index_dynamic(logits, temperature, remasking, mask_index, x, num_transfer_tokens, factor=1):
    x0, confidence = proposed(logits, temperature, remasking, mask_index, x)
    transfer_index = torch.zeros_like(mask_index)
    for j, (masks, scores) in enumerate(zip(mask_index, confidence)):
        left, order = int(masks.sum()), ranked(scores)
        fails = [n for n in range(1, left) if scores[order[n]] < 1 - factor / (n + 2)]
        count = fails[0] if fails else left
        if count == left - 1:  # the slip: the loop cannot tell "stopped at the last" from "went through"
            count = left
        transfer_index[j, order[:count]] = True
    return x0, transfer_index


get_transfer_index = get_transfer_index_of_2026
RELEASES = {"2025-06": get_transfer_index_of_june_2025, "2026-01": get_transfer_index_of_2026}


@torch.no_grad()
def decoded(
    looks_at,
    model,
    prompt,
    steps=128,
    gen_length=128,
    block_length=128,
    temperature=0.0,
    remasking="low_confidence",
    mask_id=126336,
    threshold=None,
    factor=None,
):
    """Block after block. From its second step on a block sees what ``looks_at(begin, end)`` says; there a cache has the rest."""
    x = torch.cat([prompt, torch.full((len(prompt), gen_length), mask_id)], dim=1)
    calls = 0
    for begin in range(prompt.shape[1], x.shape[1], block_length):
        end = begin + block_length
        quotas = get_num_transfer_tokens(x[:, begin:end] == mask_id, steps * block_length // gen_length)
        i, seen = 0, slice(0, None)
        while (x[:, begin:end] == mask_id).any():
            view = x[:, seen]
            mask_index = view == mask_id
            mask_index[:, end - seen.start :] = False
            arguments = (model(view).logits, temperature, remasking, mask_index, view)
            if factor is None:
                x0, chosen = get_transfer_index(*arguments, None if threshold else quotas[:, i], threshold)
            else:
                x0, chosen = get_transfer_index_dynamic(*arguments, None, factor)
            view[chosen] = x0[chosen]
            i, calls, seen = i + 1, calls + 1, looks_at(begin, end)
    return x, calls


def generate(model, prompt, **options):
    return decoded(lambda begin, end: slice(0, None), model, prompt, **options)


def generate_with_prefix_cache(model, prompt, **options):
    return decoded(lambda begin, end: slice(begin, None), model, prompt, **options)


def generate_with_dual_cache(model, prompt, **options):
    return decoded(lambda begin, end: slice(begin, end), model, prompt, **options)
