"""UDLM's steps behind ``accelerate``: the law is the posterior of the client's own code, and the rest of what it returns fits."""

import pytest
import torch
from dlm_kernels.bench import udlm_client as client
from toy_uniform import VOCAB, Network, assert_drawn, canvas

import dlm_kernels as dlm

Diffusion = lambda *args, **options: client.Diffusion(Network(), VOCAB, *args, **options)
CHANCES = {
    "one level": (torch.tensor([0.7, 0.7]), torch.tensor([0.5, 0.5])),
    "a level each": (torch.tensor([0.95, 0.6]), torch.tensor([0.2, 0.55])),
    "the last": (torch.tensor([0.01, 0.01]), torch.tensor([0.0, 0.0])),
}


def moves(xt, name="a level each", **more):
    t, s = (chance[:, None, None] for chance in CHANCES[name])
    return dict(xt=xt, time_conditioning=None, move_chance_t=t, move_chance_s=s, **more)


def both(step, model, **arguments):
    """(what the client's own code returns, what the accelerated step does)."""
    torch.manual_seed(5)
    want = getattr(model, step)(**arguments)
    with dlm.accelerated(model):
        got = getattr(model, step)(**arguments)
        row = next(row for row in dlm.explain(model).rows if row.where.endswith(step))
    assert row.fast_calls == 1 and not row.fallbacks
    return want, got


@pytest.mark.parametrize("use_float64", [False, True])
@pytest.mark.parametrize("name", CHANCES)
def test_a_step(name, use_float64):
    model, xt = Diffusion(use_float64=use_float64), canvas()
    before = xt.clone()
    (_, q, cache), (xs, stub, kept) = both("_ddpm_denoise", model, **moves(xt, name))
    assert_drawn(xt, xs, q)
    assert torch.equal(xt, before)
    assert stub.shape == q.shape and stub.dtype == q.dtype
    assert kept.keys() == cache.keys() and kept["log_x_theta"].dtype == cache["log_x_theta"].dtype
    torch.testing.assert_close(kept["log_x_theta"] + 0, cache["log_x_theta"])


def test_the_posterior_is_computed_when_somebody_looks():
    model, xt = Diffusion(), canvas(length=50)
    (_, q, _), (_, stub, _) = both("_ddpm_denoise", model, **moves(xt))
    made = model.posteriors
    assert stub.sum().item() == xt.numel() and stub.isnan().sum().item() == 0 and model.posteriors == made
    torch.testing.assert_close(stub[0, 3], q[0, 3])
    torch.testing.assert_close(stub.log().sum(-1), q.log().sum(-1))
    assert model.posteriors == made + 1
    torch.testing.assert_close(stub.sum().item(), float(xt.numel()))


def test_nan_shows_where_the_loop_looks():
    model, xt = Diffusion(), canvas(length=50)
    model.backbone.table[0, 3, 2] = torch.nan
    (_, q, _), (xs, stub, _) = both("_ddpm_denoise", model, **moves(xt))
    assert torch.isnan(stub.sum()) and torch.isnan(q.sum())
    assert stub.isnan().sum().item() == q.isnan().sum().item() == (xt == 3).sum() * VOCAB
    assert bool(stub.isnan()[xt == 3].all())
    assert torch.equal(xs[xt == 3], xt[xt == 3])


@pytest.mark.parametrize("use_float64", [False, True])
def test_caches_go_both_ways(use_float64):
    model, xt = Diffusion(use_float64=use_float64), canvas()
    (_, q, theirs), (_, _, ours) = both("_ddpm_denoise", model, **moves(xt))
    calls = model.backbone.calls
    for cache in (ours, theirs):
        _, (xs, _, kept) = both("_ddpm_denoise", model, **moves(xt, cache=cache))
        assert kept["log_x_theta"] is cache["log_x_theta"]
        assert_drawn(xt, xs, q)
    assert model.backbone.calls == calls


@pytest.mark.parametrize("name", CHANCES)
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5, 0.4])
def test_classifier_free_guidance(gamma, name):
    model, xt = Diffusion(), canvas()
    arguments = dict(cond=torch.tensor([0, 1]), gamma=gamma, **moves(xt, name))
    (_, q, cache), (xs, stub, kept) = both("_cfg_denoise", model, **arguments)
    assert_drawn(xt, xs, q)
    torch.testing.assert_close(stub + 0, q)
    assert {k: v is None for k, v in kept.items()} == {k: v is None for k, v in cache.items()}
    _, (xs, _, _) = both("_cfg_denoise", model, **{**arguments, "cache": kept})
    assert_drawn(xt, xs, q)


def test_noising():
    model, x = Diffusion(), canvas()
    chance = torch.tensor([[0.3], [0.8]])
    _, xt = both("_q_xt", model, x=x, move_chance=chance)
    stays = torch.nn.functional.one_hot(x, VOCAB) * (1 - chance[..., None])
    assert_drawn(x, xt, stays + chance[..., None] / VOCAB)


def test_other_options_run_the_clients_code_and_say_why():
    xt = canvas(length=20)
    model = dlm.accelerate(Diffusion())
    classifier = lambda x: torch.zeros(*x.shape, 2)
    _, q, cache = model._cbg_denoise(1, 2.0, classifier, **moves(xt))
    assert "classifier_log_prob" in cache and type(q) is not torch.Tensor  # whose own step was ours
    assert "classifier-based guidance" in str(dlm.explain(model))

    model = dlm.accelerate(Diffusion("absorbing_state"))
    xs, q, _ = model._ddpm_denoise(**moves(xt))
    assert type(q) is torch.Tensor and torch.equal(xs[xt != VOCAB - 1], xt[xt != VOCAB - 1])
    assert "diffusion: must be uniform, got absorbing_state" in str(dlm.explain(model))

    model = dlm.accelerate(Diffusion())
    with pytest.raises(RuntimeError):  # the client's own error
        model._ddpm_denoise(**{**moves(xt), "move_chance_t": torch.rand(3, 1, 1)})
    assert "noise levels: must be one for each of 2 sequences, got [3, 1, 1]" in str(dlm.explain(model))


@pytest.mark.parametrize("cond", [None, torch.tensor([0, 1])])
@pytest.mark.parametrize("use_float64", [False, True])
def test_whole_loops(cond, use_float64):
    model = dlm.accelerate(Diffusion(use_float64=use_float64))
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(model._diffusion_sample(2, 40, cond))
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][0].dtype == torch.int64
    assert runs[0][1] == [(1.0, False)] * 8
    assert model.posteriors == 0, "a posterior was computed"
    assert not torch.equal(model._diffusion_sample(2, 40, cond)[0], runs[0][0])


def test_it_comes_back():
    model = Diffusion()
    before = dict(vars(model))
    dlm.restore(dlm.accelerate(model))
    assert vars(model).keys() == before.keys() and model._ddpm_denoise.__func__ is client.Diffusion._ddpm_denoise


def test_another_revision_is_left_alone(monkeypatch):
    monkeypatch.setattr(client.Diffusion, "_ddpm_denoise", lambda self, xt, t, cache=None: xt)
    with pytest.warns(RuntimeWarning, match="parameter"):
        dlm.accelerate(model := Diffusion())
    assert model._ddpm_denoise(1, 2) == 1
