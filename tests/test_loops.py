"""The bench of whole loops: other tokens give no number, shares and verdicts are right, the table has every loop."""

import time

import pytest
import torch
from dlm_kernels.bench import loops, loops_report, machine
from dlm_kernels.bench.loops import Built, Loop
from dlm_kernels.bench.timing import Method

import dlm_kernels as dlm

FAST = Method(budget_s=0.01, sample_s=0.001, min_rounds=2, max_rounds=3)


class Model(torch.nn.Module):
    def forward(self, x):
        time.sleep(0.004)
        return x


def loop_of(seconds, model, tokens=3):
    def run():
        x = model(torch.tensor([tokens]))
        time.sleep(seconds)
        return x

    return run


def built(slow=0.06, fast=0.0, tokens=3):
    model = Model()
    return Built(loop_of(slow, model), model, run_accelerated=loop_of(fast, model, tokens))


def toy(build=built, **fields):
    return Loop("toy", "import toy", 10, 4, 1, lambda vocab: build(), **fields)


def row_of(loop):
    [row] = loops.rows([loop], FAST, threads=1)
    return row


def test_a_loop_is_measured_with_its_share():
    row = row_of(toy(at_least=1.5))  # 16, on a machine with nothing else to do
    assert row["skipped"] == "" and row["ratio"]["median"] > 1.5
    assert row["before"]["share"] > row["after"]["share"] + 0.1
    assert loops.verdict(row) == "pass" and not loops_report.failed([row])
    assert loops.verdict({**row, "loop": {**row["loop"], "at_least": 1e6}}) == "FAIL"


def test_other_tokens_get_no_number():
    row = row_of(toy(lambda: built(tokens=4)))
    assert row["ratio"] is None and "other tokens" in row["skipped"]
    assert loops_report.failed([row])
    assert row_of(toy(lambda: built(tokens=4), same=False))["ratio"] is not None


def test_a_missing_client_is_left_out_with_the_reason():
    def build():
        raise ImportError("No module named 'client'")

    row = row_of(toy(build, at_least=3.0))
    assert loops.verdict(row) == "not measured" and "No module named 'client'" in row["skipped"]


def test_the_client_is_accelerated_only_in_its_turn(monkeypatch):
    from contextlib import contextmanager

    state = {"on": False}

    @contextmanager
    def accelerated(client):
        state["on"] = True
        yield client
        state["on"] = False

    seen = []

    def run():
        seen.append(state["on"])
        return model(torch.zeros(1))

    model = Model()
    monkeypatch.setattr(loops, "accelerated", accelerated)
    row_of(toy(lambda: Built(run, model, client=object())))
    assert True in seen and False in seen and not state["on"]


def test_the_readme_has_the_newest_row_of_each_loop():
    env = machine.describe(1)
    rows = [{**row_of(toy()), "env": env}, {**row_of(toy(at_least=1.5)), "env": env}]
    text = loops_report.markdown(rows)
    assert text.count("| toy |") == 1 and ">= 1.5x" in text and "`import toy`" in text


@pytest.mark.parametrize("loop", loops.select(), ids=lambda loop: loop.name)
def test_the_shipped_loops_say_what_they_are(loop):
    assert loop.name and loop.line and loop.steps >= 1 and loop.vocab > 1 and loop.rows >= 1


@pytest.mark.parametrize("loop", loops.select(), ids=lambda loop: loop.name)
def test_the_shipped_loops_run_accelerated(loop):
    """With a small vocabulary. No call falls back, and the model is called as often as the loop says, either way."""
    built, calls = loop.build(150), []
    built.forward.register_forward_hook(lambda *args: calls.append(1))
    with torch.inference_mode():
        torch.manual_seed(0)
        want, steps = built.run(), len(calls)
        with dlm.accelerated(built.client):
            got, rows = built.run(), dlm.explain(built.client).rows
    assert got.shape == want.shape and (not loop.same or torch.equal(got, want))
    assert steps == len(calls) - steps == loop.steps
    assert any(row.fast_calls for row in rows) and not any(row.fallbacks for row in rows), rows
