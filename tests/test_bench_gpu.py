"""The GPU side of the bench, as far as a CPU can tell: the matrix and its arithmetic, and every line around the device, by a
rehearsal on the CPU and by a stand-in for torch.cuda."""

import contextlib
import dataclasses
import importlib.util
import json
import time
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from dlm_kernels.bench import (
    bars,
    gpu,
    gpu_bars,
    gpu_cases,
    gpu_measure,
    gpu_peers,
    report,
)
from dlm_kernels.bench import device as devices
from dlm_kernels.bench.cases import OURS, VOCAB, Case
from dlm_kernels.bench.check import check
from dlm_kernels.bench.gpu_timing import COLD, EAGER, GRAPH, HOT, Lane, Plan, buffer_count, interleave
from dlm_kernels.bench.inputs import guided, make_inputs, make_logits
from dlm_kernels.bench.peers import PROVIDERS

SCRIPT = Path(__file__).parents[1] / "bench" / "gpu.sh"
FAST = Plan(**gpu._REHEARSAL_PLAN)
EAGER_PEERS = ("llada", "dream", "torch_fp32")


def small(**fields) -> Case:
    return Case(**{"rows": 8, "batch": 2, "vocab": 1500, "dtype": "fp32", "k": 2, **fields})


def bench_of(device=None, seconds=60.0):
    return gpu_measure.Bench(device or devices.Rehearsal(), FAST, time.perf_counter() + seconds)


def measured(*cases, peers=EAGER_PEERS, device=None):
    return bench_of(device).measure([gpu_cases.Entry(case, peers, 0) for case in cases])


# -- the matrix and its arithmetic --


def test_matrix():
    cases = [entry.case for entry in gpu_cases.MATRIX]
    assert len(set(cases)) == len(cases) == len({case.id for case in cases})
    assert [entry.tier for entry in gpu_cases.MATRIX] == sorted(entry.tier for entry in gpu_cases.MATRIX)
    for rows in (32, 128, 256, 1024, 4096):
        for temperature in (0.0, 1.0):
            assert Case(rows=rows, temperature=temperature) in cases
    assert {case.confidence for case in cases if case.model == "dream"} == {"margin", "neg_entropy"}
    assert {case.dist for case in cases} == {"normal3", "normal1", "peaked"} and any(case.cfg_scale for case in cases)
    for entry in gpu_cases.MATRIX:
        taking = [p.name for p in gpu_peers.resolve(entry.peers) if p.takes(entry.case)]
        assert taking[0] == OURS and len(taking) > 2, entry.case.id
    for filtered in (dict(top_p=0.9), dict(top_k=50), dict(min_p=0.05)):
        for rows in (32, 1024):
            assert Case(rows=rows, temperature=1.0, dist="normal1", **filtered) in cases
    first = gpu_cases.groups(list(gpu_cases.MATRIX))[0]
    assert [entry.case.id for entry in first] == [Case(model="llada2", vocab=VOCAB["llada2"], rows=32).id]
    assert all(len({entry.case.group for entry in group}) == 1 for group in gpu_cases.groups(list(gpu_cases.MATRIX)))
    with pytest.raises(ValueError, match="filter: must be a regular expression"):
        gpu_cases.select(pattern="(")
    with pytest.raises(ValueError, match="provider: must be one of"):
        gpu_peers.resolve(["nobody"])


def test_plan():
    l2 = 50 << 20
    for rows in (32, 128, 1024, 4096):
        size = Case(rows=rows).bytes_min
        count = buffer_count(size, l2)
        assert count * size >= 5 * l2 or count == 1 and size >= 5 * l2
        assert (count - 1) * size < 5 * l2
    plan = Plan(budget_s=0.3, replay_s=1e-3, min_rounds=5, max_rounds=20, max_calls=256)
    assert plan.calls(30, 10e-6) == 120  # four rotations of 30 inputs last a millisecond
    assert plan.calls(30, 1e-3) == 30 and plan.calls(1, 5e-3) == 1 and plan.calls(1, 1e-7) == 256
    assert plan.calls(300, 1e-7) == 300  # one rotation at least
    assert [plan.rounds(s) for s in (1e-6, 0.02, 0.1, 3.0)] == [20, 15, 5, 5]


def test_lanes_reset_their_canvases_and_rotate():
    """Every timed step meets a canvas with its masks; cold replays walk over all inputs, hot ones stay at one."""
    canvas, seen = torch.full((1, 4), 9), []

    def step(number, x):
        assert bool((x == 9).all())
        seen.append(number)
        x.zero_()

    device, plan = devices.Rehearsal(), Plan(budget_s=1e-3, replay_s=1e-9, min_rounds=3, max_rounds=3)
    lane = Lane("ours", [partial(step, i) for i in range(3)], canvas, hot=True)
    floor = Lane("read", [lambda: None], None, hot=False)
    lane.prepare(device, plan)
    floor.prepare(device, plan, wall=False)
    assert lane.calls == {COLD: 3, HOT: 1, GRAPH: 1, EAGER: 1} and floor.calls == {COLD: 1}
    seen.clear()
    lane.measure(device, 0)
    assert sorted(seen) == [0, 0, 0, 0, 1, 2]
    interleave([lane, floor], device, plan)
    assert all(sorted(entry.samples) == [0, 1, 2] for entry in (*lane.entries.values(), *floor.entries.values()))
    late = Lane("late", [partial(step, 0)], canvas, hot=False)
    late.prepare(device, plan)
    interleave([late], device, plan, deadline=0.0)
    assert sorted(late.entries[COLD].samples) == [0, 1]  # the time is up, but a number needs two


def test_time_box():
    with pytest.raises(TimeoutError, match="took longer than 0 s"), gpu_measure.time_box(0.05):
        time.sleep(5)
    with gpu_measure.time_box(0.2):
        pass
    time.sleep(0.25)  # no alarm is left behind


# -- a rehearsal on the CPU --


def check_row(row):
    assert row["schema"] == gpu_measure.REHEARSAL_SCHEMA and row["skipped"] == "" and row["check"]["passed"]
    fits = row["bytes_min"] <= row["env"]["l2_bytes"]
    assert (row["hot_us"] is not None) == fits
    for kind in ("us", "wall_us", "graph_us", *["hot_us"] * fits):
        assert 0 < row[kind]["p10"] <= row[kind]["median"] <= row[kind]["p90"]
    assert row["gbps"] == pytest.approx(row["bytes_min"] / row["us"]["median"] / 1e3)
    assert row["pct_read_ref"] > 0 and row["pct_copy_ref"] > 0 and row["read"]["with"] == "torch.sum"
    assert row["ratio"]["median"] > 0 and row["ratio_wall"]["median"] > 0 and row["method"]["rounds"] >= 2
    assert {"gpu", "l2_bytes", "torch", "commit", "backend", "cuda"} <= row["env"].keys()
    assert Case(**{k: v for k, v in row["case"].items() if k not in ("id", "layout")}).id == row["case"]["id"]


def test_rows_of_every_kind():
    cases = [small(), small(temperature=1.0), small(temperature=0.7, cfg_scale=1.5)]
    rows = measured(*cases) + measured(small(confidence="margin")) + measured(small(confidence="neg_entropy"))
    for row in rows:
        check_row(row)
    names = [row["provider"]["name"] for row in rows if row["case"]["confidence"] == "margin"]
    assert names == [OURS, "dream", "torch_fp32"]
    ours = {row["case"]["temperature"]: row for row in rows if row["provider"]["name"] == OURS}
    assert ours[0.0]["ratio"]["median"] == 1 and ours[0.0]["check"]["bitwise_repeat"] is True
    assert ours[1.0]["ratio_to_greedy"]["median"] > 0
    guided_rows = [row for row in rows if row["case"]["cfg_scale"]]
    assert all(row["bytes_min"] == 2 * 8 * 1500 * 4 for row in guided_rows) and len(guided_rows) == 3


@pytest.mark.parametrize(
    "fields", [{"op": "uniform_step", "model": "sumi", "steps": 8}, {"op": "renoise_step", "model": "gemma"}]
)
def test_rows_of_the_uniform_family(fields):
    case = Case(rows=8, vocab=1500, dtype="fp32", temperature=1.0, dist="peaked", **fields)
    rows = measured(case, peers=("sumi", "diffusion_gemma", "torch_fp32"))
    assert [row["provider"]["name"] for row in rows][0] == OURS and len(rows) == 3
    for row in rows:
        check_row(row)
    assert rows[0]["check"]["bitwise_repeat"] is True


def test_rehearsed_rows_are_never_results(tmp_path, capfd):
    out = tmp_path / "rows.jsonl"
    arguments = ["--device", "rehearsal", "--against", "llada,torch_fp32", "--out", str(out), "--seconds", "60"]
    assert gpu.main([*arguments, "--filter", "^denoise.*(T=1 normal3 k=2$|margin)"]) in (0, 4)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 5 and {row["case"]["confidence"] for row in rows} == {"prob", "margin"}
    assert "nearest peer" in capfd.readouterr().out
    with pytest.raises(ValueError, match="schema must be dlm_bench/1"):
        report.load([out])
    assert gpu.main(["--report", str(out)]) in (0, 4) and "what must be reached" in capfd.readouterr().out


def test_command_line(capsys, tmp_path):
    assert gpu.main(["--list"]) == 0
    assert capsys.readouterr().out.count("\n") == len(gpu_cases.MATRIX)
    assert gpu.main(["--filter", "nothing"]) == 2 and gpu.main(["--report", str(tmp_path / "absent")]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said(capfd):
    assert gpu.main(["--seconds", "5"]) == 3
    assert "no CUDA device here" in capfd.readouterr().err


def wrong(inputs):
    step = gpu_peers.ours(inputs)

    def call(x, uniform=None):
        tokens, confidence = step(x, uniform)
        return tokens, confidence * 1.001

    return call


def unsteady(inputs):
    step, count = gpu_peers.ours(inputs), iter(range(100))

    def call(x, uniform=None):
        tokens, confidence = step(x, uniform)
        return tokens, confidence * (1 + next(count) * 1e-7)

    return call


@pytest.mark.parametrize(("build", "why"), [(wrong, "confidence off"), (unsteady, "two runs differ")])
def test_wrong_outputs_get_no_number(build, why, monkeypatch):
    broken = dataclasses.replace(gpu_peers.GPU_PROVIDERS[OURS], build=build)
    monkeypatch.setitem(gpu_peers.GPU_PROVIDERS, OURS, broken)
    ours, peer = measured(small(), peers=("torch_fp32",))
    assert ours["us"] is None and why in ours["skipped"] and peer["us"] and peer["ratio"] is None
    (verdict,) = (v for v in gpu_bars.gpu_verdicts([ours, peer]) if "outputs" in v["work"])
    assert verdict["verdict"] == bars.FAIL


@pytest.mark.parametrize("confidence", ["margin", "neg_entropy"])
def test_other_confidences_are_checked(confidence):
    case = small(confidence=confidence)
    inputs = make_inputs(case, make_logits(case))
    assert check(gpu_peers.GPU_PROVIDERS[OURS], gpu_peers.ours(inputs), inputs).passed
    assert not check(gpu_peers.GPU_PROVIDERS[OURS], wrong(inputs), inputs).passed


def test_guidance_is_checked():
    case = small(cfg_scale=1.5, temperature=1.0)
    inputs = make_inputs(case, make_logits(case))
    unguided = dataclasses.replace(inputs, uncond=None, case=dataclasses.replace(case, cfg_scale=0.0))
    for name in (OURS, "llada", "torch_fp32"):
        provider = PROVIDERS[name]
        assert check(provider, provider.build(inputs), inputs).passed
        assert not check(provider, provider.build(unguided), inputs).passed
    assert torch.allclose(guided(inputs), inputs.uncond + 2.5 * (inputs.logits - inputs.uncond))


def test_peers_that_cannot_run_do_not_end_the_others(monkeypatch):
    def late(inputs):
        raise TimeoutError("took longer than 40 s")

    slow = dataclasses.replace(gpu_peers.GPU_PROVIDERS["llada"], build=late)
    monkeypatch.setitem(gpu_peers.GPU_PROVIDERS, "llada", slow)
    rows = measured(small(), small(temperature=1.0), peers=("llada", "flashinfer", "torch_fp32"))
    why = {(r["provider"]["name"], r["case"]["temperature"]): r["skipped"] for r in rows}
    assert why["llada", 0.0] == "took longer than 40 s" and why["llada", 1.0].startswith("an earlier case took")
    assert ("flashinfer", 0.0) not in why  # it has no argmax
    if importlib.util.find_spec("flashinfer") is None:
        assert why["flashinfer", 1.0].startswith("ModuleNotFoundError")
    assert why["torch_fp32", 0.0] == why["torch_fp32", 1.0] == ""


def test_partial_peers_are_judged_by_what_they_give():
    case = small(temperature=1.0)
    inputs = make_inputs(case, make_logits(case))
    inputs.logits[..., 7] = -torch.inf
    provider = gpu_peers.GPU_PROVIDERS["flashinfer"]
    assert provider.partial
    for token, passed in ((3, True), (7, False), (case.vocab, False)):
        tokens = torch.full(inputs.canvas.shape, token)
        assert check(provider, lambda x, u=None, tokens=tokens: (tokens, None), inputs).passed is passed


def test_one_compilation_serves_all_rotating_inputs(monkeypatch):
    compiled = []

    def backend(graph, example):
        compiled.append(graph)
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    rows = measured(small(vocab=4096, temperature=1.0), peers=("compiled_fp32", "compiled_chunked"))
    assert [row["skipped"] for row in rows] == [""] * 3 and len(compiled) == 2
    assert rows[1]["method"]["buffers"] > 1


TRITON = """
import torch
from dlm_kernels.bench.cases import Case
from dlm_kernels.bench.check import check
from dlm_kernels.bench.gpu_peers import GPU_PROVIDERS
from dlm_kernels.bench.inputs import make_inputs, make_logits
provider = GPU_PROVIDERS["triton_one_pass"]
for fields in ({}, {"temperature": 1.0}, {"temperature": 0.7, "cfg_scale": 1.5}, {"confidence": "neg_entropy"}):
    case = Case(rows=4, vocab=5000, k=2, **fields)
    inputs = make_inputs(case, make_logits(case))
    assert check(provider, provider.build(inputs), inputs).passed, case.id
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="runs for real in the bench")
def test_triton_peer_in_the_interpreter(run_python):
    run_python(TRITON, TRITON_INTERPRET="1")


# -- when a device or a process dies --


def test_a_lost_device_ends_the_process_and_says_why(monkeypatch):
    device = devices.Rehearsal()
    seen = []

    def synchronize():
        if armed:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")

    armed = []
    device.synchronize = synchronize

    def crash(inputs):
        armed.append(1)
        raise RuntimeError("boom")

    monkeypatch.setitem(
        gpu_peers.GPU_PROVIDERS, "llada", dataclasses.replace(gpu_peers.GPU_PROVIDERS["llada"], build=crash)
    )
    entries = [gpu_cases.Entry(small(), ("llada", "torch_fp32"), 0), gpu_cases.Entry(small(dtype="bf16"), (), 0)]
    with pytest.raises(gpu_measure.DeviceLost, match="llada, .*boom"):
        gpu_measure.run(entries, bench_of(device), lambda number, rows: seen.append((number, rows)))
    ((number, (row,)),) = seen
    assert number == 0 and row["us"] is None and "illegal memory access" in row["skipped"]


def test_a_failed_group_is_a_row_and_the_next_one_runs(monkeypatch):
    seen, real = [], gpu_measure.make_logits
    monkeypatch.setattr(gpu_measure, "buffer_count", lambda size, l2: 1 / 0 if size == 8 * 1500 * 4 else 2)
    entries = [gpu_cases.Entry(small(), (), 0), gpu_cases.Entry(small(dtype="bf16"), (), 0)]
    gpu_measure.run(entries, bench_of(), lambda number, rows: seen.extend(rows))
    assert [row["skipped"] for row in seen] == ["ZeroDivisionError: division by zero", ""] and real is make_logits
    seen.clear()
    gpu_measure.run(entries, bench_of(seconds=1.0), lambda number, rows: seen.extend(rows))
    assert seen == []  # too little time to begin


def test_the_parent_goes_on_behind_a_dead_process(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "_START_S", 0.0)
    entries = gpu_cases.select(rehearsal=True)
    groups = len(gpu_cases.groups(entries))
    started = []

    def process(endings):
        def one(job, limit_s, rows, out):
            started.append(job["first"])
            return endings[len(started) - 1]

        return one

    for endings, want in (
        ([(0, "died"), (1, "died"), (groups, None)], [0, 1, 2]),
        ([(None, "never began")], [0]),
        ([(i, "died") for i in range(groups)], list(range(groups))),
    ):
        started.clear()
        monkeypatch.setattr(gpu, "_one_process", process(endings))
        gpu.measure({}, entries, 60.0, None)
        assert started == want[: gpu._RESTARTS + 1]
    assert "gpu bench: died" in capsys.readouterr().err


# -- a stand-in for torch.cuda: the calls are right, the numbers are not --


class FakeGraph:
    def __init__(self, keep_graph=False):
        self.kept, self.state = keep_graph, "new"

    def capture_begin(self, pool, capture_error_mode):
        assert self.state == "new" and capture_error_mode == "thread_local"
        self.state = "capturing"

    def capture_end(self):
        assert self.state == "capturing"
        self.state = "captured" if self.kept else "ready"

    def raw_cuda_graph(self):
        assert self.state == "captured"
        return 1

    def instantiate(self):
        assert self.state == "captured"
        self.state = "ready"

    def replay(self):
        assert self.state == "ready"


class FakeEvent:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


@pytest.fixture
def fake_cuda(monkeypatch):
    facts = types.SimpleNamespace(
        name="Fake GPU", L2_cache_size=1 << 16, total_memory=1 << 30, major=9, minor=0, multi_processor_count=1
    )
    handles = iter(range(10_000))
    fakes = {
        "current_device": lambda: 0,
        "get_device_properties": lambda device: facts,
        "Event": FakeEvent,
        "CUDAGraph": FakeGraph,
        "Stream": object,
        "stream": lambda stream: contextlib.nullcontext(),
        "graph_pool_handle": lambda: next(handles),
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "_sleep": lambda cycles: None,
        "memory_reserved": lambda: 5 << 30,
        "memory_allocated": lambda: 0,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: 4096,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(devices, "_library_reader", lambda: None)
    monkeypatch.setattr(devices, "_kernel_nodes", lambda graph: 7)
    monkeypatch.setattr(devices, "_SCRATCH_BYTES", 16)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **more: zeros(*size, **more))
    device = devices.Cuda()
    device.device = torch.device("cpu")
    return device


def test_the_cuda_device_is_driven_in_order(fake_cuda):
    """Capture, instantiate, replay; launches per step; memory; a failed capture is left behind."""
    rows = measured(small(), small(temperature=1.0), device=fake_cuda)
    assert [row["skipped"] for row in rows] == [""] * 6
    for row in rows:
        assert (
            row["schema"] == "dlm_bench/1" and row["env"]["gpu"] == "Fake GPU" and row["env"]["capability"] == "sm_90"
        )
        assert row["launches"] == 7 // row["method"]["calls"]["cold"] and row["peak_extra_bytes"] == 4096
        assert row["pct_spec"] is None and row["method"]["timer"].startswith("cuda events")
    assert not fake_cuda._pools and not fake_cuda._kept  # given back behind the group

    def fails():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        fake_cuda.capture(fails)
    assert "peers" not in fake_cuda._pools and fake_cuda.capture(lambda: None, count=True).launches == 7


def test_reading_with_the_library(fake_cuda, monkeypatch):
    calls = []
    monkeypatch.setattr(devices, "_library_reader", lambda: lambda *args: calls.append(args[:2]) or len(calls) - 1)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(cuda_stream=5), raising=False)
    name, read = fake_cuda.reader()
    data = torch.ones(64)
    read(data)
    assert name == "dlm_cuda_read_stream" and calls == [(data.data_ptr(), 256)]
    with pytest.raises(RuntimeError, match="dlm_cuda_read_stream"):
        read(data)  # it returns 1 now
