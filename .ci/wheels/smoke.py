"""Run an installed dlm_kernels from outside its source: every op natively and by the reference, with the same outcome.

    python smoke.py

Prints one line; a difference, a fallback or a missing part is an error. On a machine with a GPU its kernels run, too.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch

import dlm_kernels as dlm
from dlm_kernels import _load

V, MASK = 3001, 3000
DTYPES = (torch.float32, torch.bfloat16)


def outcomes(device, dtype):
    """Name of an op -> the tensors that a call of it gave."""
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(2, 24, V, generator=generator) * 3).to(dtype).to(device)
    other = (torch.randn(2, 24, V, generator=generator) * 3).to(dtype).to(device)
    masked = torch.full((2, 24), MASK, device=device)
    masked[:, :4] = 7
    noisy = torch.randint(0, V, (2, 24), generator=generator).to(device)
    draw = dlm.draw_tokens(logits, temperature=0.8, seed=3, top_p=0.9)
    warm = dict(temperature=0.8, seed=3, step=5)
    return {
        "row_stats": dlm.row_stats(logits, temperature=0.7, given=noisy),
        "row_kl": dlm.row_kl(logits, other),
        "draw_tokens": draw,
        "denoise_step": dlm.denoise_step(masked, logits, mask_id=MASK, rule=dlm.TopK(3)),
        "denoise_step, drawn": dlm.denoise_step(masked, logits, mask_id=MASK, rule=dlm.Threshold(0.1), **warm),
        "topk_unmask": dlm.topk_unmask(masked, draw.tokens, draw.confidence, 5, mask_id=MASK),
        "remask": dlm.remask(noisy, draw.confidence, 5, mask_id=MASK),
        "uniform_step": dlm.uniform_step(noisy, logits, alpha_t=0.3, alpha_s=0.6, seed=3),
        "transition_step": dlm.transition_step(
            masked, logits, transition=dlm.transitions.absorbing(0.3, 0.6), mask_id=MASK, seed=3
        ),
        "renoise_step": dlm.renoise_step(noisy, logits, entropy_bound=20.0, **warm),
        "q_sample": [dlm.q_sample(noisy, 0.5, vocab_size=V, seed=3)],
    }


def plain(out):
    """Nested tuples of tensors as one flat list of CPU tensors."""
    if isinstance(out, torch.Tensor):
        return [out.cpu()]
    return [tensor for part in out for tensor in plain(part)] if isinstance(out, (tuple, list)) else []


def by_the_reference():
    """The same calls in a process of their own, without the compiled extension: dtype -> name -> tensors."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.pt"
        environment = {**os.environ, "DLM_KERNELS_BACKEND": "reference"}
        subprocess.run([sys.executable, __file__, str(file)], check=True, env=environment)
        return torch.load(file)


def everything(device):
    return {dtype: {name: plain(out) for name, out in outcomes(device, dtype).items()} for dtype in DTYPES}


def compare(got, want, where):
    for name, tensors in want.items():
        assert len(got[name]) == len(tensors) > 0, (name, where)
        for mine, theirs in zip(got[name], tensors):
            tolerance = 1e-4 if mine.is_floating_point() else 0
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, (name, where)
            same = torch.isclose(mine, theirs, rtol=tolerance, atol=tolerance / 10, equal_nan=True)
            assert same.all(), f"{name} {where}: {mine[~same][:5].tolist()}, not {theirs[~same][:5].tolist()}"


def array_entry():
    """dlm_kernels.array, or why this wheel has none."""
    if not list(Path(dlm.__file__).parent.glob("_array.*")):
        return "no dlm_kernels.array (torch-only wheel)"
    logits = numpy.random.default_rng(0).normal(size=(5, V)).astype(numpy.float32)
    got, want = dlm.array.row_stats(logits), dlm.row_stats(torch.from_numpy(logits))
    compare({"array": plain(tuple(map(torch.from_numpy, got)))}, {"array": plain(want)}, "numpy")
    return "dlm_kernels.array"


def main():
    assert _load.load().backend == "cpu", _load.load().error
    built = _load.build_info()
    cuda = _load.why_not_cuda()
    if "cuda" in built["backends"]:
        assert torch._C._dispatch_has_kernel_for_dispatch_key("dlm_kernels::denoise_step_", "CUDA")
    want = by_the_reference()
    for device in ["cpu", *(["cuda"] if cuda is None else [])]:
        for dtype, got in everything(device).items():
            compare(got, want[dtype], f"{device} {dtype}")
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}: dlm_kernels {built['version']} "
        f"({_load.cpu_isa()}), {len(want[torch.float32])} ops as the reference, {array_entry()}; CUDA: {cuda or 'native'}"
    )


if __name__ == "__main__":
    torch.save(everything("cpu"), sys.argv[1]) if len(sys.argv) == 2 else main()
