"""The bench: its rows are complete, wrong outputs get no number, peers agree, verdicts and tables tell the truth."""

import argparse
import copy
import dataclasses
import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from dlm_kernels.bench import (
    bars,
    by_case,
    chunked,
    cli,
    machine,
    native,
    overhead,
    peers,
    print_case,
    report,
    side_by_side,
)
from dlm_kernels.bench.accuracy import confidence_error, grid_deviation
from dlm_kernels.bench.cases import OURS, SETS, Case, groups, select
from dlm_kernels.bench.check import check
from dlm_kernels.bench.inputs import make_inputs, make_logits
from dlm_kernels.bench.memory import peak_extra_bytes
from dlm_kernels.bench.peers import PROVIDERS, Provider
from dlm_kernels.bench.timing import Entry, Method, Sample, interleave, quantiles, ratio, spread
from dlm_kernels.reference import chunk

FAST = Method(budget_s=0.01, sample_s=0.001, min_rounds=2, max_rounds=3)
EAGER = [OURS, "llada", "fast_dllm", "torch_fp32"]


def small(**fields) -> Case:
    return Case(**{"rows": 12, "batch": 2, "vocab": 1500, "dtype": "fp32", "k": 3, "open_rows": 8, **fields})


def measured(cases, providers=EAGER, **options):
    return side_by_side(cases, providers, method=FAST, **options)


def bench(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args(arguments))


def check_row(row: dict) -> None:
    assert row["schema"] == "dlm_bench/1" and row["time"] and row["skipped"] == ""
    assert row["check"]["passed"] and row["check"]["id_mismatch"] == row["check"]["commit_mismatch"] == 0
    assert 0 < row["us"]["min"] <= row["us"]["p10"] <= row["us"]["median"] <= row["us"]["p90"]
    assert 2 <= row["ratio"]["pairs"] <= row["method"]["samples"] and row["ratio"]["median"] > 0
    assert row["provider"]["name"] != OURS or row["ratio"]["median"] == 1
    assert row["gbps"] == pytest.approx(row["bytes_min"] / row["us"]["median"] / 1e3)
    assert row["provider"]["outputs"] == ["tokens", "confidence", "canvas"] and row["provider"]["about"]
    assert {"cpu", "isa", "cores", "threads", "torch", "python", "allocator", "commit", "backend"} <= row["env"].keys()
    fields = {key: value for key, value in row["case"].items() if key not in ("id", "layout")}
    assert Case(**fields).id == row["case"]["id"]


# -- command line --


def test_quick_run_writes_rows(tmp_path):
    """The real command in its own process: LLaDA's vocabulary, malloc settings passed on, a table, rows."""
    out = tmp_path / "rows.jsonl"
    arguments = ["--quick", "--filter", "T=0", "--allocator", "tuned", "--threads", "1", "--out", str(out)]
    command = [sys.executable, "-m", "dlm_kernels", "bench", "--against", "llada", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "time / ours" in done.stdout and "1x32x126464 bf16 T=0" in done.stdout and "\x1b" not in done.stdout
    rows = report.load([out])
    assert [row["provider"]["name"] for row in rows] == [OURS, "llada"]
    for row in rows:
        check_row(row)
        assert row["env"]["allocator"] == "tuned" and row["env"]["threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "huge"], "set: must be one of quick, "),
        (["--filter", "nothing"], "filter: must match a case, got 'nothing'"),
        (["--filter", "("], "filter: must be a regular expression"),
        (["--threads", "-1"], "threads: must be >= 0, got -1"),
        (["--readme", "absent.md"], "got none"),
    ],
)
def test_bad_arguments(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bench(*arguments) == 2
    assert message in capsys.readouterr().err


def test_list(capsys):
    assert bench("--list", "--set", "all") == 0
    printed = capsys.readouterr().out
    assert all(case.id in printed for cases in SETS.values() for case in cases) and all(n in printed for n in PROVIDERS)


def test_import_is_light(run_python):
    run_python("import sys; from dlm_kernels.bench import bars, cli, report; assert 'torch' not in sys.modules")


def test_allocator_environment(monkeypatch):
    outside = {"PATH": "p", "MALLOC_ARENA_MAX": "1"}
    assert machine.allocator_env("default", outside) == {"PATH": "p"}
    tuned = machine.allocator_env("tuned", outside)
    assert tuned["MALLOC_MMAP_MAX_"] == "0" and "MALLOC_ARENA_MAX" not in tuned
    for key, value in tuned.items():
        monkeypatch.setenv(key, value)
    assert machine.allocator_name() == "tuned"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert machine.allocator_name() == "custom"


# -- measuring --


def test_rows_of_every_kind(capsys):
    """Shared logits at three temperatures, a ragged vocabulary, all dtypes, and the selection alone."""
    cases = [small(temperature=t) for t in (0.0, 1.0, 0.7)]
    cases += [small(dtype="bf16", dist="peaked"), small(dtype="fp16", temperature=1.0), small(op="topk_unmask")]
    rows = measured(cases[:3], roofline=True) + measured(cases[3:])
    by = {(row["case"]["id"], row["provider"]["name"]): row for row in rows}
    assert len(rows) == len(by) == len(cases) * len(EAGER) - 1 and (cases[-1].id, "fast_dllm") not in by
    for row in by.values():
        check_row(row)
    assert by[cases[0].id, OURS]["ratio_to_greedy"] is None and by[cases[1].id, OURS]["ratio_to_greedy"]["pairs"]
    roofline = by[cases[0].id, OURS]["roofline"]
    assert by[cases[0].id, "llada"]["roofline"] is None and (roofline is not None) == native.available()
    if roofline:
        assert roofline["fraction"] > 0 and roofline["fraction_together"] > 0
        assert roofline["read_gbps"] > 0 and roofline["exp_peak_gels"] > 0
    for case_rows in by_case(rows):
        print_case(case_rows)
    assert capsys.readouterr().out.count("checked") == len(by)


def test_peers_agree_at_temperature_zero():
    """No peer is a straw man: at T = 0 on distinct maxima all write the same canvas, the compiled forms included."""
    for vocab in (1000, 1024, 2500, 4096):
        inputs = make_inputs(case := small(vocab=vocab), make_logits(small(vocab=vocab)))
        canvases = {}
        for name in EAGER:
            canvases[name] = inputs.canvas.clone()
            PROVIDERS[name].build(inputs)(canvases[name])
        for name, sweep in (("max_logsumexp", peers.max_logsumexp), ("chunked", chunked.greedy)):
            canvases[name] = inputs.canvas.clone()
            peers.commit_topk(canvases[name], *sweep(inputs.logits), case.k, inputs.mask_id)
        assert (canvases[OURS] != inputs.canvas).sum() == case.k * case.batch
        for name, canvas in canvases.items():
            assert torch.equal(canvas, canvases[OURS]), name


@pytest.mark.parametrize(("temperature", "vocab"), [(0.0, 1500), (1.0, 4096), (0.7, 1500)])
def test_compiled_peers(temperature, vocab, monkeypatch):
    """They trace into one graph and pass the check. aot_eager: what inductor makes of the graph is torch's business."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    rows = measured([small(vocab=vocab, temperature=temperature)], ["compiled_fp32", "compiled_chunked"])
    assert [row["skipped"] for row in rows] == ["", "", ""]


def test_chunks_are_those_of_the_package():
    for vocab in (1, 1000, 32768, 100278, 126464, 152064, 157184, 262144):
        assert chunked.chunk_size(vocab) == chunk.chunk_size(vocab)


@pytest.mark.skipif(not native.available(), reason="needs the native library")
def test_instruction_sets_as_providers():
    best = native.current_isa()
    variants = peers.isa_variants()
    assert list(variants) == [f"{OURS}[{isa}]" for isa in native.isas() if isa != best]
    for row in measured([small()], list(variants.values())):
        check_row(row)
    assert native.current_isa() == best


# -- the check --


def planted(fault) -> Provider:
    """Our step with one thing wrong."""

    def build(inputs):
        step = peers.torch_fp32(inputs)

        def wrong(x, uniform=None):
            before = x.clone()
            tokens, confidence = step(x, uniform)
            return fault(inputs, before, x, tokens.clone(), confidence.clone())

        return wrong

    return Provider("planted", "eager", "has a fault", build)


def first_open(inputs):
    return tuple((inputs.canvas == inputs.mask_id).nonzero()[0].tolist())


def wrong_token(inputs, before, x, tokens, confidence):
    tokens[first_open(inputs)] += 1
    return tokens, confidence


def out_of_range(inputs, before, x, tokens, confidence):
    tokens[first_open(inputs)] = inputs.case.vocab
    return tokens, confidence


def wrong_confidence(inputs, before, x, tokens, confidence):
    confidence[first_open(inputs)] *= 1.001
    return tokens, confidence


def no_number(inputs, before, x, tokens, confidence):
    confidence[first_open(inputs)] = torch.nan
    return tokens, confidence


def wrong_shape(inputs, before, x, tokens, confidence):
    return tokens[:, :-1], confidence


def least_confident(inputs, before, x, tokens, confidence):
    x.copy_(before)
    peers.commit_topk(x, tokens, -confidence, inputs.case.k, inputs.mask_id)
    return tokens, confidence


def one_missing(inputs, before, x, tokens, confidence):
    place = tuple((x != before).nonzero()[0].tolist())
    x[place] = before[place]
    return tokens, confidence


def one_too_many(inputs, before, x, tokens, confidence):
    place = tuple(((x == before) & (before == inputs.mask_id)).nonzero()[0].tolist())
    x[place] = tokens[place]
    return tokens, confidence


def prompt_written(inputs, before, x, tokens, confidence):
    place = tuple((before != inputs.mask_id).nonzero()[0].tolist())
    x[place] = (x[place] + 1) % inputs.case.vocab
    return tokens, confidence


def other_token_written(inputs, before, x, tokens, confidence):
    place = tuple((x != before).nonzero()[0].tolist())
    x[place] = (x[place] + 1) % inputs.case.vocab
    return tokens, confidence


FAULTS = [wrong_token, out_of_range, wrong_confidence, no_number, wrong_shape, least_confident, one_missing]
FAULTS += [one_too_many, prompt_written, other_token_written]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_outputs_get_no_number(fault, temperature):
    (ours, row) = measured([small(temperature=temperature)], [planted(fault)])
    check_row(ours)
    assert row["us"] is None and row["skipped"].startswith("check failed: ") and not row["check"]["passed"]
    assert "us" in json.loads(json.dumps(row, allow_nan=False))


def test_nothing_planted_passes():
    rows = measured([small(temperature=t) for t in (0.0, 1.0)], [planted(lambda i, b, x, t, c: (t, c))])
    assert [row["skipped"] for row in rows] == [""] * 4


def test_gumbel_noise_is_replayed():
    """The published noise is checked draw by draw: other noise, or a law at another temperature, does not pass."""
    case = small(temperature=1.0)
    inputs = make_inputs(case, make_logits(case))

    def build(temperature, skip):
        def step(x, uniform=None):
            torch.rand(skip)
            return peers.llada(dataclasses.replace(inputs, case=dataclasses.replace(case, temperature=temperature)))(x)

        return step

    assert check(PROVIDERS["llada"], build(1.0, 0), inputs).passed
    assert not check(PROVIDERS["llada"], build(1.0, 1), inputs).passed
    assert not check(PROVIDERS["llada"], build(2.0, 0), inputs).passed


def test_ties_are_settled_not_hidden():
    """Equal maxima: any of them is right, one below is not."""
    case = small(vocab=64, rows=2, batch=1, open_rows=2, k=1)
    logits = torch.zeros(1, 2, 64)
    logits[0, 0, [3, 9]] = 5.0
    inputs = make_inputs(case, logits)

    def step(token):
        def call(x, uniform=None):
            tokens, confidence = peers.fp32_greedy(logits)
            tokens[0, 0] = token
            peers.commit_topk(x, tokens, confidence, 1, inputs.mask_id)
            return tokens, confidence

        return call

    found = [check(PROVIDERS["torch_fp32"], step(token), inputs) for token in (3, 9, 4)]
    assert [result.passed for result in found] == [True, True, False] and found[1].ties == found[0].ties + 1


def test_a_peer_that_cannot_run_does_not_end_the_others():
    def build(inputs):
        raise RuntimeError("no compiler here\nand more")

    rows = measured([small()], [Provider("broken", "compiled", "", build), "llada"])
    assert [row["skipped"] for row in rows if row["us"] is None] == ["RuntimeError: no compiler here"]


# -- parts --


def test_cases():
    everything = select("all")
    assert len({case.id for case in everything}) == len(everything) == len(set(everything))
    assert all(case.bytes_min > 0 for case in everything)
    assert [case.temperature for case in select("bars", "1x256.*bf16")] == [0.0, 1.0]
    assert [len(group) for group in groups(select("bars"))] == [2, 2, 2, 2]
    bad = {"rows": 0, "k": 999, "dtype": "int8", "dist": "flat", "op": "sort", "open_rows": 0}
    for field, value in bad.items():
        with pytest.raises(ValueError, match=f"^{field}: must be .*, got "):
            Case(**{field: value})


def test_logits_are_what_their_name_says():
    normal = make_logits(small(vocab=50000, rows=4, open_rows=4, k=1))
    assert normal.shape == (2, 2, 50000) and abs(normal.std().item() - 3) < 0.05 and abs(normal.mean().item()) < 0.05
    assert torch.equal(normal, make_logits(small(vocab=50000, rows=4, open_rows=4, k=1)))
    best = make_logits(small(vocab=50000, rows=64, open_rows=64, dist="peaked")).softmax(-1).amax(-1)
    assert best.min() < 0.6 and best.max() > 0.99
    assert 295 < make_logits(small(dist="huge")).abs().max() < 330


def test_samples_are_interleaved_and_paired():
    calls = []
    entries = [Entry(name, partial(calls.append, name)) for name in ("a", "b", "c")]
    interleave(entries, Method(budget_s=1.0, sample_s=1e-7, min_rounds=4, max_rounds=4), threads=1)
    assert all(sorted(entry.samples) == [0, 1, 2, 3] for entry in entries)
    rounds = [calls[i : i + 9] for i in range(3, len(calls), 9)]  # three entries x (two warm-up calls + one timed)
    assert all(sorted(part) == sorted("abc" * 3) for part in rounds) and len({tuple(part) for part in rounds}) > 1

    for total in (1, 3, 25):
        assert sorted(spread(total)) == list(range(total))
    taken = [number for number, place in enumerate(spread(25)) if place < 3]  # a slow entry: not all at one end
    assert taken[0] < 5 and taken[-1] > 12 and min(b - a for a, b in zip(taken, taken[1:])) > 3

    slow, fast = Entry("slow", None), Entry("fast", None)
    fast.samples = {r: Sample(1.0 + r, 1, 0) for r in range(5)}
    slow.samples = {r: Sample(3.0 * (1 + r), 1, 0) for r in (0, 2, 4)}
    found = ratio(slow, fast)  # the machine slowed down fivefold meanwhile; the paired ratio does not see it
    assert found["median"] == found["p10"] == found["p90"] == 3 and found["pairs"] == 3
    assert quantiles([3.0]) == {"median": 3.0, "p10": 3.0, "p90": 3.0, "min": 3.0}


def test_timing_plan():
    method = Method(budget_s=3.0, sample_s=0.05, min_rounds=3, max_rounds=25)
    assert method.plan(5e-3) == (10, 25)
    assert method.plan(0.19) == (1, 5)  # two warm-up calls belong to the cost of a sample
    assert method.plan(2.0) == (1, 3)


def test_memory_is_measured():
    if peak_extra_bytes(lambda: None) is None:
        pytest.skip("/proc does not tell here")
    buffer = torch.ones(1 << 22)
    assert 15 << 20 < peak_extra_bytes(lambda: buffer * 2) < 40 << 20
    assert peak_extra_bytes(lambda: buffer.mul_(2)) < 4 << 20


def test_accuracy():
    for dist in ("normal3", "huge"):
        assert confidence_error(small(dist=dist, temperature=1.0)) <= 2e-6
    assert grid_deviation(draws=4000, vocab=50) <= 2


# -- verdicts and tables --


def bar_rows(allocator: str = "tuned", slow: float = 1.0) -> list[dict]:
    """Rows as a run of the bars would leave them; every ratio is far above its bar, divided by `slow`."""
    rows = []
    env = {"allocator": allocator, "threads": 2, "backend": "cpu (avx512)", "cpu": "C", "cpu_family": "1/2"}
    env |= {"isa": ["avx512f"], "torch": "2"}
    for case in select("bars", "1x256"):
        for name in [*PROVIDERS, f"{OURS}[avx2]"]:
            factor = {OURS: 1.0, f"{OURS}[avx2]": 1.5}.get(name, 1000.0) / slow
            row = {"schema": "dlm_bench/1", "time": "t", "case": {**dataclasses.asdict(case), "id": case.id}}
            row |= {"provider": {"name": name, "kind": "ours"}, "env": env, "skipped": "", "switches_per_s": 1}
            row |= {"us": {"median": 1e3 * factor}, "ratio": {"median": factor}, "bytes_min": case.bytes_min}
            row |= {"peak_extra_bytes": 4096, "peak_extra_share": 1e-4, "roofline": {"fraction": 0.9 / slow}}
            row |= {"ratio_to_greedy": {"median": 1.05 * slow} if case.temperature else None}
            rows.append(row)
    for kind, value in (("confidence", 1e-7), ("grid", 4.0)):
        rows.append({"schema": "dlm_bench/1", "time": "t", "accuracy": kind, "value": value, "skipped": "", "env": env})
    return rows


def test_bars_pass_fail_and_unknown():
    rows = bar_rows("tuned") + bar_rows("default")
    found = bars.verdicts(rows)
    assert {v["verdict"] for v in found} == {"pass"} and bars.summary(found).startswith("0 failed, ")
    assert {v["verdict"] for v in bars.verdicts([])} == {"not measured"}
    half = bars.verdicts(bar_rows("tuned"))
    assert {v["verdict"] for v in half if "default" in v["work"]} == {"not measured"}
    slow = bars.verdicts(bar_rows("tuned", slow=600.0) + bar_rows("default", slow=600.0))
    kept = ("AVX2", "extra memory", "confidence", "draw on a grid")
    for v in slow:
        assert v["verdict"] == ("pass" if any(word in v["work"] + v["against"] for word in kept) else "FAIL"), v


def test_bars_ask_for_their_own_conditions():
    """Other thread counts, other logits or another default instruction set do not stand in."""
    for change in ({"threads": 4}, {"allocator": "custom"}):
        rows = bar_rows()
        for row in rows:
            row["env"] = {**row["env"], **change}
        assert {v["verdict"] for v in bars.verdicts(rows) if "256 rows" in v["work"]} == {"not measured"}
    rows = bar_rows()
    for row in rows:
        row["env"] = {**row["env"], "backend": "cpu (avx2)"}
    (isa,) = (v for v in bars.verdicts(rows) if "AVX2" in v["work"] and "tuned" in v["work"])
    assert isa["verdict"] == "not measured" and "needs cpu (avx512)" in isa["measured"]


def test_wrong_outputs_of_ours_fail_the_bars():
    """No number is no pass: with our own outputs wrong every bar on them fails, with the reason; a peer's is only
    not measured. A NaN is not lost in a maximum."""
    rows = bar_rows()
    for row in rows:
        if row.get("case", {}).get("dtype") == "bf16" and row["provider"]["name"] == OURS:
            row.update(us=None, skipped="check failed: 1 wrong tokens", ratio=None)
        if row.get("case", {}).get("dtype") == "fp32" and row["provider"]["name"] == "compiled_chunked":
            row.update(us=None, skipped="no compiler")
    rows.insert(-1, {**rows[-1], "accuracy": "confidence", "value": float("nan")})
    for v in bars.verdicts(rows):
        if "bf16" in v["work"] and "tuned" in v["work"]:
            assert v["verdict"] == "FAIL" and "1 wrong tokens" in v["measured"]
        if "fp32" in v["work"] and "tuned" in v["work"] and "compiled" in v["against"]:
            assert v["verdict"] == "not measured" and "compiled_chunked: no compiler" in v["measured"]
        if v["work"].startswith("confidence"):
            assert v["verdict"] == "FAIL"


def test_a_failed_bar_shows_and_fails_the_command(monkeypatch, capsys, tmp_path):
    rows = bar_rows("tuned") + bar_rows("default")
    rows[1]["ratio"]["median"] = 15.9  # LLaDA, bf16, T = 0, tuned: 16x is required
    for row in rows:
        if "case" in row:
            row.update(us={"median": 1.0, "p10": 1.0, "p90": 1.0}, gbps=1.0, check={"ties": 0})
            row["roofline"] |= {"bound": "exp", "read_gbps": 1, "exp_peak_gels": 1, "exp_peak_gels_all_threads": 1}
            row["roofline"]["fraction_together"] = 1
    monkeypatch.setattr(cli, "_run", lambda args, chosen, allocator, *rest, **more: iter(copy.deepcopy(rows)))
    assert bench("--set", "bars", "--allocator", "tuned", "--out", str(tmp_path / "r.jsonl")) == 1
    printed = capsys.readouterr().out
    assert "15.90x" in printed and "FAIL" in printed and "1 failed, " in printed
    assert len(report.load([tmp_path / "r.jsonl"])) == len(rows)
    monkeypatch.setattr(cli, "_run", lambda args, chosen, allocator, *rest, **more: iter(()))
    assert bench("--set", "bars") == 0  # nothing failed, nothing measured, and it says so
    assert "0 failed, 0 passed" in capsys.readouterr().out


def test_tables_on_a_terminal(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    report.print_table("T=0 [x]", ("provider", "step"), [("dlm_kernels[avx2]", "1 ms"), ("llada", "2 ms")])
    printed = capsys.readouterr().out
    assert "dlm_kernels[avx2]" in printed and "T=0 [x]" in printed and "\u2502" in printed


def test_readme_tables_regenerate(tmp_path, capsys):
    results, readme = tmp_path / "rows.jsonl", tmp_path / "README.md"
    rows = measured([small(rows=256, batch=1, open_rows=256, temperature=t) for t in (0.0, 1.0)]) + bar_rows(slow=600.0)
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--readme", str(readme), "--results", str(results)]
    readme.write_text("# Title\n")
    assert bench(*arguments) == 2 and "must hold" in capsys.readouterr().err
    readme.write_text(f"# Title\n\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert bench(*arguments, "--check") == 1 and "old" in readme.read_text()
    assert bench(*arguments) == 0 and bench(*arguments, "--check") == 0
    text = readme.read_text()
    assert text.startswith("# Title\n") and text.endswith("after\n") and "old" not in text
    assert "| llada |" in text and "temperature 1," in text and "**FAIL**" in text
    readme.write_text(text.replace("**FAIL**", "pass", 1))
    assert bench(*arguments, "--check") == 1
    results.write_text('{"schema": "other"}\n')
    assert bench(*arguments) == 2 and "rows.jsonl:1: schema must be dlm_bench/1" in capsys.readouterr().err


def test_overhead(capsys, tmp_path):
    """Every step is there, through torch and through array, beside torch.add; the verdict is on the time."""
    path = tmp_path / "rows.jsonl"
    status = bench("--overhead", "--quick", "--out", str(path))
    rows, printed = report.load([path]), capsys.readouterr().out
    assert status == int(overhead.failed(rows))
    assert [row["overhead"]["through"] for row in rows] == ["", *["torch"] * 8, *["array"] * 8]
    for row in rows:
        assert row["overhead"]["call"] in printed and row["us"]["min"] > 0
        assert row["overhead"]["ratio"] == pytest.approx(row["us"]["min"] / rows[0]["us"]["min"])
    slow = {"overhead": {"at_most": 10.0}, "us": {"min": 10.1}}
    assert overhead.verdict(slow) == bars.FAIL and overhead.failed([slow])
    assert overhead.verdict({**slow, "us": {"min": 9.9}}) == bars.PASS
