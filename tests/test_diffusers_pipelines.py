"""LLaDA2Pipeline and DiffusionGemmaPipeline run their own loops with small random models, as they are and accelerated."""

import contextlib
import copy
import sys
from unittest import mock

import injection
import pytest
import torch
from diffusers import BlockRefinementScheduler, DiscreteDDIMScheduler, EntropyBoundScheduler, LLaDA2Pipeline
from dlm_kernels.bench import tiny_pipelines

import dlm_kernels as dlm
from dlm_kernels.integrations.diffusers import FusedBlockRefinementScheduler, FusedEntropyBoundScheduler

EOS, MASK = tiny_pipelines.EOS, tiny_pipelines.MASK


@contextlib.contextmanager
def shared_numbers(batch):
    """Both sides draw the same: the stock code inverts the CDF of its law on the keys of ours. One run of each."""
    theirs, ours, real = injection.Numbers(batch), injection.Numbers(batch), torch.multinomial

    def multinomial(probs, num_samples, generator=None):
        if probs.shape[-1] == 3:  # DDIM's ways: ours takes these from the generator too
            return injection.invert(probs, torch.rand(len(probs), dtype=torch.float64, generator=generator))[:, None]
        if probs.dtype == torch.float64:  # the corrector, which is ours in every bit
            return real(probs, num_samples, generator=generator)
        return theirs.multinomial(probs)

    with (
        mock.patch.object(torch, "multinomial", multinomial),
        injection.ours(numbers=ours),
    ):
        yield


def compare(pipe, batch, run):
    """``run(pipe)`` as it is and accelerated give the same; everything is as it was then. Returns what ``explain`` says."""
    with shared_numbers(batch):
        want = run(pipe)
    before, config, scheduler = vars(pipe).copy(), dict(pipe.config), pipe.scheduler
    with shared_numbers(batch):
        dlm.accelerate(pipe)
        got = run(pipe)
    explanation = dlm.explain(pipe)
    dlm.restore(pipe)
    assert vars(pipe).keys() == before.keys() and pipe.scheduler is scheduler and dict(pipe.config) == config
    assert all(not row.fallbacks for row in explanation.rows), str(explanation)
    assert torch.equal(got, want)
    return explanation


# ---- LLaDA2Pipeline --------------------------------------------------------------------------------------------------


def llada2_run(batch, seen=None, **options):
    settings = dict(gen_length=26, block_length=8, num_inference_steps=8, mask_token_id=MASK, output_type="seq")
    prompt = torch.randint(MASK, (batch, 5), generator=torch.Generator().manual_seed(batch))

    def run(pipe):
        pipe.model.calls = 0
        out = pipe(input_ids=prompt, **{**settings, **options}).sequences
        if seen is not None:
            seen.append(pipe.model.calls)
        return out

    return run


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(editing_threshold=None),
        dict(threshold=1.5, num_inference_steps=5),
        dict(threshold=0.2, editing_threshold=0.1, eos_token_id=EOS),
        dict(temperature=1.0),
        dict(temperature=0.7, top_k=20, threshold=0.9),
        dict(temperature=1.0, top_p=0.9),
        dict(temperature=1.3, top_k=50, top_p=0.8, sampling_method="auto", eos_token_id=EOS),
        dict(temperature=1.3, sampling_method="greedy"),
    ],
    ids=str,
)
def test_llada2(options, batch):
    calls = []
    pipe = tiny_pipelines.llada2(BlockRefinementScheduler())
    [row] = compare(pipe, batch, llada2_run(batch, calls, **options)).rows
    assert calls[0] == calls[1] == row.fast_calls > 4


def test_llada2_stops_at_eos():
    """A token that the model is fond of, so that sequences end before the others."""
    pipe = tiny_pipelines.llada2(BlockRefinementScheduler())
    eos = int(llada2_run(3)(pipe)[0, 10])
    calls = []
    compare(pipe, 3, llada2_run(3, calls, eos_token_id=eos))
    all_of_them = []
    compare(pipe, 3, llada2_run(3, all_of_them, eos_token_id=eos, eos_early_stop=False))
    assert calls[0] <= all_of_them[0]


def test_llada2_callbacks_see_all_rows():
    names = LLaDA2Pipeline._callback_tensor_inputs
    pipe, runs = tiny_pipelines.llada2(BlockRefinementScheduler()), []

    def run(pipe):
        runs.append([])
        keep = lambda pipe, step, timestep, tensors: runs[-1].append({k: v.clone() for k, v in tensors.items()}) or {}
        return llada2_run(2, callback_on_step_end=keep, callback_on_step_end_tensor_inputs=names)(pipe)

    compare(pipe, 2, run)
    assert len(runs[0]) == len(runs[1]) > 8
    for want, got in zip(*runs):
        for name in names:
            close = torch.allclose if want[name].dtype.is_floating_point else torch.equal
            assert close(got[name], want[name]), name


def test_llada2_with_the_scheduler_class_alone():
    pipe = tiny_pipelines.llada2(BlockRefinementScheduler(threshold=0.8))
    want = llada2_run(2)(pipe)
    pipe.scheduler = FusedBlockRefinementScheduler.from_config(pipe.scheduler.config)
    assert "the client's own code" not in str(dlm.explain(pipe))
    assert torch.equal(llada2_run(2)(pipe), want)
    assert pipe.scheduler.report.fast == pipe.model.calls and pipe.scheduler.config.threshold == 0.8
    assert pipe.config["scheduler"] == ("dlm_kernels.integrations.diffusers", "FusedBlockRefinementScheduler")
    [row] = dlm.explain(dlm.accelerate(pipe)).rows  # nothing to do, and its calls are still told
    assert row.fast_calls == pipe.model.calls and type(pipe.scheduler) is FusedBlockRefinementScheduler
    assert dlm.restore(pipe).scheduler.report.fast == pipe.model.calls


def test_what_is_saved_needs_no_dlm_kernels(tmp_path):
    for accelerated in (False, True):
        pipe = tiny_pipelines.llada2(BlockRefinementScheduler(threshold=0.8))
        if accelerated:
            dlm.accelerate(pipe)
            llada2_run(2)(pipe)
        pipe.register_modules(model=None)  # a toy cannot be saved
        pipe.save_pretrained(tmp_path / str(accelerated))
    files = [sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("False", "True")]
    assert len(files[0]) == 2
    for plain, ours in zip(*files, strict=True):
        assert plain.name == ours.name and plain.read_text() == ours.read_text()
    loaded = LLaDA2Pipeline.from_pretrained(tmp_path / "True", model=None)
    assert type(loaded.scheduler) is BlockRefinementScheduler and loaded.scheduler.config.threshold == 0.8


def test_a_scheduler_keeps_what_it_holds():
    """Its state goes over to the fused one, and who has given it methods of his own keeps the object."""
    pipe = tiny_pipelines.llada2(BlockRefinementScheduler())
    pipe.scheduler.set_timesteps(3)
    pipe.scheduler.note = "mine"
    dlm.accelerate(pipe)
    assert (
        pipe.scheduler.num_inference_steps == 3 and pipe.scheduler.note == "mine" and len(pipe.scheduler.timesteps) == 3
    )

    pipe = tiny_pipelines.llada2(scheduler := BlockRefinementScheduler())
    scheduler.check_block_should_continue = mock.Mock(wraps=scheduler.check_block_should_continue)
    dlm.accelerate(pipe)
    llada2_run(2)(pipe)
    assert pipe.scheduler is scheduler and scheduler.check_block_should_continue.called
    assert dlm.explain(pipe).rows[0].fast_calls == pipe.model.calls
    assert "step" not in vars(dlm.restore(pipe).scheduler)


def test_a_scheduler_of_the_users_stays_after_restore():
    pipe = dlm.accelerate(tiny_pipelines.llada2(BlockRefinementScheduler()))
    pipe.scheduler = mine = BlockRefinementScheduler()
    assert "replaced since" in str(dlm.explain(pipe))
    dlm.accelerate(pipe)
    assert type(pipe.scheduler) is FusedBlockRefinementScheduler and dlm.restore(pipe).scheduler is mine
    dlm.accelerate(pipe)
    pipe.scheduler = other = BlockRefinementScheduler()
    assert dlm.restore(pipe).scheduler is other


def test_schedulers_in_a_pipeline():
    scheduler = BlockRefinementScheduler()
    pipe, other = tiny_pipelines.llada2(scheduler), tiny_pipelines.llada2(scheduler)
    dlm.accelerate(pipe)
    assert type(pipe.scheduler) is FusedBlockRefinementScheduler and other.scheduler is scheduler
    twin = copy.deepcopy(pipe)
    assert type(dlm.restore(twin).scheduler) is BlockRefinementScheduler
    assert type(pipe.scheduler) is FusedBlockRefinementScheduler
    dlm.restore(pipe)

    dlm.accelerate(scheduler)
    dlm.accelerate(pipe)
    dlm.restore(pipe)
    assert pipe.scheduler is scheduler and "step" in vars(scheduler)
    dlm.restore(scheduler)

    class Mine(BlockRefinementScheduler):
        """With the same step, which is accelerated where it is."""

        def check_block_should_continue(self, **options):
            Mine.asked = True
            return super().check_block_should_continue(**options)

    pipe = tiny_pipelines.llada2(mine := Mine())
    [row] = compare(pipe, 1, llada2_run(1)).rows
    assert row.fast_calls and pipe.scheduler is mine and Mine.asked

    pipe.scheduler.step = step = lambda **options: None
    with pytest.warns(RuntimeWarning, match="a step of its own"):
        dlm.accelerate(pipe)
    assert pipe.scheduler.step is step
    pipe = tiny_pipelines.llada2(torch.nn.Identity())
    with pytest.warns(RuntimeWarning, match="the scheduler Identity is not covered"):
        dlm.accelerate(pipe)


# ---- DiffusionGemmaPipeline ------------------------------------------------------------------------------------------


def gemma_run(batch, seen=None, **options):
    settings = dict(gen_length=32, num_inference_steps=6, output_type="seq", confidence_threshold=None)

    def run(pipe):
        calls = []
        handle = pipe.model.register_forward_hook(lambda *_: calls.append(1))
        prompts = ["1 2 3", "4 5 6", "7 8 9"][:batch]
        generator = torch.Generator().manual_seed(3)
        try:
            out = pipe(prompt=prompts, generator=generator, **{**settings, **options}).sequences
        finally:
            handle.remove()
        if seen is not None:
            seen.append(len(calls))
        return out

    return run


SCHEDULERS = {
    "block": BlockRefinementScheduler(threshold=0.5),
    "block editing": BlockRefinementScheduler(threshold=0.5, editing_threshold=0.3),
    "ddim": DiscreteDDIMScheduler(),
    "corrector": DiscreteDDIMScheduler(corrector_steps=1, corrector_k=3),
    "entropy": EntropyBoundScheduler(entropy_bound=2.0),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_diffusion_gemma(scheduler, temperature, batch):
    pipe = tiny_pipelines.diffusion_gemma(copy.deepcopy(SCHEDULERS[scheduler]))
    rows = compare(pipe, batch, gemma_run(batch, temperature=temperature)).rows
    assert rows[0].fast_calls and rows[1].fast_calls == 0


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_diffusion_gemma_stops_when_the_original_does(scheduler, temperature):
    """At a bound between the entropies that it meets, so that some sequences rest earlier than others."""
    pipe = tiny_pipelines.diffusion_gemma(copy.deepcopy(SCHEDULERS[scheduler]), vocab=64, canvas=4)
    module = sys.modules[type(pipe).__module__]
    steps = set()
    for bound in (0.05, 0.5, 100.0):
        calls = []
        options = dict(temperature=temperature, confidence_threshold=bound, num_inference_steps=10, gen_length=8)
        rows = compare(pipe, 3, gemma_run(3, calls, **options)).rows
        assert calls[0] == calls[1] and rows[1].fast_calls > 0 and "entropy" in rows[1].does
        assert module.torch is torch
        steps.add(calls[0])
    assert min(steps) < 20 or scheduler == "corrector"  # which this model never lets rest


@pytest.mark.parametrize("scheduler", ["entropy", "block", "ddim"])
def test_the_entropy_is_not_computed_twice(scheduler):
    pipe = tiny_pipelines.diffusion_gemma(copy.deepcopy(SCHEDULERS[scheduler]))
    with dlm.accelerated(pipe), mock.patch("dlm_kernels.integrations.diffusers.row_stats", side_effect=AssertionError):
        gemma_run(2, confidence_threshold=0.01)(pipe)
    tempered = tiny_pipelines.diffusion_gemma(copy.deepcopy(SCHEDULERS["block"]))
    with (
        dlm.accelerated(tempered),
        pytest.raises(AssertionError),
        mock.patch("dlm_kernels.integrations.diffusers.row_stats", side_effect=AssertionError),
    ):
        gemma_run(2, confidence_threshold=0.01, temperature=0.5)(tempered)


def test_logits_that_a_callback_edits_are_read_again():
    """The entropy of the step's own read is no longer theirs."""

    def edit(pipe, step, timestep, tensors):
        tensors["logits"].mul_(0.5 + step)
        return {}

    options = dict(callback_on_step_end=edit, callback_on_step_end_tensor_inputs=["logits"], num_inference_steps=10)
    calls = []
    pipe = tiny_pipelines.diffusion_gemma(copy.deepcopy(SCHEDULERS["block"]))
    compare(pipe, 3, gemma_run(3, calls, confidence_threshold=1.0, **options))
    assert calls[0] == calls[1]


def test_the_generator_reaches_the_scheduler():
    """The pipeline passes on only the keywords that it sees in the signature of step."""
    pipe = tiny_pipelines.diffusion_gemma(copy.deepcopy(SCHEDULERS["block"]), sharpness=10.0)
    with dlm.accelerated(pipe):
        a, b = (gemma_run(2, temperature=1.0)(pipe) for _ in range(2))
        greedy = gemma_run(2)(pipe)
    assert torch.equal(a, b) and not torch.equal(a, greedy)


def test_pipelines_share_the_view_of_torch_and_the_last_one_gives_it_back():
    pipes = [tiny_pipelines.diffusion_gemma(EntropyBoundScheduler()) for _ in range(2)]
    module = sys.modules[type(pipes[0]).__module__]
    for pipe in pipes:
        dlm.accelerate(pipe)
        assert type(pipe.scheduler) is FusedEntropyBoundScheduler
    view = module.torch
    assert view is not torch and view.Tensor is torch.Tensor and view.no_grad is torch.no_grad
    assert view.distributions.Categorical(probs=torch.ones(3)).entropy() > 1  # what is not the pipeline's question
    dlm.restore(pipes[0])
    assert module.torch is view
    dlm.restore(pipes[1])
    assert module.torch is torch and torch.distributions.Categorical is sys.modules["torch.distributions"].Categorical
