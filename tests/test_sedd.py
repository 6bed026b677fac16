"""SEDD's steps behind ``accelerate``: the law is what the client's own code draws from, negative weights counted as 0."""

import pytest
import torch
from dlm_kernels.bench import sedd_client as client
from dlm_kernels.bench.sedd_client import AnalyticPredictor, Denoiser, EulerPredictor, GeometricNoise
from toy_uniform import VOCAB, Network, assert_drawn, canvas

import dlm_kernels as dlm

TIMES = {"one level": [[0.6], [0.6]], "a level each": [[0.9], [0.5]], "late": [[0.2], [0.2]]}
exps = []  # score functions of the client's own that took exp()


class Score(torch.nn.Module):
    """Logarithms of scores, ``own`` for the token that is there."""

    def __init__(self, seed=0, dtype=torch.float32):
        super().__init__()
        self.network, self.own = Network(seed=seed, dtype=dtype), 0.0

    def forward(self, x, sigma):
        return self.network(x).scatter(-1, x[..., None], self.own)


def Uniform():
    return client.Uniform(VOCAB)


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """And told of exponentials."""
    original = client.mutils.get_score_fn

    def get_score_fn(model, train=False, sampling=False):
        score_fn = original(model, train, sampling)
        return score_fn if not sampling else lambda x, sigma: exps.append(sigma) or score_fn(x, sigma)

    torch.manual_seed(11)
    exps.clear()
    monkeypatch.setattr(client.mutils, "get_score_fn", get_score_fn)


def step_of(kind, x, score_fn, name, graph=None):
    step = kind(graph or Uniform(), GeometricNoise())
    return step, lambda: step.update_fn(score_fn, x, torch.tensor(TIMES[name]), *size_of(kind))


def size_of(kind):
    return () if kind is Denoiser else (0.125,)


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("kind", [EulerPredictor, AnalyticPredictor, Denoiser])
def test_a_step(kind, name, deferred):
    """``deferred``: of scores that came from get_score_fn, whose exp() is never taken, and of others."""
    model, x = Score(), canvas()
    step, run = step_of(kind, x, lambda x, sigma: model(x, sigma).double().exp(), name)
    run()
    exps.clear()
    owner = client if deferred else step
    dlm.accelerate(owner)
    score_fn = client.mutils.get_score_fn(model, train=False, sampling=True)
    x_s = step.update_fn(score_fn, x, torch.tensor(TIMES[name]), *size_of(kind))
    rows = dlm.explain(owner).rows
    dlm.restore(owner)
    assert sum(row.fast_calls for row in rows if "update_fn" in row.where) == 1
    assert len(exps) == (0 if deferred else 1)
    assert_drawn(x, x_s, step.law)
    if kind is not EulerPredictor and name != "late":
        assert (step.law < 0).any(), "nothing negative to count as 0"


@pytest.mark.parametrize("own", [0.7, -1.5])
def test_scores_relative_to_another_of_the_present_token(own):
    model, x = Score(), canvas()
    model.own = own
    step, run = step_of(EulerPredictor, x, lambda x, sigma: model(x, sigma).exp(), "late")
    run()
    with dlm.accelerated(step):
        assert_drawn(x, run(), step.law)


def test_scores_are_there_for_who_looks():
    model, x = Score(dtype=torch.bfloat16), canvas(length=30)
    sigma = torch.tensor([[0.3], [0.3]])
    want = client.mutils.get_score_fn(model, sampling=True)(x, sigma)
    with dlm.accelerated(client):
        got = client.mutils.get_score_fn(model, sampling=True)(x, sigma)
        log = client.mutils.get_score_fn(model, sampling=False)(x, sigma)
    assert type(log) is torch.Tensor and torch.equal(log, model(x, sigma))
    assert (got.shape, got.dtype) == (want.shape, want.dtype) and torch.equal(got + 0, want)


@pytest.mark.parametrize("predictor", ["euler", "analytic"])
def test_whole_loops(predictor):
    dlm.accelerate(client)
    run = client.get_pc_sampler(Uniform(), GeometricNoise(), (3, 40), predictor, 8)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(run(Score()))
    other = run(Score())
    rows = dlm.explain(client).rows
    dlm.restore(client)
    assert torch.equal(*runs) and runs[0].shape == (3, 40) and not torch.equal(other, runs[0])
    assert not exps and [row.fast_calls for row in rows if "Denoiser" in row.where] == [3]
    run(Score())
    assert exps


def test_other_graphs_run_the_clients_code_and_say_why():
    step, run = step_of(
        EulerPredictor, canvas(length=20), lambda x, sigma: Score()(x, sigma).exp(), "late", client.Absorbing(VOCAB)
    )
    dlm.accelerate(step)
    run()
    assert step.law is not None and "graph: must be Uniform, got Absorbing" in str(dlm.explain(step))


def test_it_comes_back():
    before = [kind.update_fn for kind in (EulerPredictor, AnalyticPredictor, Denoiser)], client.mutils.get_score_fn
    dlm.restore(dlm.accelerate(client))
    assert before == (
        [kind.update_fn for kind in (EulerPredictor, AnalyticPredictor, Denoiser)],
        client.mutils.get_score_fn,
    )
    step = EulerPredictor(Uniform(), GeometricNoise())
    kept = dict(vars(step))
    assert vars(dlm.restore(dlm.accelerate(step))).keys() == kept.keys()
