"""The uniform family's steps against the codebases themselves, where an environment variable names a checkout: the law that their
own code draws from, recorded as it draws, is the law of the accelerated step."""

import sys
import types
from types import SimpleNamespace

import pytest
import torch
from toy_uniform import VOCAB, Network, assert_drawn, canvas

import dlm_kernels as dlm

pytestmark = pytest.mark.checkout


class Lightning(torch.nn.Module):
    device, dtype = torch.device("cpu"), torch.float32


@pytest.fixture(autouse=True)
def lightning(monkeypatch):
    """Their models derive from Lightning's, whose trainer nobody needs here."""
    module = types.ModuleType("lightning")
    module.LightningModule, module.Callback = Lightning, type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", module)
    torch.manual_seed(11)


def bare(kind, **attributes):
    """One without its constructor, which wants configuration files and data."""
    obj = kind.__new__(kind)
    torch.nn.Module.__init__(obj)
    for name, value in attributes.items():
        setattr(obj, name, value)
    return obj


def record(monkeypatch, module, name):
    """The laws that ``module``'s categorical draws from."""
    laws, draw = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda law, *args, **kwargs: laws.append(law) or draw(law, *args, **kwargs))
    return laws


class Labelled(torch.nn.Module):
    """Called as either codebase calls its network."""

    def __init__(self):
        super().__init__()
        self.network = Network()

    def forward(self, x, sigma=None, cond=None, x_emb=None, class_cond=None, weights=None):
        return self.network(x, cond if class_cond is None else class_cond)


@pytest.mark.parametrize("p_nucleus", [1.0, 0.8])
@pytest.mark.parametrize("step, more", [("_ancestral_update", {}), ("_psi_update", dict(kappa=torch.tensor(0.7)))])
def test_duo(checkout, monkeypatch, step, more, p_nucleus):
    absent = ("hydra", "hydra.utils", "dataloader", "metrics", "models", "timm")
    scheduler = types.ModuleType("timm.scheduler")
    scheduler.CosineLRScheduler = type("CosineLRScheduler", (), {})  # which a class of theirs derives from
    monkeypatch.setitem(sys.modules, "timm.scheduler", scheduler)
    base = checkout("DUO", "trainer_base.py", absent=absent)
    monkeypatch.setitem(sys.modules, "trainer_base", base)
    algo = checkout("DUO", "algo.py", absent=absent)
    sampling = SimpleNamespace(use_float64=True, guid_weight=None)
    attributes = dict(vocab_size=VOCAB, backbone=Labelled(), p_nucleus=p_nucleus, class_conditional=False)
    config = dict(config=SimpleNamespace(sampling=sampling), time_conditioning=True, parameterization="mean")
    model = bare(algo.DUO_BASE, noise=base.LogLinear(1e-3), **attributes, **config)
    laws, x = record(monkeypatch, base, "sample_categorical"), canvas()
    arguments = dict(x=x, t=torch.tensor([[0.9], [0.4]]), labels=None, dt=torch.tensor(0.2), **more)
    getattr(model, step)(**arguments)
    with dlm.accelerated(model):
        _, x_s = getattr(model, step)(**arguments)
        assert sum(row.fast_calls for row in dlm.explain(model).rows) == 1 == len(laws)
    assert_drawn(x, x_s, laws[0])


@pytest.mark.parametrize("gamma", [None, 0.0, 1.0, 2.0])
def test_udlm(checkout, monkeypatch, gamma):
    absent = ("hydra", "hydra.utils", "omegaconf", "torchmetrics", "torchmetrics.aggregation", "mamba_ssm")
    absent += ("mamba_ssm.utils", "mamba_ssm.utils.generation", "classifier", "dataloader", "models")
    metrics = types.ModuleType("torchmetrics")
    metrics.aggregation = SimpleNamespace(MeanMetric=object)
    monkeypatch.setitem(sys.modules, "torchmetrics", metrics)
    theirs = checkout("UDLM", "diffusion.py", absent=absent)
    config = SimpleNamespace(sampling=SimpleNamespace(use_float64=False), data=SimpleNamespace(num_classes=2))
    attributes = dict(
        vocab_size=VOCAB, backbone=Labelled(), diffusion="uniform", parameterization="d3pm", config=config
    )
    prior = torch.full((1, 1, VOCAB), 1 / VOCAB)
    model = bare(
        theirs.Diffusion, subs_masking=False, time_conditioning=False, limiting_distribution=prior, **attributes
    )
    x, chances = canvas(), [torch.tensor(c)[:, None, None] for c in ([0.95, 0.6], [0.2, 0.55])]
    arguments = dict(xt=x, time_conditioning=torch.ones(2), move_chance_t=chances[0], move_chance_s=chances[1])
    step = "_ddpm_denoise" if gamma is None else "_cfg_denoise"
    arguments |= {} if gamma is None else dict(cond=torch.tensor([0, 1]), gamma=gamma)
    _, q, cache = getattr(model, step)(**arguments)
    with dlm.accelerated(model):
        xs, stub, kept = getattr(model, step)(**arguments)
        assert sum(row.fast_calls for row in dlm.explain(model).rows) == 1
    assert_drawn(x, xs, q)
    torch.testing.assert_close(stub + 0, q)
    assert kept.keys() == cache.keys()


@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_gidd(checkout, monkeypatch, min_p):
    absent = ("hydra", "datasets", "omegaconf")
    theirs = checkout("GIDD", "gidd/sampling.py", "gidd", absent)
    process = sys.modules["gidd.diffusion_process"]
    laws = record(monkeypatch, theirs, "sample_categorical"), record(monkeypatch, process, "sample_categorical")

    class Tokenizer:
        mask_token_id = 3

        def __len__(self):
            return VOCAB

    network = Network()
    schedule = process.HybridDiffusion(Tokenizer(), p_uniform=0.2)
    sampler = theirs.GiddSampler(
        lambda z, t: network(z).clone(), Tokenizer(), schedule, compile_step=False, min_p=min_p
    )
    x, t, s = canvas(), torch.tensor([0.7]), torch.tensor([0.4])
    sampler.sampling_step(x, t, s)
    noised = schedule.sample_zt(x, torch.tensor([0.3, 0.8]))
    with dlm.accelerated(sampler), dlm.accelerated(schedule):
        z_s, noised = sampler.sampling_step(x, t, s), schedule.sample_zt(x, torch.tensor([0.3, 0.8]))
    assert_drawn(x, z_s, laws[0][0])
    assert_drawn(x, noised, laws[1][0])
    assert [len(law) for law in laws] == [1, 1]


@pytest.mark.parametrize("predictor", ["euler", "analytic"])
def test_sedd(checkout, monkeypatch, predictor):
    absent = ("flash_attn", "flash_attn.flash_attn_interface", "flash_attn.ops", "flash_attn.ops.fused_dense")
    absent += ("huggingface_hub", "omegaconf", "einops")
    theirs = checkout("SEDD", "sampling.py", absent=absent)
    graph_lib, noise_lib = checkout("SEDD", "graph_lib.py"), checkout("SEDD", "noise_lib.py")
    graph, noise, network = graph_lib.Uniform(VOCAB), noise_lib.GeometricNoise(1e-3, 20.0), Network()
    owner = graph_lib if predictor == "euler" else theirs
    laws, x = record(monkeypatch, owner, "sample_categorical"), canvas()

    class Model(torch.nn.Module):
        def forward(self, x, sigma):
            return network(x).scatter(-1, x[..., None], 0.0)

    t = torch.tensor([[0.6], [0.4]])
    step = theirs.get_predictor(predictor)(graph, noise)
    update = lambda: step.update_fn(theirs.mutils.get_score_fn(Model(), train=False, sampling=True), x, t, 0.125)
    with torch.no_grad():
        update()
        with dlm.accelerated(theirs):
            x_s = update()
            assert sum(row.fast_calls for row in dlm.explain(theirs).rows) == 2
    assert_drawn(x, x_s, laws[0].detach())
    assert len(laws) == 1
