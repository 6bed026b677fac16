"""LLaDA2Pipeline of diffusers with our scheduler steps: a small random model, no downloads.

Run: python examples/diffusers_llada2.py    (pip install diffusers==0.42.1 transformers==5.23.0)
"""

import time

import torch
from diffusers import BlockRefinementScheduler
from dlm_kernels.bench import tiny_pipelines

import dlm_kernels as dlm

VOCAB, MASK = 8000, 7999
pipe = tiny_pipelines.llada2(BlockRefinementScheduler(), vocab=VOCAB)  # LLaDA2Pipeline(model, scheduler, tokenizer)
prompt = torch.randint(MASK, (2, 6), generator=torch.Generator().manual_seed(0))


def generate(**options):
    start = time.perf_counter()
    out = pipe(input_ids=prompt, mask_token_id=MASK, gen_length=26, output_type="seq", **options)
    return out.sequences, time.perf_counter() - start


greedy, before = generate()
dlm.accelerate(pipe)  # <- the line that changes
same, after = generate()
print(f"greedy: {before * 1e3:.0f} ms, then {after * 1e3:.0f} ms; the same tokens: {torch.equal(greedy, same)}")
drawn, seconds = generate(temperature=1.0, generator=torch.Generator().manual_seed(1))
print(f"drawn at T = 1 in {seconds * 1e3:.0f} ms: {drawn[0, :12].tolist()} ...")
print(dlm.explain(pipe))
