"""What a GPU machine runs and prints besides timing, as far as a CPU can tell: the checks that need no pytest, verdicts and
tables on invented rows, and a script that loses no stage to another."""

import copy
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from dlm_kernels.bench import (
    bars,
    gpu,
    gpu_agreement,
    gpu_bars,
    gpu_cases,
    gpu_graphs,
    gpu_peers,
    gpu_report,
    gpu_sanitize,
    report,
)
from dlm_kernels.bench import device as devices
from dlm_kernels.bench.cases import OURS, Case
from dlm_kernels.bench.gpu_problems import OPTIONS, Problem, problems
from dlm_kernels.bench.gpu_uniform import UNIFORM_OPTIONS, UniformProblem

SCRIPT = Path(__file__).parents[1] / "bench" / "gpu.sh"


# -- the checks that need no pytest on the machine with the GPU --


def test_problems_reach_every_option():
    listed = problems()
    assert len({p.seed for p in listed}) == len(listed) and len({p.name for p in listed}) == len(listed)
    assert {option for p in listed for option in p.options} == {*OPTIONS, *UNIFORM_OPTIONS}
    assert {p.op for p in listed} == {
        *("denoise_step_", "draw_tokens", "row_stats", "topk_unmask_"),
        *("renoise_step_", "transition_step_", "q_sample"),
    }
    assert {p.rule for p in listed} == {"topk", "threshold", "factor", "entropy"}
    assert max(p.vocab for p in problems(large=False)) < 40_000


def test_agreement_of_a_device_with_itself(monkeypatch, capsys):
    kept = [p for p in problems(large=False) if p.vocab <= 1025][::3]
    monkeypatch.setattr(gpu_agreement, "problems", lambda: kept)
    assert gpu_agreement.main(["--device", "cpu"]) == 0
    assert f"{len(kept)} of {len(kept)} problems agree, 0 proven ties" in capsys.readouterr().out
    assert gpu_agreement.main(["--device", "cpu", "--seconds", "-1"]) == 0
    assert f"; {len(kept)} not reached" in capsys.readouterr().out


def bend(output, change):
    """Problem.run whose later calls, those on the device, return `output` changed."""
    real, calls = Problem.run, []

    def run(self, tensors):
        out = dict(real(self, tensors))
        calls.append(1)
        if len(calls) > 1:
            out[output] = change(out[output].clone())
        return out

    return run


@pytest.mark.parametrize(
    ("output", "change"),
    [
        ("tokens", lambda t: t.index_fill_(1, torch.tensor([0, 1, 2, 3]), 5)),
        ("confidence", lambda t: t * 1.001),
        ("committed", lambda t: ~t),
        ("num_committed", lambda t: t + 1),
        ("x", lambda t: t + 1),
        ("x", lambda t: t.int()),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_disagreement_is_found(output, change, temperature, monkeypatch):
    problem = Problem(temperature=temperature, seed=1)
    monkeypatch.setattr(Problem, "run", bend(output, change))
    with pytest.raises(gpu_agreement.Disagreement, match=output if output != "tokens" else "token"):
        gpu_agreement.compare(problem, torch.device("cpu"))


def bend_uniform(monkeypatch, output, change):
    real, calls = UniformProblem.run, []

    def run(self, tensors):
        out = dict(real(self, tensors))
        calls.append(1)
        if 1 < len(calls) < 4:  # those on the device
            out[output] = change(out[output].clone())
        return out

    monkeypatch.setattr(UniformProblem, "run", run)


@pytest.mark.parametrize(
    ("op", "output", "change"),
    [
        ("transition_step_", "tokens", lambda t: (t + 1) % 7),
        ("transition_step_", "route", lambda t: t.flip(-1)),
        ("transition_step_", "p_current", lambda t: t * 1.001),
        ("transition_step_", "events", lambda t: t + 1),
        ("transition_step_", "gain", lambda t: t + 1),
        ("renoise_step_", "accepted", lambda t: ~t),
        ("renoise_step_", "unchanged after", lambda t: t + 1),
        ("renoise_step_", "probs after", lambda t: t * 1.02),
        ("q_sample", "tokens", lambda t: (t + 1) % 7),
    ],
)
def test_disagreement_of_the_uniform_family_is_found(op, output, change, monkeypatch):
    options = {"renoise_step_": ("probs", "trace"), "transition_step_": ("trace",)}.get(op, ())
    problem = UniformProblem(op, temperature=1.0, rule="entropy", options=options, seed=3)
    assert gpu_agreement.compare(problem, torch.device("cpu")) == 0
    bend_uniform(monkeypatch, output, change)
    with pytest.raises(gpu_agreement.Disagreement, match=output if output != "tokens" else "token"):
        gpu_agreement.compare(problem, torch.device("cpu"))


def test_a_number_at_the_edge_of_a_route_is_a_tie(monkeypatch):
    """A route that another 1e-6 of its number would take is a proven tie, and what follows from it is not compared."""
    problem = UniformProblem("q_sample", vocab=50, batch=1, length=1)
    real = UniformProblem.tensors

    def tensors(self, device, seed=None):
        found = real(self, device, seed)
        found["uniform"][..., 0] = 0.3 - 1e-7  # noise below 0.3
        found["uniform"][..., 1] = 0.5
        found["x"].fill_(3)
        return found

    monkeypatch.setattr(UniformProblem, "tensors", tensors)
    bend_uniform(monkeypatch, "tokens", lambda t: torch.full_like(t, 3))
    assert gpu_agreement.compare(problem, torch.device("cpu")) == 1


def test_unsteady_results_are_found(monkeypatch):
    numbers = iter(range(10))
    monkeypatch.setattr(Problem, "run", bend("confidence", lambda t: t + next(numbers) * 1e-8))
    with pytest.raises(gpu_agreement.Disagreement, match="two runs differ"):
        gpu_agreement.compare(Problem(), torch.device("cpu"))


def test_a_token_across_a_cdf_step_is_a_tie(monkeypatch):
    """u just at the edge of two cells: either token is right, and what follows from it is not compared."""
    problem = Problem(vocab=4, batch=1, length=1, dtype="fp32", temperature=1.0, options=("uniform",))
    real = Problem.tensors

    def tensors(self, device, seed=None):
        found = real(self, device, seed)
        found["logits"].zero_()
        found["uniform"].fill_(0.5)
        found["x"].fill_(self.mask_id)
        return found

    monkeypatch.setattr(Problem, "tensors", tensors)
    token = int(problem.run(problem.tensors(torch.device("cpu")))["tokens"])
    monkeypatch.setattr(Problem, "run", bend("tokens", lambda t: 3 - t))
    assert token in (1, 2) and gpu_agreement.compare(problem, torch.device("cpu")) == 1


def test_graph_checks(monkeypatch, capsys):
    kept = [Problem(temperature=0.7), Problem("row_stats", temperature=1.0), Problem("topk_unmask_", vocab=50)]
    kept += [UniformProblem("renoise_step_", rule="entropy", options=("committed", "probs", "trace"))]
    kept += [
        UniformProblem("transition_step_", temperature=0.9, options=("min_p", "trace")),
        UniformProblem("q_sample"),
    ]
    monkeypatch.setattr(gpu_graphs, "chosen", lambda: kept)
    assert gpu_graphs.main(["--device", "rehearsal"]) == 0
    stuck = lambda self, work, count=False, pool="": work() or devices.Graph(lambda: None)  # a replay that does nothing
    monkeypatch.setattr(devices.Rehearsal, "capture", stuck)
    assert gpu_graphs.main(["--device", "rehearsal"]) == 1
    assert "differ from the eager call" in capsys.readouterr().out


def test_sanitized_run(monkeypatch, capsys):
    kept = problems(large=False)[:6]
    monkeypatch.setattr(gpu_sanitize, "problems", lambda large: kept)
    assert gpu_sanitize.main(["--device", "cpu"]) == 0 and "ran 6 of 6 problems on cpu" in capsys.readouterr().out


# -- verdicts and tables, on invented rows that stay in this file --


def gpu_rows(speed: float = 1.0) -> list[dict]:
    """Rows as a run of the matrix would leave them; `speed` below 1 makes our step slower than anything."""
    rows = []
    env = {"gpu": "Invented GPU", "capability": "sm_90", "driver": "0", "cuda": "0", "torch": "2", "backend": "cuda"}
    env |= {"allocator": "tuned", "threads": 2}  # those of the CPU bars
    for entry in gpu_cases.MATRIX:
        for provider in gpu_peers.resolve(entry.peers):
            if not provider.takes(entry.case):
                continue
            ours = provider.name == OURS
            us = {key: 9.0 / speed if ours else 30.0 for key in ("median", "p10", "p90", "min")}
            rows.append(
                {
                    "schema": "dlm_bench/1",
                    "time": "t",
                    "case": {**dataclasses.asdict(entry.case), "id": entry.case.id},
                    "provider": {"name": provider.name, "kind": provider.kind, "partial": provider.partial},
                    "env": env,
                    "skipped": "",
                    "us": us,
                    "hot_us": None,
                    "wall_us": us,
                    "graph_us": us,
                    "gbps": 1.0,
                    "ratio": {"median": 1.0 if ours else 3.3 * speed},
                    "launches": 1,
                    "pct_read_ref": 95.0 * speed,
                    "read": {"fraction": 0.95 * speed, "gbps": 1.0},
                    "switches_per_s": None,
                    "bytes_min": 1,
                }
            )
    return rows


def test_gpu_bars():
    assert {v["verdict"] for v in gpu_bars.gpu_verdicts(gpu_rows())} == {"pass"}
    assert {v["verdict"] for v in gpu_bars.gpu_verdicts([])} == {"not measured"}
    assert gpu_bars.not_reached([]) == len(gpu_cases.MATRIX) and gpu_bars.not_reached(gpu_rows()) == 0
    slow = gpu_bars.gpu_verdicts(gpu_rows(speed=0.2))
    assert {v["work"] + v["against"] for v in slow if v["verdict"] == "pass"} == {
        "every case, our outputsfp64 truth, two runs bit by bit",
        "32 x 157184 bf16 T=0kernels in a step",
    }
    rows = gpu_rows()
    for row in rows:
        if row["provider"]["name"] == OURS and row["case"]["rows"] == 1024:
            row.update(us=None, skipped="check failed: 1 wrong tokens")
        if row["provider"]["name"] == "flashinfer":
            row.update(us=None, skipped="ModuleNotFoundError: no flashinfer")
    found = {v["work"] + "|" + v["against"]: v for v in gpu_bars.gpu_verdicts(rows)}
    assert found["1024 x 126464 bf16 T=0|read bandwidth of the same run"]["verdict"] == "FAIL"
    assert found["every case, our outputs|fp64 truth, two runs bit by bit"]["verdict"] == "FAIL"
    assert "no flashinfer" in found["every case, cold L2|flashinfer"]["measured"]
    assert gpu._status(rows) == 1 and gpu._status(gpu_rows(0.2)) == 4 and gpu._status(gpu_rows()) == 0
    for row in rows:
        row["skipped"] = row["skipped"] and gpu_bars.NO_TIME  # no time is no fault
    assert all(v["verdict"] != "FAIL" for v in gpu_bars.gpu_verdicts(rows))
    assert {v["verdict"] for v in bars.verdicts(gpu_rows())} == {"not measured"}  # nor do they stand in for the CPU


def test_gpu_tables(capsys):
    cpu = {"cpu": "C", "cpu_family": "1/2", "isa": [], "threads": 2, "torch": "2", "allocator": "default"}
    row = {"schema": "dlm_bench/1", "time": "t", "case": {**dataclasses.asdict(Case(rows=32)), "id": "i"}, "env": cpu}
    row |= {"provider": {"name": OURS, "kind": "ours"}, "us": {"median": 5.0}, "ratio": None, "switches_per_s": 1}
    alone = report.markdown([row])
    both = report.markdown([*gpu_rows(), row])
    assert both.startswith(alone.rstrip()) and "Invented" not in alone
    assert "Invented GPU (sm_90, driver 0), CUDA 0, torch 2:" in both
    assert "| dlm_kernels | 9 us, 95 % |" in both and "30 us (3.30x)" in both and "flashinfer (partial)" in both
    assert "confidence margin" in both and "guided" in both and "0 failed, " in both
    gpu_report.print_short(gpu_rows())
    printed = capsys.readouterr().out
    assert "3.30x llada" in printed and "what must be reached" in printed and "no number" not in printed
    rows = copy.deepcopy(gpu_rows())
    for each in rows:
        if each["provider"]["name"] in (OURS, "triton_one_pass"):
            each.update(us=None, skipped="broke")
    gpu_report.print_short(rows)
    assert f"no number: {OURS}, {len(gpu_cases.MATRIX)} cases: broke" in capsys.readouterr().out
    gpu_report.print_short([])
    assert "no GPU rows" in capsys.readouterr().out


# -- the script --


def script(*arguments, path=SCRIPT, **env):
    return subprocess.run(
        ["bash", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "PYTHON": sys.executable, **env},
    )


def test_the_plan_fits():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True).returncode == 0
    for seconds in (540, 300):
        done = script("--dry-run", "--seconds", str(seconds))
        assert done.returncode == 0, done.stderr
        limits = {line.split(":")[0].strip(): int(line.split()[1]) for line in done.stdout.splitlines()[1:-1]}
        assert list(limits) == ["info", "build", "tests", "agreement", "graphs", "bench", "sanitize", "table"]
        assert (
            sum(limits.values()) <= seconds
            and min(limits.values()) > 5
            and limits["bench"] == max(limits.values())
            or (limits["bench"] >= 120)
        )
    alone = script("--dry-run", "bench")
    assert "bench: 540 s" in alone.stdout
    for bad in (["nothing"], ["--seconds", "x"], ["--seconds"]):
        assert script(*bad).returncode == 2


def test_no_stage_is_lost_to_another(tmp_path):
    """One that hangs, one that fails and one that is skipped: the rest runs, and the summary tells."""
    folder = tmp_path / "bench"
    folder.mkdir()
    text = SCRIPT.read_text()
    for before, after in (
        ("info 20 5", "info 6 5"),
        ("stage_info() {", "stage_info() { echo begun; sleep 60; }\nunused_info() {"),
        ("stage_agreement() {", "stage_agreement() { echo 'FAIL something'; return 7; }\nunused_agreement() {"),
        ("stage_graphs() {", "stage_graphs() { say '  fine'; [ $limit -gt 0 ]; }\nunused_graphs() {"),
        ("stage_bench() {", "stage_bench() { return 4; }\nunused_bench() {"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    copied = folder / "gpu.sh"
    copied.write_text(text)
    out = tmp_path / "results"
    arguments = ["--rehearse", "info", "agreement", "graphs", "bench", "table"]
    start = time.perf_counter()
    done = script(*arguments, path=copied, OUT=str(out))
    assert done.returncode == 1 and time.perf_counter() - start < 40, done.stdout + done.stderr
    lines = (out / "summary.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["info", "agreement", "graphs", "bench", "table"]
    words = ["FAILED: out of its 6 s", "FAILED (status 7)", "ok", "ok; a bar of speed is missed", "skipped"]
    for line, word in zip(lines, words):
        assert word in line, line
    assert "FAIL something" in done.stdout and "  fine" in done.stdout and "begun" in (out / "info.log").read_text()
    assert len(list(out.iterdir())) <= 8  # no more files come back from some machines
    assert script(*arguments[:1], "graphs", path=copied, OUT=str(out)).returncode == 0
    late = script("--rehearse", "--seconds", "4", "graphs", path=copied, OUT=str(out))
    assert "skipped: no time left" in late.stdout
