"""The Fast-dLLM drop-in and its seams, against the semantics of two releases told anew in bench/fast_dllm_client.py."""

import inspect
from types import SimpleNamespace

import injection
import pytest
import torch
from dlm_kernels.bench import fast_dllm_client as toy
from llada_toys import Toy, assert_fits

import dlm_kernels as dlm
from dlm_kernels.integrations import fast_dllm

MASK, VOCAB = 40, 37


@pytest.fixture(params=toy.RELEASES)
def release(request, monkeypatch):
    monkeypatch.setattr(toy, "get_transfer_index", toy.RELEASES[request.param])
    return request.param


def problem(seed=0, batch=3, length=24, vocab=200, dtype=torch.float32, scale=4.0, masked=0.6):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(batch, length, vocab, generator=generator)).to(dtype)
    x = torch.randint(vocab, (batch, length), generator=generator)
    mask_index = torch.rand(batch, length, generator=generator) < masked
    return logits, x.masked_fill(mask_index, MASK), mask_index


def equal(got, want, mask_index):
    """Of the marks only those at masks are written by anybody."""
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1] & mask_index, want[1] & mask_index) and got[1].dtype == want[1].dtype
    assert not (got[1] & ~mask_index).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.9, 1.0, 2.0])
def test_greedy_selection(release, threshold, dtype):
    for seed in range(6):
        logits, x, mask_index = problem(seed, dtype=dtype)
        count = torch.tensor([2, 0, 30])  # the last has not so many masks, nor so many positions
        before = x.clone()
        arguments = (logits, 0.0, "low_confidence", mask_index, x, count.clamp(max=24), threshold)
        got = fast_dllm.get_transfer_index(*arguments[:5], count, threshold)
        equal(got, toy.get_transfer_index(*arguments), mask_index)
        assert torch.equal(x, before)


def test_a_confidence_equal_to_the_threshold_is_taken(release):
    """Where there is one token, p is exactly 1 in any arithmetic."""
    logits = torch.full((1, 4, 8), -torch.inf)
    logits[..., 2] = 1.0
    arguments = (logits, 0.0, "low_confidence", torch.ones(1, 4).bool(), torch.full((1, 4), MASK), None)
    for threshold, count in ((1.0, 4), (1.0 + 1e-9, 1)):
        for select in (toy.get_transfer_index, fast_dllm.get_transfer_index):
            assert select(*arguments, threshold)[1].sum() == count


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.5, 3])
def test_factor_with_its_slip(factor):
    slips = 0
    for seed in range(30):
        logits, x, mask_index = problem(seed, length=6, scale=9.0)
        mask_index[0] = False
        arguments = (logits, 0.0, "low_confidence", mask_index, x, None, factor)
        got = fast_dllm.get_transfer_index_dynamic(*arguments)
        equal(got, toy.get_transfer_index_dynamic(*arguments), mask_index)
        clean = fast_dllm.get_transfer_index_dynamic(*arguments, compat=False)[1]
        slips += int((got[1] & ~clean).any())
        assert not (clean & ~got[1]).any() and (got[1] & ~clean).sum(dim=1).max() <= 1
    assert slips > 0 or factor in (0.0, 3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_selection_with_the_same_numbers(release, temperature, monkeypatch):
    for seed in range(4):
        logits, x, mask_index = problem(seed)
        arguments = (logits, temperature, "low_confidence", mask_index, x, torch.tensor([3, 1, 24]), None)
        with injection.ours():
            got = fast_dllm.get_transfer_index(*arguments)
        monkeypatch.setattr(toy, "add_gumbel_noise", injection.Numbers().gumbel)
        equal(got, toy.get_transfer_index(*arguments), mask_index)


def test_random_remasking_ranks_by_chance(monkeypatch):
    logits, x, mask_index = problem()
    arguments = (logits, 0.0, "random", mask_index, x, torch.tensor([5, 2, 1]))
    with injection.ours():
        got = fast_dllm.get_transfer_index(*arguments)
    numbers = injection.Numbers()
    monkeypatch.setattr(torch, "rand", lambda shape: numbers.ranks(*shape))
    equal(got, toy.get_transfer_index(*arguments), mask_index)


def test_the_law_of_sampled_tokens():
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 8)
    open_, x = torch.ones(1, 4000, dtype=torch.bool), torch.full((1, 4000), MASK)
    rows = logits.expand(1, 4000, 8)
    x0, _ = fast_dllm.get_transfer_index(rows, 0.7, "low_confidence", open_, x, torch.tensor([1]))
    assert_fits(torch.bincount(x0[0], minlength=8), (logits[0, 0].double() / 0.7).softmax(-1))


def test_runs_repeat_with_torchs_seed():
    logits, x, mask_index = problem()

    def draw():
        return fast_dllm.get_transfer_index(logits, 1.0, "low_confidence", mask_index, x, torch.tensor([1, 1, 1]))[0]

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first) and not torch.equal(first, second)


LOOPS = {
    "count": {},
    "threshold": dict(threshold=0.6),
    "factor": dict(factor=1.0),
}


@pytest.mark.parametrize("options", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("loop", ["generate", "generate_with_prefix_cache", "generate_with_dual_cache"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accelerated_loops_give_the_same_tokens(release, loop, options, dtype):
    model = Toy(vocab=VOCAB, dtype=dtype, scale=4.0)
    prompt = torch.randint(VOCAB, (3, 5), generator=torch.Generator().manual_seed(1))
    options = dict(steps=12, gen_length=24, block_length=8, mask_id=MASK) | options
    want, calls = getattr(toy, loop)(model, prompt, **options)
    with dlm.accelerated(toy):
        got, ours = getattr(toy, loop)(model, prompt, **options)
        rows = dlm.explain(toy).rows
    assert torch.equal(got, want) and calls == ours
    assert sum(row.fast_calls for row in rows) == calls and not any(row.fallbacks for row in rows)


def test_accelerated_loop_draws_the_same_with_the_same_numbers(release, monkeypatch):
    model, prompt = Toy(vocab=VOCAB, scale=4.0), torch.tensor([[1, 2], [3, 4]])
    options = dict(steps=8, gen_length=16, block_length=8, mask_id=MASK, temperature=0.8)
    with dlm.accelerated(toy), injection.ours():
        got, _ = toy.generate(model, prompt, **options)
    monkeypatch.setattr(toy, "add_gumbel_noise", injection.Numbers().gumbel)
    want, _ = toy.generate(model, prompt, **options)
    assert torch.equal(got, want)


def test_restore_leaves_everything_as_it_was():
    before = dict(vars(toy))
    dlm.accelerate(toy)
    assert toy.get_transfer_index is not before["get_transfer_index"]
    assert inspect.signature(toy.get_transfer_index) == inspect.signature(before["get_transfer_index"])
    dlm.restore(toy)
    assert dict(vars(toy)) == before


def test_what_is_not_covered_runs_the_clients_code(release):
    logits, x, mask_index = problem()
    one = torch.tensor([1, 1, 1])
    cases = {
        "logits: dtype": (logits.double(), 0.0, "low_confidence", mask_index, x, one),
        "got a bad one": (
            logits.masked_fill(mask_index[..., None], torch.nan),
            0.0,
            "low_confidence",
            mask_index,
            x,
            one,
        ),
        "remasking: must be low_confidence or random, got loudest": (logits, 0.0, "loudest", mask_index, x, one),
    }
    with dlm.accelerated(toy):
        for reason, arguments in cases.items():
            try:
                want = toy.RELEASES[release](*arguments)
            except NotImplementedError:
                with pytest.raises(NotImplementedError):
                    toy.get_transfer_index(*arguments)
            else:
                assert all(map(torch.equal, toy.get_transfer_index(*arguments), want))
            assert any(reason in why for row in dlm.explain(toy).rows for why in row.fallbacks), reason
            with pytest.raises(ValueError, match=reason.split(":")[0]):
                fast_dllm.get_transfer_index(*arguments)


def test_an_unknown_release_is_left_alone(monkeypatch):
    def get_transfer_index(logits, temperature, remasking, mask_index, x, num_transfer_tokens, threshold=0.9):
        pass

    monkeypatch.setattr(toy, "get_transfer_index", get_transfer_index)
    with pytest.warns(RuntimeWarning, match="has a parameter threshold=0.9 that is not known"):
        dlm.accelerate(toy)
    assert toy.get_transfer_index is get_transfer_index
    dlm.restore(toy)


@pytest.mark.checkout
def test_against_a_checkout(checkout):
    """DLM_KERNELS_CHECKOUT_FAST_DLLM: its loops with a toy model and the cache of nobody."""
    theirs = checkout("FAST_DLLM", "llada/generate.py", absent=("transformers", "model.modeling_llada"))
    model = Toy(vocab=VOCAB, scale=4.0)
    model.device = torch.device("cpu")
    prompt = torch.randint(VOCAB, (1, 5), generator=torch.Generator().manual_seed(1))
    plain = model.forward
    model.forward = lambda x, past_key_values=None, use_cache=None, replace_position=None: SimpleNamespace(
        logits=plain(x).logits, past_key_values=((torch.zeros(1, 1, x.shape[1], 1),) * 2,)
    )
    for options in (dict(), dict(threshold=0.6), dict(factor=1.0)):
        if "factor" in options and "factor" not in inspect.signature(theirs.generate).parameters:
            continue
        for name in ("generate", "generate_with_prefix_cache", "generate_with_dual_cache"):
            loop = lambda: getattr(theirs, name)(  # noqa: B023 - called at once
                model,
                prompt,
                steps=12,
                gen_length=24,
                block_length=8,
                mask_id=MASK,
                **options,  # noqa: B023
            )
            want = loop()
            with dlm.accelerated(theirs):
                got = loop()
                assert sum(row.fast_calls for row in dlm.explain(theirs).rows) > 0
            assert torch.equal(got[0], want[0]) and got[1] == want[1]
