"""Sumi's steps behind ``accelerate``: greedy and adaptive ones token by token, ancestral ones by their law."""

import functools

import pytest
import torch
from dlm_kernels.bench import sumi_client as client
from dlm_kernels.bench.uniform_peers import sumi_posterior
from injection import Numbers, ours
from toy_uniform import VOCAB, Network, assert_drawn, canvas

import dlm_kernels as dlm
from dlm_kernels.integrations import sumi
from dlm_kernels.integrations.deferred import Law

PROMPT = torch.tensor([[3, 1, 4], [1, 5, 2]])
FROZEN = [(20, 6), (21, 0)]
looked_at = []  # the client's functions that computed something of the size of the vocabulary


def SumiForDiffusionLM(vocab=VOCAB, dtype=torch.float32):
    return client.SumiForDiffusionLM(Network(vocab, dtype=dtype), vocab)


def law_of(z, x_hat, *log_snrs):
    return sumi_posterior(x_hat, z, *log_snrs)[0]


def looking(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        looked_at.append(function)
        return function(*args, **kwargs)

    return call


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("_compute_x_hat", "_adaptive_step"):
        monkeypatch.setattr(client, name, looking(vars(client)[name]))
    names = [name for name in vars(client) if name.startswith("_")]
    before = {name: vars(client)[name] for name in names}
    looked_at.clear()
    torch.manual_seed(13)
    yield
    assert {name: vars(client)[name] for name in names} == before, "not restored"


@pytest.mark.parametrize("log_snrs", [(-9.0, -2.0), (-1.0, 1.5), (3.0, 9.0), (0.5, 0.5)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_ancestral_step(dtype, temperature, log_snrs):
    model, z = SumiForDiffusionLM(dtype=dtype), canvas()
    want = law_of(z, client._compute_x_hat(model, z, None, VOCAB, temperature).double(), *log_snrs)
    with dlm.accelerated(model):
        x_hat = client._compute_x_hat(model, z, None, VOCAB, temperature)
        z_s = client._ancestral_step(z, x_hat, *log_snrs, VOCAB, None)
    assert_drawn(z, z_s, want)
    assert isinstance(x_hat, Law) and x_hat.source is not None, "probabilities were computed"


def test_an_ancestral_step_from_probabilities():
    model, z = SumiForDiffusionLM(), canvas()
    x_hat = client._compute_x_hat(model, z, None, VOCAB, 0.7)
    x_hat[..., 2] = 0
    z_s = sumi._ancestral_step(z, x_hat, -1.0, 1.0, VOCAB, None)
    law = x_hat / x_hat.sum(-1, keepdim=True)
    assert_drawn(z, z_s, law_of(z, law, -1.0, 1.0))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_probabilities_are_there_for_who_looks(temperature):
    model, z = SumiForDiffusionLM(dtype=torch.bfloat16), canvas(length=30)
    want = client._compute_x_hat(model, z, None, VOCAB, temperature)
    got = sumi._compute_x_hat(model, z, None, VOCAB, temperature)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    values, indices = got.max(dim=-1)
    assert got.source is not None, "probabilities were computed"
    torch.testing.assert_close(values, want.max(dim=-1).values)
    assert torch.equal(indices, want.max(dim=-1).indices)
    torch.testing.assert_close(got[0, 3:5].sum(0), want[0, 3:5].sum(0))
    torch.testing.assert_close((-got * got.log()).nansum(-1), (-want * want.log()).nansum(-1))


@pytest.mark.parametrize("vocab", [VOCAB, 50])
@pytest.mark.parametrize("tokens_per_step", [1, 4, 100])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_adaptive_runs_are_the_originals(temperature, tokens_per_step, vocab, monkeypatch):
    model = SumiForDiffusionLM(vocab=vocab)
    noisy = torch.Generator()  # 30 positions, and a row of its own for each: confidences do not tie
    model.network.forward = lambda x, cond=None: torch.randn(*x.shape, vocab, generator=noisy.manual_seed(int(x.sum())))
    options = dict(sampler="adaptive", temperature=temperature, tokens_per_step=tokens_per_step, frozen=FROZEN)
    told = {"theirs": [], "ours": []}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", _one_sequence(Numbers()))
        torch.manual_seed(0)
        want = model.generate(PROMPT[:1], progress_callback=told["theirs"].append, **options).sequences
    with dlm.accelerated(model), ours():
        torch.manual_seed(0)
        got = model.generate(PROMPT[:1], progress_callback=told["ours"].append, **options).sequences
    assert torch.equal(got, want)
    open_positions = 30 - 3 - len(FROZEN)
    for theirs, mine in zip(*told.values(), strict=True):
        assert torch.equal(mine["z"], theirs["z"]) and torch.equal(mine["top1_z"], theirs["top1_z"])
        torch.testing.assert_close(mine["top1_prob"], theirs["top1_prob"])
        k = min(tokens_per_step, open_positions)
        assert mine["selected_pos"].shape == theirs["selected_pos"].shape
        assert torch.equal(mine["selected_pos"][:, :k], theirs["selected_pos"][:, :k])


def _one_sequence(numbers):
    return lambda law, num_samples, generator=None: numbers.multinomial(law, num_samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_runs_are_the_originals(dtype):
    model = SumiForDiffusionLM(vocab=50, dtype=dtype)
    runs = []
    for accelerated in (False, True):
        torch.manual_seed(0)
        dlm.accelerate(model) if accelerated else None
        runs.append(model.generate(PROMPT, sampler="greedy", frozen=FROZEN).sequences)
    dlm.restore(model)
    assert torch.equal(*runs) and torch.equal(runs[0][:, :3], PROMPT) and runs[0][0, 20:22].tolist() == [6, 0]


def test_ancestral_runs():
    model = SumiForDiffusionLM()
    told = []
    with dlm.accelerated(model):
        runs = [
            model.generate(
                PROMPT, generator=torch.Generator().manual_seed(seed), frozen=FROZEN, progress_callback=told.append
            )
            for seed in (1, 1, 2)
        ]
        text = str(dlm.explain(model))
    assert torch.equal(runs[0].sequences, runs[1].sequences) and not torch.equal(runs[0].sequences, runs[2].sequences)
    assert all(torch.equal(run.sequences[:, :3], PROMPT) for run in runs)
    assert all(torch.equal(run.sequences[:, 20:22], torch.tensor([[6, 0]] * 2)) for run in runs)
    assert not looked_at and len(told) == 18 and "ancestral step" in text
    assert told[0]["top1_z"].shape == told[0]["top1_prob"].shape == (2, 30)


def test_frozen_rows_are_not_read():
    """NaN there would be counted, and the law of the other positions is the same."""
    model = SumiForDiffusionLM()
    seen = []
    step = sumi.transition_step
    sumi.transition_step = lambda *args, **kwargs: seen.append(kwargs["frozen"]) or step(*args, **kwargs)
    try:
        with dlm.accelerated(model):
            model.generate(PROMPT, frozen=FROZEN)
            z = canvas(length=30)
            client._ancestral_step(z, client._compute_x_hat(model, z, None, VOCAB), -1.0, 1.0, VOCAB, None)
    finally:
        sumi.transition_step = step
    frozen = torch.zeros(2, 30, dtype=torch.bool)
    frozen[:, [0, 1, 2, 20, 21]] = True
    assert all(torch.equal(mask, frozen) for mask in seen[:6]) and len(seen) == 7
    assert seen[6] is None, "the mask of an earlier run"


def test_the_module_is_an_object_too():
    dlm.accelerate(client)
    model = SumiForDiffusionLM()
    model.generate(PROMPT)
    assert not looked_at
    dlm.restore(client)
    model.generate(PROMPT)
    assert looked_at


def test_two_models_share_their_module():
    a, b = SumiForDiffusionLM(), SumiForDiffusionLM()
    dlm.accelerate(a), dlm.accelerate(b)
    dlm.restore(a)
    b.generate(PROMPT)
    assert not looked_at
    dlm.restore(b)


def test_what_is_not_covered_runs_the_clients_code_and_says_why():
    model, z = SumiForDiffusionLM(), canvas(length=20)
    x_hat = client._compute_x_hat(model, z, None, VOCAB)
    with dlm.accelerated(model):
        assert client._ancestral_step(z, x_hat, 1.0, -1.0, VOCAB, None).shape == z.shape
        assert "alpha_s: must be >= alpha_t" in str(dlm.explain(model))
        with pytest.raises(RuntimeError):  # the client's own error
            client._ancestral_step(z, x_hat.flatten(0, 1), -1.0, 1.0, VOCAB, None)
        assert "logits: must have 3 dimensions" in str(dlm.explain(model))


def test_another_revision_is_left_alone(monkeypatch):
    model = SumiForDiffusionLM()
    with monkeypatch.context() as patch:
        patch.setattr(client, "_greedy_step", lambda z_t, logits, noise_mask, strength: z_t)
        with pytest.warns(RuntimeWarning, match="strength"):
            dlm.accelerate(model)
        dlm.restore(model)
