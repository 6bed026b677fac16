"""Dream's diffusion_generate, which samples and scores 16-bit logits in 16 bits. Shifting them, and picking the masked rows, is
its own work either way."""

from functools import partial

from .dream_client import DreamGenerationMixin
from .loops import Built, Loop
from .small_model import SmallModel, prompt

VOCAB, LENGTH, STEPS = 152064, 32, 8


class Dream(DreamGenerationMixin, SmallModel):
    def __init__(self, vocab):
        super().__init__(vocab)
        self.mask_token_id = vocab - 1


def _build(options, vocab):
    model, tokens = Dream(vocab), prompt(1, LENGTH, vocab - 1)
    options = dict(steps=STEPS, length=2 * LENGTH) | options
    return Built(lambda: model.diffusion_generate(tokens, **options).sequences, model, model)


def _loop(name, same=False, **options):
    return Loop(name, "dlm.accelerate(model)", VOCAB, LENGTH, STEPS, partial(_build, options), same)


LOOPS = [
    _loop("Dream T=0", same=True),
    _loop("Dream T=0.2 top-p 0.95, entropy", alg="entropy", temperature=0.2, top_p=0.95),
    _loop("Dream T=1, margin", alg="topk_margin", temperature=1.0),
]
