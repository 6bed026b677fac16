"""dInfer's threshold decoder as a drop-in: a toy model, no downloads.  Run: python examples/dinfer.py

With dInfer one line of its own set-up changes, or ``dlm_kernels.accelerate(decoder)`` follows it:

    - from dinfer import BlockWiseDiffusionLLM, ThresholdParallelDecoder
    + from dinfer import BlockWiseDiffusionLLM
    + from dlm_kernels.integrations.dinfer import ThresholdParallelDecoder
"""

import torch

from dlm_kernels.integrations.dinfer import HierarchyDecoder, ThresholdParallelDecoder  # <- the line that changes

VOCAB, MASK, BLOCK, LENGTH = 3000, 2999, 16, 40


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(VOCAB, 64, padding_idx=MASK), torch.nn.Linear(64, VOCAB)
        self.place = torch.nn.Parameter(torch.randn(LENGTH, 64))

    def forward(self, x):
        return self.head(3 * self.place + self.embed(x).cumsum(dim=1))


def decode(model, decoder, prompt):
    """Block after block, until no mask is left. Returns (tokens, model calls)."""
    x, calls = torch.nn.functional.pad(prompt, (0, LENGTH - prompt.shape[1]), value=MASK), 0
    for begin in range(prompt.shape[1], LENGTH, BLOCK):
        end = begin + BLOCK
        decoder.block_init(x[:, begin:end], begin // BLOCK)
        while (x[:, begin:end] == MASK).any():
            decoder.decode(model(x)[:, begin:end], begin, end, x)
            calls += 1
    return x, calls


torch.manual_seed(0)
model, prompt = Model(), torch.randint(MASK, (2, 8))
decoders = (
    ThresholdParallelDecoder(temperature=0.0, threshold=0.9, mask_id=MASK),
    ThresholdParallelDecoder(temperature=0.0, threshold=0.3, mask_id=MASK),
    HierarchyDecoder(temperature=0.0, mask_id=MASK, low_threshold=0.1),
)
with torch.no_grad():
    for decoder in decoders:
        x, calls = decode(model, decoder, prompt)
        print(f"{type(decoder).__name__}: {2 * 32} tokens in {calls} model calls, {x[0, 8:14].tolist()} ...")
