"""The LLaDA drop-in with a toy model: no downloads, a second of CPU time.  Run: python examples/llada.py

With LLaDA itself, one line of its own script changes and nothing else:

    - from generate import generate
    + from dlm_kernels.integrations.llada import generate
"""

import torch

from dlm_kernels.integrations.llada import generate  # <- the line that changes

TEXT = "to be or not to be that is the question"
LETTERS = sorted(set(TEXT))
MASK = len(LETTERS)


class Reciter(torch.nn.Module):
    """Knows one sentence by heart, and each letter the better the more of its neighbours it sees."""

    def __init__(self):
        super().__init__()
        self.register_buffer("letters", torch.tensor([LETTERS.index(letter) for letter in TEXT]))

    def forward(self, x, attention_mask=None):
        known = torch.nn.functional.pad((x != MASK).float(), (3, 3))
        certainty = 1 + known.unfold(dimension=1, size=7, step=1).sum(dim=-1)  # [B, L]
        return certainty[..., None] * torch.nn.functional.one_hot(self.letters, len(LETTERS))


def show(step, x, result):
    print(f"{step:4}  " + "".join((LETTERS + ["_"])[token] for token in x[0].tolist()))


prompt = torch.tensor([[LETTERS.index(letter) for letter in TEXT[:15]]])
generate(Reciter(), prompt, steps=12, gen_length=24, block_length=12, mask_id=MASK, on_step=show)
