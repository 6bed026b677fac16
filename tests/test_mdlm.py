"""The steps of MDLM and ReMDM and their seams, against the semantics told anew in bench/mdlm_client.py."""

import copy
import sys
from unittest import mock

import injection
import pytest
import torch
from dlm_kernels.bench import mdlm_client as client
from dlm_kernels.reference.philox import STREAM_DRAW, STREAM_ROUTE
from llada_toys import Toy, assert_fits

import dlm_kernels as dlm

VOCAB = 12
MASK = VOCAB - 1
LOOP = dict(sampler="remdm-loop", eta=0.1, t_on=0.6, t_off=0.25, alpha_on=0.7)
SAMPLERS = [
    dict(sampler="mdlm"),
    dict(sampler="remdm-cap", eta=0.1),
    dict(sampler="remdm-rescale", eta=0.2),
    dict(sampler="remdm-conf"),
    dict(sampler="forward-backward"),
    LOOP,
]


class Watched:
    """Counts its forwards, and keeps the canvas of the latest."""

    def __init__(self, scale=2.0, **options):
        super().__init__(Toy(vocab=VOCAB, scale=scale), VOCAB, **options)
        self.calls = 0

    def forward(self, x, sigma):
        self.calls, self.seen = self.calls + 1, x
        return super().forward(x, sigma)


class Diffusion(Watched, client.Diffusion):
    pass


class Remasking(Watched, client.Remasking):
    pass


def injected(model, numbers=None):
    """In place of a sample_categorical: move by one number if that is small, the token by another, as the ops do. What the
    canvas holds is what the model has seen last, for nothing changes while its law is cached."""
    numbers = numbers or injection.Numbers()

    def sample_categorical(weights):
        seeds, x = numbers.seeds(len(weights)), model.seen
        route, draw = (injection.uniforms(seeds, x.shape[1], stream=s) for s in (STREAM_ROUTE, STREAM_DRAW))
        weights = weights.double().clamp(min=0)
        total, staying = weights.sum(dim=-1), weights.gather(-1, x[..., None])[..., 0]
        stays = route * total >= total - staying
        others = weights.clone()
        others[..., MASK] = 0
        moved = torch.where(x == MASK, injection.invert(others, draw), MASK)
        return torch.where(stays, x, moved)

    return sample_categorical


@pytest.mark.parametrize("steps", [4, 40])
@pytest.mark.parametrize("options", [dict(cached=True), dict(cached=False)], ids=str)
def test_mdlm_samples_with_the_same_numbers(options, steps, monkeypatch):
    model = Diffusion()
    with dlm.accelerated(model), injection.ours():
        got = model.sample(steps=steps, **options)
        rows = dlm.explain(model).rows
        assert sum(row.fast_calls for row in rows[:2]) == steps and rows[2].fast_calls == model.calls
        assert not any(row.fallbacks for row in rows)
    ours, model.calls = model.calls, 0
    monkeypatch.setattr(client, "sample_categorical", injected(model))
    assert torch.equal(model.sample(steps=steps, **options), got)
    assert model.calls == ours and (steps < 40 or not options["cached"] or ours < steps)  # the cache was of use
    assert not (got == MASK).all()


@pytest.mark.parametrize("nucleus_p", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("sampling", SAMPLERS, ids=lambda s: s["sampler"])
def test_remdm_samples_with_the_same_numbers(sampling, nucleus_p, monkeypatch):
    model, numbers = Remasking(nucleus_p=nucleus_p, **sampling), injection.Numbers()
    monkeypatch.setattr(client, "sample_categorical", injected(model, numbers))
    precise = dict(steps=30, conf_dtype=torch.float32)
    with dlm.accelerated(model), injection.ours(numbers=numbers):
        got, conf = model.sample(**precise), model.conf
        row = dlm.explain(model).rows[0]
    numbers.calls = 0
    want = model.sample(**precise)
    assert torch.equal(got, want) and numbers.calls == 30
    assert torch.allclose(conf, model.conf, rtol=1e-4)
    if sampling["sampler"] == "forward-backward":  # its last steps are the model's own
        assert row.fast_calls > 20 and any("more than the marginals allow" in why for why in row.fallbacks)
    else:
        assert row.fast_calls == 30 and not row.fallbacks


@pytest.mark.parametrize(
    "sampling", [dict(sampler="mdlm"), dict(sampler="remdm-cap", eta=0.3)], ids=lambda s: s["sampler"]
)
@pytest.mark.parametrize("nucleus_p", [1.0, 0.7])
def test_the_law_of_a_step(sampling, nucleus_p):
    torch.manual_seed(0)
    model = Remasking(nucleus_p=nucleus_p, **sampling)
    model.backbone.table[:] = model.backbone.table[:1]  # one law everywhere
    x = torch.full((2, 4000), MASK)
    x[1] = 3
    t, dt = torch.tensor([[0.5], [0.5]]), 0.2
    _, after, _ = dlm.accelerate(model)._ddpm_caching_update(x, t, dt)
    p = model.forward(x[:1, :1], None)[0, 0].exp().double()
    p = client.nucleus(p, nucleus_p) if nucleus_p < 1 else p
    alpha_t, alpha_s, sigma = 0.5, 0.7, 0.0 if sampling["sampler"] == "mdlm" else 0.3
    fills = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    assert_fits(torch.bincount(after[0], minlength=VOCAB), p * fills + (1 - fills) * torch.eye(VOCAB)[MASK])
    if sigma:
        of_tokens = (1 - sigma) * torch.eye(VOCAB)[3] + sigma * torch.eye(VOCAB)[MASK]
        assert_fits(torch.bincount(after[1], minlength=VOCAB), of_tokens)
    else:
        assert (after[1] == 3).all()


def test_the_canvas_is_left_alone_and_the_cache_is_the_law():
    model = dlm.accelerate(Diffusion())
    x, t = torch.full((2, 6), MASK), torch.tensor([0.9, 0.9])
    p_x0, after = model._ddpm_caching_update(x, t, 0.5)
    assert (x == MASK).all() and not (after == MASK).all()
    calls = model.calls
    torch.manual_seed(1)
    same, first = model._ddpm_caching_update(x, t, 0.5, p_x0=p_x0)
    assert same is p_x0 and model.calls == calls
    probabilities = model.forward(x, None).exp()
    torch.manual_seed(1)
    _, second = model._ddpm_caching_update(x, t, 0.5, p_x0=probabilities)
    assert torch.equal(first, second) and torch.allclose(p_x0, probabilities, atol=1e-6)


def test_who_looks_sees_log_probabilities():
    """Outside of a step nothing is put off; within one a forward may do more than its parameterization."""

    class Sharper(Diffusion):
        def forward(self, x, sigma):
            return (3 * super().forward(x, sigma)).log_softmax(dim=-1)

    torch.manual_seed(0)
    x, t = torch.full((2, 4000), MASK), torch.full((2, 1), 0.999)
    for kind in (Diffusion, Sharper):
        model = kind()
        model.backbone.table[:] = model.backbone.table[:1]
        want = model.forward(x, None)
        dlm.accelerate(model)
        got = model.forward(x, None)
        assert type(got) is torch.Tensor and torch.equal(got, want)
        assert "outside of a step" in str(dlm.explain(model))
        p_x0, after = model._ddpm_caching_update(x, t, 0.999)
        assert p_x0.source is not None, "probabilities were computed"
        best, tokens = p_x0.max(dim=-1)
        assert torch.equal(tokens, want.argmax(dim=-1)) and torch.allclose(best, want.exp().amax(dim=-1))
        assert_fits(torch.bincount(after.flatten(), minlength=VOCAB), want[0, 0].exp().double())
        assert dlm.explain(model).rows[0].fast_calls == 1


def test_the_nucleus_of_the_cache():
    torch.manual_seed(0)  # by which no mask is filled
    model = dlm.accelerate(Remasking(sampler="remdm-cap", eta=0.1, nucleus_p=0.6))
    x, t = torch.full((2, 6), MASK), torch.tensor([[0.9], [0.9]])
    p_x0, after, _ = model._ddpm_caching_update(x, t, 0.0)
    assert torch.equal(after, x)
    assert torch.allclose(p_x0, client.nucleus(model.forward(x, None).exp(), 0.6), atol=1e-6)


def test_the_models_own_code_takes_over_in_the_middle():
    torch.manual_seed(0)  # by which no mask is filled
    model = dlm.accelerate(Remasking(sampler="remdm-cap", eta=0.1))
    x, t = torch.full((1, 6), MASK), torch.tensor([[1e-4]])
    cache, after, _ = model._ddpm_caching_update(x, torch.tensor([[0.5]]), 0.0)
    assert cache is not None and torch.equal(after, x)
    model.config.sampling.sampler = "remdm-new"
    model.config.sampling.alpha_on = 0.5
    torch.manual_seed(0)
    _, got, _ = model._ddpm_caching_update(x, t, 0.0, p_x0=cache)
    torch.manual_seed(0)
    _, want, _ = Remasking._ddpm_caching_update(model, x, t, 0.0, p_x0=model.forward(x, None).exp())
    assert torch.equal(got, want) and "the sampler remdm-new is not covered" in str(dlm.explain(model))


@pytest.mark.parametrize("kind", [Diffusion, Remasking])
def test_what_is_not_covered_runs_the_models_own_code(kind):
    x, t = torch.full((2, 6), MASK), torch.tensor([0.9, 0.9])
    for options, reason in (
        (dict(parameterization="d3pm"), "the parameterization d3pm is not covered"),
        (dict(noise="cosine"), "noise of type cosine is not covered"),
    ):
        model = dlm.accelerate(kind(sampler="mdlm", **options))
        torch.manual_seed(0)
        got = model._ddpm_caching_update(x, t, 0.5)
        torch.manual_seed(0)
        assert torch.equal(got[1], kind._ddpm_caching_update(model, x, t, 0.5)[1])
        assert dlm.explain(model).rows[0].fallbacks == {reason: 1}


@pytest.mark.parametrize("kind", [Diffusion, Remasking])
def test_restore_and_copies(kind):
    model = kind(sampler="mdlm")
    before = dict(vars(model))
    dlm.accelerate(model)
    twin = copy.deepcopy(model)
    twin._ddpm_update(torch.full((1, 4), MASK), torch.tensor([0.5]), 0.1)
    assert twin.calls == 1 and model.calls == 0
    dlm.restore(model)
    assert vars(model) == before


def test_an_unknown_release_is_left_alone():
    class Newer(Diffusion):
        def _ddpm_update(self, x, t, dt, labels=None):
            pass

    with pytest.warns(RuntimeWarning, match="a parameter labels=None that is not known"):
        model = dlm.accelerate(Newer())
    assert "_ddpm_caching_update" not in vars(model)


@pytest.mark.checkout
@pytest.mark.parametrize("name", ["MDLM", "REMDM"])
def test_against_a_checkout(checkout, name, monkeypatch):
    """Its steps on a client's forward."""
    names = "hydra hydra.utils transformers dataloader models noise_schedule utils tqdm torchmetrics.aggregation"
    stand_ins = {
        "lightning": mock.MagicMock(LightningModule=torch.nn.Module),
        "torchmetrics": mock.MagicMock(aggregation=mock.MagicMock(MeanMetric=torch.nn.Module)),
    }
    for module, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, module, stand_in)
    theirs = checkout(name, "diffusion.py", absent=names.split())
    kind = Diffusion if name == "MDLM" else Remasking
    for told in (client.Diffusion, client.Remasking):  # the only steps are theirs
        monkeypatch.setattr(told, "__module__", theirs.__name__)

    class Model(kind):
        __module__ = theirs.__name__
        _ddpm_caching_update = theirs.Diffusion._ddpm_caching_update
        _ddpm_update = theirs.Diffusion._ddpm_update
        _subs_parameterization = theirs.Diffusion._subs_parameterization

    for sampling in SAMPLERS[:1] if name == "MDLM" else [s for s in SAMPLERS if s["sampler"] != "forward-backward"]:
        model = Model(**sampling)
        options = dict(steps=30) if name == "MDLM" else dict(steps=30, conf_dtype=torch.float32)
        with dlm.accelerated(model), injection.ours():
            got = model.sample(**options)
            assert dlm.explain(model).rows[0].fast_calls == 30
        monkeypatch.setattr(theirs, "_sample_categorical", injected(model))
        assert torch.equal(model.sample(**options), got)
