"""DiffusionGemmaPipeline of diffusers with our scheduler steps: a small random model, no downloads.

Run: python examples/diffusers_diffusion_gemma.py    (pip install diffusers==0.42.1 transformers==5.23.0)
"""

import torch
from diffusers import BlockRefinementScheduler, DiscreteDDIMScheduler, EntropyBoundScheduler
from dlm_kernels.bench import tiny_pipelines

import dlm_kernels as dlm

for scheduler in (EntropyBoundScheduler(entropy_bound=2.0), BlockRefinementScheduler(), DiscreteDDIMScheduler()):
    pipe = tiny_pipelines.diffusion_gemma(scheduler, vocab=2000)  # DiffusionGemmaPipeline(model, scheduler, processor)
    dlm.accelerate(pipe)  # <- the line that changes
    generator = torch.Generator().manual_seed(0)
    out = pipe(prompt="1 2 3", gen_length=16, num_inference_steps=8, generator=generator)
    print(f"{type(pipe.scheduler).__name__}: {out.texts[0]}")
print(dlm.explain(pipe))
