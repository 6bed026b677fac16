"""The LLaDA drop-in against the original semantics, written anew below as plain eager PyTorch."""

import itertools
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from llada_toys import EOS, EOT, IN_VOCAB, OUTSIDE, VOCAB, Fixed, Keeping, KeepingLast, Toy, assert_fits

from dlm_kernels.integrations import llada

# ---- the original semantics, at temperature 0 ----------------------------------------------------------------------


class NearTieError(Exception):
    """Two fp32 roundings may order these differently."""


def eager(
    model,
    prompt,
    attention_mask=None,
    *,
    steps,
    gen_length,
    block_length,
    cfg_scale=0.0,
    mask_id,
    logits_eos_inf=False,
    confidence_eos_eot_inf=False,
    compat=False,
    rounded=False,
):
    """Yields the canvas after every step. ``rounded``: arithmetic in the dtype of the logits instead of fp64.

    Everything is computed for every position of the canvas, one sequence after the other; ties go to the left.
    """
    batch, start = prompt.shape
    x = torch.cat([prompt, torch.full((batch, gen_length), mask_id)], dim=1)
    given_tokens = x != mask_id
    if attention_mask is not None:
        attention_mask = torch.cat([attention_mask, torch.ones(batch, gen_length, dtype=torch.long)], dim=1)
    steps_per_block = steps // (gen_length // block_length)
    for stop in range(start + block_length, start + gen_length + 1, block_length):
        left = [block_length] * batch
        for steps_left in range(steps_per_block, 0, -1):
            z = model.logits(x, attention_mask)
            if cfg_scale > 0:
                blind = torch.where(given_tokens, mask_id, x)
                u = model.logits(blind, attention_mask)
                z = u + (cfg_scale + 1) * (z - u)
            z = z if rounded else z.double()
            if logits_eos_inf:
                z[..., EOS] = -torch.inf
            best = z.topk(2).values
            draws = z.argmax(dim=-1)
            special = (draws == EOS) | (draws == EOT)
            if confidence_eos_eot_inf and compat:
                z[..., [EOS, EOT]] = -torch.inf
            score = z.softmax(dim=-1).gather(-1, draws[..., None])[..., 0]
            if confidence_eos_eot_inf and not compat:
                score[special] = -1
            for b in range(batch):
                quota = -(-left[b] // steps_left)
                left[b] -= quota
                candidates = [p for p in range(stop) if x[b, p] == mask_id]
                ranked = sorted(candidates, key=lambda p, b=b: (-score[b, p].item(), p))
                if not rounded:
                    values = [score[b, p].item() for p in ranked] + [-2.0]
                    if quota and 0 < values[quota - 1] - values[quota] < 1e-5:
                        raise NearTieError
                    if any(0 < best[b, p, 0] - best[b, p, 1] < 1e-5 for p in ranked[:quota]):
                        raise NearTieError
                for p in ranked[:quota]:
                    x[b, p] = draws[b, p]
            yield x.clone()


def canvases(model, prompt, attention_mask=None, **options):
    """(final canvas, {step: canvas after it}) of the drop-in."""
    seen = {}
    return llada.generate(
        model,
        prompt,
        attention_mask,
        eos_id=EOS,
        eot_id=EOT,
        **options,
        on_step=lambda step, x, result: seen.__setitem__(step, x.clone()),
    ), seen


def assert_same_steps(model, prompt, attention_mask=None, rounded=False, **options):
    ours, seen = canvases(model, prompt, attention_mask, **options)
    expected = eager(model, prompt, attention_mask, rounded=rounded, **options)
    before = torch.cat([prompt, torch.full((len(prompt), options["gen_length"]), options["mask_id"])], dim=1)
    for step, canvas in enumerate(expected):
        assert torch.equal(seen.get(step, before), canvas), f"step {step}"
        before = canvas
    assert torch.equal(ours, canvas)


@st.composite
def problems(draw):
    """(model class and seed, prompt, attention mask, options) with every feature in play."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(0, 5))
    blocks, block_length = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    mask_id = draw(st.sampled_from([IN_VOCAB, OUTSIDE]))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(VOCAB - 1, (batch, length), generator=generator)
    if draw(st.booleans()):
        prompt[torch.rand(prompt.shape, generator=generator) < 0.3] = mask_id
    attention_mask = torch.randint(2, prompt.shape, generator=generator) if draw(st.booleans()) else None
    options = {
        "steps": blocks * draw(st.integers(1, 8)),
        "gen_length": blocks * block_length,
        "block_length": block_length,
        "cfg_scale": draw(st.sampled_from([0.0, 0.5, 2.0])),
        "mask_id": mask_id,
        "logits_eos_inf": draw(st.booleans()),
        "confidence_eos_eot_inf": draw(st.booleans()),
        "compat": draw(st.booleans()),
    }
    return draw(st.sampled_from([Toy, Keeping, KeepingLast])), seed, prompt, attention_mask, options


@given(problems(), st.booleans())
def test_every_step_writes_the_same_tokens(problem, free):
    kind, seed, prompt, attention_mask, options = problem
    with mock.patch.object(llada, "_looking_is_free", lambda device: free):
        try:
            assert_same_steps(kind(seed), prompt, attention_mask, **options)
        except NearTieError:
            assume(False)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_compat_ranks_and_guides_in_bf16(cfg_scale, flag, seed):
    model = Toy(seed, dtype=torch.bfloat16, scale=4.0)
    prompt = torch.randint(VOCAB - 1, (2, 3), generator=torch.Generator().manual_seed(seed))
    assert_same_steps(
        model,
        prompt,
        rounded=True,
        steps=8,
        gen_length=24,
        block_length=12,
        cfg_scale=cfg_scale,
        mask_id=OUTSIDE,
        confidence_eos_eot_inf=flag,
        compat=True,
    )


def test_a_real_module_in_every_mode_of_asking():
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.place = torch.nn.Embedding(VOCAB + 1, 16), torch.nn.Embedding(32, 16)
            self.head = torch.nn.Linear(16, VOCAB)

        def forward(self, input_ids, attention_mask=None, logits_to_keep=0):
            hidden = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
            hidden = torch.tanh(hidden + hidden.mean(dim=1, keepdim=True))
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            return self.head(hidden[:, kept])

    torch.manual_seed(1)
    model, prompt = Small(), torch.randint(VOCAB, (3, 4))
    options = {"steps": 6, "gen_length": 12, "block_length": 6, "cfg_scale": 0.5, "mask_id": VOCAB}
    reference = SimpleNamespace(logits=lambda x, mask: model(x).detach().clone())
    *_, expected = eager(reference, prompt, **options)
    for mode in ("auto", "positions", "last", "all"):
        assert torch.equal(llada.generate(model, prompt, **options, logits_to_keep=mode), expected), mode


# ---- what the model is asked for -----------------------------------------------------------------------------------


@given(problems())
def test_asks_for_what_it_must_and_no_more(problem):
    kind, seed, prompt, attention_mask, options = problem
    model, mask_id = kind(seed), options["mask_id"]
    seen = canvases(model, prompt, attention_mask, **options)[1]
    blocks = options["gen_length"] // options["block_length"]
    steps = options["steps"] // blocks
    assert sorted(seen) == [b * steps + i for b in range(blocks) for i in range(min(steps, options["block_length"]))]
    assert len(model.calls) == len(seen)
    batch, length = len(prompt), prompt.shape[1] + options["gen_length"]
    for step, call in zip(sorted(seen), model.calls, strict=True):
        assert call.batch == (2 * batch if options["cfg_scale"] > 0 else batch)
        stop = prompt.shape[1] + (step // steps + 1) * options["block_length"]
        open_now = (call.canvas[:batch, :stop] == mask_id).any(dim=0).nonzero()[:, 0].tolist()
        if kind is Keeping:
            assert call.keep.tolist() == open_now
        if kind is KeepingLast:
            assert call.keep == length - open_now[0]


@mock.patch.object(llada, "_looking_is_free", lambda device: False)
def test_positions_are_looked_up_once_per_block_where_looking_waits():
    model = Keeping()
    llada.generate(model, torch.zeros(2, 3, dtype=torch.long), steps=8, gen_length=8, block_length=4, mask_id=OUTSIDE)
    assert [call.keep.tolist() for call in model.calls] == [[3, 4, 5, 6]] * 4 + [[7, 8, 9, 10]] * 4


def test_guidance_hides_the_prompt_and_nothing_else():
    model = Toy()
    prompt = torch.tensor([[1, OUTSIDE, 2]])
    llada.generate(model, prompt, steps=4, gen_length=4, block_length=4, cfg_scale=1.0, mask_id=OUTSIDE)
    for call in model.calls:
        assert call.canvas[1, [0, 2]].tolist() == [OUTSIDE, OUTSIDE]
        assert torch.equal(call.canvas[0, [1, 3, 4, 5, 6]], call.canvas[1, [1, 3, 4, 5, 6]])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
def test_the_model_s_logits_are_not_written_to(temperature, compat, cfg_scale):
    logits = torch.randn(4, 9, VOCAB, generator=torch.Generator().manual_seed(0))
    kept = logits.clone()
    llada.generate(
        Fixed(logits),
        torch.zeros(2, 3, dtype=torch.long),
        steps=3,
        gen_length=6,
        block_length=6,
        temperature=temperature,
        cfg_scale=cfg_scale,
        mask_id=OUTSIDE,
        logits_eos_inf=True,
        confidence_eos_eot_inf=True,
        eos_id=EOS,
        eot_id=EOT,
        compat=compat,
        seed=1,
    )
    assert torch.equal(logits, kept)


def test_numbers_of_other_types():
    numbers = {
        "steps": np.int64(4),
        "gen_length": np.int32(4),
        "block_length": np.int64(2),
        "temperature": np.float32(1),
        "cfg_scale": np.float64(0.5),
        "mask_id": np.int64(OUTSIDE),
        "eos_id": np.int64(EOS),
        "seed": np.int64(1),
    }
    prompt = torch.tensor([[1, 2]])
    plain = {name: value.item() for name, value in numbers.items()}
    assert torch.equal(llada.generate(Toy(), prompt, **numbers), llada.generate(Toy(), prompt, **plain))


def test_models_of_other_shapes():
    toy, prompt = Toy(), torch.tensor([[1, 2]], dtype=torch.int32)
    options = {"steps": 4, "gen_length": 4, "block_length": 4, "mask_id": OUTSIDE}
    expected = llada.generate(toy, prompt, **options)
    assert expected.dtype == torch.int64

    class OnDevice(Toy):
        device = torch.device("cpu")

    def transposed(x, attention_mask):
        return toy.logits(x).transpose(1, 2).contiguous().transpose(1, 2)

    def deaf(x, logits_to_keep=0):
        return toy.logits(x)

    for model in (OnDevice(), toy.logits, lambda x: toy.logits(x), lambda x, **kwargs: toy.logits(x), transposed, deaf):
        assert torch.equal(llada.generate(model, prompt, **options), expected)


@pytest.mark.parametrize(
    "model, error",
    [
        (lambda x: "text", TypeError),
        (lambda x: torch.zeros(len(x), VOCAB), ValueError),
        (lambda x: torch.zeros(len(x) + 1, x.shape[1], VOCAB), ValueError),
        (lambda x: torch.zeros(len(x), x.shape[1] - 1, VOCAB), ValueError),
        (lambda x, logits_to_keep=0: torch.zeros(len(x), 1, VOCAB), ValueError),
    ],
)
def test_a_model_that_returns_something_else(model, error):
    with pytest.raises(error, match="^model: must return logits"):
        llada.generate(model, torch.zeros(1, 2, dtype=torch.long), steps=2, gen_length=4, block_length=4)


# ---- flags, chance and bad data ------------------------------------------------------------------------------------


def pinned(*rows):
    """Fixed logits [1, W, VOCAB], every row given as {token: logit} over a floor of -2."""
    logits = torch.full((1, len(rows), VOCAB), -2.0)
    for i, row in enumerate(rows):
        for token, value in row.items():
            logits[0, i, token] = value
    return Fixed(logits)


def order_of_commits(model, length, **options):
    """The positions in the order in which they are committed, and the final tokens."""
    seen = []
    final = llada.generate(
        model,
        torch.empty(1, 0, dtype=torch.long),
        steps=length,
        gen_length=length,
        block_length=length,
        mask_id=OUTSIDE,
        eos_id=EOS,
        eot_id=EOT,
        **options,
        on_step=lambda step, x, result: seen.append(int(result.committed[0].nonzero())),
    )
    return seen, final[0].tolist()


def test_eos_flags_against_numbers_worked_out_by_hand():
    # Rows: a sure EOS; EoT; token 1, hardly ahead of EOS; token 2, ahead of nothing in particular.
    model = pinned({EOS: 9.0, 0: 1.0}, {EOT: 6.0}, {1: 4.1, EOS: 4.0}, {2: 2.0})
    assert order_of_commits(model, 4) == ([0, 1, 3, 2], [EOS, EOT, 1, 2])
    assert order_of_commits(model, 4, logits_eos_inf=True) == ([1, 2, 3, 0], [0, EOT, 1, 2])
    # The paper: EOS and EoT last; their competition still lowers the score of position 2.
    assert order_of_commits(model, 4, confidence_eos_eot_inf=True) == ([3, 2, 0, 1], [EOS, EOT, 1, 2])
    # The original: without EOS in its softmax position 2 comes first.
    assert order_of_commits(model, 4, confidence_eos_eot_inf=True, compat=True) == ([2, 3, 0, 1], [EOS, EOT, 1, 2])


def exact_law(model, temperature, remasking, flags, compat):
    """Probability of every final pair of tokens, for two positions and two steps, by enumeration. EOS 0, EoT 1."""
    vocab = model.table.shape[1]
    flag = flags.get("confidence_eos_eot_inf", False)

    def rows(x):
        z = model.logits(torch.tensor([x])).double()[0]
        if flags.get("logits_eos_inf"):
            z[:, 0] = -torch.inf
        return z

    def score(z, token):
        if flag and not compat and token in (0, 1):
            return -1.0
        if remasking == "random":
            return 0.0
        if flag and compat:
            z = z.clone()
            z[1] = -torch.inf
        return z.softmax(-1)[token].item()

    law = torch.zeros(vocab, vocab, dtype=torch.float64)
    z = rows([vocab, vocab])
    first = (z / temperature).softmax(-1)
    for left, right in itertools.product(range(vocab), repeat=2):
        a, b = score(z[0], left), score(z[1], right)
        go_left = 0.5 if remasking == "random" and a == b == 0 else float(a >= b)
        p = first[0, left] * first[1, right]
        law[left] += p * go_left * (rows([left, vocab])[1] / temperature).softmax(-1)
        law[:, right] += p * (1 - go_left) * (rows([vocab, right])[0] / temperature).softmax(-1)
    return law


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("flags", [{}, {"logits_eos_inf": True}, {"confidence_eos_eot_inf": True}], ids=str)
def test_sampling_follows_the_original_law(compat, remasking, flags):
    model, batch = Toy(7, vocab=4, scale=1.0), 20000
    for temperature in (0.7, 1.6):
        out = llada.generate(
            model,
            torch.empty(batch, 0, dtype=torch.long),
            steps=2,
            gen_length=2,
            block_length=2,
            temperature=temperature,
            remasking=remasking,
            mask_id=4,
            eos_id=0,
            eot_id=1,
            seed=11,
            compat=compat,
            **flags,
        )
        counts = torch.bincount(out[:, 0] * 4 + out[:, 1], minlength=16)
        assert_fits(counts, exact_law(model, temperature, remasking, flags, compat))


def test_seeds():
    prompt = torch.zeros(3, 2, dtype=torch.long)
    options = {"steps": 4, "gen_length": 12, "block_length": 6, "temperature": 1.0, "mask_id": OUTSIDE}

    def run(rows=prompt, **more):
        return llada.generate(Toy(), rows, **options, **more)

    assert torch.equal(run(seed=5), run(seed=5))
    assert not torch.equal(run(seed=5), run(seed=6))
    assert len(run(seed=5).unique(dim=0)) == 3  # one prompt three times: three samples
    seeds = torch.tensor([8, -3, 2**62])
    together = run(seed=seeds)
    for b in range(3):
        assert torch.equal(run(prompt[b : b + 1], seed=seeds[b : b + 1])[0], together[b])
    torch.manual_seed(0)
    first, second = run(), run()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run(seed=5), llada.generate(Toy(), prompt, **options | {"temperature": 0})  # neither takes from torch's generator
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(run(), first) and not torch.equal(first, second)


@pytest.mark.parametrize("flag, compat", [(False, False), (True, True)])
def test_a_nan_row_stays_masked(flag, compat):
    logits = torch.randn(1, 6, VOCAB, generator=torch.Generator().manual_seed(0))
    logits[0, 3, 2] = torch.nan
    bad = []
    options = {
        "steps": 6,
        "gen_length": 6,
        "block_length": 6,
        "mask_id": OUTSIDE,
        "eos_id": EOS,
        "eot_id": EOT,
        "confidence_eos_eot_inf": flag,
        "compat": compat,
    }
    prompt = torch.empty(1, 0, dtype=torch.long)
    out = llada.generate(Fixed(logits), prompt, **options, on_step=lambda step, x, r: bad.append(int(r.num_bad)))
    assert (out == OUTSIDE).tolist() == [[False, False, False, True, False, False]]
    assert bad == [1] * 6
    with pytest.raises(ValueError, match="3"):
        llada.generate(Fixed(logits), prompt, **options, check=True)


@pytest.mark.parametrize("kind", [Toy, Keeping, KeepingLast])
@pytest.mark.parametrize("compat", [False, True])
def test_on_step_sees_the_canvas(kind, compat):
    prompt, steps = torch.tensor([[1, 2, 4], [6, 7, 8]]), []

    def look(step, x, result):
        steps.append(step)
        assert result.tokens.shape == result.confidence.shape == result.committed.shape == x.shape == (2, 11)
        assert result.committed.sum(dim=1).tolist() == result.num_committed.tolist() == [2, 2]
        assert torch.equal(result.tokens[result.committed], x[result.committed])
        assert torch.equal(result.tokens[:, :3], prompt)
        candidates = result.confidence > -torch.inf
        stop = 7 if step < 2 else 11
        assert torch.equal(candidates[:, :stop], (x[:, :stop] == OUTSIDE) | result.committed[:, :stop])
        assert not candidates[:, stop:].any()
        assert torch.equal(result.num_open, (x[:, :stop] == OUTSIDE).sum(dim=1))

    llada.generate(
        kind(),
        prompt,
        steps=4,
        gen_length=8,
        block_length=4,
        mask_id=OUTSIDE,
        eos_id=EOS,
        eot_id=EOT,
        confidence_eos_eot_inf=True,
        compat=compat,
        on_step=look,
    )
    assert steps == [0, 1, 2, 3]
