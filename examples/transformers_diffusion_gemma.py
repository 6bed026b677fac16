"""DiffusionGemma in transformers: random weights, no downloads.  Run: python examples/transformers_diffusion_gemma.py

The real model is DiffusionGemmaForBlockDiffusion.from_pretrained("google/diffusiongemma-26B-A4B-it").
"""

import time

import torch
from dlm_kernels.bench.loops_transformers import tiny_model

import dlm_kernels

model = tiny_model(vocab=16384, canvas=32)
prompt = torch.arange(12)[None]


def run(what):
    torch.manual_seed(0)
    start = time.perf_counter()
    out = model.generate(prompt, max_new_tokens=32, max_denoising_steps=8)
    print(f"{what}: {time.perf_counter() - start:.2f} s, ends in {out.sequences[0, -6:].tolist()}")


run("warming up")
run("as it is")
dlm_kernels.accelerate(model)  # <- the line that changes
run("accelerated")
print(dlm_kernels.explain(model))
