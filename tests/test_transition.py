"""Routes: csrc/core against the reference, and both against the dense posteriors of the original samplers."""

import math

import core
import dense_posteriors as dense
import pytest
import torch
from dlm_kernels.reference import transition as reference
from dlm_kernels.reference.row_stats import RowStats
from hypothesis import given
from hypothesis import strategies as st
from transition_cases import KINDS, NO_MASK, Numbers, law_of, odds_against, rows, weights_of

from dlm_kernels import schedules, transitions

cases = dict(
    seed=st.integers(0, 2**31), vocab=st.sampled_from([2, 3, 5, 17, 100]), spread=st.sampled_from([0.3, 1, 3, 8])
)


@pytest.mark.parametrize("name", KINDS)
@given(**cases)
def test_the_routes_are_the_original_posterior(name, seed, vocab, spread):
    kind, n = KINDS[name], 12
    mask_id = seed % vocab if kind.mask else NO_MASK
    logits, x_t = rows(seed, n, vocab, spread, mask_id)
    law = logits.softmax(-1)

    numbers = kind.numbers(Numbers(seed, n))
    weights = weights_of(kind.make(*numbers), odds_against(logits, x_t), x_t == mask_id, vocab, mask_id)
    assert (weights >= 0).all() and ((weights.sum(-1) - 1).abs() < 1e-12).all()
    want = kind.original(law, x_t, *numbers, mask_id=mask_id)
    error = (law_of(weights, law, x_t, mask_id) - want).abs().max().item()
    assert error < 2e-12, (numbers, error)

    numbers = kind.numbers(Numbers(seed, n, tame=True))
    weights = weights_of(kind.make(*numbers), odds_against(logits, x_t), x_t == mask_id, vocab, mask_id)
    single = [v.float() if isinstance(v, torch.Tensor) else v for v in numbers]
    want = kind.original(law.float(), x_t, *single, mask_id=mask_id)
    error = (law_of(weights.float(), law.float(), x_t, mask_id) - want).abs().max().item()
    assert error < 1e-6, (numbers, error)


@pytest.mark.parametrize("tempered", transitions.TEMPERED)
@given(**cases, temperature=st.sampled_from([0.5, 0.7, 1.0, 2.0]))
def test_leave_one_out_shifts_before_or_after_the_temperature(tempered, seed, vocab, spread, temperature):
    logits, x_t = rows(seed, 12, vocab, spread, NO_MASK)
    alpha_t, alpha_s = Numbers(seed, 12).alphas()
    transition = transitions.uniform(alpha_t, alpha_s, prediction="denoiser", tempered=tempered)
    weights = weights_of(transition, odds_against(logits, x_t, temperature), x_t < 0, vocab, temperature=temperature)
    want = dense.sumi(dense.leave_one_out(logits, x_t, alpha_t, temperature, tempered), x_t, alpha_t, alpha_s)
    got = law_of(weights, (logits / temperature).softmax(-1), x_t, NO_MASK)
    assert (got - want).abs().max() < 2e-12


def test_the_denoiser_form_is_another_sampler():
    """Feeding the law itself to the plug-in bridge is not diffusers' DDIM: they differ visibly."""
    logits, x_t = rows(0, 50, 17, 1.0, NO_MASK)
    alpha_t, alpha_s = Numbers(0, 50).alphas()
    plug_in, ddim = (f(logits.softmax(-1), x_t, alpha_t, alpha_s) for f in (dense.sumi, dense.discrete_ddim))
    assert (plug_in - ddim).abs().sum(-1).max() / 2 > 0.05


# ---- native against reference --------------------------------------------------------------------------------------

odds_values = st.one_of(st.sampled_from([0.0, 1e-300, 1e-20, 1.0, 1e20, 1e300, math.inf]), st.floats(1e-12, 1e12))


@pytest.mark.parametrize("name", KINDS)
@given(seed=st.integers(0, 2**31), odds=odds_values, vocab=st.sampled_from([2, 17, 1000, 100_278]))
def test_core_is_the_reference(native_core, name, seed, odds, vocab):
    kind = KINDS[name]
    numbers = kind.numbers(Numbers(seed, 3))
    coefficients = kind.make(*numbers).coefficients
    mask_id = seed % vocab if kind.mask else NO_MASK
    support = native_core.noise_support(vocab, mask_id)
    assert support == reference.noise_support(vocab, mask_id)
    for row in coefficients:
        shifted = native_core.leave_one_out_odds(odds, row[1].item(), support)
        want = reference.leave_one_out_odds(torch.tensor([odds], dtype=torch.float64), row[1:2], support)
        assert shifted == pytest.approx(want.item(), rel=1e-13)
        for is_mask in (False, True):
            got = torch.tensor(native_core.route_weights(row, shifted, is_mask, support), dtype=torch.float64)
            want = reference.route_weights(row[None], want.reshape(1), torch.tensor([is_mask]), support)[0]
            assert (got - want).abs().max() < 4e-15, (got, want)
            assert got[1:].tolist() == pytest.approx(
                want[1:].tolist(), rel=1e-13, abs=0
            )  # the rare ones, to their digits
            assert (got >= 0).all() and abs(got.sum().item() - 1) < 1e-12
            want = torch.tensor([shifted], dtype=torch.float64)


@pytest.mark.parametrize("odds, want", [(0.0, 0.0), (math.inf, math.inf), (2.0, math.inf)])
def test_a_shift_past_all_numbers_is_no_nan(native_core, odds, want):
    """delta / T where T is small: a certain x_t stays certain."""
    assert native_core.leave_one_out_odds(odds, 1e9, 1e5, 1e4) == want
    evidence, odds = torch.tensor([1e9], dtype=torch.float64), torch.tensor([odds], dtype=torch.float64)
    assert reference.leave_one_out_odds(odds, evidence, 1e5, 1e4).item() == want


def test_coefficients_of_a_position(native_core):
    values = torch.arange(2 * 3 * 14, dtype=torch.float64).reshape(2, 3, 14)
    assert native_core.transition_at(values, 1, 2) == values[1, 2].tolist()
    assert native_core.transition_at(values[:, 0].contiguous(), 1, 2) == values[1, 0].tolist()
    assert native_core.transition_at(values[:1, 0], 1, 2) == values[0, 0].tolist()  # one row for all


weight = st.one_of(st.just(0.0), st.floats(1e-12, 1.0))


@given(mass=st.lists(weight, min_size=4, max_size=4), u=st.floats(2**-53, 1 - 2**-53), edge=st.integers(0, 4))
def test_picking_a_route(native_core, mass, u, edge):
    """The inverse CDF in the order noise, mask, model, stay; a route without weight is never taken, at no u."""
    total = sum(mass)
    weights = [m / total for m in mass] if total > 0 else [1.0, 0.0, 0.0, 0.0]
    order = [reference.NOISE, reference.MASK, reference.MODEL, reference.STAY]
    for v in (u, 2**-53, 1 - 2**-53):
        got = native_core.pick_route(weights, v)
        assert weights[got] > 0
        edges = torch.tensor([weights[r] for r in order], dtype=torch.float64).cumsum(0)
        if (edges - v).abs().min() > 1e-15:
            want = reference.pick_route(
                torch.tensor([weights], dtype=torch.float64), torch.tensor([v], dtype=torch.float64)
            )
            assert got == want.item() == order[min(i for i in range(4) if v < edges[i] or i == 3)]


@pytest.mark.parametrize("name", KINDS)
@given(
    seed=st.integers(0, 2**31),
    rest=st.sampled_from([0.0, 1e-12, 0.5, 3.0, 1e4]),
    held=st.sampled_from([(0, 0.0), (1, 0.0), (1, 2.5), (1, 300.0), (1, math.inf), (17, math.inf), (-3, math.inf)]),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    tempered=st.sampled_from(transitions.TEMPERED),
    u=st.floats(2**-53, 1 - 2**-53),
)
def test_choosing_a_route(native_core, name, seed, rest, held, temperature, tempered, u):
    """``held``: the token of the position, and how far its logit lies below that of the argmax, which is token 0."""
    kind, vocab, top = KINDS[name], 17, 3.0
    row = kind.make(*kind.numbers(Numbers(seed, 1))).coefficients.reshape(1, 14)
    mask_id = (1, vocab)[seed % 2] if kind.mask else NO_MASK
    token, z = held[0], top - held[1]
    double = lambda v: torch.tensor([v], dtype=torch.float64)
    law = RowStats(*(double(v) for v in (top, 0, -math.inf, rest, 0)), torch.tensor([False]))
    law = law._replace(argmax=torch.tensor([0]))
    warm = double(temperature or 1.0)
    odds = law.rest_of(torch.tensor([token]), double(z), warm)
    if temperature == 0:
        odds = double(0.0 if token == 0 else math.inf)
    args = (row, odds, torch.tensor([token]), warm)
    support = reference.noise_support(vocab, mask_id)
    stats = core.Stats(top, -math.inf, 0, rest, 0.0)
    got = native_core.choose_route(row, stats, temperature, (token, z), tempered, vocab, mask_id, u)
    near = [
        reference.choose_route(*args, double(v), tempered, support, mask_id).item() for v in (u - 1e-12, u, u + 1e-12)
    ]
    assert got in near and (len(set(near)) > 1 or got == near[1])


@given(noise=st.floats(0, 1), share=st.floats(0, 1), u=st.floats(2**-53, 1 - 2**-53))
def test_noising_a_position(native_core, noise, share, u):
    mask = share * (1 - noise)
    edges = sorted([noise, noise + mask])
    if min(abs(u - edge) for edge in edges) > 1e-15:
        rates = torch.tensor([[noise, mask]], dtype=torch.float64)
        want = reference.noising_route(rates, torch.tensor([u], dtype=torch.float64)).item()
        assert native_core.noising_route(noise, mask, u) == want
        assert want == (reference.NOISE if u < noise else reference.MASK if u < noise + mask else reference.STAY)


def test_rounding_never_takes_a_route_without_weight(native_core):
    for weights in ([0.0, 1.0, 0.0, 0.0], [0.0, 0.1, 0.2, 0.7 - 1e-16], [0.0, 0.0, 0.0, 1 - 2e-16]):
        u = torch.tensor([1 - 2**-53], dtype=torch.float64)
        assert weights[native_core.pick_route(weights, u.item())] > 0
        assert weights[reference.pick_route(torch.tensor([weights], dtype=torch.float64), u).item()] > 0


@given(
    u=st.floats(2**-53, 1 - 2**-53),
    vocab=st.integers(2, 300_000),
    where=st.sampled_from(["none", "first", "in", "last", "past"]),
)
def test_noise_is_never_the_mask(native_core, u, vocab, where):
    mask_id = {"none": NO_MASK, "first": 0, "in": vocab // 2, "last": vocab - 1, "past": vocab}[where]
    support = native_core.noise_support(vocab, mask_id)
    for v in (u, 2**-53, 1 - 2**-53):
        token = native_core.noise_token(v, support, mask_id)
        assert 0 <= token < vocab and token != mask_id
        assert token == reference.noise_token(torch.tensor([v], dtype=torch.float64), support, mask_id).item()


def test_noise_is_every_other_token_alike():
    u = (torch.arange(900, dtype=torch.float64) + 0.5) / 900
    counts = torch.bincount(reference.noise_token(u, reference.noise_support(10, 3), 3), minlength=10)
    assert counts.tolist() == [100, 100, 100, 0, 100, 100, 100, 100, 100, 100]


# ---- the edges -----------------------------------------------------------------------------------------------------


def both(native_core, transition, odds, is_mask=False, vocab=10, mask_id=NO_MASK):
    """The weights by core, after checking that the reference says the same."""
    row, support = transition.coefficients.reshape(-1, 14)[0], reference.noise_support(vocab, mask_id)
    want = weights_of(transition, torch.tensor([odds], dtype=torch.float64), torch.tensor([is_mask]), vocab, mask_id)[0]
    shifted = native_core.leave_one_out_odds(odds, row[1].item(), support)
    got = native_core.route_weights(row, shifted, is_mask, support)
    assert got == pytest.approx(want.tolist(), abs=1e-14) and sum(got) == pytest.approx(1, abs=1e-12) and min(got) >= 0
    return got


ALPHAS = (0.0, 5e-324, 1e-300, 1e-17, 0.5, 1 - 2**-53, 1.0)
LOG_SNRS = (-math.inf, -1000.0, -40.0, 0.0, 40.0, 1000.0, math.inf)
EXTREME = {
    "uniform": lambda t, s, x: transitions.uniform(t, s),
    "denoiser": lambda t, s, x: transitions.uniform(t, s, prediction="denoiser"),
    "duo_psi": lambda t, s, x: transitions.duo_psi(t, s, x),
    "max_coupling": lambda t, s, x: transitions.max_coupling(t, s),
    "absorbing": lambda t, s, x: transitions.absorbing(t, s),
    "remdm": lambda t, s, x: transitions.remdm(t, s, schedules.remask_rescale(t, s, x)),
    "gidd": lambda t, s, x: transitions.gidd(1 - t, 1 - s, 0.9 * x),
    "sedd_euler": lambda t, s, x: transitions.sedd_euler(t, s * 1e300),
}


@pytest.mark.parametrize("odds", [0.0, 5e-324, 1e-300, 1.0, 1e300, math.inf])
def test_extremes_still_give_probabilities(native_core, odds):
    """Ends of every range, denormals included: no NaN, nothing negative, a sum of 1."""
    made = [
        make(alpha_t, alpha_s, x)
        for make in EXTREME.values()
        for i, alpha_t in enumerate(ALPHAS)
        for alpha_s in ALPHAS[i:]
        for x in (0.0, 0.5, 1.0)
    ]
    made += [
        transitions.gidd_snr(t, s, shift)
        for i, t in enumerate(LOG_SNRS)
        for s in LOG_SNRS[i:]
        for shift in (-1000.0, 0.0, 1000.0)
    ]
    coefficients = torch.cat([transition.coefficients for transition in made])
    assert coefficients.isfinite().all()
    for is_mask in (False, True):
        given = torch.full((len(made),), odds, dtype=torch.float64), torch.full((len(made),), is_mask)
        for vocab in (1, 100_278):
            want = reference.route_weights(coefficients, *given, vocab)
            got = [native_core.route_weights(row, odds, is_mask, vocab) for row in coefficients.numpy()]
            got = torch.tensor(got, dtype=torch.float64)
            for weights in (got, want):
                assert (weights >= 0).all() and ((weights.sum(-1) - 1).abs() < 1e-12).all()
            assert (got - want).abs().max() < 1e-14


STILL = {
    "uniform": lambda a: transitions.uniform(a, a),
    "denoiser": lambda a: transitions.uniform(a, a, prediction="denoiser"),
    "duo_psi": lambda a: transitions.duo_psi(a, a, 1.0),
    "max_coupling": lambda a: transitions.max_coupling(a, a),
    "absorbing": lambda a: transitions.absorbing(a, a),
    "remdm": lambda a: transitions.remdm(a, a, 0.0),
    "gidd": lambda a: transitions.gidd(1 - a, 1 - a, 0.2),
    "gidd_snr": lambda a: transitions.gidd_snr(20 * a - 10, 20 * a - 10, 0.0),
    "sedd_euler": lambda a: transitions.sedd_euler(0.0, 3.0),
}


@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_step_from_t_to_t_is_a_no_op(native_core, name, alpha):
    transition = STILL[name](alpha)
    for odds in (0.0, 2.0, math.inf):
        for is_mask in (False, True) if transition.needs_mask else (False,):
            assert both(native_core, transition, odds, is_mask, mask_id=7 if transition.needs_mask else NO_MASK) == [
                1,
                0,
                0,
                0,
            ]


@pytest.mark.parametrize("prediction", transitions.PREDICTIONS)
@pytest.mark.parametrize("odds", [0.0, 3.0, math.inf])
def test_from_pure_noise_the_step_is_a_draw_of_q_s(native_core, prediction, odds):
    p = 1 / (1 + odds)
    weights = both(native_core, transitions.uniform(0.0, 0.3, prediction=prediction), odds)
    assert weights == pytest.approx([0.3 * p, 0.3 * (1 - p), 0.7, 0], abs=1e-15)


def test_the_last_step_draws_no_noise(native_core):
    assert both(native_core, transitions.uniform(0.9, 1.0), 3.0)[2] == 0
    assert both(native_core, transitions.uniform(0.9, 1.0), math.inf) == [0, 1, 0, 0]
    assert both(native_core, transitions.absorbing(0.9, 1.0), math.inf, True, mask_id=3) == [0, 1, 0, 0]
    assert both(native_core, transitions.gidd(0.1, 0.0, 0.2), math.inf, True, mask_id=3) == [0, 1, 0, 0]


def test_a_certain_model_never_moves_off(native_core):
    for transition in (
        transitions.uniform(0.4, 1.0),
        transitions.max_coupling(0.4, 1.0),
        transitions.sedd_euler(5.0, 1.0),
    ):
        assert both(native_core, transition, 0.0) == [1, 0, 0, 0]
    assert both(native_core, transitions.uniform(0.4, 0.5), 0.0)[1] == 0


def test_an_impossible_x_t_is_replaced_by_a_draw_of_q_s(native_core):
    """q_t(x_t) = 0: the mask under uniform noise (GIDD-SNR's 0 / 0), a token nobody expects under pure masking, a token
    at t = 1."""
    alpha_s, noise_s = schedules.from_log_snr(0.5)
    uniform_only = transitions.gidd_snr(-0.5, 0.5, 1000.0)
    assert both(native_core, uniform_only, math.inf, True, mask_id=3) == pytest.approx([0, alpha_s, noise_s, 0])
    mask_only = transitions.gidd_snr(-0.5, 0.5, -1000.0)
    assert both(native_core, mask_only, math.inf, False, mask_id=3) == pytest.approx([0, alpha_s, 0, noise_s])
    assert both(native_core, mask_only, 3.0, False, mask_id=3) == [1, 0, 0, 0]
    assert both(native_core, transitions.gidd(0.5, 0.2, 0.0), math.inf, False, mask_id=3) == pytest.approx(
        [0, 0.8, 0, 0.2]
    )
    c = 0.5 * math.sqrt(0.2 * 0.8)
    at_t_1 = both(native_core, transitions.gidd(1.0, 0.2, 0.2), 3.0, False, mask_id=3)
    assert at_t_1 == pytest.approx([0.2 / (1 + c), 0.6 / (1 + c), c / (1 + c), 0.2 / (1 + c)])
    assert both(native_core, transitions.uniform(0.2, 0.5), math.inf, True) == pytest.approx([0, 0.5, 0.5, 0])


def test_sedds_clip(native_core):
    """A step so long that staying would be negative moves for certain."""
    assert both(native_core, transitions.sedd_euler(1.0, 2.0), 9.0) == pytest.approx([0, 1, 0, 0])
    assert both(native_core, transitions.sedd_euler(1.0, 2.0), math.inf) == [0, 1, 0, 0]
    assert both(native_core, transitions.sedd_euler(1.0, 1.0), 4.0) == pytest.approx([0.6, 0.4, 0, 0])


def test_psi_at_its_ends(native_core):
    """kappa = 1 is the ancestral step; kappa = 0 forgets x_t but for what it says about x_0."""
    for odds in (0.0, 0.5, 9.0, math.inf):
        ancestral, psi = (
            both(native_core, t, odds) for t in (transitions.uniform(0.3, 0.6), transitions.duo_psi(0.3, 0.6, 1))
        )
        assert psi == pytest.approx(ancestral, abs=1e-15)
    assert both(native_core, transitions.duo_psi(0.3, 0.6, 0), math.inf) == pytest.approx([0, 0.6, 0.4, 0])
    assert both(native_core, transitions.duo_psi(0.3, 0.3, 0), 0.0) == pytest.approx([0.3, 0, 0.7, 0])
    assert both(native_core, transitions.duo_psi(0.0, 0.0, 0.25), 1.0) == pytest.approx([0.25, 0, 0.75, 0])
