"""What a trace tells: the numbers of its summary, the table and the picture."""

import io
import math
import sys

import pytest
import torch
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from trace_stories import A, B, C, D, Step, histories, history_of, played, story

from dlm_kernels import trace_summary, trace_views
from dlm_kernels.trace import RevisionTrace

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
    share = lambda flags: sum(flags) / len(mine) if mine else math.nan
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


def test_the_layout_is_that_of_the_reference():
    from dlm_kernels.reference import trace as reference

    words = torch.randint(-(2**31), 2**31, (3, 2, 8), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    for (name, mine), theirs in zip(trace_summary.unpack(words.numpy()).items(), reference.unpack(words), strict=True):
        assert_equal(name, torch.from_numpy(mine), theirs)
    assert trace_summary.FIELDS == reference.Positions._fields
    for name in ("COLUMNS", "NEVER", "GAIN_UNIT"):
        assert getattr(trace_summary, name) == getattr(reference, name)
