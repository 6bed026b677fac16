"""renoise_step_: accept some draws, let the others fall back to noise; against the reference, and the originals re-told."""

import pytest
import torch
from backends import is_slow, ops
from dlm_kernels.reference import philox, transition
from helpers import assert_equal, law_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import RULES, StepCase, make_logits, step_cases
from uniform_cases import copied, renoise_call
from uniform_checks import check_renoise

from dlm_kernels import reference

SEED, STEP = torch.tensor([11]), torch.tensor(5)
KEYWORDS = dict(rule="entropy_budget", level=0.1, confidence_from="sampled")


def step_(x, logits, temperature=1.0, step=STEP, quota=0, seed=SEED, **kwargs):
    arguments = {**KEYWORDS, **kwargs}
    return ops.renoise_step_(x, logits, torch.tensor([temperature]), seed, step, torch.tensor([quota]), **arguments)


def reference_step_(x, logits, **kwargs):
    args = torch.ones(1), SEED, STEP, torch.tensor([0])
    return reference.renoise_step_(x, logits, *args, **KEYWORDS, **kwargs)


def resting(size, length):
    """A state that has seen nothing yet."""
    return dict(
        argmax=torch.full((size, length), -1),
        unchanged=torch.zeros(size, dtype=torch.int64),
        done=torch.zeros(size, dtype=torch.bool),
    )


def noise_canvas(size, length, vocab, seed, step):
    """The uniform tokens that the step would fall back to, [B, L]."""
    batch, position = torch.ones(size, length).nonzero(as_tuple=True)
    u = philox.draw_uniform(seed.expand(size)[batch], position, step, philox.STREAM_NOISE)
    return transition.noise_token(u, vocab).reshape(size, length)


# ---- against the reference -----------------------------------------------------------------------------------------

flag = st.booleans()


@given(case=step_cases(open_share=0.0), state=flag, committed=flag, probs=flag, trace=flag)
def test_step(backend, case, state, committed, probs, trace):
    check_renoise(ops, renoise_call(case, state=state, committed=committed, probs=probs, trace=trace))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_large_vocabulary(backend, dtype, packed):
    size = dict(batch=2, length=6, width=5, vocab=20_000 if is_slow(backend) else 126_464)
    case = StepCase(seed=3, dtype=dtype, packed=packed, start=not packed, rule="entropy_budget", level=1.0, **size)
    for temperature in ("mixed", "low"):
        call = renoise_call(case.but(temperature=temperature, confidence_from="sampled"), probs=True, trace=True)
        check_renoise(ops, call)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("packed", [False, True])
def test_many_rows(backend, rule, packed):
    """More positions than are sorted in one place."""
    case = StepCase(
        seed=4, batch=2, length=700, width=690, vocab=3, rule=rule, quota=200, temperature="one", packed=packed
    )
    check_renoise(ops, renoise_call(case.but(bad_share=0.05), committed=True, trace=True))


@given(case=step_cases(open_share=0.0), committed=flag)
def test_only_candidate_rows_are_read(backend, case, committed):
    """NaN in the rows of what is frozen, committed, done or outside the window makes no difference."""
    call = renoise_call(case, committed=committed)
    want_x, want_args, want_kwargs = copied(call)
    want = ops.renoise_step_(want_x, *want_args, **want_kwargs)
    x, args, kwargs = copied(call)
    if case.shift == 0 and args[0].numel():
        args[0][want[3] == -torch.inf] = torch.nan  # not read or bad already
    bad = ops.renoise_step_(x, *args, **kwargs)[6]
    assert_equal("x", x, want_x)
    assert_equal("num_bad", bad, want[6])


# ---- DiffusionGemma in transformers --------------------------------------------------------------------------------


class Transformers:
    """EntropyBoundSampler and StableAndConfidentStoppingCriteria of transformers 5.24, as _denoising_step uses them."""

    def __init__(self, canvas, bound, stability, confident):
        self.canvas, self.argmax = canvas, torch.zeros_like(canvas)
        self.bound, self.stability, self.confident = bound, stability, confident
        self.history, self.finished = None, torch.zeros(len(canvas), dtype=torch.bool)
        self.logits = None

    def entropy(self, logits):
        return torch.distributions.Categorical(logits=logits.double()).entropy()

    def step(self, logits, denoised, noise):
        """``logits`` are tempered. Returns what was accepted."""
        entropy = self.entropy(logits)
        ordered, order = torch.sort(entropy, dim=-1, descending=False)
        selected = torch.cumsum(ordered, dim=-1) - ordered <= self.bound
        accepted = torch.scatter(torch.zeros_like(selected), -1, order, selected)
        canvas = torch.where(accepted, denoised, noise)
        argmax = logits.argmax(-1)
        if self.finished.any():
            argmax = torch.where(self.finished[:, None], self.argmax, argmax)
            canvas = torch.where(self.finished[:, None], self.canvas, canvas)
            logits = torch.where(self.finished[:, None, None], self.logits, logits)
        self.canvas, self.argmax, self.logits = canvas, argmax, logits
        self.finished = self.finished | self.stop(argmax, logits)
        return accepted

    def stop(self, argmax, logits):
        stable = torch.ones(len(argmax), dtype=torch.bool)
        if self.stability > 0:
            if self.history is None:
                self.history = torch.full((self.stability, *argmax.shape), -1)
            stable = (self.history == argmax[None]).all(dim=-1).all(dim=0)
            self.history = torch.roll(self.history, shifts=-1, dims=0)
            self.history[-1] = argmax
        return stable & (self.entropy(logits).mean(dim=-1) < self.confident)


@pytest.mark.parametrize("stability", [0, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_transformers_diffusion_gemma(backend, seed, stability):
    """The whole run of a batch that comes to rest sequence by sequence, token by token."""
    size, length, vocab, steps = 4, 12, 60, 24
    g = torch.Generator().manual_seed(seed)
    settled = make_logits(g, "normal", (size, length, vocab))
    x = torch.randint(vocab, (size, length), generator=g)
    original, state, seeds = Transformers(x.clone(), 0.1, stability, 0.05), resting(size, length), torch.arange(size)
    finished_at = set()
    for i in range(steps):
        sharpness = 0.5 + 3.0 * (i + torch.arange(size)[:, None, None]) ** 2 / steps
        logits = sharpness * settled + torch.randn(size, length, vocab, generator=g) * (0.5 if i < 5 else 0.0)
        temperature, step = 0.8 - 0.4 * i / steps, torch.tensor(i)
        was, before = state["done"].clone(), x.clone()
        drawn = ops.draw_tokens(logits, torch.tensor([temperature]), seeds, step, confidence_from="sampled")[0]
        accepted = original.step(logits / temperature, drawn, noise_canvas(size, length, vocab, seeds, step))
        out = step_(x, logits, temperature, step, seed=seeds, stability=stability, confident=0.05, **state)
        assert_equal("canvas", x, original.canvas)
        assert_equal("argmax", state["argmax"], original.argmax)
        assert_equal("finished", state["done"], original.finished)
        assert_equal("accepted", out[4], accepted & ~was[:, None])
        assert_equal("a finished sequence", x[was], before[was])
        entropy = original.entropy(logits / temperature)[~was]
        torch.testing.assert_close(out[2][~was].double(), entropy, atol=2e-5, rtol=1e-5)
        finished_at |= {i} if bool((state["done"] & ~was).any()) else set()
    assert len(finished_at) > 1


# ---- block refinement in diffusers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("threshold", [0.3, 0.95])
def test_diffusers_block_refinement(backend, temperature, threshold):
    """BlockRefinementScheduler.step in uniform mode, diffusers 0.42.1: what is owed so far or confident is committed."""
    size, length, vocab, steps = 3, 20, 40, 7
    g = torch.Generator().manual_seed(5)
    x, committed = torch.randint(vocab, (size, length), generator=g), torch.zeros(size, length, dtype=torch.bool)
    ours, seeds = committed.clone(), torch.arange(size)
    for i in range(steps):
        logits, step = make_logits(g, "normal", (size, length, vocab)), torch.tensor(i)
        draws = ops.draw_tokens(logits, torch.tensor([temperature]), seeds, step, confidence_from="sampled")
        target = ((i + 1) * length + steps - 1) // steps

        needed = (target - committed.sum(dim=-1)).clamp(min=0)
        confidence = draws[1]
        ranks = confidence.masked_fill(committed, float("-inf")).argsort(dim=-1, descending=True).argsort(dim=-1)
        transfer = ~committed & ((ranks < needed[:, None]) | (confidence > threshold))
        want = torch.where(transfer, draws[0], x)
        committed = committed | transfer
        want = torch.where(committed, want, noise_canvas(size, length, vocab, seeds, step))

        rule = dict(rule="threshold", level=threshold, quota=target)
        out = step_(x, logits, temperature, step, seed=seeds, committed=ours, **rule)
        assert_equal("accepted", out[4], transfer)
        assert_equal("committed", ours, committed)
        assert_equal("x", x, want)
    assert committed.all()


# ---- the state -----------------------------------------------------------------------------------------------------


def test_coming_to_rest_by_hand(backend):
    """argmax the same for ``stability`` steps in a row and the mean entropy below ``confident``; what is done stays as it is."""
    sure, unsure = torch.tensor([0.0, 20.0, 0.0]), torch.tensor([0.0, 0.5, 0.0])
    other = torch.tensor([20.0, 0.0, 0.0])
    state, x = resting(1, 2), torch.zeros(1, 2, dtype=torch.int64)
    history = []
    for rows in [
        (sure, sure),
        (sure, other),
        (sure, other),
        (sure, unsure),
        (sure, sure),
        (sure, sure),
        (other, other),
    ]:
        step_(x, torch.stack(rows)[None], 1.0, stability=2, confident=0.1, **state)
        history.append((state["argmax"][0].tolist(), state["unchanged"].item(), state["done"].item()))
    assert history == [
        ([1, 1], 0, False),
        ([1, 0], 0, False),
        ([1, 0], 1, False),
        ([1, 1], 0, False),
        ([1, 1], 1, False),
        ([1, 1], 2, True),
        ([1, 1], 2, True),
    ]


def test_a_bad_row_ends_nothing(backend):
    logits = torch.zeros(2, 3, 4)
    logits[..., 1] = 30.0
    logits[0, 1, 2] = torch.nan
    state, x = resting(2, 3), torch.zeros(2, 3, dtype=torch.int64)
    for unchanged in (0, 1, 2):
        out = step_(x, logits, stability=1, confident=1.0, **state)
        assert state["unchanged"].tolist() == [unchanged, unchanged] if unchanged < 2 else [2, 1]
        assert state["done"].tolist() == [False, unchanged >= 1]
        assert out[6].tolist() == [1, 0] and out[0][0, 1] == x[0, 1] == 0 and out[1][0, 1] == -1
    assert state["argmax"].tolist() == [[1, -1, 1], [1, 1, 1]]


def test_sequences_of_which_nothing_is_read_keep_their_state(backend):
    logits = torch.zeros(3, 2, 4)
    frozen = torch.zeros(3, 2, dtype=torch.bool)
    frozen[1] = True
    state = resting(3, 2)
    state["unchanged"] += 5
    state["done"][2] = True
    x = torch.full((3, 2), 2)
    out = step_(x, logits, stability=0, confident=9.0, frozen=frozen, **state)
    assert state["unchanged"].tolist() == [0, 5, 5] and state["done"].tolist() == [True, False, True]
    assert state["argmax"].tolist() == [[0, 0], [-1, -1], [-1, -1]]
    assert out[2][1:].eq(0).all() and out[3][1:].eq(-torch.inf).all() and out[0][1:].eq(2).all()


def test_parts_of_the_state_may_be_missing(backend):
    logits = make_logits(torch.Generator().manual_seed(0), "normal", (2, 5, 9))
    state = resting(2, 5)
    outcomes = []
    for keys in ((), ("argmax",), ("argmax", "unchanged"), ("argmax", "unchanged", "done")):
        mine = {key: state[key].clone() for key in keys}
        x = torch.zeros(2, 5, dtype=torch.int64)
        outcomes.append([x, *step_(x, logits, **mine)])
        if keys:
            assert_equal("argmax", mine["argmax"], logits.argmax(-1))
    for other in outcomes[1:]:
        for i, (a, b) in enumerate(zip(outcomes[0], other)):
            assert_equal(f"output {i}", a, b)


def test_probabilities_of_a_module_that_is_trained(backend):
    """No op here has a derivative: a leaf that wants one is written like any other tensor."""
    logits = make_logits(torch.Generator().manual_seed(0), "normal", (1, 3, 9))
    x = torch.zeros(1, 3, dtype=torch.int64)
    plain = torch.zeros(1, 3, 9, dtype=torch.bfloat16)
    wants = plain.clone().requires_grad_()
    for step_of in (step_, reference_step_):
        step_of(x.clone(), logits, probs=plain)
        step_of(x.clone(), logits, probs=wants)
        assert_equal("probs", wants.detach(), plain)
        assert plain.float().sum(-1).sub(1).abs().max() < 0.02 and wants.grad_fn is None
        plain.zero_(), wants.detach().zero_()


def test_the_quota_counts_what_is_committed_already(backend):
    logits = torch.zeros(1, 6, 4)
    logits[0, :, 1] = torch.arange(6.0)
    committed = torch.tensor([[True, False, False, False, False, True]])
    for quota, count in ((0, 0), (2, 0), (3, 1), (5, 3), (99, 4)):
        mine, x = committed.clone(), torch.full((1, 6), 3)
        out = step_(x, logits, 0.0, rule="topk", quota=quota, committed=mine)
        assert out[5].item() == count and mine.sum() == 2 + count
        assert out[4][0].nonzero()[:, 0].tolist() == list(range(5 - count, 5))
        assert x[0, 0] == x[0, 5] == 3


# ---- softcap -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cap", [5.0, 30.0])
def test_softcap(backend, cap, dtype, guided):
    """c tanh(z / c) before anything else. An error of the tanh moves logits by c 2^-22: no more."""
    g = torch.Generator().manual_seed(3)
    z, u = (4 * make_logits(g, "normal", (1, 40, 300)) for _ in range(2))
    z[0, :3, 5] = -torch.inf
    z, u = z.to(dtype), u.to(dtype)
    capped = lambda t: torch.where(t.double().isinf(), t.double(), cap * torch.tanh(t.double() / cap))
    want = capped(z)
    if guided:
        want = torch.where(want == -torch.inf, want, capped(u) + 1.5 * (want - capped(u)))
    guidance = dict(uncond_logits=u, cfg_scale=0.5) if guided else {}
    probs, x = torch.zeros(1, 40, 300, dtype=torch.bfloat16), torch.zeros(1, 40, dtype=torch.int64)
    out = step_(x, z, 0.7, probs=probs, softcap=cap, **guidance)
    law = law_of(want[0].float(), torch.full((40,), 0.7))
    error = 4 * cap * 2.0**-22 / 0.7
    p = (want[0] / 0.7).softmax(-1)
    assert bool(((probs[0].double() - p).abs() <= p * (2.0**-8 + 3 * error) + 1e-20).all())
    top, best = want[0].amax(-1), want[0].gather(-1, out[1][0][:, None])[:, 0]
    assert bool((top - best <= error).all())
    spread = torch.where(want[0] > -torch.inf, top[:, None] - want[0], 0.0).amax(-1) / 0.7
    torch.testing.assert_close(out[2][0].double(), law.stats.entropy(), rtol=0, atol=float(error * spread.amax() * 2))


def test_softcap_does_not_hide_bad_rows(backend):
    logits = torch.zeros(1, 4, 5)
    logits[0, 0, 1], logits[0, 1, 2], logits[0, 2], logits[0, 3, 3] = torch.inf, torch.nan, -torch.inf, -torch.inf
    x = torch.full((1, 4), 4)
    out = step_(x, logits, softcap=30.0)
    assert out[6].item() == 3 and x[0, :3].eq(4).all() and out[3][0, 3] > 0


# ---- the trace -----------------------------------------------------------------------------------------------------


def test_the_trace_follows_the_best_token(backend):
    """Accepted tokens are decided again in the next step: what counts as committed is the argmax, noise or not."""
    positions = torch.full((1, 2, 8), -1, dtype=torch.int32)
    positions[..., 4:7] = 0
    steps = torch.zeros(4, 1, 8, dtype=torch.int64)
    trace, x = dict(trace=positions, trace_steps=steps), torch.tensor([[0, 0]])
    sure = torch.tensor([0.0, 30.0, 0.0])
    flat = torch.log(torch.tensor([0.2, 0.3, 0.5]))
    uniform = torch.tensor([[[0.5, 0.9], [0.9, 0.9]]], dtype=torch.float64)  # draws; noise is token 2
    for i, rows in enumerate([(sure, flat), (sure, sure), (flat, sure)]):
        step_(x, torch.stack(rows)[None], step=torch.tensor(i), rule="threshold", level=0.9, uniform=uniform, **trace)
    columns = ("model_flips", "noise_flips", "first_commits", "revisions", "round_trips", "returns", "same", "gain")
    got = {name: steps[:3, 0, i].tolist() for i, name in enumerate(columns)}
    # (accepted 1, noise 2), (accepted 1 twice), (noise 2, accepted 1); the best are (1, 2), (1, 1), (2, 1)
    assert got["model_flips"] == [1, 1, 0] and got["noise_flips"] == [1, 0, 1]
    assert got["first_commits"] == [2, 0, 0] and got["revisions"] == [0, 1, 1] and got["same"] == [0, 1, 1]
    assert got["gain"][1] / 2**20 == pytest.approx(30.0, abs=1e-5)
    assert got["gain"][2] / 2**20 == pytest.approx(0.5108256, abs=1e-5)
    assert x.tolist() == [[2, 1]]
