"""LLaDA's generate."""

from functools import partial

from . import llada_client
from .loops import Built, Loop
from .small_model import LLADA_VOCAB, SmallModel, prompt

LINE = "dlm.accelerate(generate)"


def _build(batch, temperature, vocab):
    model, tokens, mask = SmallModel(vocab), prompt(batch, 32, vocab - 1), vocab - 1
    options = dict(steps=8, gen_length=32, block_length=32, temperature=temperature, mask_id=mask)
    return Built(lambda: llada_client.generate(model, tokens, **options), model, llada_client)


LOOPS = [
    Loop("LLaDA T=0", LINE, LLADA_VOCAB, 64, 8, partial(_build, 1, 0.0)),
    Loop("LLaDA T=1", LINE, LLADA_VOCAB, 64, 8, partial(_build, 1, 1.0), same=False),
    Loop("LLaDA T=1, 4 sequences", LINE, LLADA_VOCAB, 256, 8, partial(_build, 4, 1.0), same=False),
]
