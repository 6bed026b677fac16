"""The dInfer decoders and their seams, against the semantics told anew in bench/dinfer_client.py."""

import injection
import pytest
import torch
from dlm_kernels.bench import dinfer_client as client
from llada_toys import Toy

import dlm_kernels as dlm
from dlm_kernels.integrations import dinfer

MASK = 7  # in the vocabulary: the model may draw it
VOCAB = 37
PROMPT = torch.randint(8, VOCAB, (3, 5), generator=torch.Generator().manual_seed(0))


def threshold_decoder(home, **options):
    return home.ThresholdParallelDecoder(**(dict(temperature=0.0, threshold=0.5, mask_id=MASK) | options))


def hierarchy_decoder(home, **options):
    return home.HierarchyDecoder(**(dict(temperature=0.0, mask_id=MASK) | options))


@pytest.mark.parametrize("options", [{}, dict(threshold=0.0), dict(threshold=1.0), dict(use_float64=True)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threshold_decoder(options, dtype):
    model = Toy(vocab=VOCAB, scale=3.0, dtype=dtype)
    want = client.decoded(model, threshold_decoder(client, **options), PROMPT)
    got = client.decoded(model, threshold_decoder(dinfer, **options), PROMPT)
    decoder = dlm.accelerate(threshold_decoder(client, **options))
    accelerated = client.decoded(model, decoder, PROMPT)
    [row] = dlm.explain(decoder).rows
    assert row.fast_calls == want[1] and not row.fallbacks
    for tokens, steps in (got, accelerated):
        assert torch.equal(tokens, want[0]) and steps == want[1]


def test_iterations_may_have_their_own_threshold():
    model = Toy(vocab=VOCAB, scale=3.0)
    want = client.decoded(model, threshold_decoder(client), PROMPT, iter_threshold=0.9)
    assert torch.equal(client.decoded(model, threshold_decoder(dinfer), PROMPT, iter_threshold=0.9)[0], want[0])
    assert want[1] > client.decoded(model, threshold_decoder(client), PROMPT)[1]


def test_what_nearly_equals_the_best_is_filled_with_it():
    row = torch.full((16,), -2.0)
    row[3] = 1.0
    logits = row.expand(1, 6, 16).clone()
    logits[0, 2:5, 3] += 1e-5
    for home in (client, dinfer):
        x = torch.full((1, 6), MASK)
        threshold_decoder(home, threshold=0.99).decode(logits, 0, 6, x)
        assert (x != MASK).all()
        logits[0, 5, 3] -= 0.1
        x = torch.full((1, 6), MASK)
        threshold_decoder(home, threshold=0.99).decode(logits, 0, 6, x)
        assert (x != MASK).sum() == 5
        logits[0, 5, 3] += 0.1


def test_a_draw_of_the_mask_counts_for_nothing():
    logits = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    logits[0, :4, MASK] += 20
    logits[1, :, MASK] += 20
    for options in (dict(threshold=0.9), dict(threshold=0.0)):
        want = torch.full((2, 6), MASK)
        threshold_decoder(client, **options).decode(logits, 0, 6, want)
        got = torch.full((2, 6), MASK)
        threshold_decoder(dinfer, **options).decode(logits, 0, 6, got)
        assert torch.equal(got, want) and (got != MASK).any()
    open_, x = torch.ones(2, 6, dtype=torch.bool), torch.full((2, 6), MASK)
    for rm_mask in (True, False):
        got = dinfer.get_transfer_index_threshold(logits, 0.0, open_, x, MASK, 0.9, rm_mask=rm_mask)
        want = client.get_transfer_index_threshold(logits, 0.0, open_, x, MASK, 0.9, rm_mask=rm_mask)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_sampled_with_the_same_numbers(monkeypatch):
    model, decoder = Toy(vocab=VOCAB, scale=3.0), dlm.accelerate(threshold_decoder(client, temperature=0.7))
    with injection.ours():
        got = client.decoded(model, decoder, PROMPT)
    monkeypatch.setattr(client, "add_gumbel_noise", injection.Numbers().gumbel)
    want = client.decoded(model, threshold_decoder(client, temperature=0.7), PROMPT)
    assert torch.equal(got[0], want[0]) and got[1] == want[1]


@pytest.mark.parametrize(
    "options", [{}, dict(threshold=0.6), dict(low_threshold=None), dict(threshold=0.3, low_threshold=0.1)], ids=str
)
def test_hierarchy_decoder(options):
    model = Toy(vocab=VOCAB, scale=3.0)
    for prompt in PROMPT:
        want = client.decoded(model, hierarchy_decoder(client, **options), prompt[None], block=24)
        got = client.decoded(model, hierarchy_decoder(dinfer, **options), prompt[None], block=24)
        decoder = dlm.accelerate(hierarchy_decoder(client, **options))
        accelerated = client.decoded(model, decoder, prompt[None], block=24)
        [row] = dlm.explain(decoder).rows
        assert row.fast_calls == want[1] == decoder.iter and not row.fallbacks
        for tokens, steps in (got, accelerated):
            assert torch.equal(tokens, want[0]) and steps == want[1]


def test_hierarchy_decoder_takes_batches_where_the_original_does_not():
    model = Toy(vocab=VOCAB, scale=3.0)
    alone = [client.decoded(model, hierarchy_decoder(client), prompt[None])[0] for prompt in PROMPT]
    assert torch.equal(client.decoded(model, hierarchy_decoder(dinfer), PROMPT)[0], torch.cat(alone))


def test_what_is_not_covered_runs_the_clients_code():
    logits, x = torch.randn(1, 6, 16), torch.full((1, 6), MASK)
    decoder = dlm.accelerate(hierarchy_decoder(client))
    decoder.decode(logits.bfloat16(), 0, 6, x)
    assert (x != MASK).any() and "rounded twice" in str(dlm.explain(decoder))
    decoder = dlm.accelerate(threshold_decoder(client))
    with pytest.raises(AssertionError):
        decoder.decode(logits[:, :4], 0, 6, x)
    assert any("must be [1, 6, V], got [1, 4, 16]" in why for why in dlm.explain(decoder).rows[0].fallbacks)
    credit = client.CreditThresholdParallelDecoder(0.0, 0.5, mask_id=MASK)
    with pytest.warns(RuntimeWarning, match="the decode of CreditThresholdParallelDecoder is not covered"):
        dlm.accelerate(credit)
    assert "decode" not in vars(credit)


def test_the_module_is_an_object_too():
    original = client.get_transfer_index_threshold
    model = Toy(vocab=VOCAB, scale=3.0)
    want = client.decoded(model, threshold_decoder(client), PROMPT)
    with dlm.accelerated(client):
        assert client.get_transfer_index_threshold is not original
        got = client.decoded(model, threshold_decoder(client), PROMPT)
    assert client.get_transfer_index_threshold is original and torch.equal(got[0], want[0])


@pytest.mark.checkout
def test_against_a_checkout(checkout):
    theirs = checkout("DINFER", "python/dinfer/decoding/parallel_strategy.py", package="dinfer.decoding")
    model = Toy(vocab=VOCAB, scale=3.0)
    with torch.compiler.set_stance("force_eager"):
        for make in (threshold_decoder, hierarchy_decoder):
            want = client.decoded(model, make(theirs), PROMPT[:1])
            decoder = dlm.accelerate(make(theirs))
            got = client.decoded(model, decoder, PROMPT[:1])
            assert torch.equal(got[0], want[0]) and got[1] == want[1] == dlm.explain(decoder).rows[0].fast_calls
        with pytest.warns(RuntimeWarning, match="not covered"):
            dlm.accelerate(theirs.CreditThresholdParallelDecoder(temperature=0.0, threshold=0.5))
