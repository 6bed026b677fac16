"""LLaDA2's own generate, whose forward hands out float32 logits."""

from functools import partial

from .llada2_client import LLaDA2Generation
from .loops import Built, Loop
from .small_model import SmallModel, prompt

VOCAB, BLOCK, STEPS = 157184, 32, 8


class LLaDA2(LLaDA2Generation, SmallModel):
    def __init__(self, vocab):
        super().__init__(vocab, dtype=None)
        self.mask_token_id = vocab - 1


def _build(options, vocab):
    model, tokens = LLaDA2(vocab), prompt(1, BLOCK, vocab - 1)
    options = (
        dict(block_length=BLOCK, gen_length=BLOCK, steps=STEPS, threshold=1.0) | options
    )  # a token per step, whatever is drawn
    return Built(lambda: model.generate(tokens, **options), model, model)


def _loop(name, same=False, **options):
    return Loop(name, "dlm.accelerate(model)", VOCAB, BLOCK, STEPS, partial(_build, options), same)


LOOPS = [
    _loop("LLaDA2 T=0", same=True),
    _loop("LLaDA2.1 T=0, editing", same=True, editing_threshold=0.9),
    _loop("LLaDA2 T=1", temperature=1.0),
    _loop("LLaDA2 T=0.7 top-k 50 top-p 0.9", temperature=0.7, top_k=50, top_p=0.9),
]
