"""Duo's updates behind ``accelerate``: the law is the posterior of the client's own code, p_x0 is what it would have been."""

import pytest
import torch
from dlm_kernels.bench import duo_client as client
from toy_uniform import VOCAB, Network, assert_drawn, canvas

import dlm_kernels as dlm

TIMES = {
    "one level": dict(t=torch.tensor([[0.6], [0.6]]), dt=torch.tensor(0.2)),
    "a level each": dict(t=torch.tensor([[0.9], [0.4]]), dt=torch.tensor(0.3)),
    "the last": dict(t=torch.tensor([[1e-5], [1e-5]]), dt=None, noise_removal_step=True),
    "a large last": dict(t=torch.tensor([[0.7], [0.7]]), dt=None, noise_removal_step=True),
}
UniformState = lambda **options: client.UniformState(Network(), VOCAB, **options)
AbsorbingState = lambda **options: client.AbsorbingState(Network(), VOCAB, **options)
MODELS = {"uniform": UniformState, "masked": AbsorbingState}


def update(model, step, x, name="one level", **more):
    return getattr(model, step)(x, labels=more.pop("labels", None), **TIMES[name], **more)


def both(model, step, x, name="one level", **more):
    """(p_x0, law of x_s) by the client's own code, and (p_x0, x_s) by the accelerated update."""
    torch.manual_seed(5)
    p_x0, _ = update(model, step, x, name, **more)
    law = model.law
    with dlm.accelerated(model):
        got = update(model, step, x, name, **more)
        row = next(row for row in dlm.explain(model).rows if row.where.endswith(step))
    assert row.fast_calls == 1 and not row.fallbacks
    return (p_x0, law), got


@pytest.mark.parametrize("use_float64", [True, False])
@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("kind", MODELS)
def test_ancestral_updates(kind, name, use_float64):
    model, x = MODELS[kind](use_float64=use_float64), canvas()
    if name == "the last" and kind == "masked" and not use_float64:
        return  # 1 - alpha_t has no digits left there, in the client either
    before = x.clone()
    (p_x0, law), (kept, x_s) = both(model, "_ancestral_update", x, name)
    assert_drawn(x, x_s, law)
    assert torch.equal(x, before)
    assert kept.dtype == p_x0.dtype and kept.shape == p_x0.shape
    torch.testing.assert_close(kept + 0, p_x0, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 1.0, torch.tensor(0.3)])
@pytest.mark.parametrize("name", ["one level", "a level each", "a large last"])
@pytest.mark.parametrize("kind", MODELS)
def test_psi_updates(kind, name, kappa):
    model, x = MODELS[kind](), canvas()
    (_, law), (_, x_s) = both(model, "_psi_update", x, name, kappa=kappa)
    assert_drawn(x, x_s, law)


@pytest.mark.parametrize("step", ["_ancestral_update", "_psi_update"])
@pytest.mark.parametrize("p_nucleus", [0.9, 0.5, 0.01])
def test_nucleus(p_nucleus, step):
    model, x = UniformState(p_nucleus=p_nucleus), canvas()
    more = dict(kappa=0.6) if step == "_psi_update" else {}
    (p_x0, law), (kept, x_s) = both(model, step, x, **more)
    assert_drawn(x, x_s, law)
    torch.testing.assert_close(kept + 0, p_x0, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("guid_weight", [None, 0.0, 1.0])
def test_labels(guid_weight):
    model, x = UniformState(num_classes=2, guid_weight=guid_weight), canvas()
    (_, law), (_, x_s) = both(model, "_ancestral_update", x, labels=torch.tensor([0, 1]))
    assert_drawn(x, x_s, law)
    assert torch.equal(law[0][x[0] == 3][0], law[1][x[1] == 3][0]) == (guid_weight != 1.0)


def test_caches_go_both_ways():
    model, x = UniformState(), canvas()
    (theirs, law), (ours, _) = both(model, "_ancestral_update", x)
    looked_at = both(model, "_ancestral_update", x)[1][0]
    looked_at.sum()
    calls = model.backbone.calls
    for cache in (ours, theirs, looked_at):
        kept, x_s = both(model, "_ancestral_update", x, p_x0=cache)[1]
        assert kept is cache
        assert_drawn(x, x_s, law)
    assert model.backbone.calls == calls


@pytest.mark.parametrize("kind", MODELS)
def test_noising(kind):
    torch.manual_seed(5)
    model, x, alpha = MODELS[kind](), canvas(), torch.tensor([[0.3], [0.8]])
    x_t = dlm.accelerate(model).q_xt(x, alpha)
    assert_drawn(x, x_t, model._forward_process(torch.nn.functional.one_hot(x, VOCAB) * 1.0, alpha))


def test_noising_keeps_the_first_token_where_asked():
    model, x = dlm.accelerate(UniformState()), canvas(batch=500, length=4)
    model.ignore_bos = True
    x_t = model.q_xt(x, torch.zeros(500, 1))
    assert torch.equal(x_t[:, 0], x[:, 0]) and not torch.equal(x_t[:, 1], x[:, 1])


def test_other_options_run_the_clients_code_and_say_why():
    x = canvas(length=20)
    model = dlm.accelerate(UniformState(num_classes=2, guid_weight=2.0))
    with pytest.raises(TypeError, match="one argument too many"):
        update(model, "_ancestral_update", x, labels=torch.tensor([0, 1]))
    assert "guid_weight: must be None, 0 or 1, got 2.0" in str(dlm.explain(model))

    model = dlm.accelerate(AbsorbingState())
    model.parameterization = "mean"
    p_x0, _ = update(model, "_ancestral_update", x)
    assert type(p_x0) is torch.Tensor
    assert "parameterization: must be subs for masked diffusion, got mean" in str(dlm.explain(model))

    model = dlm.accelerate(UniformState())
    p_x0, _ = update(model, "_psi_update", x, kappa=1.5)
    assert type(p_x0) is torch.Tensor and "kappa: must be in [0, 1], got 1.5" in str(dlm.explain(model))


@pytest.mark.parametrize("noise_removal", ["ancestral", "none"])
@pytest.mark.parametrize("sampler", ["ancestral", "ancestral_cache", "psi"])
@pytest.mark.parametrize("kind", MODELS)
def test_whole_loops(kind, sampler, noise_removal):
    model = MODELS[kind]()
    model.sampler, model.config.sampling.noise_removal = sampler, noise_removal
    model.time_conditioning = sampler != "ancestral_cache"
    dlm.accelerate(model)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(model.generate_samples(3))
    assert torch.equal(*runs) and runs[0].shape == (3, 40) and model.posteriors == 0
    assert not torch.equal(model.generate_samples(3), runs[0])
    if kind == "masked" and noise_removal == "ancestral":
        assert not (runs[0] == model.mask_index).any()


def test_it_comes_back():
    model = UniformState()
    before = dict(vars(model))
    dlm.restore(dlm.accelerate(model))
    assert vars(model).keys() == before.keys() and model._psi_update.__func__ is client.UniformState._psi_update


def test_a_release_without_labels_is_left_alone(monkeypatch):
    monkeypatch.setattr(
        client.UniformState, "_ancestral_update", lambda self, x, t, dt, p_x0=None, noise_removal_step=False: x
    )
    with pytest.warns(RuntimeWarning, match="dt"):
        dlm.accelerate(model := UniformState())
    assert model._ancestral_update(1, 2, 3) == 1
