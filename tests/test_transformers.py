"""DiffusionGemma's generate in transformers, accelerated and not, with the same random numbers: step by step the same."""

import contextlib
import copy
from unittest import mock

import injection
import pytest
import torch
from dlm_kernels.bench.loops_transformers import tiny_model
from dlm_kernels.reference.philox import STREAM_NOISE, draw_uniform
from dlm_kernels.reference.transition import noise_token

import dlm_kernels as dlm
from dlm_kernels.integrations import transformers as adapter

client = pytest.importorskip("transformers.models.diffusion_gemma.generation_diffusion_gemma")
from transformers import LogitsProcessor, LogitsProcessorList  # noqa: E402
from transformers.generation.streamers import BaseStreamer  # noqa: E402

VOCAB, CANVAS = 128, 8


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def any_model(request):
    return tiny_model(VOCAB, CANVAS, dtype=request.param)


@pytest.fixture(scope="module")
def model():
    return tiny_model(VOCAB, CANVAS)


def prompt(batch, seed=1):
    return torch.randint(VOCAB - 8, (batch, 7), generator=torch.Generator().manual_seed(seed))


# ---- running both ----------------------------------------------------------------------------------------------------


class ClientNumbers(injection.Numbers):
    """What the original draws with: multinomial and, after it, randint have the numbers of the op's call."""

    noise = None
    canvases = 0

    def multinomial(self, probs, num_samples=1):
        seeds = self.seeds(len(probs) // CANVAS)[:, None]
        at = (seeds, torch.arange(CANVAS)[None], torch.zeros((), dtype=torch.int64))
        self.noise = draw_uniform(*at, STREAM_NOISE)
        return injection.invert(probs, draw_uniform(*at).flatten())[:, None]

    def randint(self, low, high, size, device=None):
        if self.noise is None:
            self.canvases += 1
            return torch.empty(size, dtype=torch.int64).random_(
                high, generator=torch.Generator().manual_seed(self.canvases)
            )
        noise, self.noise = self.noise, None
        return noise_token(noise, high)


@contextlib.contextmanager
def shared_numbers():
    numbers = ClientNumbers()
    with (
        injection.ours(),
        mock.patch.object(torch, "multinomial", numbers.multinomial),
        mock.patch.object(torch, "randint", numbers.randint),
    ):
        yield


def watched(model, record):
    """Notes what every step returns and leaves behind."""
    step = model._denoising_step

    def watch(**kwargs):
        resting = kwargs["finished_denoising"].clone()
        given = {name: kwargs[name].clone() for name in ("current_canvas", "argmax_canvas")}
        out = step(**kwargs)
        stopping = kwargs["diffusion_stopping_criteria"]
        record.append(
            dict(zip(("canvas", "argmax", "conditioning", "finished"), [part.clone() for part in out]))
            | {"accepted": kwargs["sampler"].accepted_token_mask & ~resting[:, None]}
            | {"history": None if stopping is None else copy.copy(stopping.argmax_canvas_history)}
        )
        assert out[3] is kwargs["finished_denoising"]
        for name, before in given.items():
            assert torch.equal(kwargs[name], before)
        return out

    return mock.patch.object(model, "_denoising_step", watch)


def generate(model, batch=3, **options):
    """(what generate returned, its steps)."""
    record = []
    options = {"max_new_tokens": 2 * CANVAS, "max_denoising_steps": 8, **options}
    ids = prompt(batch)
    with shared_numbers(), watched(model, record):
        return model.generate(ids, **options), record


def same_step(ours, theirs):
    for name, want in theirs.items():
        got = ours[name]
        assert (got is None) == (want is None), name
        if want is not None:
            assert got.dtype == want.dtype and torch.equal(got, want), name


def check(model, build=lambda: {}, **options):
    """Both runs agree in every step; returns the accelerated one's. ``build`` makes the options that a run uses up."""
    want, theirs = generate(model, **build(), **options)
    with dlm.accelerated(model):
        got, ours = generate(model, **build(), **options)
        [row] = dlm.explain(model).rows
    assert row.fast_calls == len(ours) and not row.fallbacks
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        same_step(mine, other)
    assert torch.equal(got.sequences, want.sequences)
    assert torch.equal(got.tokens_per_forward, want.tokens_per_forward)
    return got, ours


# ---- the same tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stability", [0, 1, 3])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_steps(any_model, batch, stability):
    check(any_model, batch=batch, stability_threshold=stability, confidence_threshold=0.7, max_denoising_steps=12)


def test_sequences_come_to_rest_one_by_one(any_model):
    got, steps = check(any_model, batch=6, confidence_threshold=0.7, max_denoising_steps=16)
    finished = {int(step["finished"].sum()) for step in steps}
    assert len(finished) > 3 and len(got.tokens_per_forward.unique()) > 2


@pytest.mark.parametrize("bound", [1e-3, 2.0, 30.0])
def test_entropy_bound(model, bound):
    steps = check(model, sampler_config=client.EntropyBoundSamplerConfig(entropy_bound=bound))[1]
    accepted = torch.stack([step["accepted"].float().mean() for step in steps]).mean()
    assert (accepted == 1.0) == (bound == 30.0) and accepted > 0


def test_without_stopping(model):
    with mock.patch.object(model, "_prepare_diffusion_stopping_criteria", lambda config: None):
        steps = check(model, confidence_threshold=0.7)[1]
    assert len(steps) == 16 and not steps[-1]["finished"].any()


@pytest.mark.parametrize("extremes", [(0.0, 0.1), (0.4, 0.8), (0.5, 3.0)])
def test_temperatures(model, extremes):
    check(model, t_min=extremes[0], t_max=extremes[1])


def test_own_canvas_and_return_without_dict(model):
    canvas = torch.randint(VOCAB, (3, CANVAS), generator=torch.Generator().manual_seed(3))
    check(model, lambda: {"decoder_input_ids": canvas.clone()})
    options = dict(return_dict_in_generate=False)
    want = generate(model, **options)[0]
    with dlm.accelerated(model):
        assert torch.equal(generate(model, **options)[0], want)


# ---- logits processors -----------------------------------------------------------------------------------------------


class Keeping(LogitsProcessor):
    """Forbids a token and keeps what it gave and got, as a recorder does."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores, cur_step):
        out = scores.masked_fill(torch.arange(VOCAB) == 3, -torch.inf)
        self.seen += [(scores, scores.clone()), (out, out.clone())]
        return out


class Passing(Keeping):
    def __call__(self, input_ids, scores, cur_step):
        self.seen.append((scores, scores.clone()))
        return scores


class Wide(LogitsProcessor):
    def __call__(self, input_ids, scores, cur_step):
        return scores.double().mT.contiguous().mT


@pytest.mark.parametrize("kind", [Keeping, Passing, Wide])
def test_other_processors_run_first_and_nothing_of_theirs_is_written_to(any_model, kind):
    lists = []

    def build():
        lists.append(LogitsProcessorList([kind()]))
        return {"logits_processor": lists[-1]}

    sequences = check(any_model, build, confidence_threshold=0.7)[0].sequences
    assert (kind is not Keeping) or not (sequences[:, 7:] == 3).any()
    for processors in lists:
        for kept, before in getattr(processors[0], "seen", ()):
            assert torch.equal(kept, before)


def test_the_temperature_of_a_list_used_again_counts_twice(model):
    """generate appends to the caller's list."""
    check(model, lambda: {"logits_processor": LogitsProcessorList()}, batch=2)
    lists = [LogitsProcessorList([client.LinearTemperatureScheduleLogitsProcessor(0.5, 2.0, 8)]) for _ in range(2)]
    check(model, lambda: {"logits_processor": lists.pop()}, batch=2)


def test_a_wrapped_forward_keeps_its_logits(model):
    kept = []
    forward = model.forward

    def recording(**kwargs):
        out = forward(**kwargs)
        kept.append((out.logits, out.logits.clone()))
        return out

    with mock.patch.object(model, "forward", recording):
        check(model)
    assert kept and all(torch.equal(logits, before) for logits, before in kept)


# ---- streamers, caches -----------------------------------------------------------------------------------------------


class Streamer(BaseStreamer):
    def __init__(self, takes_logits):
        self._takes_logits, self.got = takes_logits, []

    def put(self, value):
        self.got.append(value)

    def put_draft(self, **kwargs):
        self.got += kwargs.values()

    def end(self):
        self.got.append(torch.tensor(-1))


@pytest.mark.parametrize("takes_logits", [False, True])
def test_streamers(any_model, takes_logits):
    streamers = []

    def build():
        streamers.append(Streamer(takes_logits))
        return {"streamer": streamers[-1]}

    check(any_model, build, confidence_threshold=0.7)
    theirs, ours = (streamer.got for streamer in streamers)
    assert len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs))


def not_compiled(function, **_):
    """What torch.compile(mode="reduce-overhead") makes of it, as far as memory goes: results lie where the next call puts its
    own."""
    places = {}

    def call(*args, **kwargs):
        out = function(*args, **kwargs)
        if hasattr(out, "logits"):
            out.logits = places.setdefault(out.logits.shape, torch.empty_like(out.logits)).copy_(out.logits)
        return out

    return call


def test_static_cache_and_the_bound_of_the_call():
    static = dict(cache_implementation="static", confidence_threshold=0.7)
    model = dlm.accelerate(tiny_model(VOCAB, CANVAS))
    with mock.patch.object(torch, "compile", not_compiled):
        for bound in (0.1, 30.0):
            config = client.EntropyBoundSamplerConfig(entropy_bound=bound)
            fresh = tiny_model(VOCAB, CANVAS)  # the original keeps the sampler of a model's first call
            want = generate(fresh, sampler_config=config, **static)[0].sequences
            got, steps = generate(model, sampler_config=config, **static)
            assert torch.equal(got.sequences, want)
            assert bool(steps[0]["accepted"].all()) == (bound == 30.0)
    assert not dlm.explain(model).rows[0].fallbacks


# ---- what is not covered ---------------------------------------------------------------------------------------------


class OwnSampler(client.EntropyBoundSampler):
    pass


class OwnStopping(client.StableAndConfidentStoppingCriteria):
    pass


def patched_sampler(sampler):
    sampler.renoise_canvas = lambda accepted, step: accepted
    return sampler


@pytest.mark.parametrize(
    ("name", "replacement", "why"),
    [
        (
            "_prepare_sampler",
            lambda config: OwnSampler(config.sampler_config, CANVAS, VOCAB, 8),
            "the sampler is a OwnSampler",
        ),
        (
            "_prepare_sampler",
            lambda config: patched_sampler(client.EntropyBoundSampler(config.sampler_config, CANVAS, VOCAB, 8)),
            "the sampler has a renoise_canvas of its own",
        ),
        (
            "_prepare_sampler",
            lambda config: client.EntropyBoundSampler(config.sampler_config, CANVAS, VOCAB - 9, 8),
            f"the sampler renoises with {VOCAB - 9} tokens, the model has {VOCAB}",
        ),
        (
            "_prepare_diffusion_stopping_criteria",
            lambda config: OwnStopping(1, 0.7),
            "the stopping criterion is a OwnStopping",
        ),
    ],
)
def test_other_parts_run_the_clients_code(model, name, replacement, why):
    def run():
        torch.manual_seed(0)
        return model.generate(prompt(2), max_new_tokens=CANVAS, max_denoising_steps=4).sequences

    with mock.patch.object(model, name, replacement):
        want = run()
        with dlm.accelerated(model):
            assert torch.equal(run(), want)
            [row] = dlm.explain(model).rows
    assert row.fast_calls == 0 and list(row.fallbacks)[0].startswith(why)


@pytest.mark.parametrize(
    ("kind", "name", "replacement", "why"),
    [
        (
            "EntropyBoundSampler",
            "renoise_canvas",
            lambda self, accepted, step: accepted,
            "the sampler has a renoise_canvas",
        ),
        (
            "StableAndConfidentStoppingCriteria",
            "__call__",
            lambda self, argmax, logits: torch.tensor([True, True]),
            "the stopping criterion has a __call__",
        ),
    ],
)
def test_a_changed_class_runs_the_clients_code(model, kind, name, replacement, why):
    with mock.patch.object(getattr(client, kind), name, replacement):
        test_other_parts_run_the_clients_code(model, "_prepare_sampler", model._prepare_sampler, why)


def test_other_ways_to_cool_are_called(model):
    """A list that does more than its processors, and a changed processor."""

    class Only(LogitsProcessorList):
        def __call__(self, input_ids, scores, **options):
            return super().__call__(input_ids, scores, **options).index_fill(-1, torch.arange(VOCAB // 2), -torch.inf)

    sequences = check(model, lambda: {"logits_processor": Only()})[0].sequences
    assert (sequences[:, 7:] >= VOCAB // 2).all()
    calls = []

    def warm(self, input_ids, scores, cur_step):
        calls.append(cur_step)
        return scores * 0.2

    with mock.patch.object(client.LinearTemperatureScheduleLogitsProcessor, "__call__", warm):
        steps = check(model)[1]
    assert len(calls) == 2 * len(steps)


def test_a_step_of_its_own_or_another_version_is_left_alone(model, monkeypatch):
    class Subclass(type(model)):
        def _denoising_step(self, **kwargs):
            return super()._denoising_step(**kwargs)

    other = copy.copy(model)
    other.__class__ = Subclass
    with pytest.warns(RuntimeWarning, match="Subclass has a _denoising_step of its own"):
        dlm.accelerate(other)
    assert "_denoising_step" not in vars(other)
    monkeypatch.setattr("transformers.__version__", "5.99.0")
    with pytest.warns(RuntimeWarning, match="transformers 5.99.0 is not one of the versions"):
        dlm.accelerate(model)
    dlm.restore(model)


class Poison(LogitsProcessor):
    def __call__(self, input_ids, scores, cur_step):
        scores = scores.clone()
        scores[1, 2, 5] = torch.nan
        return scores


def test_nan_is_an_error_as_in_the_original(model):
    run = lambda: model.generate(prompt(2), max_new_tokens=CANVAS, logits_processor=LogitsProcessorList([Poison()]))
    with pytest.raises(RuntimeError):
        run()
    with dlm.accelerated(model), pytest.raises(ValueError, match=r"^logits: .*got a bad one at \(b, i\) = \(1, 2\)"):
        run()


# ---- living with it ----------------------------------------------------------------------------------------------------


def test_torchs_seed_repeats_a_run(model):
    def run(seed):
        torch.manual_seed(seed)
        return model.generate(prompt(2), max_new_tokens=CANVAS, max_denoising_steps=6).sequences

    with dlm.accelerated(model):
        first = run(1)
        assert torch.equal(run(1), first) and not torch.equal(run(2), first)


def test_everything_comes_back(model):
    before = dict(vars(model))
    assert dlm.accelerate(model) is model and "_denoising_step" in vars(model)
    assert "DiffusionGemma" in str(dlm.explain(model))
    dlm.restore(model)
    assert vars(model) == before


def test_other_objects_are_not_taken_for_one():
    [only] = adapter.ADAPTERS
    assert not only.matches(torch.nn.Linear(1, 1)) and not only.matches(client)
