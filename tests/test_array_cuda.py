"""dlm_kernels.array on CUDA arrays. Where there is a GPU and CuPy: the real thing. Everywhere else: a build with CUDA whose
kernels the SIMT runtime executes, and a CuPy that notes what it is asked for (fake_cupy.py)."""

import shutil

import fake_cupy
import numpy as np
import pytest
import torch
from array_ops import ArrayOps, Exported, recording, simt_module
from hypothesis import given, settings
from strategies import step_cases
from test_array_ops import check_equal
from uniform_cases import renoise_call, transition_call
from validate_calls import call_of
from validate_cases import CASES

from dlm_kernels import TopK, _load, array

B, L, V = 2, 6, 50
POSITION = dict(mask_id=-1, rule=TopK(2))

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def simt_ops():
    from simt import bridge

    return bridge.Ops("plain")


@pytest.fixture
def cupy(monkeypatch):
    """The fake, and ``array`` over the build with CUDA."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    monkeypatch.setattr(array, "_array", simt_module())
    with fake_cupy.installed() as fake:
        yield fake


def of_device(tensor):
    return fake_cupy.array_of(tensor)


def some():
    """x and logits, as tensors."""
    return torch.full((B, L), -1), torch.randn(B, L, V, generator=torch.Generator().manual_seed(0))


# ---- the tokens of the kernels -----------------------------------------------------------------------------------------


@needs_compiler
@settings(settings.get_profile("brief"))
@given(case=step_cases(vocab=100))
def test_denoise_step_is_that_of_the_kernels(case):
    with fake_cupy.installed():
        ours = ArrayOps(simt_module(), fake_cupy.array_of, fake_cupy.back)
        check_equal(ours, "denoise_step_", case.build(), like=simt_ops())


@needs_compiler
@settings(settings.get_profile("brief"))
@given(case=step_cases(vocab=100, open_share=0.0, confidence="prob"))
def test_steps_of_the_uniform_family_are_those_of_the_kernels(case):
    with fake_cupy.installed():
        ours = ArrayOps(simt_module(), fake_cupy.array_of, fake_cupy.back)
        check_equal(ours, "renoise_step_", renoise_call(case, committed=True, probs=True), like=simt_ops())
        check_equal(ours, "transition_step_", transition_call(case), like=simt_ops())


def test_public_functions(cupy):
    """Numbers, lists and arrays of any of them become arrays of the device; results are the library's."""
    x, logits = map(of_device, some())
    out = array.denoise_step_(x, logits, **POSITION, temperature=0.7, seed=4, suppress=[1, 2], top_p=0.9)
    assert all(isinstance(part, fake_cupy.ndarray) for part in out) and out.x is x
    assert (x.get() >= 0).sum() == 2 * B and not np.isin(x.get(), [1, 2]).any()
    temperature = fake_cupy.ndarray(np.array([0.7, 0.7]))  # float64
    again = of_device(some()[0])
    array.denoise_step_(again, logits, **POSITION, temperature=temperature, seed=4, suppress=[1, 2], top_p=0.9)
    np.testing.assert_array_equal(again.get(), x.get())
    drawn = array.draw_tokens(logits, temperature=1.0)
    assert drawn.tokens.shape == (B, L)
    start = of_device(torch.zeros(B, L, dtype=torch.int64))
    moved = array.uniform_step_(start, logits, alpha_t=0.1, alpha_s=0.9, mask_id=V, seed=1)
    assert moved.route.dtype == np.uint8 and (moved.route.get() == 1).any()
    np.testing.assert_array_equal(array.row_stats(logits).argmax.get(), logits.get().argmax(-1))


def test_a_trace_lives_where_the_canvas_does(cupy):
    x, logits = map(of_device, some())
    trace = array.RevisionTrace.start(x, reference=np.zeros((B, L), np.int64))
    assert isinstance(trace.positions, fake_cupy.ndarray) and isinstance(trace.steps, fake_cupy.ndarray)
    out = array.denoise_step_(x, logits, **POSITION, step=3, trace=trace)
    found = trace.summary()
    np.testing.assert_array_equal(found["first_commit"] == 3, out.committed.get())
    assert found["commits"] == 2 * B and found["correct_last"] == (x.get() == 0).sum()


# ---- pointers, strides, streams, devices -------------------------------------------------------------------------------


def test_the_kernel_gets_pointers_strides_and_the_current_stream(cupy):
    memory = np.zeros((2, 2 * L, V + 3), np.float32)
    logits = fake_cupy.ndarray(memory[:, ::2, 2 : V + 2], device=1)
    x = fake_cupy.ndarray(np.full((L, B), -1).T, device=1)
    out = array.denoise_step_(x, logits, **POSITION)
    seen = recording()[1]
    assert seen.dlm_recorded_stream() == cupy.streams[1].ptr
    got = seen.dlm_recorded_logits().contents
    assert (got.data, got.device, got.ndim) == (logits.data.ptr, 1, 3)
    assert list(got.shape[:3]) == [2, L, V]
    assert list(got.stride[:3]) == [2 * L * (V + 3), 2 * (V + 3), 1]
    got = seen.dlm_recorded_x().contents
    assert (got.data, got.device, list(got.stride[:2])) == (x.data.ptr, 1, [1, B])
    assert all(device == 1 for *_, device in cupy.made) and cupy.device == 0
    assert {part.device.id for part in out} == {1}
    assert ((B, L), "float32", 1) in cupy.made and ((B,), "int64", 1) in cupy.made


def test_the_device_is_left_after_an_error(cupy):
    x, logits = some()
    with pytest.raises(ValueError, match="^k: shape must be"):
        array.denoise_step_(fake_cupy.ndarray(x.numpy(), 1), fake_cupy.ndarray(logits.numpy(), 1), mask_id=-1,
                            rule=TopK(fake_cupy.ndarray(np.arange(3), 1)))  # fmt: skip
    assert cupy.device == 0 and cupy.entered


def test_numbers_are_made_once_for_a_stream(cupy):
    x, logits = map(of_device, some())
    call = lambda: array.denoise_step_(x, logits, **POSITION, temperature=0.5, seed=0)
    call()
    first, cupy.made = cupy.made, []
    call()
    assert ((1,), "float32", 0) in first and all(dtype != "float32" or len(shape) > 1 for shape, dtype, _ in cupy.made)
    cupy.streams[0].ptr = 0x77
    cupy.made = []
    call()
    assert ((1,), "float32", 0) in cupy.made


def test_what_another_stream_does_is_waited_for(cupy):
    x, logits = map(of_device, some())
    for stream, waits in ((None, 0), (1, 0), (0x99, 1)):
        cupy.streams[0].waits.clear()
        array.denoise_step_(x, fake_cupy.Plain(logits, stream=stream), **POSITION)
        assert cupy.streams[0].waits == ["event of 153"] * waits
    cupy.streams[0].ptr = 0x99
    array.denoise_step_(x, fake_cupy.Plain(logits, stream=0x99), **POSITION)
    assert cupy.streams[0].waits == ["event of 153"]


class OnDevice:
    """DLPack of a tensor that claims to be on device 1."""

    def __init__(self, tensor):
        self._tensor, self.asked, self.shape = tensor, None, tensor.shape

    def __dlpack_device__(self):
        return 2, 1

    def __dlpack__(self, stream=None, max_version=None):
        self.asked = stream
        return self._tensor.__dlpack__(max_version=max_version)


def test_dlpack_is_told_the_stream(cupy):
    x, logits = some()
    for dtype in (torch.float32, torch.bfloat16):
        law = OnDevice(logits.to(dtype))
        stats = array.row_stats(law)
        assert law.asked == cupy.streams[1].ptr and stats.argmax.device.id == 1
        np.testing.assert_array_equal(stats.argmax.get(), logits.to(dtype).argmax(-1).numpy())
    cupy.streams[1].ptr = 0
    array.row_stats(law)
    assert law.asked == 1  # the default stream's name there


def spoilt(logits, **changes):
    return fake_cupy.Plain(logits, **changes)


@pytest.mark.parametrize(
    "changes, error, text",
    [
        (dict(typestr=">f4"), TypeError, "logits: dtype must be of native byte order, got >f4"),
        (dict(typestr="<f8"), TypeError, "logits: dtype must be float32, float16 or bfloat16, got float64"),
        (dict(mask=object()), ValueError, "logits: must not be masked, got a mask"),
        (dict(strides=(6, 4, 2)), ValueError, "logits: strides must be multiples of the item size 4, got 6"),
        (dict(strides=(4 * 2 * L * V, 8 * V, 8)), ValueError, "logits: stride of the last dimension must be 1, got 2"),
        (dict(shape=(B, L, 0)), ValueError, "logits: the vocabulary must not be empty, got [2, 6, 0]"),
        (dict(shape=(V,)), ValueError, "logits: must be 3-dimensional, [B, W, V], got [50]"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_interfaces(cupy, changes, error, text):
    x, logits = map(of_device, some())
    with pytest.raises(error) as raised:
        array.denoise_step_(x, fake_cupy.Plain(logits, **changes), **POSITION)
    assert str(raised.value) == text and (x.get() == -1).all()


def test_a_read_only_interface_is_not_written(cupy):
    x, logits = map(of_device, some())
    only = fake_cupy.Plain(x, data=(x.data.ptr, True))
    only.shape = x.shape
    with pytest.raises(ValueError, match="^x: must be writable, got a read-only array$"):
        array.topk_unmask_(only, x, logits, 1, mask_id=-1)


def test_arrays_of_two_places_are_refused(cupy):
    x, logits = some()
    with pytest.raises(ValueError, match="^logits: must be on cuda:0 as x, got cpu$"):
        array.denoise_step_(of_device(x), logits.numpy(), **POSITION)
    with pytest.raises(ValueError, match="^logits: must be on cpu as x, got cuda:0$"):
        array.denoise_step_(x.numpy(), of_device(logits), **POSITION)
    with pytest.raises(ValueError, match="^frozen: must be on cuda:0 as x, got cuda:1$"):
        frozen = fake_cupy.ndarray(np.zeros((B, L), bool), device=1)
        array.denoise_step_(of_device(x), of_device(logits), **POSITION, frozen=frozen)
    assert (x == -1).all()


@pytest.mark.parametrize("op, packed, bad, error, text", CASES[::5], ids=lambda v: v if isinstance(v, str) else "")
def test_errors_of_shapes_are_the_same_on_a_device(cupy, op, packed, bad, error, text):
    """What needs no look at the values, which stay unread there."""
    ours = ArrayOps(simt_module(), fake_cupy.array_of, fake_cupy.back)
    said = []
    for ops in (ours, simt_ops()):
        try:
            getattr(ops, op)(**{**call_of(op, packed), **bad})
            said.append(None)
        except (ValueError, TypeError, RuntimeError) as raised:
            said.append(str(raised).split("[end]")[0].split("] ")[-1])
    assert said[0] == said[1]


# ---- without the backend, without CuPy -----------------------------------------------------------------------------------


@pytest.mark.skipif("cuda" in _load.build_info()["backends"], reason="this build has the CUDA backend")
def test_a_build_without_cuda_says_so():
    x, logits = map(of_device, some())
    with fake_cupy.installed():
        with pytest.raises(ValueError) as raised:
            array.denoise_step_(x, logits, **POSITION)
    built = "this build has no CUDA backend (built for: cpu)"
    assert str(raised.value) == f"x: must be on the CPU, for {built}, got cuda:0"


def test_without_cupy_it_says_what_to_install(run_python):
    done = run_python("""
import sys
sys.modules["cupy"] = None
import numpy as np
from dlm_kernels import array
class Plain:
    __cuda_array_interface__ = dict(version=3, shape=(1, 4), typestr="<f4", data=(4096, False))
try:
    array.row_stats(Plain())
except ImportError as error:
    print(error)
""")
    assert done.stdout.startswith("dlm_kernels.array needs CuPy for CUDA arrays")


# ---- the real thing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu():
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    if not (cupy.cuda.is_available() and torch.cuda.is_available()):
        pytest.skip("needs a GPU, and a torch with CUDA to compare with")
    if "cuda" not in _load.build_info()["backends"]:
        pytest.skip("needs a build with the CUDA backend")
    return cupy


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_on_a_gpu(gpu, dtype):
    """The tokens of the torch ops on the same memory, on a stream of CuPy's own."""
    import dlm_kernels as dlm

    logits = gpu.asarray(np.random.default_rng(0).normal(0, 3, (4, 64, 5000)).astype(dtype))
    x = gpu.full((4, 64), -1, "int64")
    tensors = torch.from_dlpack(x).clone(), torch.from_dlpack(logits)
    with gpu.cuda.Stream(non_blocking=True) as stream:
        out = array.denoise_step_(x, logits, **POSITION, temperature=0.8, seed=5, top_p=0.9)
        stream.synchronize()
    want = dlm.denoise_step_(*tensors, **POSITION, temperature=0.8, seed=5, top_p=0.9)
    for name, a, b in zip(want._fields, out, want):
        assert bool((torch.from_dlpack(a) == b).all()), name


def test_dlpack_on_a_gpu(gpu):
    """bfloat16 logits of another library, whose arrays have nothing but DLPack."""
    import dlm_kernels as dlm

    logits = torch.randn(4, 32, 3000, device="cuda").bfloat16()
    law = Exported(logits)
    law.shape, law.ndim = logits.shape, 3
    torch.cuda.synchronize()
    x = torch.randint(0, 3000, (4, 32), device="cuda")
    pairs = [
        (array.row_stats(law), dlm.row_stats(logits)),
        (array.draw_tokens(law, temperature=1.0, seed=3), dlm.draw_tokens(logits, temperature=1.0, seed=3)),
        (
            array.uniform_step_(gpu.from_dlpack(x.clone()), law, alpha_t=0.1, alpha_s=0.5, seed=3),
            dlm.uniform_step(x, logits, alpha_t=0.1, alpha_s=0.5, seed=3),
        ),
        (array.renoise_step_(gpu.from_dlpack(x.clone()), law, seed=3), dlm.renoise_step(x, logits, seed=3)),
    ]
    for got, want in pairs:
        for name, a, b in zip(want._fields, got, want):
            assert bool((torch.from_dlpack(a) == b).all()), name
