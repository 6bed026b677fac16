"""dlm_kernels.array: the NumPy entry gives what the torch ops give, without torch, and rejects what they reject."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dlm_kernels as dlm
from dlm_kernels import array


@given(seed=st.integers(0, 2**32 - 1), vocab=st.integers(1, 5000), half=st.booleans(), threads=st.integers(1, 3))
def test_same_as_the_torch_op(seed, vocab, half, threads):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (2, 3, vocab)).astype(np.float16 if half else np.float32)
    given_tokens = rng.integers(-1, vocab, (2, 3))
    temperature = rng.uniform(0.3, 2, 2).astype(np.float32)
    ours = array.row_stats(logits, temperature=temperature, given=given_tokens, suppress=[0], threads=threads)
    tensors = dict(temperature=torch.from_numpy(temperature), given=torch.from_numpy(given_tokens))
    torchs = dlm.row_stats(torch.from_numpy(logits), **tensors, suppress=[0])
    for name, a, b in zip(ours._fields, ours, torchs):
        np.testing.assert_array_equal(a, b.numpy(), err_msg=name)


def test_reads_strided_rows_in_place():
    wide = np.random.default_rng(0).normal(size=(4, 2, 300)).astype(np.float32)
    np.testing.assert_array_equal(array.row_stats(wide[::2, :, :200]).argmax, wide[::2, :, :200].argmax(-1))


@pytest.mark.parametrize("shape", [(3, 4, 500), (5, 2049), (0, 10), (2, 0, 10), (2, 40_000)])
def test_same_bits_on_every_instruction_set(isa, shape):
    """Empty batches, a bad row and guidance included."""
    logits = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    if logits.ndim == 3 and logits.size:
        logits[1, 2, 7] = np.nan
    other = np.ascontiguousarray(logits[..., ::-1])
    ours = array.row_stats(logits, temperature=0.7, uncond_logits=other, cfg_scale=0.5)
    torchs = dlm.row_stats(
        torch.from_numpy(logits), temperature=0.7, uncond_logits=torch.from_numpy(other), cfg_scale=0.5
    )
    assert ours._fields == torchs._fields
    for name, a, b in zip(ours._fields, ours, torchs):
        np.testing.assert_array_equal(a, b.numpy(), err_msg=name)


def test_never_imports_torch():
    code = "import sys, numpy, dlm_kernels.array as a; a.row_stats(numpy.ones((1, 4), 'f')); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("logits", "kwargs", "error", "text"),
    [
        (torch.ones(2, 4), {}, TypeError, "logits: must be a numpy.ndarray, got Tensor"),
        (np.ones((2, 4)), {}, TypeError, "logits: dtype must be float32, float16 or bfloat16, got float64"),
        (np.ones((2, 4), ">f4"), {}, TypeError, "dtype must be of native byte order, got >f4"),
        (np.ones((2, 8), "f")[:, ::2], {}, ValueError, "logits: stride of the last dimension must be 1, got 2"),
        (np.ones((2, 0), "f"), {}, ValueError, "logits: the vocabulary must not be empty, got [2, 0]"),
        (np.ones(4, "f"), {}, ValueError, "logits: must be [B, W, V] or [R, V], got [4]"),
        (np.ones((2, 4), "f"), {"temperature": 0.0}, ValueError, "temperature: must be finite and > 0, got 0"),
        (np.ones((2, 4), "f"), {"given": np.zeros(3, np.int64)}, ValueError, "given: shape must be [2], got [3]"),
    ],
)
def test_errors_name_argument_and_value(logits, kwargs, error, text):
    with pytest.raises(error) as caught:
        array.row_stats(logits, **kwargs)
    assert text in str(caught.value)
