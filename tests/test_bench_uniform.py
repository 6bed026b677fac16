"""The bench of the uniform family: its peers compute what they stand for, its check sees faults, its bars and tables tell the
truth."""

import dataclasses
import json
import subprocess
import sys
from functools import partial

import dense_posteriors as dense
import pytest
import torch
from dlm_kernels.bench import bars, cli, peers, report, schedule, side_by_side, uniform_accuracy, uniform_check
from dlm_kernels.bench.cases import OURS, SETS, UNIFORM_OPS, Case, groups, select
from dlm_kernels.bench.inputs import make_inputs, make_logits
from dlm_kernels.bench.peers import PROVIDERS, Provider
from dlm_kernels.bench.timing import Method
from dlm_kernels.bench.uniform_careful import routes
from dlm_kernels.bench.uniform_peers import diffusion_gemma_noise, duo_noise, multinomial_noise

from dlm_kernels import reference, transitions

FAST = Method(budget_s=0.01, sample_s=0.001, min_rounds=2, max_rounds=3)


def small(op, **fields):
    shared = {"rows": 24, "batch": 2, "vocab": 1500, "dist": "peaked", "temperature": 1.0}
    model = {"uniform_step": "sumi", "transition_step": "gidd", "renoise_step": "gemma"}.get(op, "sumi")
    shared |= {"model": model, "steps": 3 if op in ("uniform_step", "transition_step") else 0}
    return Case(**{"op": op, **shared, **fields})


CASES = (
    small("uniform_step"),
    small("uniform_step", steps=1, temperature=0.7, dtype="fp32"),
    small("transition_step"),
    small("transition_step", vocab=2100, steps=5, dtype="fp32"),
    small("transition_step", model="duo", steps=4),
    small("renoise_step", temperature=0.6, dtype="fp32"),
    small("select_step", k=4, confidence="gain", temperature=0.0),
    small("select_step", k=4, confidence="gain", temperature=0.7),
    small("select_step", k=12, temperature=0.0),
    small("q_sample", model="gidd", vocab=300, temperature=0.0),
    small("q_sample", vocab=300, temperature=0.0),
    # Few tokens: x_t is plausible where its row is routed to the model.
    small("uniform_step", vocab=40, rows=600, steps=2, dist="normal1"),
    small("transition_step", vocab=40, rows=600, steps=4, dist="normal1"),
)
EAGER = [name for name, provider in PROVIDERS.items() if provider.kind != "compiled"]


def inputs_of(case):
    return make_inputs(case, make_logits(case))


def ids(cases):
    return [case.id for case in cases]


# -- every step and every peer --


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_every_provider_passes_the_check(case, monkeypatch):
    """The compiled ones trace into one graph; what inductor makes of it is torch's business."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    rows = side_by_side([case], method=FAST)
    wanted = {name for name, provider in PROVIDERS.items() if provider.takes(case)}
    assert {row["provider"]["name"] for row in rows} == wanted and {OURS, "torch_fp32"} <= wanted
    for row in rows:
        assert row["skipped"] == "" and row["check"]["passed"] and row["us"]["median"] > 0
        assert row["bytes_min"] > 0 and row["ratio"]["median"] > 0
        fields = {key: value for key, value in row["case"].items() if key not in ("id", "layout")}
        assert Case(**fields) == case and Case(**fields).id == row["case"]["id"]


def test_the_greedy_step_is_timed_beside():
    case = small("uniform_step", steps=1)
    for row in side_by_side([case, case.greedy], [OURS], method=FAST):
        assert (row["ratio_to_greedy"] is not None) == (row["case"]["op"] == "uniform_step")
    assert case.greedy.group == case.group and case.greedy.greedy is None
    assert small("select_step", k=4, confidence="gain").greedy == case.greedy
    assert Case(temperature=1.0).greedy == Case() and Case().greedy is None and small("q_sample").greedy is None


@pytest.mark.parametrize("case", CASES[:6] + CASES[-2:], ids=ids(CASES[:6] + CASES[-2:]))
@pytest.mark.parametrize("name", ["torch_fp32", "compiled_chunked"])
def test_peers_agree_with_the_reference(case, name, monkeypatch):
    """Fed the same numbers, the honest competitors do what the reference does, token by token."""
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    inputs = inputs_of(case)
    x, y = inputs.canvas.clone(), inputs.canvas.clone()
    out = PROVIDERS[name].build(inputs)(x, inputs.uniform)
    one, temperature = torch.zeros(1, dtype=torch.int64), torch.tensor([case.temperature])
    if case.op == "renoise_step":
        expected, _, entropy, _, accepted, *_ = reference.renoise_step_(
            y,
            inputs.logits,
            temperature,
            one,
            one,
            one,
            rule="entropy_budget",
            level=0.1,
            confidence_from="sampled",
            uniform=inputs.uniform,
        )
        assert torch.equal(out.accepted, accepted) and 0 < int(accepted.sum()) < case.rows
        assert torch.allclose(out.confidence, entropy, atol=1e-4)
    else:
        made = {
            "sumi": lambda: transitions.uniform(*schedule.sumi(case)),
            "duo": lambda: transitions.duo_psi(*schedule.duo(case), schedule.KAPPA),
            "gidd": lambda: transitions.gidd(*schedule.times(case), schedule.P_UNIFORM),
        }[case.model]()
        kwargs = {"suppress": torch.tensor([case.mask_id])} if case.mask_id is not None else {}
        expected, route, p, *_ = reference.transition_step_(
            y,
            inputs.logits,
            temperature,
            one,
            one,
            made.coefficients,
            mask_id=-1 if case.mask_id is None else case.mask_id,
            uniform=inputs.uniform,
            **kwargs,
        )
        assert torch.allclose(out.confidence.float(), p, rtol=1e-4) and route.any()
    assert torch.equal(out.tokens, expected) and torch.equal(x, y)


@pytest.mark.parametrize("model", ["sumi", "duo", "gidd"])
@pytest.mark.parametrize("steps", [1, 5, 1000])
def test_truth_is_bayes_rule(model, steps):
    """The check's posterior is the dense one of the papers, and the closed forms of the careful peers make the same."""
    op = "uniform_step" if model == "sumi" else "transition_step"
    case = small(op, model=model, vocab=37, steps=max(steps, 2) if model == "gidd" else steps)
    g = torch.Generator().manual_seed(0)
    x = torch.randint(36, (60,), generator=g)
    if model == "gidd":
        x[::3] = case.mask_id
    logits = 3 * torch.randn(60, 37, generator=g, dtype=torch.float64)
    if case.mask_id is not None:
        logits[:, case.mask_id] = -torch.inf
    law = logits.softmax(-1)
    wide = lambda value: torch.full((60,), value, dtype=torch.float64)
    if model == "gidd":
        numbers = [wide(v) for v in schedule.times(case)]
        expected = dense.gidd(law, x, *numbers, schedule.P_UNIFORM, case.mask_id)
    else:
        t, s = schedule.sumi(case) if model == "sumi" else schedule.duo(case)
        numbers = wide(t.alpha), wide(s.alpha)
        expected = dense.sumi(law, x, *numbers)
        if model == "duo":
            expected = dense.duo_psi(law, x, *numbers, wide(schedule.KAPPA))
    found = uniform_check.posterior(case, law, x)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-15)
    assert torch.allclose(found.sum(-1), wide(1.0), rtol=1e-12)

    p, is_mask = law.gather(-1, x[:, None])[:, 0], x == (-1 if case.mask_id is None else case.mask_id)
    noise, mask, model_weight = routes(case)(p, is_mask)
    _, *truth = uniform_check.weights(case, p, is_mask)
    truth[2] = torch.where(is_mask, 0.0, truth[2])
    for closed, exact in zip((model_weight, noise, mask), truth):
        assert torch.allclose(closed, exact + torch.zeros_like(closed), rtol=1e-9, atol=1e-15)


def test_replayed_noise_is_torchs_own():
    """What check.py replays is what torch.multinomial, Duo's Gumbel draw and the renoising of transformers have read."""
    case = small("renoise_step", vocab=211, dtype="fp32")
    inputs = inputs_of(case)
    law = torch.rand(case.rows, case.vocab)
    torch.manual_seed(5)
    drawn, noise = torch.multinomial(law, 1)[:, 0], torch.randint(case.vocab, inputs.canvas.shape)
    torch.manual_seed(5)
    variates, replayed = diffusion_gemma_noise(inputs)
    assert torch.equal((law / variates).argmax(-1), drawn) and torch.equal(noise, replayed)
    torch.manual_seed(5)
    assert torch.equal(variates, multinomial_noise(inputs))
    torch.manual_seed(5)
    fresh = duo_noise(inputs)
    torch.manual_seed(5)
    assert torch.equal(fresh, 1e-10 - (torch.rand(case.rows, case.vocab, dtype=torch.float64) + 1e-10).log())


# -- the check --


def judged(case, name, fault, **changes):
    """The verdict on the provider's step with one thing wrong; `changes`: it works on another case than it is judged for."""
    inputs, provider = inputs_of(case), PROVIDERS[name]
    step = provider.build(dataclasses.replace(inputs, case=dataclasses.replace(case, **changes)))

    def wrong(x, uniform=None):
        out = fault(inputs, step(x, uniform))
        if out.tokens.shape == x.shape and case.op != "q_sample" and case.confidence != "gain":
            x.copy_(out.tokens)
        return out

    return uniform_check.check(provider, wrong, inputs)


def whole(inputs, out):
    return out


def other_token(inputs, out):
    tokens = out.tokens.clone()
    tokens[0, 3] = (tokens[0, 3] + 1) % inputs.case.vocab
    return out._replace(tokens=tokens)


def out_of_range(inputs, out):
    tokens = out.tokens.clone()
    tokens[1, 3] = inputs.case.vocab
    return out._replace(tokens=tokens)


def wrong_number(inputs, out):
    confidence = out.confidence.clone()
    confidence[1, 2] = confidence[1, 2] * 1.01 + 0.01
    return out._replace(confidence=confidence)


def no_number(inputs, out):
    confidence = out.confidence.clone()
    confidence[1, 2] = torch.nan
    return out._replace(confidence=confidence)


def wrong_shape(inputs, out):
    return out._replace(tokens=out.tokens[:, :-1])


def one_more_accepted(inputs, out):
    accepted = out.accepted.clone()
    accepted[tuple((~accepted).nonzero()[0])] = True
    return out._replace(accepted=accepted)


def one_less_accepted(inputs, out):
    accepted = out.accepted.clone()
    accepted[tuple(accepted.nonzero()[0])] = False
    return out._replace(accepted=accepted)


def second_best(inputs, out):
    argmax = out.argmax.clone()
    argmax[0, 0] = inputs.logits[0, 0].float().topk(2).indices[1]
    return out._replace(argmax=argmax)


def wrong_end(inputs, out):
    return out._replace(done=~out.done)


TOKENS = (other_token, out_of_range, wrong_shape)
NUMBERS = (wrong_number, no_number)
ACCEPTING = (one_more_accepted, one_less_accepted, second_best, wrong_end)
PLANTED = [
    *((0, name, fault) for name in (OURS, "torch_fp32", "sumi") for fault in TOKENS + NUMBERS),
    *((2, name, fault) for name in (OURS, "gidd") for fault in TOKENS + NUMBERS),
    *((4, "duo", fault) for fault in TOKENS + NUMBERS),
    *((5, name, fault) for name in (OURS, "diffusion_gemma") for fault in TOKENS + NUMBERS + ACCEPTING),
    *((i, name, fault) for i in (8, 9) for name in (OURS, "torch_fp32") for fault in TOKENS),
    (9, "gidd", other_token),
]


@pytest.mark.parametrize(("number", "name", "fault"), PLANTED, ids=lambda v: getattr(v, "__name__", str(v)))
def test_faults_are_seen(number, name, fault):
    assert judged(CASES[number], name, whole).passed
    result = judged(CASES[number], name, fault)
    assert not result.passed and result.why
    assert "why" in json.loads(json.dumps(result.to_json(), allow_nan=False))


@pytest.mark.parametrize(
    ("number", "name", "changes"),
    [
        (0, OURS, {"steps": 2}),
        (0, "sumi", {"steps": 2}),
        (0, "torch_fp32", {"temperature": 0.7}),
        (2, "gidd", {"steps": 2}),
        (4, "duo", {"steps": 2}),
        (5, "diffusion_gemma", {"temperature": 0.7}),
        (5, "torch_fp32", {"temperature": 0.7}),
        (7, "sumi", {"temperature": 1.0}),
        (7, OURS, {"k": 99}),
        (7, OURS, {"k": 101}),
    ],
)
def test_another_law_is_seen(number, name, changes):
    """The law of another step of the schedule, of another temperature, or another quota."""
    case = dataclasses.replace(CASES[number], rows=400, open_rows=400, k=100)
    assert judged(case, name, whole).passed and not judged(case, name, whole, **changes).passed


def test_an_unwritten_canvas_is_seen():
    case = CASES[1]
    inputs = inputs_of(case)
    step = PROVIDERS["torch_fp32"].build(inputs)
    assert not uniform_check.check(PROVIDERS["torch_fp32"], lambda x, u=None: step(x.clone(), u), inputs).passed


@pytest.mark.parametrize("name", [OURS, "torch_fp32", "diffusion_gemma"])
def test_the_end_of_a_run(name):
    """All positions certain and the argmax that of the step before: at rest. One token else: not."""
    case = small("renoise_step", dtype="fp32")
    logits = torch.nn.functional.one_hot(torch.arange(24).view(2, 12), case.vocab) * 40.0
    inputs = make_inputs(case, logits)
    for clean in (inputs.clean, inputs.clean + (torch.arange(2) == 1)[:, None]):
        given = dataclasses.replace(inputs, clean=clean)
        step = PROVIDERS[name].build(given)
        assert uniform_check.check(PROVIDERS[name], step, given).passed
        out = step(inputs.canvas.clone())
        assert out.done.tolist() == [True, bool((clean == inputs.clean).all())] and out.accepted.all()


def test_one_hots_have_their_limit():
    rows = side_by_side([small("q_sample", model="gidd", vocab=50258, rows=8192, temperature=0.0)], method=FAST)
    by = {row["provider"]["name"]: row for row in rows}
    assert by["gidd"]["us"] is None and "one-hots" in by["gidd"]["skipped"] and by[OURS]["us"]


# -- cases, rare noise --


def test_sets():
    assert set(SETS["uniform_bars"]) <= set(select("uniform"))
    measured = select("uniform")
    assert {case.op for case in measured} == set(UNIFORM_OPS)
    drawing = [case for case in select("uniform_bars") if case.temperature and case.op == "uniform_step"]
    assert len(drawing) == 2 and len(groups(select("uniform_bars"))) == 2
    assert all(case.greedy in select("uniform_bars") for case in drawing)
    for case in measured:
        assert max(8 * case.rows * case.vocab, case.bytes_min) < 10 << 30 or case.op == "q_sample"
    for fields, message in (
        ({"model": "llada"}, "model: must be one of sumi for uniform_step"),
        ({"steps": 0}, "steps: must be > 0 for uniform_step"),
        ({"open_rows": 12}, "open_rows: must be rows"),
        ({"confidence": "gain"}, "confidence: must not be 'gain'"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            small("uniform_step", **fields)


def test_canvases_are_noised_as_their_schedule_says():
    for case in (small("transition_step", rows=4000, vocab=50, steps=2), small("uniform_step", rows=4000, vocab=50)):
        inputs, (level, share) = inputs_of(case), schedule.noised(case)
        kept = (inputs.canvas == inputs.clean).float().mean().item()
        assert abs(kept - level.alpha - level.noise * share / 50) < 0.04
        if case.mask_id is not None:
            masked = (inputs.canvas == case.mask_id).float().mean().item()
            assert abs(masked - level.noise * (1 - share)) < 0.04


def test_rare_noise():
    """The experiment at a size for tests: ours within chance, exact on a grid, and a race that is short of bits loses mass."""
    problem = uniform_accuracy.Problem.make(vocab=2000, steps=20)
    assert sum(problem.exact()) == pytest.approx(1)
    row = uniform_accuracy.keyed(problem, 1 << 13)
    assert row["value"] < 3.5 and row["expected"] > 300 and row["rows"] == 1 << 13
    assert uniform_accuracy.grid_deviation(problem, 1 << 12) <= 1.01
    for kind in ("log", "cuda", "fp64"):
        row = uniform_accuracy.race(problem, kind, 1 << 12)
        assert row["value"] < 3.5 and row["expected"] > 100, kind
    # As few tokens cannot show a real loss: 2^-24 is far below what each weighs here. One bit less than each needs does.
    posterior = torch.full((200,), 1e-9)
    posterior[[7, 8]] = torch.tensor([0.999, 0.001])
    others = torch.ones(200, dtype=torch.bool)
    others[[7, 8]] = False
    lost = uniform_accuracy._emulated_race(posterior, others, "cuda", 1 << 16)
    assert lost == 0 and uniform_accuracy._dense_race(posterior, others, 1 << 12) == 0


# -- the command line, verdicts and tables --


def bar_rows(slow=1.0):
    """Rows as a run of the bars would leave them; every ratio is far above its bar, divided by `slow`."""
    rows = []
    env = {"allocator": "tuned", "threads": 2, "backend": "cpu (avx512)", "cpu": "C", "cpu_family": "1/2"}
    env |= {"isa": ["avx512f"], "torch": "2"}
    for case in select("uniform_bars"):
        for name in (name for name, provider in PROVIDERS.items() if provider.takes(case)):
            factor = 1.0 if name == OURS else 1000.0 / slow
            row = {"schema": "dlm_bench/1", "time": "t", "case": {**dataclasses.asdict(case), "id": case.id}}
            row |= {"provider": {"name": name, "kind": "ours"}, "env": env, "skipped": "", "switches_per_s": 1}
            row |= {"us": {"median": 1e3 * factor, "p10": 1.0, "p90": 1.0}, "ratio": {"median": factor}, "gbps": 1.0}
            row |= {"check": {"ties": 0}, "peak_extra_bytes": 4096, "roofline": None}
            row["ratio_to_greedy"] = {"median": 1.05 * slow} if case.greedy and name == OURS else None
            rows.append(row)
    for kind, what, value in (("rare_noise", "ours", 1.2), ("rare_noise_peer", "race", 9.0), ("route_grid", "", 0.5)):
        row = {"schema": "dlm_bench/1", "time": "t", "accuracy": kind, "what": what, "value": value * slow, "env": env}
        rows.append({**row, "skipped": "", "events": 22, "expected": 130.5, "rows": 65536})
    return rows


def test_bars():
    found = bars.verdicts(bar_rows(), bars.UNIFORM_BARS)
    assert len(found) == 11 and {v["verdict"] for v in found} == {"pass"}
    assert {v["verdict"] for v in bars.verdicts(bar_rows(slow=300.0), bars.UNIFORM_BARS)} == {"FAIL"}
    assert {v["verdict"] for v in bars.verdicts([], bars.UNIFORM_BARS)} == {"not measured"}
    assert {v["verdict"] for v in bars.verdicts(bar_rows())} == {"not measured"}  # those of the masked family
    rows = bar_rows()
    for row in rows:
        if row.get("case", {}).get("steps") == 1 and row["provider"]["name"] == OURS:
            row.update(us=None, skipped="check failed: 1 wrong tokens", ratio=None, ratio_to_greedy=None)
    for v in bars.verdicts(rows, bars.UNIFORM_BARS):
        assert v["verdict"] == ("FAIL" if "one step in all" in v["work"] else "pass")


@pytest.mark.parametrize("name", ["uniform_bars", "uniform"])
def test_the_sets_state_their_bars(name, monkeypatch, capsys, tmp_path):
    import argparse

    def run(*arguments):
        parser = argparse.ArgumentParser()
        cli.add_arguments(parser)
        return cli.main(parser.parse_args(["--set", name, *arguments]))

    asked = []

    def rows(args, chosen, allocator, stated, accuracy):
        asked.append((allocator, stated, accuracy))
        return iter(bar_rows(slow=slow))

    monkeypatch.setattr(cli, "_run", rows)
    slow = 1.0
    assert run("--out", str(tmp_path / "rows.jsonl")) == 0 and asked == [("tuned", True, "uniform")]
    printed = capsys.readouterr().out
    assert "0 failed, 11 passed" in printed and "0.17 ± 0.09" in printed and "uniform_step sumi" in printed
    assert len(report.load([tmp_path / "rows.jsonl"])) == len(bar_rows())
    slow = 300.0
    assert run("--filter", "uniform_step") == 1 and asked[-1] == ("tuned", True, "")
    assert "11 failed" in capsys.readouterr().out


def test_readme_has_markers_of_its_own(tmp_path):
    readme = tmp_path / "README.md"
    masked = f"{report.BEGIN}\n{report.END}\n"
    readme.write_text(masked)
    assert report.readme(readme, [], check=False) is False and report.readme(readme, [], check=True)
    with pytest.raises(ValueError, match="bench:uniform:begin"):
        report.readme(readme, bar_rows(), check=False)
    readme.write_text(f"{masked}between\n{report.UNIFORM_BEGIN}\nold\n{report.UNIFORM_END}\nafter\n")
    assert not report.readme(readme, bar_rows(), check=False) and report.readme(readme, bar_rows(), check=True)
    above, below = readme.read_text().split("between")
    assert "sumi" not in above and "old" not in below and below.endswith("after\n")
    assert "| sumi_compiled |" in below and "11 passed" in below and "0.17 ± 0.09" in below


def test_the_measuring_process(tmp_path):
    """The worker itself, on shapes that no set has."""
    cases = [dataclasses.asdict(case) for case in (CASES[0], CASES[5], CASES[9])]
    job = {"cases": cases, "providers": EAGER, "isa": True, "method": dataclasses.asdict(FAST), "threads": 1}
    job |= {"accuracy": "", "progress": False}
    command = [sys.executable, "-m", "dlm_kernels.bench.worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3 + 3 + 3 and all(row["skipped"] == "" and row["us"] for row in rows)
    for case_rows in (rows[:3], rows[3:6]):
        report.print_case(case_rows)


def test_providers_are_described():
    for provider in PROVIDERS.values():
        assert isinstance(provider, Provider) and provider.about and len(provider.about) < 120
        assert (provider.replay is not None) == (provider.noise == "own")
    assert peers.resolve(["sumi"])[1].models == ("sumi",)
