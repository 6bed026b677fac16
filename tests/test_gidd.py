"""GIDD's steps behind ``accelerate``, of its own code and of its model on the hub: by their laws, or token by token with the same
numbers."""

import copy
import itertools

import pytest
import torch
from dlm_kernels.bench import gidd_client as client
from dlm_kernels.bench.gidd_client import GiddPipeline, GiddSampler, HybridDiffusion
from injection import Numbers, invert, ours
from toy_uniform import VOCAB, Network, assert_drawn, canvas

import dlm_kernels as dlm
from dlm_kernels.integrations import gidd
from dlm_kernels.integrations.deferred import Law

MASK = 3
TIMES = [(0.9, 0.7), (0.3, 0.02), (0.5, 0.5)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(11)


def Tokenizer(vocab=VOCAB):
    return client.Tokenizer(vocab, MASK)


def GiddForDiffusionLM(noise_type=0.0, vocab=VOCAB):
    return client.GiddForDiffusionLM(Network(vocab), vocab, noise_type)


class Denoiser(Network):
    """Called with a time, as GIDD's models are."""

    def forward(self, z_t, t):
        return super().forward(z_t).clone()


def at(time):
    return torch.tensor([time])


def sampler(p_uniform=0.2, gamma=1.0, **options):
    schedule = HybridDiffusion(Tokenizer(), p_uniform=p_uniform, gamma=gamma)
    return GiddSampler(Denoiser(), schedule.tokenizer, schedule, compile_step=False, **options)


# ---- its own code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("p_uniform, min_p", [(0.0, 0.0), (0.2, 0.0), (0.2, 0.02)])
def test_a_denoising_step(p_uniform, min_p, times):
    step, z_t = sampler(p_uniform, min_p=min_p).sampling_step, canvas()
    step(z_t, *map(at, times))
    before = z_t.clone()
    with dlm.accelerated(step):
        z_s = step(z_t, *map(at, times))
        assert dlm.explain(step).rows[0].fast_calls == 1
    assert_drawn(z_t, z_s, step.law)
    assert torch.equal(z_t, before) and "forward" not in vars(step)


@pytest.mark.parametrize("whole", [lambda sampler: sampler, GiddPipeline])
def test_a_sampler_takes_another_step(whole):
    theirs = sampler(min_p=0.01)
    step, obj = theirs.sampling_step, whole(theirs)
    parts = [name for name, _ in obj.named_modules()]
    dlm.accelerate(obj)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(theirs.generate(2))
    assert torch.equal(*runs) and not (runs[0] == MASK).any()
    assert not hasattr(step, "law") and dlm.explain(obj).rows[0].fast_calls == 16
    twin = copy.deepcopy(obj)
    getattr(twin, "sampler", twin).generate(2)
    assert dlm.explain(obj).rows[0].fast_calls == 16
    dlm.restore(obj)
    assert theirs.sampling_step is step and [name for name, _ in obj.named_modules()] == parts


def test_of_a_compiled_step_the_model_stays_compiled(monkeypatch):
    compiled = []
    theirs = sampler()
    theirs.sampling_step = torch.compile(theirs.sampling_step, backend="eager")
    before = theirs.sampling_step
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    dlm.accelerate(theirs)
    assert compiled == [theirs.model]
    theirs.generate(2)
    assert dlm.explain(theirs).rows[0].fast_calls == 8
    dlm.restore(theirs)
    assert theirs.sampling_step is before


def test_what_is_not_covered_runs_the_clients_code_and_says_why():
    theirs = dlm.accelerate(sampler(gamma=2.0))
    theirs.generate(1)
    assert "gamma: must be 1, got 2" in str(dlm.explain(theirs))
    step = dlm.accelerate(sampler().sampling_step)
    step(canvas(length=4), at(0.3), at(0.6))  # which the original makes something of
    assert "s: must be <= t" in str(dlm.explain(step))


class OtherNoise(HybridDiffusion):
    __module__ = "elsewhere"

    def probs_at_t(self, prs, t, eps=1e-4):
        return prs


class OtherStep(GiddSampler.DenoisingStep):
    __module__ = "elsewhere"

    def forward(self, z_t, t, s):
        return z_t


def test_parts_of_the_users_own_are_left_to_them():
    changed, other_noise, other_sampler = sampler(), sampler(), GiddPipeline(torch.nn.Identity())
    changed.sampling_step.__class__ = OtherStep
    other_noise.sampling_step.noise_schedule.__class__ = OtherNoise
    for obj, why in (
        (changed, "OtherStep has a forward of its own"),
        (other_noise, "OtherNoise has a probs_at_t of its own"),
        (other_noise.sampling_step, "OtherNoise has a probs_at_t of its own"),
        (other_sampler, "the sampler Identity is not covered"),
    ):
        with pytest.warns(RuntimeWarning, match=why):
            dlm.accelerate(obj)
        assert dlm.explain(obj).unsupported == why


def test_a_pipeline_and_its_sampler():
    pipe = GiddPipeline(theirs := sampler())
    step = theirs.sampling_step
    dlm.accelerate(pipe)
    with pytest.warns(RuntimeWarning, match="its step is accelerated already"):
        dlm.accelerate(theirs)
    dlm.restore(pipe)
    assert dlm.restore(theirs).sampling_step is step


def test_a_checkpoint_may_set_the_noise():
    schedule = HybridDiffusion(Tokenizer(), p_uniform=0.1)
    assert gidd._p_uniform(schedule) == pytest.approx(0.1)
    schedule.load_state_dict(HybridDiffusion(Tokenizer(), p_uniform=0.4).state_dict())
    assert gidd._p_uniform(schedule) == pytest.approx(0.4)
    assert vars(schedule).keys() == vars(HybridDiffusion(Tokenizer())).keys()


@pytest.mark.parametrize("p_uniform", [0.0, 0.3])
def test_noising(p_uniform):
    schedule, x, t = HybridDiffusion(Tokenizer(), p_uniform=p_uniform), canvas(), torch.tensor([0.3, 0.8])
    clean = torch.nn.functional.one_hot(x, VOCAB).double()
    with dlm.accelerated(schedule):
        z_t = schedule.sample_zt(x, t)
        assert dlm.explain(schedule).rows[0].fast_calls == 1
    assert_drawn(x, z_t, schedule.probs_at_t(clean, t))


def test_self_correction_with_the_same_numbers(monkeypatch):
    model, vocab = Denoiser(vocab=40), 40
    z_t, t = torch.randperm(vocab)[None], torch.tensor([0.01])  # whose laws all differ: no ties
    for k, temp in itertools.product([1, 5], [0.4, 0.9]):
        numbers = Numbers()
        monkeypatch.setattr(
            client, "sample_categorical", lambda law, n=numbers: invert(law, n.uniforms(*law.shape[:2]))
        )
        want, acc = client.correction_step(model, Tokenizer(vocab), z_t, t, temp, k)
        with dlm.accelerated(client), ours():
            got, got_acc = client.correction_step(model, Tokenizer(vocab), z_t, t, temp, k)
        changed = (want != z_t).sum()
        assert torch.equal(got, want) and got_acc == acc and 0 < changed <= k


# ---- the model on the hub ----------------------------------------------------------------------------------------------

LEVELS = [(-9.0, -1.0), (-0.5, 1.0), (2.0, 9.0), (0.3, 0.3)]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("noise_type", [0.0, 2.0, -1000.0, 1000.0])
def test_an_ancestral_step(noise_type, levels):
    model, z = GiddForDiffusionLM(noise_type), canvas()
    z = z[:, ::2]  # a block is a part of the canvas
    if noise_type == 1000.0:
        z = torch.where(z == MASK, 0, z)  # the original divides 0 by 0
    if noise_type == -1000.0 and levels[0] == levels[1]:
        return  # so it does for tokens, which have no noise left
    for temperature in (1.0, 0.7, 0.0):
        arguments = dict(z=z, log_snr_t=torch.tensor(levels[0]), log_snr_s=torch.tensor(levels[1]))
        x_hat = model._probs_with_topk_topp(model.logits(z).double(), temperature, None, None)
        if (temperature == 0.0 and noise_type == -1000.0) or levels == (2.0, 9.0) and temperature == 0.0:
            continue  # q_t(x_t) is 0 or rounding there
        model._sample_ancestral(x_hat=x_hat, **arguments)
        with dlm.accelerated(model):
            x_hat = model._probs_with_topk_topp(model.logits(z), temperature, None, None)
            z_s = model._sample_ancestral(x_hat=x_hat, **arguments)
            assert isinstance(x_hat, Law) and x_hat.source is not None
        assert_drawn(z, z_s, model.law)


def test_the_mask_under_uniform_noise_becomes_a_token():
    model = dlm.accelerate(GiddForDiffusionLM(1000.0))
    z = torch.full((2, 500), MASK)
    x_hat = model._probs_with_topk_topp(model.logits(z), 1.0, None, None)
    assert not (model._sample_ancestral(z, x_hat, torch.tensor(-9.0), torch.tensor(-8.0)) == MASK).any()


@pytest.mark.parametrize("top_p, top_k", [(0.8, None), (None, 3), (0.6, 4), (1.0, 0)])
def test_filters(top_p, top_k):
    model, z, levels = GiddForDiffusionLM(), canvas(), (torch.tensor(-0.5), torch.tensor(1.0))
    x_hat = model._probs_with_topk_topp(model.logits(z), 0.8, top_p, top_k)
    model._sample_ancestral(z, x_hat, *levels)
    with dlm.accelerated(model):
        law = model._probs_with_topk_topp(model.logits(z), 0.8, top_p, top_k)
        z_s = model._sample_ancestral(z, law, *levels)
    assert_drawn(z, z_s, model.law)
    torch.testing.assert_close(law + 0, x_hat)


@pytest.mark.parametrize("noise_type", [0.0, -1.0])
@pytest.mark.parametrize("temperature, top_p", [(0.0, None), (0.8, None), (0.8, 0.7)])
@pytest.mark.parametrize("n_tokens", [1, 6])
def test_an_adaptive_step_with_the_same_numbers(n_tokens, temperature, top_p, noise_type, monkeypatch):
    model, vocab = GiddForDiffusionLM(noise_type, vocab=60), 60
    z = canvas(batch=1, length=40, vocab=vocab)
    z[0, ::3] = MASK
    logits = 2 * torch.randn(1, 40, vocab).index_fill(-1, torch.tensor([MASK]), -torch.inf)
    arguments = (z, logits, torch.tensor(0.2), n_tokens, MASK, temperature, top_p, None)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", Numbers().multinomial)
        want = model._sample_adaptive(*arguments)
    with dlm.accelerated(model), ours():
        got = model._sample_adaptive(*arguments)
        assert dlm.explain(model).rows[2].fast_calls == 1
    assert torch.equal(got, want) and 0 < (got != z).sum() <= n_tokens


@pytest.mark.parametrize("sampling_method", ["ancestral", "adaptive"])
def test_whole_loops(sampling_method):
    model = dlm.accelerate(GiddForDiffusionLM())
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(model.generate(sampling_method=sampling_method))
    assert torch.equal(*runs) and not hasattr(model, "law")
    assert not torch.equal(model.generate(sampling_method=sampling_method), runs[0])
    before = vars(GiddForDiffusionLM()).keys()
    assert vars(dlm.restore(model)).keys() == before
