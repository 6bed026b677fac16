"""Token editing in denoise_step_: beside the rule, which it must not disturb, and as LLaDA2.1 and its schedulers have it."""

import math

import pytest
import torch
from backends import ops
from dlm_kernels.reference import confidence as scoring
from dlm_kernels.reference import geometry
from helpers import assert_equal, draws_for, law_of, places_of, under
from hypothesis import given
from hypothesis import strategies as st
from strategies import StepCase, make_logits, step_cases
from uniform_cases import a_trace, copied
from uniform_checks import check_trace, effective_rows, gains, laid, per_sequence

import dlm_kernels as dlm
from dlm_kernels import reference


def editing_call(case, edit, limited):
    """(x, args, kwargs): the case's step with ``edit``; in half of the filled positions the argmax, where there is one."""
    x, args, kwargs = case.build()
    g = torch.Generator().manual_seed(case.seed + 1)
    places = places_of(x, args[0], kwargs["start"], kwargs["rows"])
    agree = places.real & (under(x, places) != kwargs["mask_id"]) & (torch.rand(places.real.shape, generator=g) < 0.5)
    best = geometry.read_rows(args[0], torch.ones_like(agree).nonzero(as_tuple=True), kwargs["shift"]).float()
    best = torch.nan_to_num(best, nan=-torch.inf).argmax(-1).reshape(agree.shape)
    x = laid(x, places, agree, best)
    more = dict(edit=edit, edited=torch.full(agree.shape, True), num_edited=torch.full((x.shape[0],), 99))
    more["edits_left"] = torch.randint(0, 3, (x.shape[0],), generator=g) if limited else None
    return x, args, {**kwargs, **more, **a_trace(g, x, case.vocab)}


def check_editing(call, conf_dtype):
    x, args, kwargs = call
    size, mask_id = x.shape[0], kwargs["mask_id"]
    got_call, want_call, plain_call = copied(call), copied(call), copied(call)
    for name in ("edit", "edits_left", "edited", "num_edited", "trace", "trace_steps"):
        del plain_call[2][name]
    got = ops.denoise_step_(got_call[0], *got_call[1], **got_call[2])
    want = reference.denoise_step_(want_call[0], *want_call[1], **want_call[2])
    plain = ops.denoise_step_(plain_call[0], *plain_call[1], **plain_call[2])
    edited, num_edited, left = (got_call[2][name] for name in ("edited", "num_edited", "edits_left"))

    places = places_of(x, args[0], kwargs["start"], kwargs["rows"])
    held = under(x, places)
    read = geometry.candidate_rows(x, places, None, kwargs["window_start"], kwargs["window_stop"], kwargs["frozen"])
    opened, filled = read & (held == mask_id), read & (held != mask_id)

    # 1. The rule is undisturbed, and rows are drawn and scored as draw_tokens would.
    assert_equal("committed", got[2], plain[2])
    assert_equal("num_committed", got[3], plain[3])
    for name, mine, theirs, by_reference in zip(("tokens", "confidence"), got, plain, want):
        assert_equal(f"{name} where masks were", mine[~filled], theirs[~filled])
        assert_equal(f"{name} of rows that are not read", mine[~read], by_reference[~read])
    bad = torch.zeros_like(read)
    if read.any():
        draws = draws_for(ops, x, args, kwargs)
        bad = read & draws[5]
        assert_equal("drawn", got[0][filled & ~bad].long(), draws[0][filled & ~bad])
        assert_equal("scored", got[1][filled & ~bad], draws[1][filled & ~bad])
    assert_equal("num_bad", got[5], per_sequence(places, bad, size))

    # 2. Edits: filled, another token, confident enough, and allowed.
    had_mask, had_token = (per_sequence(places, flags, size) > 0 for flags in (opened, filled))
    allowed = had_mask if left is None else had_mask | (kwargs["edits_left"] > 0)
    allowed = torch.ones_like(had_mask) if left is None else allowed
    tau = scoring.round_to(torch.tensor(kwargs["edit"], dtype=torch.float64), conf_dtype)
    allowed_rows = allowed[places.batch] if size else torch.zeros_like(filled)
    chosen = filled & ~bad & (got[0] != held) & (got[1].double() > tau) & allowed_rows
    close = (got[1].double() - tau).abs() < 1e-6 if conf_dtype == "float64" else torch.zeros_like(chosen)
    assert_equal("edited", edited[~close], chosen[~close])
    assert_equal("num_edited", num_edited, per_sequence(places, edited, size))
    if left is not None:
        only_edits = ~had_mask & had_token
        assert_equal("edits_left", left, (kwargs["edits_left"] - only_edits.long()).clamp(min=0))

    # 3. What is written: both, and what the trace has of it.
    moved = got[2] | edited
    assert_equal("x", got_call[0], laid(x, places, moved, got[0]))
    assert_equal("num_open", got[4], per_sequence(places, read & (under(got_call[0], places) == mask_id), size))
    index = moved.nonzero(as_tuple=True)
    token = got[0][index].long()
    now = torch.where(token == mask_id, -1, token)
    t_draw = geometry.per_request(args[1], places.batch[index]).double()
    law = law_of(effective_rows(call, index), scoring.law_temperature(t_draw, kwargs["confidence_from"]))
    events = dict(before=held[index].long(), after=token, by_noise=torch.zeros_like(token, dtype=torch.bool))
    check_trace(
        call,
        got_call,
        places.batch[index],
        places.position[index],
        **events,
        committed=now,
        gain=gains(law, call, places, index, token),
    )


@given(
    case=step_cases(),
    edit=st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]),
    limited=st.booleans(),
)
def test_editing_step(backend, case, edit, limited):
    check_editing(editing_call(case, edit, limited), case.conf_dtype)


@pytest.mark.parametrize(
    "shape", [dict(batch=2, length=600, width=590), dict(batch=40, length=3, width=3, packed=True)]
)
def test_many_rows(backend, shape):
    """More than finish beside the sweep."""
    case = StepCase(seed=5, vocab=9, quota=3, temperature="mixed", bad_share=0.05, open_share=0.3, **shape)
    check_editing(editing_call(case, 0.2, True), case.conf_dtype)


@pytest.mark.parametrize(
    "p, edit, conf_dtype, edits",
    [
        (0.5, 0.5, "bfloat16", False),  # fp32 kernels may be an ulp off
        (0.5, 0.4999, "float32", True),
        (0.9, 0.9, "bfloat16", False),  # both are 0.8984375
        (0.9003, 0.9, "bfloat16", False),
        (0.9003, 0.9, "float64", True),
        (1.0, 1.0, "float32", False),
    ],
)
def test_strictly_above_as_the_confidence_is_held(backend, p, edit, conf_dtype, edits):
    logits = torch.tensor([[[math.log(p), math.log1p(-p) if p < 1 else -math.inf]]])
    x, zero = torch.tensor([[1]]), torch.zeros(1, dtype=torch.int64)
    rule = dict(mask_id=5, rule="topk", conf_dtype=conf_dtype)
    ops.denoise_step_(x, logits, torch.zeros(1), zero, zero, zero, **rule, edit=edit)
    assert x.item() == (0 if edits else 1)


def test_a_drawn_mask_reopens(backend):
    """A model may predict the mask where a token is: that is written too, and the position is open again."""
    logits = torch.zeros(1, 3, 6)
    logits[0, :, 5] = 9.0
    x, zero = torch.tensor([[1, 5, 2]]), torch.zeros(1, dtype=torch.int64)
    edited, count, left = torch.zeros(1, 3, dtype=torch.bool), zero.clone(), torch.tensor([1])
    outputs = dict(edited=edited, num_edited=count, edits_left=left)
    out = ops.denoise_step_(x, logits, torch.zeros(1), zero, zero, zero, mask_id=5, rule="topk", edit=0.5, **outputs)
    assert x.tolist() == [[5, 5, 5]] and edited.tolist() == [[True, False, True]]
    assert (out[3].item(), out[4].item(), count.item(), left.item()) == (0, 3, 2, 1)


# ---- the originals, told again -------------------------------------------------------------------------------------


def block_refinement_step(logits, block, mask_id, threshold, editing_threshold, num_to_transfer, prompt):
    """BlockRefinementScheduler.step with a mask, greedy: the new block, what was filled, what was edited."""
    p, best = logits.softmax(-1).max(-1)
    new, transfer, editing = block.clone(), torch.zeros_like(prompt), torch.zeros_like(prompt)
    for b in range(block.shape[0]):
        masks = [i for i in range(block.shape[1]) if block[b, i] == mask_id]
        sure = [i for i in masks if p[b, i] > threshold]
        if len(sure) < num_to_transfer:
            sure = sorted(masks, key=lambda i: -p[b, i])[:num_to_transfer]
        edits = [
            i
            for i in range(block.shape[1])
            if i not in masks and not prompt[b, i] and p[b, i] > editing_threshold and best[b, i] != block[b, i]
        ]
        for i in sure + edits:
            new[b, i] = best[b, i]
        transfer[b, sure], editing[b, edits] = True, True
    return new, transfer, editing


@pytest.mark.parametrize("seed", range(6))
def test_block_refinement(seed):
    g = torch.Generator().manual_seed(seed)
    logits = make_logits(g, "normal", (3, 16, 40))
    x = torch.randint(0, 40, (3, 16), generator=g)
    x = torch.where(
        torch.rand(3, 16, generator=g) < 0.4,
        40,
        torch.where(torch.rand(3, 16, generator=g) < 0.3, logits.argmax(-1), x),
    )
    prompt = (torch.arange(16) < 3).expand(3, 16) & (x != 40)
    new, transfer, editing = block_refinement_step(logits, x, 40, 0.6, 0.4, 2, prompt)
    out = dlm.denoise_step(x, logits, mask_id=40, rule=dlm.Threshold(0.6, at_least=2), edit=0.4, frozen=prompt)
    assert editing.any() and transfer.any()
    assert_equal("x", out.x, new)
    assert_equal("committed", out.committed, transfer)
    assert_equal("edited", out.edited, editing)


def toy_model(x, vocab, salt):
    """Logits that depend on the whole block and change their mind now and then."""
    key = (x * torch.arange(1, x.shape[-1] + 1)).sum(-1, keepdim=True)
    g = torch.Generator().manual_seed(int(key.sum()) * 7 + salt)
    sticky = torch.nn.functional.one_hot(x.clamp(max=vocab - 1), vocab) * 6.0
    return make_logits(g, "normal", (*x.shape, vocab)) + sticky


def llada21_block(block, mask_id, model, threshold, editing_threshold, num_to_transfer, max_post_steps, prompt):
    """LLaDA2.1's loop over one block, B = 1: the block it ends with, and its forwards."""
    post_steps = forwards = 0
    while True:
        no_masks = not (block == mask_id).any()
        post_steps += no_masks
        if post_steps > max_post_steps:
            return block, forwards
        forwards += 1
        block, _, editing = block_refinement_step(
            model(block), block, mask_id, threshold, editing_threshold, num_to_transfer, prompt
        )
        if no_masks and not editing.any():
            return block, forwards


@pytest.mark.parametrize("max_post_steps", [1, 2, 16])
@pytest.mark.parametrize("salt", range(8))
def test_llada21_block(salt, max_post_steps):
    """Until a step changes nothing: the same block. A spent budget costs the loop that reads the result one forward more."""
    vocab, x = 30, torch.full((1, 12), 30)
    x[0, :2] = torch.tensor([3, 4])
    prompt = torch.arange(12)[None] < 2
    model = lambda block: toy_model(block, vocab, salt)
    want, forwards = llada21_block(x.clone(), 30, model, 0.7, 0.5, 1, max_post_steps, prompt)
    left, steps = torch.tensor([max_post_steps]), 0
    while True:
        out = dlm.denoise_step_(
            x, model(x), mask_id=30, rule=dlm.Threshold(0.7), edit=0.5, edits_left=left, frozen=prompt, step=steps
        )
        steps += 1
        if not (out.num_committed + out.num_open + out.num_edited).any():
            break
    assert_equal("x", x, want)
    assert steps == forwards + (forwards > 0 and left.item() == 0 and steps > forwards)
    assert left.item() >= 0


# ---- the Python step -----------------------------------------------------------------------------------------------


def test_python_step():
    x = torch.tensor([[9, 1, 2]])
    logits = torch.zeros(1, 3, 9)
    logits[0, 0, 4] = logits[0, 1, 5] = logits[0, 2, 2] = 8.0
    step = dict(mask_id=9, rule=dlm.TopK(1))
    tokens, confidence, committed, num_committed, num_open, num_bad, canvas = dlm.denoise_step(x, logits, **step)
    trace = dlm.RevisionTrace(1, 3, mode="full", mask_id=9)
    out = dlm.denoise_step_(x, logits, **step, edit=0.5, check=True, trace=trace)
    assert out[:7] == (*out[:6], x) and out.x is x and x.tolist() == [[4, 5, 2]]
    assert out.committed.tolist() == [[True, False, False]] and out.edited.tolist() == [[False, True, False]]
    assert out.num_edited.tolist() == [1]
    assert trace.history[0].committed.tolist() == [[4, 5, -1]]
    second = dlm.denoise_step_(x, logits, **step, edit=0.5, edits_left=torch.tensor([0]))
    assert not (second.num_committed + second.num_open + second.num_edited).any()


def test_check_names_the_first_bad_row_and_leaves_everything():
    x, left = torch.tensor([[9, 1, 2, 3]]), torch.tensor([4])
    logits = torch.zeros(1, 4, 9)
    logits[0, 1, 3] = math.nan  # frozen
    logits[0, 3, 3] = math.nan
    frozen = torch.tensor([[False, True, False, False]])
    step = dict(mask_id=9, rule=dlm.TopK(1), edit=0.0, edits_left=left, frozen=frozen, check=True)
    before = x.clone()
    with pytest.raises(ValueError, match=r"got a bad one at \(b, i\) = \(0, 3\)$"):
        dlm.denoise_step_(x, logits, **step)
    assert_equal("x", x, before)
    logits[0, 3, 3] = 0
    out = dlm.denoise_step_(torch.tensor([[0, 1, 2, 3]]), logits, **step)
    assert out.num_edited.tolist() == [2] and left.tolist() == [3]
