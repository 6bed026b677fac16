"""The revision trace: csrc/core against the reference against a replay by the definitions, and what a summary makes of it."""

import io
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import NamedTuple

import pytest
import torch
from dlm_kernels.reference import trace as reference
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st

from dlm_kernels import trace_summary, trace_views
from dlm_kernels.trace import RevisionTrace

NAN, INF = math.nan, math.inf


class Step(NamedTuple):
    """What one step did: tensors [B, L]."""

    step: int
    before: torch.Tensor
    after: torch.Tensor
    by_noise: torch.Tensor
    committed: torch.Tensor
    gain: torch.Tensor


def history_of(seed, shape, length, tokens=3, start=0, stride=1):
    """``length`` random Steps over few tokens, so that returns and round trips abound. A fifth of the positions is frozen, noise
    flips tokens, commits need not show on the canvas, and what is committed may be there already."""
    g = torch.Generator().manual_seed(seed)
    chance = lambda p: torch.rand(shape, generator=g) < p
    token = lambda: torch.randint(0, tokens, shape, generator=g)
    frozen, x, out = chance(0.2), token(), []
    for t in range(length):
        before, by_noise = x, chance(0.3)
        x = torch.where(~frozen & chance(0.5), token(), x)
        commits = ~frozen & ~by_noise & chance(0.6)
        committed = torch.where(commits, torch.where(chance(0.7), x, token()), -1)
        gain = torch.randn(shape, generator=g, dtype=torch.float64) * 3
        out.append(Step(start + t * stride, before, x, by_noise, committed, gain))
    return out


def places_of(shape):
    return [(b, p) for b in range(shape[0]) for p in range(shape[1])]


def played(history, shape, **kwargs):
    """A RevisionTrace that has seen it, as the reference ops update one."""
    trace = RevisionTrace(*shape, **kwargs)
    batch, position = torch.tensor(places_of(shape)).unbind(-1)
    for step, before, after, by_noise, committed, gain in history:
        rows = dict(before=before, after=after, by_noise=by_noise, committed=committed, gain=gain)
        rows = {name: value.flatten() for name, value in rows.items()}
        reference.record_(trace.positions, trace.steps, step, batch, position, **rows)
        trace._append(step, before, after, by_noise, committed)
    return trace


def by_core(core, history, shape, max_steps=1024):
    """(positions, steps), the positions of a step in another order."""
    positions, steps = reference.fresh(*shape, max_steps)
    for step, before, after, by_noise, committed, gain in history:
        events = torch.stack([before, after, by_noise.long(), committed], -1).reshape(-1, 4)
        places = torch.tensor(places_of(shape))
        core.record(positions, steps, step, places.flip(0), events.flip(0), gain.flatten().flip(0))
    return positions, steps


def story(*tokens, start=0):
    """The Steps of one position that commits ``tokens`` one after the other, in which "~" is a flip by noise to token 99, and -1
    a step without an event."""
    x, out = 99, []
    for t, token in enumerate(tokens):
        noise = token == "~"
        after = 99 if noise else x if token < 0 else token
        row = [[x], [after], [noise], [-1 if noise else token]]
        out.append(Step(start + t, *(torch.tensor([v]) for v in row), torch.zeros(1, 1, dtype=torch.float64)))
        x = after
    return out


shapes = st.tuples(st.integers(1, 2), st.integers(1, 4))
histories = dict(
    seed=st.integers(0, 2**31), shape=shapes, length=st.integers(0, 14), tokens=st.sampled_from([1, 2, 3, 4, 6])
)


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


A, B, C, D, E = 7, 3, 11, 0, 2**31 - 1
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
    st.sampled_from([0.49999999999999994 * UNIT, -0.49999999999999994 * UNIT, 5e-324, NAN, INF, -INF]),
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


# ---- the summary ---------------------------------------------------------------------------------------------------


def described(history, b, length, right):
    """The summary's numbers of sequence ``b`` from the lists of its committed tokens, as the definitions word them; step
    numbers are 0, 1, 2, ..."""
    c = []  # c[p][t]: the committed token after step t
    for p in range(length):
        c.append([])
        for h in history:
            token = h.committed[b, p].item()
            c[p].append(token if token >= 0 or not c[p] else c[p][-1])
    mine = [p for p in range(length) if c[p] and c[p][-1] >= 0]
    starts = {p: next(t for t in range(len(history)) if c[p][t] >= 0) for p in mine}
    revised = {p: [t for t in range(starts[p] + 1, len(history)) if c[p][t] != c[p][t - 1]] for p in mine}
    values = {p: [c[p][t] for t in (starts[p], *revised[p])] for p in mine}
    trips = {p: [t for i, t in enumerate(revised[p], 1) if i >= 2 and values[p][i] == values[p][i - 2]] for p in mine}
    last = {p: max(starts[p], *revised[p], 0) for p in mine}
    t_c = max(starts.values(), default=-1)
    late = [(p, t) for p in mine for t in revised[p] if t > t_c]
    correct = lambda p, t: c[p][t] == right[b, p].item()
    share = lambda flags: sum(flags) / len(mine) if mine else NAN
    R, rho = sum(map(len, revised.values())), sum(map(len, trips.values()))
    gains = sum(correct(p, t) and not correct(p, t - 1) for p, t in late)
    losses = sum(correct(p, t - 1) and not correct(p, t) for p, t in late)
    return dict(
        positions=len(mine),
        commits=sum((h.committed[b] >= 0).sum().item() for h in history),
        revisions=R,
        revised_positions=sum(bool(v) for v in revised.values()),
        round_trips=rho,
        round_trip_rate=rho / R if R else 0,
        effective_revisions=R - 2 * rho,
        all_returns=sum(v in values[p][:i] for p in mine for i, v in enumerate(values[p])),
        mean_first_commit=share(starts.values()),
        mean_last_change=share(last.values()),
        first_survival=share(values[p][0] == values[p][-1] for p in mine),
        coverage_step=t_c,
        displacement=share(c[p][-1] != c[p][t_c] for p in mine),
        post_coverage_revisions=len(late),
        post_coverage_round_trips=sum(t > t_c for p in mine for t in trips[p]),
        correct_first=sum(correct(p, starts[p]) for p in mine),
        correct_coverage=sum(correct(p, t_c) for p in mine),
        correct_last=sum(correct(p, -1) for p in mine),
        gains=gains,
        losses=losses,
        neutral=len(late) - gains - losses,
        net=gains - losses,
        agreement=[share(c[p][t] == c[p][-1] for p in mine) for t in range(len(history))],
        stability=[share(last[p] <= t for p in mine) for t in range(len(history))],
        committed=[share(starts[p] <= t for p in mine) for t in range(len(history))],
    )


@given(**histories)
def test_summary_by_the_definitions(seed, shape, length, tokens):
    history = history_of(seed, shape, length, tokens)
    right = torch.randint(0, tokens, shape, generator=torch.Generator().manual_seed(seed + 1))
    summary = played(history, shape, mode="full", reference=right).summary()
    for b in range(shape[0]):
        want = described(history, b, shape[1], right)
        got = {name: summary["per_sequence"][name] for name in want if name in summary}
        for name, value in got.items():
            assert value[b].item() == pytest.approx(want[name], nan_ok=True), name
        assert got["positions"].dtype == torch.int64
        for name in ("agreement", "stability", "committed"):
            curve = summary["per_sequence"]["per_step"][name][:, b].tolist()
            assert curve == pytest.approx(want[name][: len(curve)], nan_ok=True), name
            if want["positions"] and len(curve):
                assert curve[-1] == 1
        below = zip(*(summary["per_sequence"]["per_step"][name][:, b].tolist() for name in ("stability", "agreement")))
        assert all(s <= a for s, a in below if s == s)
        assert got["net"][b] == got["correct_last"][b] - got["correct_coverage"][b]


@given(**histories, start=st.sampled_from([0, -3, 5]), stride=st.sampled_from([0, 1, 3, -1]))
def test_what_sums_up_sums_up(seed, shape, length, tokens, start, stride):
    """The identities, also where step numbers repeat, jump, run backwards or leave the table."""
    history = history_of(seed, shape, length, tokens, start, stride)
    right = torch.randint(0, tokens, shape, generator=torch.Generator().manual_seed(seed + 1))
    full = played(history, shape, mode="full", reference=right, max_steps=9).summary()
    each, per_step = full["per_sequence"], full["per_step"]
    assert full["net"] == full["gains"] - full["losses"] == full["correct_last"] - full["correct_coverage"]
    assert full["gains"] + full["losses"] + full["neutral"] == full["post_coverage_revisions"] <= full["revisions"]
    assert full["net_correct"] == full["correct_last"] - full["correct_first"]
    assert full["flips"] == full["model_flips"] + full["noise_flips"]
    assert full["commits"] == full["positions"] + full["revisions"] + full["same"]
    assert full["round_trips"] <= full["returns"] <= full["all_returns"] <= full["revisions"]
    if tokens <= 3:
        assert full["returns"] == full["all_returns"]
    for name in ("flips", "model_flips", "noise_flips", "revisions", "round_trips", "returns", "same", "logprob_gain"):
        assert full[name] == per_step[name].sum() == each[name].sum() == each["per_step"][name].sum()
    assert full["positions"] == per_step["first_commits"].sum() == (full["first_commit"] >= 0).sum()
    for curve in per_step.values():
        assert len(curve) == len(per_step["flips"]) <= 9
    for name in ("committed", "stability") if full["positions"] else ():
        assert (per_step[name].diff() >= 0).all() and per_step[name][-1] == 1

    counters = played(history, shape, reference=right, max_steps=9).summary()
    assert counters["mode"] == "counters" and full["mode"] == "full"
    assert counters.keys() == full.keys() and counters["per_sequence"].keys() == full["per_sequence"].keys()
    missing = {*trace_summary.NEED_HISTORY, *trace_summary.NEED_BOTH, "agreement"}
    for got, want in (
        (counters, full),
        (counters["per_sequence"], each),
        (counters["per_step"], per_step),
        (counters["per_sequence"]["per_step"], each["per_step"]),
    ):
        for name in got.keys() - {"mode", "per_sequence", "per_step"}:
            if name in missing:
                assert got[name] is None and want[name] is not None
            elif isinstance(got[name], torch.Tensor):
                assert_equal(name, got[name], want[name])
            else:
                assert got[name] == want[name] or got[name] != got[name] and want[name] != want[name]


def test_summary_of_a_story_told_by_hand():
    """Two sequences of three positions. Position (0, 2) and (1, 1) never commit; (1, 0) is one that noise disturbs."""
    n = -1
    committed = [
        [[A, n, n], [n, n, C]],
        [[n, B, n], [A, n, n]],  # all of sequence 0 have committed
        [
            [B, B, n],
            [n, n, D],
        ],  # (0, 0) revised, (0, 1) the same again, (1, 2) revised: all of sequence 1 had committed
        [[A, C, n], [A, n, n]],  # (0, 0) back: a round trip; (0, 1) revised; (1, 0) the same
        [[B, n, n], [n, n, n]],  # and there again
    ]
    canvas = [
        [[1, 1, 1], [1, 1, 1]],
        [[A, 1, 1], [1, 1, C]],
        [[A, B, 2], [A, 1, C]],  # (0, 2) flips by noise
        [[B, B, 2], [5, 1, D]],  # (1, 0) flips by noise
        [[A, C, 2], [A, 1, D]],
        [[B, C, 2], [A, 1, D]],
    ]
    noise = torch.zeros(5, 2, 3, dtype=torch.bool)
    noise[1, 0, 2] = noise[2, 1, 0] = True
    gain = torch.zeros(2, 3, dtype=torch.float64)
    x, committed = torch.tensor(canvas), torch.tensor(committed)
    history = [Step(t, x[t], x[t + 1], noise[t], committed[t], gain - 1.5 * t) for t in range(5)]
    right = torch.tensor([[A, C, 9], [A, 9, C]])
    got = played(history, (2, 3), mode="full", reference=right).summary()

    want = dict(
        mode="full", positions=4, flips=12, model_flips=10, noise_flips=2, commits=11, same=2, revisions=5,
        revised_positions=3, round_trips=2, round_trip_rate=0.4, returns=2, all_returns=2, effective_revisions=1,
        mean_first_commit=0.5, mean_last_change=2.5, first_survival=0.25, coverage_step=1,
        logprob_gain=-1.5 * (2 + 2 + 3 + 3 + 4), correct_first=3, correct_last=2, net_correct=-1,
        displacement=0.75, post_coverage_revisions=5, post_coverage_round_trips=2, post_coverage_round_trip_rate=0.4,
        correct_coverage=3, gains=2, losses=3, neutral=0, net=-1,
    )  # fmt: skip
    assert {name: got[name] for name in want} == want
    assert got.keys() - want.keys() == {"first_commit", "last_change", "per_step", "per_sequence"}
    assert got["first_commit"].tolist() == [[0, 1, -1], [1, -1, 0]]
    assert got["last_change"].tolist() == [[4, 3, -1], [1, -1, 2]]
    assert {name: curve.tolist() for name, curve in got["per_step"].items()} == dict(
        model_flips=[2, 2, 2, 3, 1], noise_flips=[0, 1, 1, 0, 0], flips=[2, 3, 3, 3, 1], first_commits=[2, 2, 0, 0, 0],
        revisions=[0, 0, 2, 2, 1], round_trips=[0, 0, 0, 1, 1], returns=[0, 0, 0, 1, 1], same=[0, 0, 1, 1, 0],
        logprob_gain=[0, 0, -6, -9, -6], committed=[0.5, 1, 1, 1, 1], stability=[0, 0.25, 0.5, 0.75, 1],
        agreement=[0, 0.25, 0.75, 0.75, 1],
    )  # fmt: skip
    each = got["per_sequence"]
    assert each["coverage_step"].tolist() == [1, 1] and each["revisions"].tolist() == [4, 1]
    assert each["net"].tolist() == [0, -1] and each["per_step"]["stability"].tolist()[2] == [0, 1]


def test_a_curve_does_not_run_backwards():
    """An entry with an earlier number than the one before it is as late as that one."""
    first, second = story(A, B)
    curves = played([first._replace(step=4), second._replace(step=1)], (1, 1), mode="full").summary()["per_step"]
    assert curves["agreement"].tolist() == [0, 0, 0, 0, 1] and curves["committed"].tolist() == [0, 0, 0, 0, 1]


def test_summary_of_nothing():
    for mode in ("counters", "full"):
        summary = RevisionTrace(2, 3, mode).summary()
        assert (
            summary["positions"] == summary["revisions"] == summary["round_trip_rate"] == summary["logprob_gain"] == 0
        )
        assert math.isnan(summary["first_survival"]) and summary["coverage_step"] == -1
        assert summary["correct_last"] is None and summary["net"] is None
        assert summary["first_commit"].tolist() == [[-1] * 3] * 2
        assert all(len(curve) == 0 for curve in summary["per_step"].values() if curve is not None)


# ---- to look at ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["counters", "full"])
@pytest.mark.parametrize("batch_size", [1, 3, 12])
def test_table(mode, batch_size):
    console = pytest.importorskip("rich.console").Console(width=160, record=True, file=io.StringIO())
    trace = played(history_of(1, (batch_size, 4), 9), (batch_size, 4), mode=mode)
    console.print(trace.table())
    text = console.export_text()
    lines = {line.split("   ")[0].strip(): line.split() for line in text.splitlines()}
    columns = 1 if batch_size == 1 else 1 + min(batch_size, 8)
    assert int(lines["revisions"][-columns]) == trace.summary()["revisions"]
    assert ("positions that they changed" in text) == (mode == "full") and "right at last" not in text
    assert ("4 more sequences" in text) == (batch_size == 12)


@pytest.mark.parametrize("mode", ["counters", "full"])
def test_plot(mode, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    for name, history, shape in (("run", history_of(1, (6, 9), 12), (6, 9)), ("nothing", [], (1, 4))):
        trace = played(history, shape, mode=mode)
        figure = trace.plot(tmp_path / f"{name}.png")
        assert len(figure.axes) >= 2 * min(4, shape[0])
        pixels = imread(tmp_path / f"{name}.png")
        assert pixels.shape[1] > 1000 and pixels[..., :3].std() > 0
        seen = {tuple(color) for color in (pixels[::2, ::2, :3] * 255).round().astype(int).reshape(-1, 3)}
        kinds = ("noise", "first commit", "revision", "round trip", *(["kept"] if mode == "full" else []))
        for kind in kinds if history else ():
            color = trace_views.KINDS[kind]
            assert tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) in seen, kind
    assert len(trace.plot(sequences=[0]).axes) >= 2


def test_the_picture_of_a_story():
    """Every kind once, by step and position; of two entries with one number the more telling one."""
    history = [*story("~", A, "~", "~", A, B, A, -1, start=2), *story(C, "~", start=8)]
    history[0] = history[0]._replace(before=torch.tensor([[1]]))
    trace = played(history, (1, 1), mode="full")
    image, first = trace_views._Image(trace).kinds(0)
    kinds = list(trace_views.KINDS)
    want = ["noise", "first commit", "noise", "kept", "kept", "revision", "round trip", "noise"]
    assert first == 2 and [kinds[k] for k in image[:, 0]] == want
    pytest.importorskip("matplotlib")
    assert trace.plot().axes[0].get_ylim() == (9.5, 1.5)
    image, first = trace_views._Image(played([], (1, 1), mode="full")).kinds(0)
    assert image.tolist() == [[0]]


def test_plotting_leaves_no_trace(run_python):
    """No library is imported before it is needed, and pyplot, which is global, never."""
    pytest.importorskip("matplotlib")
    run_python("""
import sys
from dlm_kernels.trace import RevisionTrace
trace = RevisionTrace(1, 2)
assert "matplotlib" not in sys.modules and "rich" not in sys.modules
trace.plot()
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
""")


@pytest.mark.parametrize("method, package", [("plot", "matplotlib"), ("table", "rich")])
def test_a_missing_library_is_named(monkeypatch, method, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"RevisionTrace\.{method} needs {package}: pip install {package}"):
        getattr(RevisionTrace(1, 2), method)()


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
