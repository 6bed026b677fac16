"""The plugins of vLLM and SGLang, without an engine: what vLLM's sampler calls.  Run: python examples/engine_plugins.py

With an engine nothing changes but its environment; one line of its log says what was replaced:

    DLM_KERNELS_ENGINE=1 vllm serve google/diffusiongemma-26B-A4B-it
    DLM_KERNELS_ENGINE=1 python -m sglang.launch_server --model inclusionAI/LLaDA2.0-mini --dllm-algorithm LowConfidence
"""

import time

import torch

from dlm_kernels.integrations.vllm import sample_row_stats_reference  # <- the line that changes


def in_pytorch(logits, temps, canvas_len, probs_dtype):
    """The same four numbers of a row, one operation at a time."""
    scaled = logits / temps.repeat_interleave(canvas_len)[:, None]
    logp = scaled.log_softmax(dim=-1)
    p = logp.exp()
    sample = (scaled - (-torch.rand_like(scaled).log()).log()).argmax(dim=-1)
    return scaled.argmax(dim=-1), sample, -(p * logp).sum(dim=-1), p.to(probs_dtype)


canvas_len, vocab = 16, 65536
logits, temps = 3 * torch.randn(2 * canvas_len, vocab), torch.tensor([0.8, 0.5])
for name, function in (("PyTorch", in_pytorch), ("dlm_kernels", sample_row_stats_reference)):
    function(logits, temps, canvas_len, torch.bfloat16)
    start = time.perf_counter()
    argmax, sample, entropy, probs = function(logits, temps, canvas_len, torch.bfloat16)
    took = 1e3 * (time.perf_counter() - start)
    print(f"{name}: {took:.0f} ms, argmax {argmax[:4].tolist()}, entropy {entropy[:3].tolist()}")
