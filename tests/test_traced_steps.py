"""What denoise_step_ and topk_unmask_ enter into a trace: that of the reference, given the tokens they committed."""

import torch
from backends import ops
from dlm_kernels.reference import confidence as scoring
from dlm_kernels.reference import geometry
from helpers import assert_equal, law_of, places_of, under
from hypothesis import given
from hypothesis import strategies as st
from strategies import step_cases
from uniform_cases import a_trace, copied
from uniform_checks import check_trace, effective_rows, gains


def traced(case):
    x, args, kwargs = case.build()
    return x, args, {**kwargs, **a_trace(torch.Generator().manual_seed(case.seed + 1), x, case.vocab)}


def check_commits(call, got_call, committed, tokens, gain):
    """The trace after ``tokens`` were committed where flagged; the mask itself is nothing that is committed."""
    kwargs = call[2]
    places = places_of(call[0], tokens[..., None], kwargs["start"], kwargs["rows"])
    index = committed.nonzero(as_tuple=True)
    token = tokens[index].long()
    still_open = torch.zeros_like(token, dtype=torch.bool) if kwargs["mask_id"] is None else token == kwargs["mask_id"]
    held = dict(before=under(call[0], places)[index].long(), after=token)
    events = dict(by_noise=torch.zeros_like(still_open), committed=torch.where(still_open, -1, token), gain=gain(index))
    check_trace(call, got_call, places.batch[index], places.position[index], **held, **events)


@given(case=step_cases(), all_open=st.booleans())
def test_denoise_step(backend, case, all_open):
    call = traced(case.but(all_open=all_open))
    got_call, plain = copied(call), copied(call)
    del plain[2]["trace"], plain[2]["trace_steps"]
    out = ops.denoise_step_(got_call[0], *got_call[1], **got_call[2])
    for i, (mine, theirs) in enumerate(zip(out, ops.denoise_step_(plain[0], *plain[1], **plain[2]))):
        assert_equal(f"output {i} without a trace", mine, theirs)

    def gain(index):
        places = places_of(call[0], call[1][0], call[2]["start"], call[2]["rows"])
        t_draw = geometry.per_request(call[1][1], places.batch[index]).double()
        law = law_of(effective_rows(call, index), scoring.law_temperature(t_draw, case.confidence_from))
        return gains(law, call, places, index, out[0][index].long())

    check_commits(call, got_call, out[2], out[0], gain)


@given(case=step_cases(vocab=9), all_open=st.booleans(), step=st.sampled_from([0, 2, 99, -5]))
def test_topk_unmask(backend, case, all_open, step):
    x, args, kwargs = traced(case.but(all_open=all_open))
    g = torch.Generator().manual_seed(case.seed + 2)
    tokens = torch.randint(0, 9, args[0].shape[:-1], generator=g).to(x.dtype)
    confidence = torch.rand(tokens.shape, generator=g)
    keep = ("mask_id", "window_start", "window_stop", "frozen", "start", "rows", "trace", "trace_steps")
    call = x, (tokens, confidence, args[4]), {**{name: kwargs[name] for name in keep}, "step": torch.tensor([step])}
    got_call = copied(call)
    out = ops.topk_unmask_(got_call[0], *got_call[1], **got_call[2])
    check_commits(call, got_call, out[0], tokens, lambda index: torch.zeros(len(index[0]), dtype=torch.float64))
