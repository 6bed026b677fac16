"""The text pipelines of diffusers."""

from functools import partial

import torch

from .loops import Built, Loop

_LLADA2_VOCAB, _LLADA2_BLOCK, _GEMMA_VOCAB, _GEMMA_CANVAS = 126464, 32, 262144, 256
_LINE = "dlm.accelerate(pipe)"


def _llada2(batch, steps, options, vocab):
    from diffusers import BlockRefinementScheduler

    from . import tiny_pipelines

    pipe = tiny_pipelines.llada2(BlockRefinementScheduler(), vocab=vocab, hidden=64, scale=8.0)
    prompt = torch.randint(vocab - 1, (batch, 1), generator=torch.Generator().manual_seed(0))
    fixed = dict(
        mask_token_id=vocab - 1,
        gen_length=_LLADA2_BLOCK - 1,  # one block with the prompt
        block_length=_LLADA2_BLOCK,
        num_inference_steps=steps,
        threshold=1.0,  # as many steps whatever is drawn
        editing_threshold=None,
        output_type="seq",
    )
    run = lambda: pipe(input_ids=prompt, generator=torch.Generator().manual_seed(0), **fixed, **options).sequences
    return Built(run, pipe.model, pipe)


def _diffusion_gemma(scheduler, steps, options, vocab):
    import diffusers

    from . import tiny_pipelines

    scheduler = getattr(diffusers, scheduler)()
    pipe = tiny_pipelines.diffusion_gemma(scheduler, vocab=vocab, canvas=_GEMMA_CANVAS)

    def run():
        generator = torch.Generator().manual_seed(0)
        fixed = dict(prompt="1 2 3", gen_length=_GEMMA_CANVAS, num_inference_steps=steps, output_type="seq")
        return pipe(generator=generator, **fixed, **options).sequences

    return Built(run, pipe.model, pipe)


def _llada2_loop(name, batch, steps=8, at_least=0.0, same=False, **options):
    name, rows = f"diffusers LLaDA2Pipeline {name}, B={batch}", batch * _LLADA2_BLOCK
    build = partial(_llada2, batch, steps, options)
    return Loop(name, _LINE, _LLADA2_VOCAB, rows, steps, build, same, at_least)


def _gemma_loop(name, scheduler, steps=3, same=False, **options):
    build = partial(_diffusion_gemma, scheduler, steps, options)
    return Loop(f"diffusers DiffusionGemmaPipeline {name}", _LINE, _GEMMA_VOCAB, _GEMMA_CANVAS, steps, build, same)


LOOPS = [
    _llada2_loop("T=0", 1, same=True),
    _llada2_loop("T=1", 1, temperature=1.0),
    _llada2_loop("T=1 top-k 50", 1, temperature=1.0, top_k=50),
    _llada2_loop("T=1 top-p 0.9", 1, temperature=1.0, top_p=0.9, at_least=3.0),
    _llada2_loop("T=1 top-p 0.9", 4, steps=4, temperature=1.0, top_p=0.9, at_least=3.0),
    _gemma_loop("entropy bound", "EntropyBoundScheduler"),
    _gemma_loop("block refinement T=1", "BlockRefinementScheduler", temperature=1.0),
    _gemma_loop("discrete DDIM T=0", "DiscreteDDIMScheduler", same=False, temperature=0.0),
    _gemma_loop("discrete DDIM T=1", "DiscreteDDIMScheduler", temperature=1.0),
]
