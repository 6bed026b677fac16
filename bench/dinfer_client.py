"""Decoders shaped like those of dInfer's parallel_strategy.py, and its loop over a block: their names and what they mean, told
anew. The original runs the threshold's selection under torch.compile; here all is eager."""

import torch

from .llada_client import add_gumbel_noise


def get_transfer_index_threshold(
    logits, temperature, mask_index, x, mask_id, threshold, rm_mask=True, use_float64=False, **kwargs
):
    draws = add_gumbel_noise(logits, temperature).argmax(dim=-1)
    law = logits.to(torch.float64 if use_float64 else torch.float32).softmax(dim=-1)
    if rm_mask:
        mask_index = mask_index & (draws != mask_id)
    confidence = torch.where(mask_index, law.gather(-1, draws[..., None])[..., 0], -torch.inf)
    level = (confidence.amax(dim=1, keepdim=True) - 1e-5).clamp(-1000, threshold)
    return torch.where(mask_index, draws, x), confidence >= level


class ParallelDecoder:
    def __init__(self, temperature, remasking="low_confidence", mask_id=126336):
        self.temperature, self.remasking, self.mask_id = temperature, remasking, mask_id

    def block_init(self, block_x, block_id):
        pass


class ThresholdParallelDecoder(ParallelDecoder):
    def __init__(
        self, temperature, threshold, remasking="low_confidence", mask_id=126336, eos_id=126081, use_float64=False
    ):
        super().__init__(temperature, remasking, mask_id)
        self.threshold, self.use_float64 = threshold, use_float64

    def decode(self, logits, block_start, block_end, x, iter_threshold=None):
        level = self.threshold if iter_threshold is None else iter_threshold
        block = x[:, block_start:block_end]
        masks = block == self.mask_id
        assert masks.shape[1] == logits.shape[1]
        x0, chosen = get_transfer_index_threshold(
            logits, self.temperature, masks, block, self.mask_id, threshold=level, use_float64=self.use_float64
        )
        x[:, block_start:block_end] = torch.where(chosen & masks, x0, block)


class CreditThresholdParallelDecoder(ThresholdParallelDecoder):
    def decode(self, logits, block_start, block_end, x, iter_threshold=None):
        super().decode(logits + 1, block_start, block_end, x, iter_threshold)


class HierarchyDecoder(ParallelDecoder):
    def __init__(
        self,
        temperature,
        remasking="low_confidence",
        mask_id=126336,
        eos_id=126081,
        threshold=None,
        low_threshold=0.4,
    ):
        super().__init__(temperature, remasking, mask_id)
        self.threshold, self.low_threshold, self.iter = threshold, low_threshold, 0

    def decode(self, logits, block_start, block_end, x, iter_threshold=None):
        level = self.threshold if iter_threshold is None else iter_threshold
        block = x[:, block_start:block_end]
        assert len(block) == 1
        draws = add_gumbel_noise(logits, self.temperature).argmax(dim=-1)
        p = logits.log_softmax(dim=-1).gather(-1, draws[..., None])[..., 0].exp()
        masks = block == self.mask_id
        confidence = torch.where(masks, p, -torch.inf)
        before = torch.nn.functional.pad(masks, (1, 0))[:, :-1]
        run = ((masks & ~before).cumsum(dim=1) - 1).clamp(min=0)  # which run of masks a position is in
        best = torch.full_like(p, -torch.inf).scatter_reduce(1, run, confidence, "amax").gather(1, run)
        chosen = confidence == best
        if self.low_threshold is not None:
            chosen &= confidence > self.low_threshold
        if level is not None:
            chosen |= confidence > level
        chosen |= torch.nn.functional.one_hot(confidence.argmax(dim=1), p.shape[1]).bool()
        x[:, block_start:block_end] = torch.where(chosen & masks, draws, block)
        self.iter += 1


for decoder in (ParallelDecoder, ThresholdParallelDecoder, CreditThresholdParallelDecoder, HierarchyDecoder):
    decoder.__module__ = "dinfer.decoding.parallel_strategy"


class TokenArray:
    """Slices of a tensor that is not one itself."""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, index):
        return self.data[index]

    def __setitem__(self, index, values):
        self.data[index] = values


def decoded(model, decoder, prompt, length=24, block=8, **options):
    """Fill block after block; returns (tokens, steps)."""
    x = TokenArray(torch.nn.functional.pad(prompt, (0, length), value=decoder.mask_id))
    steps = 0
    for begin in range(prompt.shape[1], x.data.shape[1], block):
        decoder.block_init(x[:, begin : begin + block], begin)
        while (x[:, begin : begin + block] == decoder.mask_id).any() and steps < 100:
            decoder.decode(model(x.data).logits[:, begin : begin + block], begin, begin + block, x, **options)
            steps += 1
    return x.data, steps
