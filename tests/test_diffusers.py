"""The fused schedulers of diffusers against the stock ones, step by step; whole pipelines are in test_diffusers_pipelines.py."""

import contextlib
import copy
import inspect
import pickle
import subprocess
import sys
from unittest import mock

import diffusers
import injection
import pytest
import torch
from diffusers import BlockRefinementScheduler, DiscreteDDIMScheduler, EntropyBoundScheduler

import dlm_kernels as dlm
from dlm_kernels.integrations import diffusers as fused
from dlm_kernels.integrations.diffusers import (
    FusedBlockRefinementScheduler,
    FusedDiscreteDDIMScheduler,
    FusedEntropyBoundScheduler,
)

PAIRS = [
    (BlockRefinementScheduler, FusedBlockRefinementScheduler, dict(threshold=0.6, editing_threshold=0.4)),
    (DiscreteDDIMScheduler, FusedDiscreteDDIMScheduler, dict(num_inference_steps=7, corrector_k=3)),
    (EntropyBoundScheduler, FusedEntropyBoundScheduler, dict(entropy_bound=0.3, t_min=0.5)),
]
BATCH, LENGTH, VOCAB, MASK = 3, 16, 120, 119
FILTERED = [dict(top_p=0.8), dict(top_k=7), dict(top_k=9, top_p=0.7)]


def problem(seed=0, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(BATCH, LENGTH + 2, VOCAB, generator=generator)).to(dtype)
    logits *= torch.rand(BATCH, LENGTH + 2, 1, generator=generator).to(dtype)  # sure of some rows, not of others
    sample = torch.randint(VOCAB - 1, (BATCH, LENGTH + 2), generator=generator)
    masked = torch.rand(sample.shape, generator=generator) < torch.tensor([[0.6], [0.2], [0.0]])
    return logits[:, 2:], sample.masked_fill(masked, MASK)[:, 2:]  # as the pipelines pass a block: views


class Same:
    """Both sides draw the same numbers: the stock one inverts the CDF of its law on the keys of ours."""

    def __init__(self):
        self.numbers = {True: injection.Numbers(BATCH), False: injection.Numbers(BATCH)}

    @contextlib.contextmanager
    def stock(self):
        def multinomial(probs, num_samples, generator=None):
            if probs.shape[-1] > 3:
                return self.numbers[False].multinomial(probs)
            numbers = torch.rand(len(probs), dtype=torch.float64, generator=generator)  # of DDIM's three ways
            return injection.invert(probs, numbers)[:, None]

        with mock.patch.object(torch, "multinomial", multinomial):
            yield

    @contextlib.contextmanager
    def ours(self):
        with injection.ours(numbers=self.numbers[True]):
            yield


def pair(stock, ours, config, steps=5, block=LENGTH):
    made = stock(**config), ours(**config)
    for scheduler in made:
        scheduler.set_timesteps(steps, **(dict(block_length=block) if stock is BlockRefinementScheduler else {}))
    return made


def assert_same(got, want):
    """All fields of an output, or of its tuple."""
    assert type(got) is type(want)
    fields = list(want) if isinstance(want, dict) else range(len(want))
    for field in fields:
        a, b = got[field], want[field]
        assert a.dtype == b.dtype and a.shape == b.shape, field
        if a.dtype.is_floating_point and a.dim() == 2:
            assert torch.allclose(a.double(), b.double(), rtol=3e-6, atol=1e-12), field
        else:
            assert torch.equal(a, b), field


def both(stock, ours, *args, seed=0, method="step", same=None, **kwargs):
    """The same call of both, the same generator's state; no call of ours may fall back."""
    same, before = same or Same(), args[-1].clone()
    with same.stock():
        want = getattr(stock, method)(*args, generator=torch.Generator().manual_seed(seed), **kwargs)
    with same.ours():
        got = getattr(ours, method)(*args, generator=torch.Generator().manual_seed(seed), **kwargs)
    assert not ours.report.fallbacks
    assert torch.equal(args[-1], before)
    assert_same(got, want)
    return got


# ---- block refinement ------------------------------------------------------------------------------------------------

PROMPT = torch.arange(LENGTH) < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prompt_mask", [None, PROMPT], ids=["whole", "prompt"])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 1.0, 1.5, 0, None])
@pytest.mark.parametrize("editing", [None, 0.0, -1.0, 0.2, 2.0])
def test_block_refinement_greedy(editing, threshold, prompt_mask, dtype):
    stock, ours = pair(*PAIRS[0])
    for step in range(7):  # also past the end of the schedule
        logits, sample = problem(step, dtype)
        options = dict(threshold=threshold, editing_threshold=editing, prompt_mask=prompt_mask, mask_token_id=MASK)
        out = both(stock, ours, logits, step, sample, **options)
        assert out.pred_logits is logits


@pytest.mark.parametrize("law", [dict(), *FILTERED, dict(top_k=0, top_p=1.0), dict(top_k=VOCAB)], ids=str)
@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7])
@pytest.mark.parametrize("mask", [MASK, None])
def test_block_refinement_draws(mask, temperature, law):
    stock, ours = pair(*PAIRS[0])
    same = Same()
    for step in range(5):
        logits, sample = problem(step)
        options = dict(mask_token_id=mask, temperature=temperature, threshold=0.5, editing_threshold=0.3, **law)
        both(stock, ours, logits, step, sample, same=same, seed=step, **options)


def test_equal_logits_at_the_edge_of_top_k_all_stay():
    stock, ours = pair(*PAIRS[0])
    same, sample = Same(), torch.full((BATCH, LENGTH), MASK)
    logits = torch.randn(BATCH, LENGTH, VOCAB, generator=torch.Generator().manual_seed(0)).round() * 2
    seen = set()
    for step in range(20):
        out = both(stock, ours, logits, step, sample, same=same, mask_token_id=MASK, temperature=2.0, top_k=3)
        seen.add(int(out.sampled_tokens[0, 0]))
    assert len(seen) > 3


@pytest.mark.parametrize(
    ("method", "temperature", "draws"),
    [("greedy", 1.0, False), ("multinomial", 1.0, True), ("multinomial", 0.0, False), ("auto", 0.0, False)],
)
def test_sampling_method(method, temperature, draws):
    stock, ours = pair(*PAIRS[0])
    logits, sample = problem()
    options = dict(mask_token_id=MASK, sampling_method=method, temperature=temperature)
    out = both(stock, ours, logits, 0, sample, **options)
    assert torch.equal(out.sampled_tokens, logits.argmax(-1)) != draws
    # filters do not touch what is not drawn
    if not draws:
        assert_same(ours.step(logits, 0, sample, top_k=1, top_p=0.1, **options), out)


@pytest.mark.parametrize("threshold", [0.3, 0.9, 1.2])
@pytest.mark.parametrize("editing", [None, 0.0, 0.2])
def test_block_refinement_without_a_mask(editing, threshold):
    stock, ours = pair(*PAIRS[0][:2], dict(editing_threshold=editing))
    same, sample = Same(), None
    for step in (0, 1, 2, 3, 4, 0, 1):
        logits, start = problem(step)
        sample = start if sample is None else sample
        options = dict(threshold=threshold, temperature=0.7)
        out = both(stock, ours, logits, torch.tensor(step), sample, same=same, seed=step, **options)
        sample = out.prev_sample
        assert torch.equal(ours._committed, stock._committed)


def test_nothing_is_filled_before_set_timesteps():
    logits, sample = problem()
    stock, ours = BlockRefinementScheduler(), FusedBlockRefinementScheduler()
    out = both(stock, ours, logits, 0, sample, mask_token_id=MASK, editing_threshold=0.1)
    assert not out.transfer_index.any() and out.editing_transfer_index.any()


# ---- discrete DDIM ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_discrete_ddim(temperature, dtype):
    stock, ours = pair(*PAIRS[1])
    same, routes = Same(), set()
    for step in range(5):
        for again in range(4):
            logits, sample = problem(10 * step + again, dtype)
            out = both(stock, ours, logits, step, sample, same=same, seed=again, temperature=temperature)
            routes |= set(
                zip(
                    (out.prev_sample == sample).flatten().tolist(),
                    (out.prev_sample == out.sampled_tokens).flatten().tolist(),
                )
            )
        if step == 4:
            assert torch.equal(out.prev_sample, out.sampled_tokens)
    assert len(routes) == 4


@pytest.mark.parametrize("selection", ["lowest_log_margin", "lowest_maxprob", "lowest_current_prob", "random"])
@pytest.mark.parametrize("scale", [0.5, 3.0, 40.0])
def test_corrector(selection, scale):
    """With the stock one's own random numbers: nothing is injected here."""
    config = dict(corrector_k=3, corrector_selection=selection, corrector_selection_tau=0.5)
    stock, ours = pair(*PAIRS[1][:2], config, steps=8)
    for step in range(7):
        for seed in range(3):
            logits, sample = problem(seed, scale=scale)
            sample[:, ::3] = logits.argmax(-1)[:, ::3]
            want, got = (
                s.step_correct(logits, step, sample, generator=torch.Generator().manual_seed(seed))
                for s in (stock, ours)
            )
            assert_same(got, want)
    assert not ours.report.fallbacks


@pytest.mark.parametrize("scale", [0.5, 3.0, 40.0])
def test_the_corrector_selects_by_the_same_numbers(scale):
    """Of the dense conditional, what positions hold and the best of all others."""
    stock, ours = pair(*PAIRS[1][:2], {}, steps=8)
    logits, sample = problem(scale=scale)
    sample[:, ::3] = logits.argmax(-1)[:, ::3]
    for step in range(7):
        asked = []
        for scheduler in (stock, ours):
            first = torch.zeros(BATCH, 1, dtype=torch.int64)
            select = mock.patch.object(scheduler, "_select_positions", return_value=first)
            with select as select, mock.patch.object(fused, "_require_originals"):
                scheduler.step_correct(logits, step, sample)
            asked.append(select.call_args.args[:2])
        (_, dense), (zeros, two) = asked
        held = dense.gather(-1, sample[..., None])[..., 0]
        others = dense.scatter(-1, sample[..., None], -torch.inf).amax(-1)
        assert not zeros.any() and two.shape[-1] == 2
        torch.testing.assert_close(two, torch.stack([held, others], dim=-1), rtol=1e-6, atol=2e-6)


# ---- entropy bound ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [None, 0.0, 0.5, 5.0, 1e9])
def test_entropy_bound(bound):
    stock, ours = pair(*PAIRS[2])
    same = Same()
    for step in range(5):
        logits, sample = problem(step)
        out = both(stock, ours, logits, step, sample, same=same, seed=step, entropy_bound=bound)
        assert 0 < out.accepted_index.sum() <= BATCH * LENGTH


def test_entropy_bound_rounds_pred_logits_as_the_original():
    stock, ours = pair(*PAIRS[2])
    logits, sample = problem(0, torch.bfloat16)
    with (same := Same()).stock():
        want = stock.step(logits, 1, sample)
    with same.ours():
        got = ours.step(logits, 1, sample)
    assert torch.equal(got.pred_logits, want.pred_logits) and got.pred_logits.dtype == torch.bfloat16
    assert torch.equal(got.sampled_tokens, want.sampled_tokens)


# ---- all three -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stock", "ours", "config"), PAIRS, ids=lambda v: getattr(v, "__name__", ""))
class TestClass:
    def test_configs_cross(self, stock, ours, config, tmp_path):
        made = stock(**config)
        ours.from_config(made.config).save_pretrained(tmp_path)
        for kind in (stock, ours):
            loaded = kind.from_pretrained(tmp_path)
            assert type(loaded) is kind
            assert {k: loaded.config[k] for k in config} == config
        assert "Fused" not in (tmp_path / "scheduler_config.json").read_text()  # loads where there is no dlm_kernels
        assert {k: stock.from_config(ours(**config).config).config[k] for k in config} == config

    def test_is_found_under_its_name(self, stock, ours, config):
        assert getattr(fused, f"Fused{stock.__name__}") is ours is getattr(fused, ours.__name__)
        assert ours.__module__ == fused.__name__ and issubclass(ours, stock)
        scheduler = ours(**config)
        for twin in (pickle.loads(pickle.dumps(scheduler)), copy.deepcopy(scheduler)):
            assert type(twin) is ours and twin.config == scheduler.config

    def test_keywords_are_still_seen_by_inspection(self, stock, ours, config):
        accelerated = dlm.accelerate(stock(**config))
        for name in ("step", "step_correct"):
            if hasattr(stock, name):
                want = inspect.signature(getattr(stock(**config), name))
                assert inspect.signature(getattr(ours(**config), name)) == want
                assert inspect.signature(getattr(accelerated, name)) == want

    def test_a_stock_object_is_accelerated_in_place(self, stock, ours, config):
        logits, sample = problem()
        plain, scheduler = pair(stock, stock, config)
        before = dict(vars(scheduler))
        dlm.accelerate(scheduler)
        with (same := Same()).stock():
            want = plain.step(logits, 0, sample, generator=torch.Generator().manual_seed(0))
        with same.ours(), mock.patch.object(torch, "multinomial", side_effect=AssertionError):
            got = scheduler.step(logits, 0, sample, generator=torch.Generator().manual_seed(0))
        assert_same(got, want)
        row = dlm.explain(scheduler).rows[0]
        assert row.fast_calls == 1 and not row.fallbacks
        dlm.restore(scheduler)
        assert vars(scheduler).keys() == before.keys() and scheduler.step.__func__ is stock.step

    def test_tuples(self, stock, ours, config):
        logits, sample = problem()
        both(*pair(stock, ours, config), logits, 0, sample, return_dict=False)

    def test_the_generator_decides(self, stock, ours, config):
        logits, sample = problem(scale=0.3)
        temperature = {} if stock is EntropyBoundScheduler else dict(temperature=1.0)
        outs = []
        for seed in (0, 0, 1):
            _, scheduler = pair(stock, ours, config)
            outs.append(scheduler.step(logits, 0, sample, generator=torch.Generator().manual_seed(seed), **temperature))
        assert torch.equal(outs[0].sampled_tokens, outs[1].sampled_tokens)
        assert torch.equal(outs[0].prev_sample, outs[1].prev_sample)
        assert not torch.equal(outs[0].sampled_tokens, outs[2].sampled_tokens)
        torch.manual_seed(5)
        a = scheduler.step(logits, 0, sample, **temperature)
        torch.manual_seed(5)
        assert torch.equal(a.sampled_tokens, scheduler.step(logits, 0, sample, **temperature).sampled_tokens)

    def test_float64_runs_the_originals_code(self, stock, ours, config):
        logits, sample = problem()
        plain, scheduler = pair(stock, ours, config)
        want, got = (
            s.step(logits.double(), 0, sample, generator=torch.Generator().manual_seed(0)) for s in (plain, scheduler)
        )
        assert_same(got, want)
        [(why, calls)] = scheduler.report.fallbacks.items()
        assert "float64" in why and calls == 1 and "float64" in str(dlm.explain(scheduler))

    def test_another_release_runs_its_own_code(self, stock, ours, config, monkeypatch):
        monkeypatch.setattr(diffusers, "__version__", "0.43.0")
        logits, sample = problem()
        plain, scheduler = pair(stock, ours, config)
        want, got = (s.step(logits, 0, sample, generator=torch.Generator().manual_seed(0)) for s in (plain, scheduler))
        assert_same(got, want)
        assert "0.43.0" in next(iter(scheduler.report.fallbacks))
        with pytest.warns(RuntimeWarning, match="0.43.0"):
            dlm.accelerate(plain)
        assert plain.step.__func__ is stock.step

    def test_a_step_of_its_own_is_left_alone(self, stock, ours, config):
        class Mine(stock):
            def step(self, *args, **kwargs):
                return None

        with pytest.warns(RuntimeWarning, match="Mine has a step of its own"):
            assert dlm.accelerate(Mine(**config)).step() is None
        scheduler = stock(**config)
        scheduler.step = mine = lambda: None
        with pytest.warns(RuntimeWarning, match="a step of its own"):
            assert dlm.accelerate(scheduler).step is mine

    def test_what_a_step_calls_is_the_originals_own(self, stock, ours, config):
        """In a subclass, in an object, and where all look it up; before and after."""
        draw = stock._sample_from_logits
        greedy = staticmethod(lambda logits, **options: draw(logits, **(options | dict(temperature=0.0))))
        logits, sample = problem()
        run = lambda s: s.step(logits, 0, sample, generator=torch.Generator().manual_seed(0))

        plain, later = pair(type("Mine", (stock,), {"_sample_from_logits": greedy}), stock, config)
        with pytest.warns(RuntimeWarning, match="Mine has a _sample_from_logits of its own"):
            dlm.accelerate(plain)
        dlm.accelerate(later)._sample_from_logits = greedy.__func__
        derived = pair(stock, type("Mine", (ours,), {"_sample_from_logits": greedy}), config)[1]
        _, everywhere = pair(stock, ours, config)
        with mock.patch.object(stock, "_sample_from_logits", greedy):
            outs = [run(s) for s in (plain, later, derived, everywhere)]
        for out in outs:
            assert_same(out, outs[0])
        for report in (derived.report, everywhere.report):
            assert "_sample_from_logits of its own" in next(iter(report.fallbacks)) and not report.fast
        assert dlm.explain(later).rows[0].fast_calls == 0

    def test_gradients_are_the_originals(self, stock, ours, config):
        logits, sample = problem()
        _, scheduler = pair(stock, ours, config)
        out = scheduler.step(logits.requires_grad_(), 0, sample)
        assert out.sampled_probs.requires_grad and list(scheduler.report.fallbacks) == ["a gradient is not covered"]
        with torch.no_grad():
            scheduler.step(logits, 0, sample)
        with torch.inference_mode():
            scheduler.step(logits, 0, sample)
        assert scheduler.report.fast == 2

    def test_a_subclass_with_the_same_step_is_covered(self, stock, ours, config):
        class Mine(stock):
            pass

        logits, sample = problem()
        _, mine = pair(stock, Mine, config)
        out = dlm.accelerate(mine).step(logits, 0, sample)
        assert type(out).__name__ == f"{stock.__name__}Output" and dlm.explain(mine).rows[0].fast_calls == 1

    def test_fused_ones_need_nothing(self, stock, ours, config):
        scheduler = ours(**config)
        assert dlm.accelerate(scheduler) is scheduler and "step" not in vars(scheduler)
        dlm.restore(scheduler)
        explanation = dlm.explain(scheduler)
        assert explanation.accelerated and "dlm_kernels' own" in str(explanation)

    def test_bad_rows(self, stock, ours, config):
        logits, sample = problem()
        logits = logits.contiguous()
        logits[0, 3], logits[1, 5] = torch.nan, -torch.inf
        _, scheduler = pair(stock, ours, config)
        for step in range(5):
            out = scheduler.step(logits, step, sample)
            assert (out.prev_sample >= 0).all() and (out.prev_sample < VOCAB).all()
            for b, i in ((0, 3), (1, 5)):
                assert out.sampled_tokens[b, i] == sample[b, i] and out.sampled_probs[b, i] == -torch.inf

    def test_impossible_numbers_get_the_originals_error(self, stock, ours, config):
        logits, sample = problem()
        plain, scheduler = pair(stock, ours, config)
        calls = [dict(temperature=-1.0), dict(temperature=1.0, top_p=-0.5), dict(entropy_bound="much")]
        for options in calls:
            if not set(options) <= set(inspect.signature(stock.step).parameters):
                continue
            with pytest.raises(Exception) as want:
                plain.step(logits, 0, sample, **options)
            with pytest.raises(want.type) as got:
                scheduler.step(logits, 0, sample, **options)
            assert str(got.value) == str(want.value)


def test_importing_does_not_import_diffusers():
    program = (
        "import sys, dlm_kernels.integrations.diffusers as d, dlm_kernels as dlm\n"
        "try: dlm.explain({})\n"
        "except TypeError: pass\n"
        "assert 'diffusers' not in sys.modules\n"
        "d.FusedEntropyBoundScheduler\n"
        "assert 'diffusers' in sys.modules\n"
        "assert not hasattr(d, 'FusedDDPMScheduler') and not hasattr(d, 'EntropyBoundScheduler')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
