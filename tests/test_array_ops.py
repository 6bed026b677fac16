"""dlm_kernels._array, the ops that dlm_kernels.array stands on: for every call what the torch ops give, bit for bit; for
every bad one their error and their text."""

import re

import pytest
import torch
from array_ops import ArrayOps, Exported, numpy_of
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from strategies import step_cases
from uniform_cases import copied, noising_call, renoise_call, transition_call
from validate_calls import OPS, call_of
from validate_cases import CASES

from dlm_kernels import _array, _ops
from dlm_kernels.calling import public_error

ENTRIES = {
    "numpy": ArrayOps(),
    "dlpack": ArrayOps(convert=Exported),
}


@pytest.fixture(params=ENTRIES)
def entry(request):
    return ENTRIES[request.param]


def check_equal(entry, op, call, like=_ops):
    """One call on ``entry`` and on the torch ops ``like``: the same results, the same x, state and trace."""
    mine, theirs = copied(call), copied(call)
    results = [getattr(ops, op)(x, *args, **kwargs) for ops, (x, args, kwargs) in ((entry, mine), (like, theirs))]
    for i, (a, b) in enumerate(zip(*results, strict=True)):
        assert_equal(f"{op}, result {i}", a, b)
    assert_equal("x", mine[0], theirs[0])
    for name, value in theirs[2].items():
        if isinstance(value, torch.Tensor):
            assert_equal(name, mine[2][name], value)


@given(case=step_cases())
def test_denoise_step(entry, case):
    check_equal(entry, "denoise_step_", case.build())


@given(case=step_cases())
def test_parts_of_a_step(entry, case):
    x, args, kwargs = case.build()
    logits, temperature, seed, step, quota = args
    names = ("suppress", "demote", "uncond_logits", "cfg_scale", "uniform", "start", "rows", "shift")
    names += ("top_k", "top_p", "min_p", "rank_temperature")
    some = {name: kwargs[name] for name in names if name in kwargs}
    compared = kwargs["confidence"] not in ("gain", "change")
    some["confidence"] = kwargs["confidence"] if compared else "margin"
    if case.packed:
        some["length"] = max(1, x.shape[1])
    if logits.shape[0] > 0 or not case.packed:
        check_equal(entry, "draw_tokens", (logits, (temperature, seed, step), some))
    if not case.packed:
        other = {name: kwargs[name] for name in ("uncond_logits", "cfg_scale", "suppress")}
        check_equal(entry, "row_stats", (logits, (temperature + 0.5,), other))
        check_equal(entry, "row_kl", (logits, (logits.half(), temperature + 0.5), {}))
        tokens = torch.zeros(logits.shape[:-1], dtype=x.dtype)
        where = {name: kwargs[name] for name in ("start", "frozen", "mask_id", "window_start", "window_stop")}
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            check_equal(entry, "topk_unmask_", (x, (tokens, torch.rand(tokens.shape).to(dtype), quota), where))


@given(case=step_cases(confidence="prob"), edits=st.booleans())
def test_edits(entry, case, edits):
    x, args, kwargs = case.build()
    kwargs.update(mask_id=-7, edit=0.1, edited=torch.zeros(args[0].shape[:-1]).bool())
    kwargs["num_edited"] = torch.zeros(x.shape[0], dtype=torch.int64)
    if edits:
        kwargs["edits_left"] = torch.ones(x.shape[0], dtype=torch.int64)
    check_equal(entry, "denoise_step_", (x, args, kwargs))


@given(case=step_cases(open_share=0.0), flags=st.tuples(*[st.booleans()] * 4))
def test_renoise_step(entry, case, flags):
    call = renoise_call(case, **dict(zip(("state", "committed", "probs", "trace"), flags)))
    if call[2]["confidence"] not in ("gain", "change"):
        check_equal(entry, "renoise_step_", call)


@given(case=step_cases(open_share=0.0), trace=st.booleans())
def test_transition_step(entry, case, trace):
    check_equal(entry, "transition_step_", transition_call(case, trace=trace))


@given(case=step_cases(open_share=0.0))
def test_q_sample(entry, case):
    (x, *args), kwargs = noising_call(case)
    check_equal(entry, "q_sample", (x, tuple(args), kwargs))


def test_every_op_is_there():
    assert all(callable(getattr(_array, name)) for name in _ops.SCHEMAS) and set(OPS) == set(_ops.SCHEMAS)


@pytest.mark.parametrize("op, packed, spoilt, error, text", CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_errors_are_those_of_the_torch_ops(entry, op, packed, spoilt, error, text):
    arguments = {**call_of(op, packed), **spoilt}
    before = arguments["x"].clone() if "x" in arguments else None
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        getattr(entry, op)(**arguments)
    if before is not None:
        assert_equal("x", arguments["x"], before)


def test_an_error_of_the_torch_op_reads_the_same():
    """The texts above are not stale: one of them from both."""
    arguments = {**call_of("denoise_step_", False), "rule": "most"}
    texts = []
    for run in (_ops.denoise_step_, ENTRIES["numpy"].denoise_step_):
        with pytest.raises((ValueError, RuntimeError)) as raised:
            run(**arguments)
        assert type(public_error(raised.value)) is ValueError
        texts.append(str(public_error(raised.value)))
    assert texts[0] == texts[1]


def test_memory_is_shared():
    """What the op writes is the caller's, whichever library's array it came in."""
    for entry in ENTRIES.values():
        arguments = call_of("denoise_step_")
        arguments["logits"][..., 3] = 1
        entry.denoise_step_(**arguments)
        assert (numpy_of(arguments["x"]) == 3).sum() == 2
