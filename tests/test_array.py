"""dlm_kernels.array: the functions of dlm_kernels for NumPy arrays, DLPack and bits of bfloat16. The same tokens, whatever the
arguments are; bad ones get an error that names them, and nothing is written."""

import inspect
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from array_ops import Exported, numpy_of, tensor_of
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from strategies import step_cases

import dlm_kernels as dlm
from dlm_kernels import array
from dlm_kernels.schedules import Level

B, L, V = 2, 6, 300
FUNCTIONS = ["row_stats", "draw_tokens", "denoise_step_", "topk_unmask_", "uniform_step_", "renoise_step_"]


def to_array(value):
    """What array.* takes for what dlm.* takes."""
    if isinstance(value, torch.Tensor):
        return numpy_of(value.clone())
    if isinstance(value, dlm.RenoiseState):
        return array.RenoiseState(*(None if part is None else numpy_of(part.clone()) for part in vars(value).values()))
    if isinstance(value, dlm.RevisionTrace):
        parts = (value.positions, value.steps, value.reference)
        return array.RevisionTrace(*(None if part is None else numpy_of(part.clone()) for part in parts))
    if isinstance(value, Level):
        return array.Level(*map(to_array, value))
    return str(value)[6:] if isinstance(value, torch.dtype) else value


def check_equal(function, *args, **kwargs):
    """``function`` of both modules: the same results, the same canvas, state and trace."""
    mine, more = [to_array(value) for value in args], {name: to_array(value) for name, value in kwargs.items()}
    got = getattr(array, function)(*mine, **more)
    args = [value.clone() if isinstance(value, torch.Tensor) else value for value in args]
    want = getattr(dlm, function)(*args, **kwargs)
    assert got._fields == want._fields
    for name, a, b in zip(got._fields, got, want):
        assert_equal(f"{function}: {name}", tensor_of(a), b)
    assert_equal(f"{function}: first argument", tensor_of(mine[0]), args[0])
    for name, value in kwargs.items():
        if isinstance(value, torch.Tensor):
            assert_equal(name, tensor_of(more[name]), value)
        if isinstance(value, dlm.RenoiseState):
            for part, tensor in vars(value).items():
                if tensor is not None:
                    assert_equal(part, tensor_of(getattr(more[name], part)), tensor)
        if isinstance(value, dlm.RevisionTrace):
            for part in ("positions", "steps"):
                assert_equal(part, tensor_of(getattr(more[name], part)), getattr(value, part))
            assert_same_summary(more[name].summary(), value.summary())


def assert_same_summary(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, dict):
            assert_same_summary(mine[name], value)
        elif isinstance(value, torch.Tensor):
            assert_equal(name, tensor_of(mine[name]), value)
        else:
            assert type(mine[name]) is type(value) and (mine[name] == value or value != value), name


def some_trace(x, vocab, seed=0):
    """A trace with a past, and with right tokens to compare with."""
    g = torch.Generator().manual_seed(seed)
    tokens = lambda: torch.randint(0, vocab, x.shape, generator=g)
    trace = dlm.RevisionTrace(*x.shape, max_steps=5, reference=tokens())
    for step in range(3):
        trace.record(tokens() % 3, step=step)
    return trace


def some_logits(seed=0, dtype=torch.float32, shape=(B, L, V)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(3).to(dtype)


DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
MANY = dict(
    seed=st.sampled_from([0, 7, -3, torch.tensor([5, -9])]),
    step=st.sampled_from([0, 3, torch.tensor(4)]),
    temperature=st.sampled_from(
        [1, 0.7, torch.tensor([0.5, 2.0]), torch.tensor([0.5, 2.0]).double(), torch.tensor(0.3)]
    ),
    start=st.sampled_from([None, 0, 1, torch.tensor([1, 0])]),
    shift=st.sampled_from([0, -1]),
    window=st.sampled_from([None, (1, 5)]),
    suppress=st.sampled_from([None, 3, [0, 5], torch.tensor([2, 7])]),
    cfg_scale=st.sampled_from([0.0, 1]),
    top_k=st.sampled_from([None, 0, 9, torch.tensor([3, 0])]),
    top_p=st.sampled_from([None, 1, 0.8, torch.tensor([0.5, 0.9])]),
    min_p=st.sampled_from([None, 0.01]),
    filter_order=st.sampled_from(["top_k_first", "top_p_first"]),
    top_p_crossing=st.sampled_from(["keep", "drop"]),
    top_k_ties=st.sampled_from(["lowest", "all"]),
)
SCORED = dict(
    confidence=st.sampled_from(["prob", "margin", "neg_entropy", "random"]),
    confidence_from=st.sampled_from(["raw", "sampled", "tempered"]),
    conf_dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)


def arguments(**kinds):
    return st.fixed_dictionaries({}, optional=kinds)


RULES = [dlm.TopK(2), dlm.TopK(0), dlm.Threshold(0.3), dlm.Factor(1.0), dlm.EntropyBudget(1.0), dlm.SegmentMax(0.5)]


@given(dtype=DTYPES, rule=st.sampled_from(RULES), x_dtype=st.sampled_from([torch.int64, torch.int32]),
       more=arguments(**MANY, **SCORED), flags=st.tuples(*[st.booleans()] * 5))  # fmt: skip
def test_denoise_step(dtype, rule, x_dtype, more, flags):
    frozen, guided, edits, demoted, traced = flags
    more.setdefault("seed", 0)
    x = torch.full((B, L), V, dtype=x_dtype)
    x[0, 2] = 5
    if frozen:
        more["frozen"] = torch.arange(B * L).view(B, L) % 3 == 0
    if guided:
        more["uncond_logits"] = some_logits(1, dtype, (B, 5, V))
    if edits:
        more.update(edit=0.2, edits_left=torch.tensor([2, 0]))
    if demoted:
        more["demote"] = [1, 2]
    if traced:
        more["trace"] = some_trace(x, V)
    check_equal("denoise_step_", x, some_logits(0, dtype, (B, 5, V)), mask_id=V, rule=rule, **more)


@given(dtype=DTYPES, packed=st.booleans(), more=arguments(**MANY, **SCORED, rank_temperature=st.just(0.2)))
def test_draw_tokens(dtype, packed, more):
    more.pop("window", None)
    more.setdefault("seed", 0)
    if more.get("confidence") == "random":
        more.pop("rank_temperature", None)
    if packed:
        more = {name: value for name, value in more.items() if name not in ("start", "shift")}
        more.update(rows=torch.tensor([0, 7, -1, 3]), length=L, seed=torch.tensor([5, -9]))
    check_equal("draw_tokens", some_logits(0, dtype, (4, V) if packed else (B, 5, V)), **more)


@given(dtype=DTYPES, temperature=MANY["temperature"], guided=st.booleans(), suppress=MANY["suppress"])
def test_row_stats(dtype, temperature, guided, suppress):
    more = dict(uncond_logits=some_logits(1, dtype), cfg_scale=0.5) if guided else {}
    tokens = torch.arange(B * L).view(B, L) - 1
    check_equal("row_stats", some_logits(0, dtype), temperature=temperature, suppress=suppress, given=tokens, **more)


@given(k=st.sampled_from([0, 2, 99, torch.tensor([1, 3])]), dtype=DTYPES, packed=st.booleans(), mask=st.booleans(),
       traced=st.booleans())  # fmt: skip
def test_topk_unmask(k, dtype, packed, mask, traced):
    x, tokens = torch.full((B, L), -1), torch.arange(B * L).view(B, L)
    rows = dict(rows=torch.tensor([3, 11, -1, 0, 8])) if packed else {}
    if packed:
        tokens = tokens.flatten()[:5].contiguous()
    more = dict(trace=some_trace(x, 12), step=4) if traced else {}
    confidence = torch.rand(tokens.shape).to(dtype)
    check_equal("topk_unmask_", x, tokens, confidence, k, mask_id=-1 if mask else None, **rows, **more)


ALPHAS = [
    (0.2, 0.5), (0, 1), (0.5, 0.5), (torch.tensor([0.1, 0.4]), 0.5), (0.1, torch.tensor([0.1, 0.4]).double()),
    (torch.rand(B, L) * 0.5, torch.tensor([0.6, 0.8])), (Level(1e-9, 1 - 1e-9), Level(0.25, 0.75)),
    (Level(*torch.tensor([[0.25, 0.5], [0.75, 0.5]])), Level(1.0, 0.0)),
]  # fmt: skip


@given(dtype=DTYPES, alphas=st.sampled_from(ALPHAS), prediction=st.sampled_from(["plug_in", "denoiser"]), more=arguments(**MANY),
       tempered=st.sampled_from(["before", "after"]), mask_id=st.sampled_from([None, 9, V]), traced=st.booleans())  # fmt: skip
def test_uniform_step(dtype, alphas, prediction, more, tempered, mask_id, traced):
    x = torch.randint(0, V, (B, L), generator=torch.Generator().manual_seed(3))
    more.setdefault("seed", 0)
    if traced:
        more["trace"] = some_trace(x, V)
    check_equal("uniform_step_", x, some_logits(0, dtype, (B, 5, V)), alpha_t=alphas[0], alpha_s=alphas[1],
                prediction=prediction, tempered=tempered, mask_id=mask_id, **more)  # fmt: skip


@given(dtype=DTYPES, more=arguments(**MANY, **SCORED, entropy_bound=st.just(3.0), softcap=st.just(5.0)),
       rule=st.sampled_from([None, *RULES]), kind=st.integers(0, 2), mask_id=st.sampled_from([None, 9]),
       traced=st.booleans())  # fmt: skip
def test_renoise_step(dtype, more, rule, kind, mask_id, traced):
    x = torch.randint(0, V, (B, L), generator=torch.Generator().manual_seed(3))
    more.setdefault("seed", 0)
    logits = some_logits(0, dtype, (B, 5, V))
    if kind:
        state = dlm.RenoiseState.start(x, keep_accepted=kind == 2)
        more.update(state=state, probs=torch.zeros(logits.shape, dtype=torch.bfloat16))
    if traced:
        more["trace"] = some_trace(x, V)
    check_equal("renoise_step_", x, logits, rule=rule, mask_id=mask_id, **more)


def test_a_run_with_a_state():
    """Several steps, the state carried on; the last finds the sequences at rest."""
    x = torch.zeros(B, L, dtype=torch.int64)
    states, canvases = (dlm.RenoiseState.start(x), array.RenoiseState.start(x.numpy())), (x.clone(), x.clone().numpy())
    for step in range(3):
        want = dlm.renoise_step_(canvases[0], 1000 * some_logits(), state=states[0], seed=1, step=step)
        got = array.renoise_step_(canvases[1], 1000 * some_logits().numpy(), state=states[1], seed=1, step=step)
        for name in ("tokens", "argmax", "done"):
            assert_equal(name, tensor_of(getattr(got, name)), getattr(want, name))
    assert got.done.all()


def test_a_run_with_a_trace():
    """From the start to the summary as the torch steps; a reset is a start, in the same memory."""
    x, right = torch.zeros(B, L, dtype=torch.int64), torch.arange(B * L).view(B, L)
    want = dlm.RevisionTrace(B, L, max_steps=3, reference=right)
    got = array.RevisionTrace.start(x.numpy(), max_steps=3, reference=right.numpy().astype(np.int32))
    memory = got.positions.ctypes.data
    for _ in range(2):
        theirs, mine = x.clone(), x.clone().numpy()
        for step in range(5):
            levels = dict(alpha_t=step / 5, alpha_s=(step + 1) / 5, seed=2, step=step)
            dlm.uniform_step_(theirs, some_logits(step), **levels, trace=want)
            array.uniform_step_(mine, some_logits(step).numpy(), **levels, trace=got)
        assert_same_summary(got.summary(), want.summary())
        assert got.summary()["revisions"] > 0
        got.reset(), want.reset()
        assert (got.positions == want.positions.numpy()).all() and not got.steps.any()
    assert got.positions.ctypes.data == memory


def test_a_step_that_is_rejected_is_not_traced():
    x, logits = np.full((B, L), -1), some_logits().numpy()
    logits[1, 2, 3] = np.nan
    trace = array.RevisionTrace.start(x, reference=np.zeros((B, L), np.int64))
    trace.reference.flags.writeable = False
    before = trace.positions.copy()
    with pytest.raises(ValueError, match=r"got a bad one at \(b, i\) = \(1, 2\)$"):
        greedy(x, logits, check=True, trace=trace)
    assert (trace.positions == before).all() and not trace.steps.any()
    logits[1, 2, 3] = 0
    greedy(x, logits, check=True, trace=trace)
    assert trace.summary()["commits"] == B * L


@pytest.mark.parametrize(
    "start, error, text",
    [
        (dict(x=np.zeros(3)), ValueError, "x: must be 2-dimensional, [B, L], got [3]"),
        (dict(max_steps=0), ValueError, "max_steps: must be >= 1, got 0"),
        (dict(max_steps=1.5), TypeError, "max_steps: must be an int, got float"),
        (dict(reference=np.zeros((B, L))), TypeError, "reference: dtype must be int64 or int32, got float64"),
        (dict(reference=np.zeros((L, B), int)), ValueError, "reference: shape must be [2, 6], got [6, 2]"),
    ],
)
def test_bad_traces(start, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        array.RevisionTrace.start(**{"x": np.zeros((B, L), int), **start})


@pytest.mark.parametrize("check", [False, True])
def test_traces_of_others_are_rejected(check):
    for trace in (3, dlm.RevisionTrace(B, L)):
        with pytest.raises(TypeError, match="^trace: must be a RevisionTrace of dlm_kernels.array, got "):
            greedy(np.full((B, L), -1), some_logits().numpy(), check=check, trace=trace)
    with pytest.raises(ValueError, match=r"^trace: shape must be \[2, 6, 8\], got \[2, 7, 8\]$"):
        greedy(np.full((B, L), -1), some_logits().numpy(), trace=array.RevisionTrace.start(np.zeros((B, L + 1))))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keywords_and_defaults_are_those_of_torch(name):
    theirs = inspect.signature(getattr(dlm, name)).parameters
    if name == "uniform_step_":  # passes the others on
        theirs = {**theirs, **inspect.signature(dlm.transition_step_).parameters}
        del theirs["kwargs"], theirs["transition"]
    mine = inspect.signature(getattr(array, name)).parameters
    default = lambda p: "float32" if p.default is torch.float32 else p.default
    assert {n: default(p) for n, p in theirs.items()} == {n: p.default for n, p in mine.items()}


def test_never_imports_torch():
    code = """
import sys, numpy as np
from dlm_kernels import TopK, array
x, logits = np.zeros((1, 4), np.int64), np.ones((1, 4, 9), np.float32)
array.row_stats(logits), array.draw_tokens(logits, temperature=1.0)
array.denoise_step_(x, logits, mask_id=0, rule=TopK(1))
array.topk_unmask_(x, x + 1, logits[..., 0], 1, mask_id=0)
array.uniform_step_(x, logits, alpha_t=0.1, alpha_s=0.3)
trace = array.RevisionTrace.start(x)
array.renoise_step_(x, logits, state=array.RenoiseState.start(x), trace=trace)
assert trace.summary()["commits"] == 4
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_fresh_seeds_are_others_in_the_child_of_a_fork():
    code = """
import os, numpy as np
from dlm_kernels import array
draw = lambda: array.draw_tokens(np.zeros((1, 16, 999), np.float32), temperature=1.0).tokens.tobytes()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, draw())
    os._exit(0)
mine = draw()
os.wait()
theirs = os.read(read, 999)
assert len(theirs) == len(mine) == 128 and theirs != mine
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- arrays --------------------------------------------------------------------------------------------------------


def greedy(x, logits, **more):
    return array.denoise_step_(x, logits, **{**dict(mask_id=-1, rule=dlm.TopK(L)), **more})


def test_strided_and_reversed_arrays_are_used_in_place():
    wide = some_logits(shape=(4, 2 * L, V + 7)).numpy()
    for logits in (wide[::2, ::2, :V], wide[1::-1, L - 1 :: -1, :V], wide[:2, :L, 7:]):
        canvas = np.full((L, 2 * B), -1)
        x = canvas.T[::-2]
        out = greedy(x, logits)
        np.testing.assert_array_equal(x, logits.argmax(-1))
        np.testing.assert_array_equal(canvas.T[::-2], out.tokens)
        assert (canvas.T[::2] == -1).all() and out.x is x


def test_bfloat16_in_all_its_forms():
    logits = some_logits(dtype=torch.bfloat16)
    bits = logits.view(torch.int16).numpy().view(np.uint16)
    results = []
    for form in (bits.view(ml_dtypes.bfloat16), array.bfloat16(bits), Exported(logits)):
        x = np.full((B, L), -1)
        results.append(greedy(x, form, temperature=1.0, seed=3, uncond_logits=form, cfg_scale=0.5).tokens)
    assert (results[0] == results[1]).all() and (results[0] == results[2]).all()
    with pytest.raises(
        TypeError, match="^logits: dtype must be float32, float16 or bfloat16, got an unsupported dtype$"
    ):
        greedy(np.full((B, L), -1), bits)
    with pytest.raises(TypeError, match="^logits: bits of bfloat16 must be uint16, got float32$"):
        greedy(np.full((B, L), -1), array.bfloat16(np.zeros((B, L, V), np.float32)))


@pytest.mark.parametrize("old", [False, True])
def test_dlpack(old):
    """Read from either version; written only where the exporter can say that it may be. Given back when the call is over."""
    logits = some_logits()
    np.testing.assert_array_equal(array.row_stats(Exported(logits, old)).argmax, logits.argmax(-1).numpy())
    x = torch.full((B, L), -1)
    if old:
        with pytest.raises(ValueError, match="^x: must be writable, got a read-only array$"):
            array._array.topk_unmask_(Exported(x, old), numpy_of(x), np.zeros((B, L)), 1, -1, 0, -1, *[None] * 6)
        return
    array._array.topk_unmask_(Exported(x), numpy_of(x) + 9, np.zeros((B, L)), 1, -1, 0, -1, *[None] * 6)
    assert (x == 8).sum() == B
    memory = logits.numpy()
    before = sys.getrefcount(memory)
    for _ in range(5):
        array.row_stats(Exported(memory))
    assert sys.getrefcount(memory) == before


class Refuses:
    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **how):
        raise BufferError("it is busy")


class Elsewhere(Refuses):
    def __dlpack_device__(self):
        return 8, 0


READ_ONLY = np.full((B, L), -1)
READ_ONLY.flags.writeable = False
UNALIGNED = np.zeros(4 * B * L * V + 1, np.uint8)[1:].view(np.float32).reshape(B, L, V)
RECORDS = np.zeros((B, L, V), dtype=[("z", "f4"), ("flag", "u2")])["z"]
ARRAY = "must be an array: of NumPy, or with __cuda_array_interface__ or __dlpack__"


@pytest.mark.parametrize(
    "spoilt, error, text",
    [
        (
            dict(logits=torch.zeros(B, L, V)),
            TypeError,
            "logits: must be an array, for tensors there are the functions of dlm_kernels itself, got a torch.Tensor",
        ),
        (
            dict(frozen=torch.zeros(B, L, dtype=torch.bool)),
            TypeError,
            "frozen: must be an array, for tensors there are the functions of dlm_kernels itself, got a torch.Tensor",
        ),
        (dict(x=[[1, 2]]), TypeError, f"x: {ARRAY}, got list"),
        (dict(logits=None), TypeError, f"logits: {ARRAY}, got NoneType"),
        (dict(x=READ_ONLY), ValueError, "x: must be writable, got a read-only array"),
        (dict(x=np.full((B, L), -1, ">i8")), TypeError, "x: dtype must be of native byte order, got >i8"),
        (dict(logits=np.zeros((B, L, V), ">f4")), TypeError, "logits: dtype must be of native byte order, got >f4"),
        (dict(logits=np.ma.zeros((B, L, V), "f4")), ValueError, "logits: must not be masked, got MaskedArray"),
        (dict(logits=UNALIGNED), ValueError, "logits: must be aligned, got an unaligned array"),
        (dict(logits=RECORDS), ValueError, "logits: must be aligned, got an unaligned array"),
        (
            dict(logits=np.zeros((B, L, 2 * V), "f4")[..., ::2]),
            ValueError,
            "logits: stride of the last dimension must be 1, got 2",
        ),
        (
            dict(logits=np.zeros((B, L, V), "f4")[..., ::-1]),
            ValueError,
            "logits: stride of the last dimension must be 1, got -1",
        ),
        (
            dict(logits=np.zeros((B, L, V))),
            TypeError,
            "logits: dtype must be float32, float16 or bfloat16, got float64",
        ),
        (dict(logits=np.zeros((3, L, V), "f4")), ValueError, "logits: dimension 0 must be 2 as in x, got 3"),
        (
            dict(logits=np.zeros((1,) * 7, "f4")),
            ValueError,
            "logits: must be 3-dimensional, [B, W, V], got [1, 1, 1, 1, 1, ...]",
        ),
        (dict(frozen=Refuses()), ValueError, "frozen: must let DLPack have its memory, got it is busy"),
        (dict(frozen=Elsewhere()), ValueError, "frozen: must be on the CPU or on CUDA, got DLPack device type 8"),
        (dict(rule="topk"), TypeError, "rule: must be a rule, such as TopK(k), got str"),
        (dict(rule=dlm.TopK(np.array([1, -2]))), ValueError, "k: must be >= 0, got -2"),
        (dict(rule=dlm.TopK(np.array([1.5]))), TypeError, "k: dtype must be int64, got float64"),
        (
            dict(rule=dlm.Threshold(0.5, at_least=np.arange(3))),
            ValueError,
            "at_least: shape must be [1] or [2], got [3]",
        ),
        (dict(temperature="hot"), TypeError, "temperature: must be a number, got str"),
        (dict(temperature=[1.0]), TypeError, "temperature: must be a number, got list"),
        (dict(temperature=-1), ValueError, "temperature: must be finite and >= 0, got -1"),
        (dict(temperature=1e300), ValueError, "temperature: must be finite and >= 0, got inf"),
        (dict(temperature=True), TypeError, "temperature: must be a number, got bool"),
        (dict(seed=1.5), TypeError, "seed: must be an int, got float"),
        (dict(seed=2**63), ValueError, f"seed: must fit in int64, got {2**63}"),
        (dict(seed=np.zeros(2, np.int32)), TypeError, "seed: dtype must be int64, got int32"),
        (dict(step=True), TypeError, "step: must be an int, got bool"),
        (dict(mask_id=1.0), TypeError, "mask_id: must be an int, got float"),
        (dict(window=(3, 2)), ValueError, "window: must be (start, stop) with 0 <= start <= stop, got (3, 2)"),
        (dict(window=(0, 9)), ValueError, "window: must be -1 or in [0, 6], got 9"),
        (dict(start=9), ValueError, "start: must be in [0, 0] (L - W), got 9"),
        (dict(suppress=[1.5]), TypeError, "suppress: must be an int, got float"),
        (dict(top_k=-1), ValueError, "top_k: must be >= 0, got -1"),
        (dict(top_k=1.5), TypeError, "top_k: must be an int, got float"),
        (dict(top_p=np.array([1.5])), ValueError, "top_p: must be in [0, 1], got 1.5"),
        (dict(top_p=float("nan")), ValueError, "top_p: must be in [0, 1], got nan"),
        (dict(top_k_ties="none"), ValueError, "top_k_ties: must be lowest or all, got none"),
        (dict(confidence=1), TypeError, "confidence: must be a str, got int"),
        (dict(conf_dtype=np.float16), ValueError, "conf_dtype: must be float32, bfloat16 or float64, got float16"),
        (dict(edits_left=np.zeros(B, int)), ValueError, "edits_left: must be given with edit, got without"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_errors(spoilt, error, text):
    x = np.full((B, L), -1)
    arguments = dict(x=x, logits=some_logits().numpy(), mask_id=-1, rule=dlm.TopK(1)) | spoilt
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        array.denoise_step_(**arguments)
    assert (x == -1).all() and (READ_ONLY == -1).all()


@pytest.mark.parametrize(
    "alphas, text",
    [
        ((0.5, 0.2), "alpha_s: must be >= alpha_t, got 0.2"),
        ((-0.1, 0.2), "alpha_t: must be in [0, 1], got -0.1"),
        ((torch.tensor([0.1, 0.4]), 0.3), "alpha_s: must be >= alpha_t, got 0.3"),
        ((0.2, torch.tensor([0.5, 1.5])), "alpha_s: must be in [0, 1], got 1.5"),
        ((torch.rand(1, 1, 1), 0.3), "alpha_t: must be a number, [B] or [B, L], got [1, 1, 1]"),
        (
            (torch.rand(2), torch.rand(3)),
            "schedule values: must be numbers, [B] or [B, L] of one B and L, got [2], [2], [3], [3]",
        ),
        ((Level(0.2, 0.5), 0.5), "alpha_t: alpha + noise must be 1, got 0.7"),
    ],
)
def test_schedules_are_checked_as_those_of_torch(alphas, text):
    x, logits = torch.zeros(B, L, dtype=torch.int64), some_logits()
    for module, convert in ((dlm, lambda v: v), (array, to_array)):
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            module.uniform_step_(
                convert(x), convert(logits), alpha_t=convert(alphas[0]), alpha_s=convert(alphas[1]), seed=0
            )


# ---- noise, threads, check ----------------------------------------------------------------------------------------------


def test_seeds_are_fresh_or_from_the_generator():
    logits = np.zeros((1, 400, 50), np.float32)
    draw = lambda **more: array.draw_tokens(logits, temperature=1.0, **more).tokens
    assert (draw() != draw()).any()
    one, two = (draw(generator=np.random.default_rng(4)) for _ in range(2))
    assert (one == two).all()
    assert (draw(seed=4) == draw(seed=np.array([4]))).all()


def test_threads_do_not_change_anything():
    before = array.get_num_threads()
    logits, results = some_logits(shape=(1, 30, 40_000)).numpy(), []
    try:
        for threads in (1, 2, 5):
            array.set_num_threads(threads)
            results.append(array.draw_tokens(logits, temperature=0.9, seed=1, top_p=0.9))
    finally:
        array.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


@given(case=step_cases(bad_share=0.2, confidence="prob", packed=False, shift=0))
def test_check_says_what_torch_says(case):
    """check=True: the same complaint or none, and nothing written if there is one."""
    x, (logits, *_), kwargs = case.build()
    more = {name: kwargs[name] for name in ("frozen", "start", "mask_id")}
    for function, own in (
        ("denoise_step_", dict(rule=dlm.TopK(1))),
        ("renoise_step_", dict(seed=0, mask_id=None)),
        ("draw_tokens", None),
    ):
        said = []
        for module, convert in ((dlm, lambda v: v.clone() if isinstance(v, torch.Tensor) else v), (array, to_array)):
            canvas = convert(x)
            given = [convert(logits)] if own is None else [canvas, convert(logits)]
            call = {} if own is None else {name: convert(value) for name, value in (more | own).items()}
            try:
                getattr(module, function)(*given, check=True, **call)
                said.append(None)
            except ValueError as error:
                said.append(str(error))
                assert (torch.as_tensor(canvas) == x).all()
        assert said[0] == said[1], function


def test_check_of_edits_states_and_confidences():
    logits = some_logits().numpy()
    logits[1, 2, 5] = np.nan
    x, left = np.zeros((B, L), np.int64), np.array([3, 3])
    with pytest.raises(ValueError, match=r"^logits: .*, got a bad one at \(b, i\) = \(1, 2\)$"):
        array.denoise_step_(x, logits, mask_id=9, rule=dlm.TopK(1), edit=0.0, edits_left=left, check=True)
    state = array.RenoiseState.start(x)
    with pytest.raises(ValueError, match=r"\(1, 2\)$"):
        array.renoise_step_(x, logits, state=state, seed=1, check=True)
    assert (left == 3).all() and (x == 0).all() and (state.argmax == 0).all() and (state.unchanged == -1).all()
    with pytest.raises(
        ValueError, match=r"^confidence: must not be NaN at a candidate, got a bad one at \(b, i\) = \(1, 2\)$"
    ):
        array.topk_unmask_(x, x + 1, logits[..., 5], 1, mask_id=0, check=True)
    logits[1, 2, 5] = 0
    out = array.denoise_step_(x, logits, mask_id=9, rule=dlm.TopK(1), edit=0.0, edits_left=left, check=True)
    assert out.x is x and out.num_edited.sum() > 0 and (left == 2).any()
    array.renoise_step_(x, logits, state=state, seed=1, check=True)
    assert (state.unchanged == 0).all()
