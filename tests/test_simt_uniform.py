"""The steps of the uniform family in the SIMT runtime: every way in which their launches are cut, in many orders of threads and
blocks, gives the same bits, and the right ones."""

import ctypes
import platform
import shutil

import pytest
import torch
from helpers import assert_equal
from strategies import StepCase
from uniform_cases import copied, renoise_call, transition_call
from uniform_checks import check_renoise, check_transition

if shutil.which("g++") is None or platform.machine() != "x86_64":
    pytest.skip("needs g++ on x86-64", allow_module_level=True)

from simt import bridge

# order (forward, reverse, random), seed, resident blocks; the race build also switches in the middle of things
SCHEDULES = [(1, 0, 1), (0, 0, 4), (2, 1, 1), (2, 2, 3), (2, 3, 8)]
SHAPES = {
    "one launch, rows in parts": dict(batch=2, length=3, width=3, vocab=40_000),
    "one launch, one row in all its parts": dict(batch=1, length=1, width=1, vocab=40_000),
    "whole rows, and the last one in parts": dict(batch=1, length=17, width=17, vocab=5000),
    "two full turns, some rows in two parts": dict(batch=1, length=15, width=15, vocab=8300),
    "whole rows": dict(batch=4, length=9, width=9, vocab=1100),
    "guided, with gaps": dict(batch=2, length=5, width=4, vocab=2049, guidance=1.5, strided=True, start=True),
    "32 packed sequences, one launch": dict(batch=32, length=3, width=2, vocab=37, packed=True, padding=True),
    "33 packed sequences, two launches": dict(batch=33, length=3, width=2, vocab=37, packed=True, padding=True),
    "513 packed rows, two launches": dict(batch=3, length=200, width=171, vocab=3, packed=True),
    "513 positions, two launches where they are sorted": dict(batch=2, length=513, width=513, vocab=3),
    "nothing to do": dict(batch=3, length=4, width=0, vocab=5),
}
COMMON = dict(
    seed=5, temperature="mixed", per_request=True, bad_share=0.1, frozen=True, suppress=2, rule="entropy_budget"
)


def case_of(name, **more):
    return StepCase(**{**COMMON, **SHAPES[name], **more})


class Runtime:
    """One build of the kernels: its ops, and the order in which it runs threads and blocks."""

    def __init__(self, kind):
        self.kind, self.ops = kind, bridge.Ops(kind)
        self._library = ctypes.CDLL(str(bridge.library(kind)))

    def schedule(self, order=0, seed=0, resident=1):
        self._library.simt_set_schedule(order, ctypes.c_uint64(seed))
        self._library.simt_set_resident_blocks(resident)
        self._library.simt_set_preempt(self.kind == "race" and resident > 1)


@pytest.fixture(params=["plain", "race"])
def runtime(request):
    made = Runtime(request.param)
    yield made
    made.schedule()


def assert_same_call(op, call, runtime):
    """The op leaves the same bits in every schedule: in what it returns, and in what it writes."""
    results = []
    for schedule in [(0, 0, 1), *SCHEDULES]:
        runtime.schedule(*schedule)
        x, args, kwargs = copied(call)
        out = getattr(runtime.ops, op)(x, *args, **kwargs)
        written = {name: value for name, value in kwargs.items() if isinstance(value, torch.Tensor)}
        results.append({"x": x, **written, **{f"output {i}": value for i, value in enumerate(out)}})
    for schedule, result in zip(SCHEDULES, results[1:]):
        for name, value in result.items():
            assert_equal(f"{name} in schedule {schedule}", value, results[0][name])


def is_dear(name, runtime):
    return runtime.kind == "race" and ("513" in name or "all its parts" in name)


@pytest.mark.parametrize("name", SHAPES)
def test_renoising(runtime, name):
    call = renoise_call(case_of(name), committed=True, probs=True, trace=True)
    check_renoise(runtime.ops, call)
    if not is_dear(name, runtime):
        assert_same_call("renoise_step_", call, runtime)


@pytest.mark.parametrize("name", SHAPES)
def test_transitions(runtime, name):
    call = transition_call(case_of(name), trace=True)
    check_transition(runtime.ops, call)
    if not is_dear(name, runtime):
        assert_same_call("transition_step_", call, runtime)


@pytest.mark.parametrize("redraw, level", [("min_p", 0.001), ("guidance", 1.7), ("score", 0.0)])
@pytest.mark.parametrize(
    "name", ["one launch, rows in parts", "33 packed sequences, two launches", "guided, with gaps"]
)
def test_redraws_are_the_cpus(runtime, name, redraw, level):
    """No band: nothing in these rows is as close to an edge as two sums of floats are to each other."""
    from dlm_kernels import _ops

    case = case_of(name, temperature="one", dtype="float32")
    x, args, kwargs = transition_call(case)
    kwargs.update(redraw=redraw, level=level)
    if redraw == "guidance":
        kwargs.update(uncond_logits=args[0].roll(1, -1), cfg_scale=0.0)
    call = x, args, kwargs
    mine, theirs = copied(call), copied(call)
    got = runtime.ops.transition_step_(mine[0], *mine[1], **mine[2])
    want = _ops.transition_step_(theirs[0], *theirs[1], **theirs[2])
    assert_equal("x", mine[0], theirs[0])
    for i in (0, 1, 4, 5):
        assert_equal(f"output {i}", got[i], want[i])
    for i in (2, 3):
        torch.testing.assert_close(got[i], want[i], rtol=1e-5, atol=1e-7)
    if runtime.kind == "plain":
        assert_same_call("transition_step_", call, runtime)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("vocab", [16, 17, 1024, 5001])
def test_probabilities_wherever_they_lie(runtime, dtype, vocab):
    """On 16-byte boundaries or not, with gaps between the rows or not: the same, and nothing beside them is written."""
    call = renoise_call(StepCase(seed=6, vocab=vocab, dtype=dtype, batch=2, length=3, width=3, suppress=3), probs=True)
    results = []
    for offset, gap in ((0, 0), (1, 0), (0, 3), (5, 8)):
        x, args, kwargs = copied(call)
        space = torch.full((offset + 6 * (vocab + gap) + 8,), 7.0, dtype=torch.bfloat16)
        rows = space[offset:].as_strided((2, 3, vocab), (3 * (vocab + gap), vocab + gap, 1))
        kwargs["probs"] = rows
        runtime.ops.renoise_step_(x, *args, **kwargs)
        results.append(rows.clone())
        rows.fill_(7.0)
        assert bool((space == 7.0).all())
    for result in results[1:]:
        assert_equal("probs", result, results[0])
    assert bool((results[0] < 7.0).any())
