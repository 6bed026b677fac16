"""The revision trace: csrc/core against the reference against a replay by the definitions."""

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from dlm_kernels.reference import trace as reference
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from trace_stories import A, B, C, D, E, Step, by_core, histories, history_of, played, story

from dlm_kernels.trace import RevisionTrace

# ---- one position --------------------------------------------------------------------------------------------------


def test_layout(native_core):
    assert native_core.position_trace_size() == 32
    positions, steps = reference.fresh(2, 3, 5)
    assert positions.dtype == torch.int32 and positions[1, 2].tolist() == native_core.fresh_position_trace()
    assert positions.shape == (2, 3, 8) and positions.tolist() == [[[-1, -1, -1, -1, 0, 0, 0, -1]] * 3] * 2
    assert steps.dtype == torch.int64 and steps.shape == (5, 2, 8) and not steps.any()


@given(words=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=8, max_size=8))
def test_words_hold_two_counters_each(words):
    fields = reference.unpack(torch.tensor(words, dtype=torch.int32))
    assert [int(v) for v in fields[:4]] == words[:4]
    assert [int(v) for v in fields[4:]] == [half for word in words[4:] for half in (word & 0xFFFF, word >> 16 & 0xFFFF)]
    assert reference.pack(fields).tolist() == words


# tokens in the order of their commits -> the fields that are not as in a fresh trace
STORIES = {
    "never": ((-1, -1), dict()),
    "noise only": ((-1, "~"), dict()),  # 99 stays 99
    "once": ((-1, A), dict(first=A, cur=A, model_flips=1, first_step=1, last_step=1)),
    "again": ((A, A, A), dict(first=A, cur=A, same=2, model_flips=1, first_step=0, last_step=0)),
    "revision": (
        (A, -1, B),
        dict(first=A, cur=B, prev=A, revisions=1, model_flips=2, first_step=0, last_step=2),
    ),
    "round trip": (
        (A, B, A),
        dict(first=A, cur=A, prev=B, revisions=2, round_trips=1, returns=1, model_flips=3, first_step=0, last_step=2),
    ),
    "return": (
        (A, B, C, A),
        dict(first=A, cur=A, prev=C, older=B, revisions=3, returns=1, model_flips=4, first_step=0, last_step=3),
    ),
    "round trip of three": (
        (A, B, C, B, C),
        dict(
            first=A, cur=C, prev=B, older=A, revisions=4, round_trips=2, returns=2, model_flips=5, first_step=0, last_step=4
        ),
    ),
    "return to the oldest": (
        (A, B, C, D, B, D),
        dict(
            first=A, cur=D, prev=B, older=C, revisions=5, round_trips=1, returns=2, model_flips=6, first_step=0, last_step=5
        ),
    ),
    "back to the first of many": (
        (A, B, C, D, E, A),
        dict(first=A, cur=A, prev=E, older=D, revisions=5, returns=1, model_flips=6, first_step=0, last_step=5),
    ),
    "forgotten": (
        (A, B, C, D, A, B),  # B is gone since A came back: first and cur are the same then
        dict(first=A, cur=B, prev=A, older=D, revisions=5, returns=1, model_flips=6, first_step=0, last_step=5),
    ),
    "noise between": (
        (A, "~", A, "~", A),
        dict(first=A, cur=A, same=2, model_flips=3, noise_flips=2, first_step=0, last_step=0),
    ),
    "round trip through noise": (
        (A, "~", B, "~", A),
        dict(
            first=A, cur=A, prev=B, revisions=2, round_trips=1, returns=1, model_flips=3, noise_flips=2, first_step=0,
            last_step=4,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_stories(native_core, name):
    tokens, fields = STORIES[name]
    fresh = reference.unpack(reference.fresh(1, 1, 1)[0])
    want = reference.pack(fresh._replace(**{k: torch.full_like(fresh.cur, v) for k, v in fields.items()}))
    trace = played(story(*tokens), (1, 1), mode="full")
    core, _ = by_core(native_core, story(*tokens), (1, 1))
    for got in (core, trace.positions, trace.replay()[0]):
        assert reference.unpack(got) == reference.unpack(want)
        assert_equal(name, got, want)
    assert native_core.committed_token(core, 0, 0) == fields.get("cur", -1)


@given(**histories, start=st.sampled_from([0, -3, 65530, 2**40]), stride=st.sampled_from([0, 1, 3]))
def test_core_reference_and_replay_agree(native_core, seed, shape, length, tokens, start, stride):
    history = history_of(seed, shape, length, tokens, start, stride)
    trace = played(history, shape, mode="full", max_steps=7)
    positions, steps = by_core(native_core, history, shape, 7)
    assert_equal("positions", positions, trace.positions)
    assert_equal("steps", steps, trace.steps)
    replayed, events = trace.replay()
    assert_equal("replayed positions", replayed, trace.positions)
    assert_equal("replayed steps", events[..., :7], trace.steps[..., :7])
    assert not events[..., 7].any()


def test_the_histories_have_everything_in_them():
    sums = played(history_of(1, (2, 4), 40), (2, 4)).steps.sum((0, 1))
    assert (sums[:7] > 0).all() and sums[5] > sums[4]


def test_a_number_of_a_device_tensor_is_as_good():
    history = history_of(5, (2, 3), 6)
    want = played(history, (2, 3))
    for make in (torch.tensor, lambda step: torch.tensor([step])):
        trace = played([h._replace(step=make(h.step)) for h in history], (2, 3), mode="full")
        assert_equal("positions", trace.positions, want.positions)
        assert_equal("steps", trace.steps, want.steps)
        assert trace.replay()[0].equal(want.positions)


@pytest.mark.parametrize("field", reference.Positions._fields[4:10])
def test_counters_stop_at_65534(native_core, field):
    """And so do their neighbours in the same word: nothing spills. The table goes on counting."""
    events = {"revisions": B, "round_trips": B, "returns": B, "same": A, "model_flips": B, "noise_flips": "~"}
    (last,) = story(events[field], start=3)
    before = reference.unpack(reference.fresh(1, 1, 1)[0])._replace(
        **{name: torch.full((1, 1), v) for name, v in (("first", C), ("cur", A), ("prev", B))}
    )
    last = last._replace(before=torch.tensor([[A]]))
    for count, want in ((65533, 65534), (65534, 65534)):
        full = before._replace(**{field: torch.full((1, 1), count)})
        made = []
        for play in (
            lambda p, s: native_core_record(native_core, p, s, last),
            lambda p, s: reference_record(p, s, last),
        ):
            positions, steps = reference.pack(full), torch.zeros(4, 1, 8, dtype=torch.int64)
            play(positions, steps)
            assert getattr(reference.unpack(positions), field).item() == want
            assert steps[3, 0, reference.COLUMNS.index(field)] == 1
            made.append(positions)
        assert_equal("positions", *made)


def native_core_record(core, positions, steps, h):
    events = torch.stack([h.before, h.after, h.by_noise.long(), h.committed], -1).reshape(-1, 4)
    core.record(positions, steps, h.step, [(0, 0)], events, h.gain.flatten())


def reference_record(positions, steps, h):
    zero = torch.zeros(1, dtype=torch.int64)
    rows = {name: getattr(h, name).flatten() for name in ("before", "after", "by_noise", "committed", "gain")}
    reference.record_(positions, steps, h.step, zero, zero, **rows)


@pytest.mark.parametrize(
    "step, row, stamp", [(-5, 0, 0), (0, 0, 0), (2, 2, 2), (3, 2, 3), (65534, 2, 65534), (2**40, 2, 65534)]
)
def test_steps_outside_the_table(native_core, step, row, stamp):
    history = story(A, start=step)
    trace = played(history, (1, 1), mode="full", max_steps=3)
    for positions, steps in (by_core(native_core, history, (1, 1), 3), (trace.positions, trace.steps), trace.replay()):
        fields = reference.unpack(positions)
        assert fields.first_step.item() == fields.last_step.item() == stamp
        assert steps[..., 2].flatten().tolist() == [int(r == row) for r in range(3)]


# ---- sums ----------------------------------------------------------------------------------------------------------

UNIT = 2.0**-20
gains = st.one_of(
    st.floats(-20, 20),
    st.floats(),
    st.integers(-(2**30), 2**30).map(lambda k: (k + 0.5) * UNIT),  # halfway
    st.sampled_from([0.49999999999999994 * UNIT, -0.49999999999999994 * UNIT, 5e-324, math.nan, math.inf, -math.inf]),
)


@given(values=st.lists(gains, min_size=1, max_size=6))
def test_gains_add_up_exactly(native_core, values):
    shape = (1, len(values))
    first, second = story(A)[0], story(-1, B)[1]
    wide = lambda h, gain: Step(h.step, *(v.expand(shape) for v in h[1:5]), gain)
    history = [wide(first, torch.full(shape, 123.0)), wide(second, torch.tensor([values], dtype=torch.float64))]
    trace = played(history, shape)
    _, steps = by_core(native_core, history, shape)
    assert_equal("steps", steps, trace.steps)
    assert steps[0, 0, 7] == 0  # a first commit gains over nothing
    exact = sum(0 if v != v else min(max(v, -1e6), 1e6) for v in values)
    assert trace.summary()["logprob_gain"] == pytest.approx(exact, abs=UNIT / 2 * len(values) * 1.001)


@pytest.mark.parametrize("units", [0, 1, -1, 2, -3, 2**40 // 3])
def test_units_of_gain(units):
    """Halves go away from zero."""
    for nats in (units * UNIT, (units + math.copysign(0.5, units)) * UNIT if units else 0.49 * UNIT):
        want = units if nats == units * UNIT or not units else units + int(math.copysign(1, units))
        assert reference.fixed_point(torch.tensor([nats], dtype=torch.float64)).item() == want


def test_positions_share_their_sums(native_core):
    """Two threads record at positions of one sequence at the same time: nothing is lost."""
    n, rounds, together = 200_000, 40, Barrier(2)  # long enough for a turn side by side on a busy machine
    positions, steps = reference.fresh(1, 2, 1)
    events = torch.tensor([[0, A, 0, A]]).repeat(n, 1)

    def work(position):
        places, gain = torch.tensor([[0, position]]).repeat(n, 1), torch.zeros(n, dtype=torch.float64)
        for _ in range(rounds):
            together.wait()
            native_core.record(positions, steps, 0, places, events, gain)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    commits = 2 * n * rounds
    assert steps[0, 0].tolist() == [commits, 0, 2, 0, 0, 0, commits - 2, 0]


def test_without_a_trace_nothing_happens(native_core):
    native_core.record(None, None, 0, [(0, 0)], [(0, 1, 0, 1)], [0.0])
    assert native_core.committed_token(None, 0, 0) == -1
    reference.record_(None, None, 0, None, None, before=None, after=None, by_noise=None, committed=None, gain=None)
    positions, steps = reference.fresh(1, 2, 1)
    for place in ((-1, 0), (0, -1), (0, 2)):  # padding, and what unchecked values of a device may lead to
        native_core.record(positions, steps, 0, [place], [(0, 1, 0, 1)], [0.0])
        assert native_core.committed_token(positions, *place) == -1
    assert positions.equal(reference.fresh(1, 2, 1)[0]) and not steps.any()


def test_no_rows_are_no_event():
    positions, steps = reference.fresh(2, 2, 3)
    none = torch.zeros(0, dtype=torch.int64)
    rows = dict(before=none, after=none, by_noise=none.bool(), committed=none, gain=none.double())
    reference.record_(positions, steps, 1, none, none, **rows)
    assert positions.equal(reference.fresh(2, 2, 3)[0]) and not steps.any()


# ---- canvases of other code ----------------------------------------------------------------------------------------


def fields(trace):
    return {name: value.tolist() for name, value in reference.unpack(trace.positions)._asdict().items()}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_record_of_a_uniform_run(dtype):
    trace = RevisionTrace(1, 4, mode="full")
    frozen = torch.tensor([[True, False, False, False]])
    canvases = [[9, 5, 6, 7], [8, 5, 1, 7], [8, 5, 2, 7], [8, 4, 1, 7]]
    for step, canvas in enumerate(canvases):
        x = torch.tensor([canvas], dtype=dtype)
        trace.record(x, step=step, frozen=frozen)
        x.fill_(0)  # a loop may write where it likes
    got = fields(trace)
    assert got["first"] == [[-1, 4, 1, -1]] and got["cur"] == [
        [-1, 4, 1, -1]
    ]  # 9 -> 8 is frozen, 5 and 7 are the start
    assert got["revisions"] == [[0, 0, 2, 0]] and got["round_trips"] == [[0, 0, 1, 0]]
    assert got["model_flips"] == [[0, 1, 3, 0]] and got["noise_flips"] == [[0, 0, 0, 0]]
    assert got["first_step"] == [[65535, 3, 1, 65535]] and got["last_step"] == [[65535, 3, 3, 65535]]
    assert [entry.x.tolist() for entry in trace.history] == [[c] for c in canvases[1:]]
    assert [entry.committed.tolist() for entry in trace.history] == [
        [[-1, -1, 1, -1]],
        [[-1, -1, 2, -1]],
        [[-1, 4, 1, -1]],
    ]
    assert trace.replay()[0].equal(trace.positions) and trace.replay()[1].equal(trace.steps)


@pytest.mark.parametrize("mask_id", [-1, 50])
def test_record_of_a_masked_run(mask_id):
    trace, m = RevisionTrace(1, 5, "full", mask_id), mask_id
    frozen = torch.tensor([[True, False, False, False, False]])
    for step, canvas in enumerate(
        [[9, m, m, m, 3], [9, 1, m, 2, 3], [9, 1, m, m, 4], [9, 1, m, 2, 3], [9, m, m, 5, 3]]
    ):
        trace.record(torch.tensor([canvas]), step=step, frozen=frozen)
    got = fields(trace)
    assert got["first"] == [[-1, 1, -1, 2, 3]] and got["cur"] == [[-1, 1, -1, 5, 3]]
    assert got["revisions"] == [[0, 0, 0, 1, 2]] and got["round_trips"] == [[0, 0, 0, 0, 1]]
    assert got["same"] == [[0, 0, 0, 1, 0]]  # 2, remasked, 2 again
    assert got["noise_flips"] == [[0, 1, 0, 1, 0]] and got["model_flips"] == [[0, 1, 0, 3, 3]]
    assert got["first_step"] == [[65535, 1, 65535, 1, 0]] and got["last_step"] == [[65535, 1, 65535, 4, 3]]
    assert trace.replay()[0].equal(trace.positions) and trace.replay()[1].equal(trace.steps)


@given(**histories)
def test_record_is_what_the_ops_would_say(seed, shape, length, tokens):
    """A run without noise, whose commits are its changes: the canvases alone tell it all."""
    history = []
    for h in history_of(seed, shape, length, tokens):
        still = torch.zeros_like(h.by_noise)
        committed = torch.where(h.before != h.after, h.after, -1)
        history.append(h._replace(by_noise=still, committed=committed, gain=torch.zeros_like(h.gain)))
    want, got = played(history, shape), RevisionTrace(*shape)
    for h in history[:1]:
        got.record(h.before, step=0)
    for h in history:
        got.record(h.after, step=h.step)
    assert_equal("positions", got.positions, want.positions)
    assert_equal("steps", got.steps, want.steps)


@pytest.mark.parametrize("mode", ["counters", "full"])
@pytest.mark.parametrize("mask_id", [None, 3])
def test_recording_never_waits(mode, mask_id):
    """On tensors that hold no values: whoever asks for one fails."""
    made = dict(device="meta", dtype=torch.int64)
    trace = RevisionTrace(2, 3, mode, mask_id, device="meta", reference=torch.zeros(2, 3, dtype=torch.int64))
    for step in (0, 1, torch.tensor(2, **made), torch.tensor([3], **made)):
        trace.record(torch.zeros(2, 3, **made), step=step, frozen=torch.zeros(2, 3, **made).bool())
    trace.reset()
    with pytest.raises((RuntimeError, NotImplementedError)):
        trace.steps.sum().item()


def test_a_trace_moves_and_starts_again():
    history = history_of(3, (2, 3), 5)
    trace = played(history, (2, 3), mode="full", reference=torch.ones(2, 3, dtype=torch.int32))
    assert trace.reference.dtype == torch.int64
    positions, steps = trace.positions, trace.steps
    assert trace.to("cpu") is trace and len(trace.history) == 5
    trace.record(torch.zeros(2, 3, dtype=torch.int64), step=9)
    trace.reset()
    assert trace.positions is positions and trace.steps is steps and trace.history == []
    assert positions.equal(reference.fresh(2, 3, 1)[0]) and not steps.any()
    trace.record(torch.ones(2, 3, dtype=torch.int64), step=0)
    assert not steps.any()  # the first canvas after a reset is the start again


def test_the_history_keeps_copies():
    trace, x = RevisionTrace(1, 1, "full"), torch.full((1, 1), A, dtype=torch.int32)
    step, flag = torch.tensor(3), torch.ones(1, 1, dtype=torch.bool)
    trace._append(step, x, x, flag, x)
    for value in (step, x, flag):
        value.zero_()
    trace._append(0, x.long(), x.long(), flag, x.long())
    (first, second) = trace.history
    assert [v.item() for v in first] == [3, A, A, A, True]
    assert [v.dtype for v in second[1:]] == [torch.int32] * 3 + [torch.bool]


# ---- errors --------------------------------------------------------------------------------------------------------

x23 = torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    "error, text, arguments",
    [
        (ValueError, "B: must be >= 1, got 0", dict(B=0)),
        (ValueError, "L: must be >= 1, got -1", dict(L=-1)),
        (TypeError, "B: must be an int, got float", dict(B=2.0)),
        (ValueError, "mode: must be counters or full, got half", dict(mode="half")),
        (TypeError, "mask_id: must be an int, got str", dict(mask_id="[MASK]")),
        (ValueError, "max_steps: must be >= 1, got 0", dict(max_steps=0)),
        (TypeError, "reference: must be a torch.Tensor, got list", dict(reference=[[1]])),
        (TypeError, "reference: dtype must be int64 or int32, got float32", dict(reference=torch.zeros(2, 3))),
        (ValueError, "reference: shape must be [2, 3], got [3, 2]", dict(reference=x23.T)),
    ],
)
def test_wrong_arguments_of_a_trace(error, text, arguments):
    with pytest.raises(error) as raised:
        RevisionTrace(**{**dict(B=2, L=3), **arguments})
    assert str(raised.value) == text


@pytest.mark.parametrize(
    "error, text, arguments",
    [
        (TypeError, "x: must be a torch.Tensor, got list", dict(x=[[1, 2, 3]] * 2)),
        (TypeError, "x: dtype must be int64 or int32, got int16", dict(x=x23.short())),
        (ValueError, "x: shape must be [2, 3], got [6]", dict(x=x23.flatten())),
        (ValueError, "x: must be on cpu as the trace, got meta", dict(x=x23.to("meta"))),
        (TypeError, "step: must be an int, got float", dict(step=1.0)),
        (TypeError, "step: dtype must be int64, got int32", dict(step=torch.tensor(1, dtype=torch.int32))),
        (ValueError, "step: must have one element, got [2]", dict(step=torch.tensor([1, 2]))),
        (ValueError, "step: must be on cpu as the trace, got meta", dict(step=torch.tensor(1, device="meta"))),
        (TypeError, "frozen: must be a torch.Tensor, got bool", dict(frozen=True)),
        (TypeError, "frozen: dtype must be bool, got int64", dict(frozen=x23)),
        (ValueError, "frozen: shape must be [2, 3], got [1, 3]", dict(frozen=x23[:1].bool())),
        (ValueError, "frozen: must be on cpu as the trace, got meta", dict(frozen=x23.bool().to("meta"))),
    ],
)
def test_wrong_arguments_of_record(error, text, arguments):
    trace = RevisionTrace(2, 3, mode="full", mask_id=5)
    with pytest.raises(error) as raised:
        trace.record(**{**dict(x=x23, step=0), **arguments})
    assert str(raised.value) == text
    assert not trace.steps.any() and trace.history == [] and trace._canvas is None


def test_other_errors():
    with pytest.raises(ValueError, match="mode: must be full to replay, got counters"):
        RevisionTrace(2, 3).replay()
    with pytest.raises(ValueError, match=r"sequences: must be in \[0, 2\), got 2"):
        RevisionTrace(2, 3).plot(sequences=[0, 2])
    with pytest.raises(ValueError, match=r"sequences: must not be empty, got \[\]"):
        RevisionTrace(2, 3).plot(sequences=[])
