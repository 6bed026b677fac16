"""transition_step_: every position takes one of four routes, and the law of where it ends is that of the original sampler."""

import math

import dense_posteriors as dense
import pytest
import torch
from backends import is_slow, ops
from dlm_kernels.reference import transition as routes
from helpers import assert_equal, places_of
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import StepCase, step_cases
from transition_cases import KINDS, NO_MASK, Numbers, odds_against, rows, weights_of
from transition_laws import SEED, STEP, assert_frequencies, check_law, move_
from uniform_cases import copied, transition_call
from uniform_checks import check_transition

from dlm_kernels import transitions

# ---- against the reference -----------------------------------------------------------------------------------------


@given(case=step_cases(open_share=0.0), trace=st.booleans())
def test_step(backend, case, trace):
    check_transition(ops, transition_call(case, trace=trace))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_large_vocabulary(backend, dtype, packed):
    size = dict(batch=2, length=6, width=5, vocab=20_000 if is_slow(backend) else 126_464)
    case = StepCase(seed=3, dtype=dtype, packed=packed, start=not packed, temperature="mixed", **size)
    for seed in range(4):
        check_transition(ops, transition_call(case.but(seed=seed, per_request=True), trace=True))


@given(case=step_cases(open_share=0.0))
def test_only_candidate_rows_are_read(backend, case):
    """NaN in the rows of what cannot change makes no difference."""
    call = transition_call(case)
    x, (logits, *_), kwargs = call
    want_x, want_args, want_kwargs = copied(call)
    want = ops.transition_step_(want_x, *want_args, **want_kwargs)
    places = places_of(x, logits, kwargs["start"], kwargs["rows"])
    stop = kwargs["window_stop"] if kwargs["window_stop"] >= 0 else x.shape[1]
    candidate = places.real & (places.position >= kwargs["window_start"]) & (places.position < stop)
    if kwargs["frozen"] is not None:
        candidate &= ~kwargs["frozen"][places.batch, places.position] if x.numel() else False
    *leading, last = candidate.nonzero(as_tuple=True)
    read = torch.zeros_like(candidate)
    read[(*leading, (last + kwargs["shift"]).clamp(min=0))] = True
    logits[~read] = torch.nan
    out = ops.transition_step_(x, *call[1], **kwargs)
    assert_equal("x", x, want_x)
    for i, (mine, theirs) in enumerate(zip(out, want)):
        assert_equal(f"output {i}", mine, theirs)


# ---- the laws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_the_law_is_the_original_posterior(backend, name):
    kind, vocab, n = KINDS[name], 7, 1000 if is_slow(backend) else 30_000
    mask_id = 3 if kind.mask else NO_MASK
    logits, x_t = rows(2, 4, vocab, 1.5, mask_id)
    if kind.mask:
        x_t[:2] = mask_id
    numbers = kind.numbers(Numbers(1, 4, tame=True))
    transition = kind.make(*numbers)
    law = logits.float().double().softmax(-1)
    route = check_law(ops, x_t, logits, transition, kind.original(law, x_t, *numbers, mask_id=mask_id), n, mask_id)
    weights = weights_of(transition, odds_against(logits.float().double(), x_t), x_t == mask_id, vocab, mask_id)
    for b in range(4):
        assert_frequencies(torch.bincount(route[b].long(), minlength=4), weights[b])


@pytest.mark.parametrize("tempered", transitions.TEMPERED)
@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_the_law_of_a_denoiser_at_a_temperature(backend, temperature, tempered):
    """The leave-one-out shift before or after the temperature."""
    logits, x_t = rows(4, 3, 6, 1.0, NO_MASK)
    alpha_t, alpha_s = Numbers(2, 3, tame=True).alphas()
    transition = transitions.uniform(alpha_t, alpha_s, prediction="denoiser", tempered=tempered)
    law = dense.leave_one_out(logits.float().double(), x_t, alpha_t, temperature, tempered)
    n = 1000 if is_slow(backend) else 30_000
    check_law(ops, x_t, logits, transition, dense.sumi(law, x_t, alpha_t, alpha_s), n, temperature=temperature)


def test_the_leave_one_out_shift_finds_rivals_that_are_hardly_there(backend):
    """At a low temperature the others weigh 2^-173 of x_t, and the shift, tempered with the law, makes them its equals."""
    vocab, n = 27, 1000 if is_slow(backend) else 30_000
    x_t = torch.tensor([3, 20])
    logits = torch.randn(2, vocab, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 40
    logits = logits.float().double().scatter(-1, x_t[:, None], 12.0)
    alpha_t, alpha_s = torch.full((2,), math.exp(13.2) / (math.exp(13.2) + vocab)).double(), torch.ones(2).double()
    transition = transitions.uniform(alpha_t, alpha_s, prediction="denoiser", tempered="after")
    law = dense.leave_one_out(logits, x_t, alpha_t, 0.1, "after")
    want = dense.sumi(law, x_t, alpha_t, alpha_s)
    assert bool((want.gather(-1, x_t[:, None]) > 0.1).all())
    check_law(ops, x_t, logits, transition, want, n, temperature=0.1)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "sedd_euler"])  # whose score of x_t is 1 / 0
def test_at_temperature_zero_the_law_is_the_argmax(backend, name):
    kind, vocab, n = KINDS[name], 5, 1000 if is_slow(backend) else 20_000
    mask_id = 2 if kind.mask else NO_MASK
    logits, x_t = rows(2, 4, vocab, 1.5, mask_id)
    x_t[0] = logits[0].argmax()
    if kind.mask:
        x_t[1] = mask_id
    numbers = kind.numbers(Numbers(1, 4, tame=True))
    law = dense.one_hot(logits.argmax(-1), logits)
    want = kind.original(law, x_t, *numbers, mask_id=mask_id)
    check_law(ops, x_t, logits, kind.make(*numbers), want, n, mask_id, temperature=0.0)


def test_greedy_by_hand(backend):
    """At the last step of temperature 0 everything becomes its argmax, lowest index on ties; probabilities are those of T = 1."""
    logits = torch.log(torch.tensor([[[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.4, 0.2, 0.4]]]))
    x = torch.tensor([[0, 0, 2]])
    tokens, route, p_current, confidence, num_changed, num_bad = move_(
        ops, x, logits, transitions.uniform(0.5, 1.0), 0.0
    )
    assert tokens.tolist() == x.tolist() == [[1, 0, 0]]
    assert route.tolist() == [[routes.MODEL, routes.STAY, routes.MODEL]]
    torch.testing.assert_close(p_current, torch.tensor([[0.25, 0.5, 0.4]]))
    torch.testing.assert_close(confidence, torch.tensor([[0.5, 0.5, 0.4]]))
    assert (num_changed.tolist(), num_bad.tolist()) == ([2], [0])


# ---- edges ---------------------------------------------------------------------------------------------------------


def test_bad_rows_are_left_alone_and_counted(backend):
    logits = torch.zeros(2, 3, 4)
    logits[0, 0, 1], logits[0, 2, 0], logits[1, 1] = torch.nan, torch.inf, -torch.inf
    x = torch.tensor([[1, 2, 3], [0, 1, 2]], dtype=torch.int32)
    before = x.clone()
    frozen = torch.zeros(2, 3, dtype=torch.bool)
    frozen[0, 2] = True  # not read: not counted
    out = move_(ops, x, logits, transitions.uniform(0.0, 0.1), frozen=frozen)
    tokens, route, p_current, confidence, num_changed, num_bad = out
    bad = torch.tensor([[True, False, True], [False, True, False]])
    assert_equal("x", x[bad], before[bad])
    assert_equal("tokens", tokens, x)
    assert route[bad].eq(0).all() and p_current[bad].eq(0).all() and confidence[bad].eq(-torch.inf).all()
    assert confidence[~bad].gt(0).all() and num_bad.tolist() == [1, 1]
    assert num_changed.tolist() == (x != before).sum(-1).tolist()


@pytest.mark.parametrize("mask_id", [2, 5, 900])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_masks_inside_and_outside_the_vocabulary(backend, dtype, mask_id):
    """They are filled, restored and never drawn; the law gives them probability 0."""
    n, vocab = 400, 5
    logits = torch.zeros(1, n, vocab)
    mask = dict(mask_id=mask_id, suppress=torch.tensor([mask_id]))
    x = torch.full((1, n), mask_id, dtype=dtype)
    tokens, route, p_current, confidence, *_ = move_(ops, x, logits, transitions.absorbing(0.2, 0.6), **mask)
    filled = x != mask_id
    assert 0 < filled.sum() < n and bool((x[filled] < vocab).all()) and p_current.eq(0).all()
    assert_equal("route", route, torch.where(filled, routes.MODEL, routes.STAY).to(torch.uint8))
    p = 1 / (vocab - (mask_id < vocab))
    torch.testing.assert_close(confidence, torch.where(filled, p, 0.0))

    before = x.clone()
    tokens, route, p_current, *_ = move_(ops, x, logits, transitions.remdm(0.6, 0.8, 0.25), **mask)
    remasked = (before != mask_id) & (x == mask_id)
    assert remasked.any()
    assert_equal("remasked", route == routes.MASK, remasked)
    torch.testing.assert_close(p_current, torch.where(before == mask_id, 0.0, p))


def test_where_there_is_no_other_token_it_stays(backend):
    """One token in the vocabulary, or one that is possible: a step that wants to move has nowhere to go."""
    x = torch.zeros(1, 50, dtype=torch.int64)
    out = move_(ops, x, torch.zeros(1, 50, 1), transitions.max_coupling(0.1, 0.9))
    assert out[1].eq(routes.STAY).all() and out[2].eq(1).all() and out[4].item() == 0
    logits = torch.full((1, 50, 3), -torch.inf)
    logits[..., 2] = 1.0
    x = torch.full((1, 50), 2)
    assert move_(ops, x, logits, transitions.max_coupling(0.1, 0.9))[1].eq(routes.STAY).all() and x.eq(2).all()
    x = torch.full((1, 50), 1)  # impossible under the law: what moves becomes the only token there is
    out = move_(ops, x, logits, transitions.max_coupling(0.1, 0.9))
    assert set(x.unique().tolist()) == {1, 2} and out[2].eq(0).all()
    x = torch.full((1, 50), 2)  # a mask that nobody suppressed, and nothing else
    out = move_(ops, x, logits, transitions.absorbing(0.1, 1.0), mask_id=2)
    assert x.eq(2).all() and out[1].eq(routes.STAY).all() and out[4].item() == out[5].item() == 0


def test_a_nearly_certain_token_leaves_an_exact_law_behind(backend):
    """x_t holds all but 1e-13 of the mass, and the move to the others still follows their own law."""
    n = 1000 if is_slow(backend) else 20_000
    logits = torch.tensor([30.0, 0.0, 1.0, 2.0]).expand(1, n, 4)
    x = torch.zeros(1, n, dtype=torch.int64)
    uniform = torch.rand(1, n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform[..., 0] = 0.0
    bridge = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]  # leave for a draw of the law, whatever x_t is
    coefficients = torch.tensor([[0.0, 0.0, *bridge, *bridge]], dtype=torch.float64)
    out = ops.transition_step_(x, logits, torch.ones(1), SEED, STEP, coefficients, uniform=uniform)
    assert out[1].eq(routes.MODEL).all()
    law = torch.tensor([0.0, 1.0, 2.718281828, 7.389056099]).double()
    assert_frequencies(torch.bincount(x[0], minlength=4), law / law.sum())


def test_the_three_uniforms_are_independent(backend):
    """The keyed numbers of route, draw and noise are streams of their own, and the caller's are the three columns."""
    n, vocab = 2000, 64
    x = torch.zeros(1, n, dtype=torch.int64)
    transition = transitions.uniform(0.0, 0.5)
    tokens, route, *_ = move_(ops, x, torch.zeros(1, n, vocab), transition)
    for way in (routes.MODEL, routes.NOISE):
        share = tokens[route == way].double().mean() / (vocab - 1)
        assert 0.4 < share < 0.6, (way, share)  # a shared number would favour one end
    u = torch.tensor([0.9, 0.999, 0.0]), torch.tensor([0.1, 0.0, 0.999])  # model, noise
    uniform = torch.stack(u).double()[None].clone()
    x = torch.zeros(1, 2, dtype=torch.int64)
    tokens, route, *_ = move_(ops, x, torch.zeros(1, 2, vocab), transition, uniform=uniform)
    assert route.tolist() == [[routes.MODEL, routes.NOISE]] and tokens.tolist() == [[vocab - 1, vocab - 1]]


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_one_coefficient_row_for_all_is_the_same_row_for_each(backend, seed):
    x, args, kwargs = transition_call(StepCase(seed=seed, temperature="mixed", batch=3, length=5, width=5, vocab=33))
    shared = args[4].reshape(-1, 14)[:1]
    outcomes = []
    for coefficients in (shared, shared.expand(3, 14), shared[:, None].expand(3, 5, 14)):
        mine = x.clone()
        outcomes.append((mine, *ops.transition_step_(mine, *args[:4], coefficients, **kwargs)))
    for other in outcomes[1:]:
        for i, (a, b) in enumerate(zip(outcomes[0], other)):
            assert_equal(f"output {i}", a, b)


def test_the_trace_tells_the_models_moves_from_noise(backend):
    """Noise flips the canvas and commits nothing; when the model puts the same token back, nothing was revised."""
    positions = torch.full((1, 1, 8), -1, dtype=torch.int32)
    positions[..., 4:7] = 0
    steps = torch.zeros(5, 1, 8, dtype=torch.int64)
    x = torch.tensor([[0]])
    logits = torch.log(torch.tensor([[[0.1, 0.2, 0.7]]]))
    trace = dict(trace=positions, trace_steps=steps)
    to_model = torch.tensor([[[0.6, 0.9, 0.0]]], dtype=torch.float64)
    to_noise = torch.tensor([[[0.0, 0.0, 0.5]]], dtype=torch.float64)
    transition = transitions.uniform(0.0, 0.5)
    want = []
    for i, uniform in enumerate((to_model, to_noise, to_model, to_noise)):
        ops.transition_step_(
            x, logits, torch.ones(1), SEED, torch.tensor(i), transition.coefficients, uniform=uniform, **trace
        )
        want.append(x.item())
    assert want == [2, 1, 2, 1]
    columns = ("model_flips", "noise_flips", "first_commits", "revisions", "round_trips", "returns", "same", "gain")
    got = {name: steps[:4, 0, i].tolist() for i, name in enumerate(columns)}
    assert got["model_flips"] == [1, 0, 1, 0] and got["noise_flips"] == [0, 1, 0, 1]
    assert got["first_commits"] == [1, 0, 0, 0] and got["same"] == [0, 0, 1, 0] and not any(got["revisions"])
    down = torch.tensor([[[0.6, 0.0, 0.0]]], dtype=torch.float64)  # the least likely token, from the committed 2
    ops.transition_step_(
        x, logits, torch.ones(1), SEED, torch.tensor(9), transition.coefficients, uniform=down, **trace
    )
    assert x.item() == 0 and steps[4, 0, 3] == 1
    assert steps[4, 0, 7].item() / 2**20 == pytest.approx(torch.log(torch.tensor(0.1 / 0.7)).item(), abs=1e-6)
