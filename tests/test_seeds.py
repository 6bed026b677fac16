"""Seeds of requests: distinct, repeatable, and the same for a request whatever the batch."""

import torch

import dlm_kernels as dlm
from dlm_kernels.seeds import fresh_seeds


def test_request_seeds_are_distinct_and_do_not_depend_on_the_batch():
    seeds = torch.cat([dlm.request_seeds(s, 1000) for s in range(20)])
    assert seeds.unique().numel() == 20_000
    assert torch.equal(dlm.request_seeds(7, 3), dlm.request_seeds(7, 1000)[:3])


def test_request_seeds_are_splitmix64():
    # First outputs of the published generator for seed 0 and 1234567.
    want = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [s % 2**64 for s in dlm.request_seeds(0, 3).tolist()] == want
    want = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [s % 2**64 for s in dlm.request_seeds(1234567, 3).tolist()] == want


def test_fresh_seeds_follow_the_generator():
    a, b = (fresh_seeds(4, "cpu", torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b) and a.unique().numel() == 4


def test_an_int_seed_is_every_sequences_seed_and_a_tensor_is_per_request():
    logits = torch.zeros(1, 1, 1000).expand(4, 8, 1000)
    alike = dlm.draw_tokens(logits, temperature=1.0, seed=5).tokens
    assert (alike == alike[0]).all()
    own = dlm.draw_tokens(logits, temperature=1.0, seed=dlm.request_seeds(5, 4)).tokens
    assert not (own == own[0]).all()
    drawn = dlm.draw_tokens(logits, temperature=1.0, generator=torch.Generator().manual_seed(1)).tokens
    again = dlm.draw_tokens(logits, temperature=1.0, generator=torch.Generator().manual_seed(1)).tokens
    assert torch.equal(drawn, again) and not torch.equal(drawn, dlm.draw_tokens(logits, temperature=1.0).tokens)


def test_what_draws_nothing_leaves_the_generator_alone():
    generator = torch.Generator().manual_seed(1)
    before, logits = generator.get_state(), torch.randn(2, 3, 50)
    dlm.draw_tokens(logits, generator=generator)
    dlm.denoise_step(torch.full((2, 3), 50), logits, mask_id=50, rule=dlm.TopK(1), generator=generator)
    assert torch.equal(generator.get_state(), before)
