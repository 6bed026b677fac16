"""The step of DiffusionGemma: accept some draws, and let the others fall back to noise."""

import torch

from . import validate
from .commit import committed_tokens, count, write_
from .cutoff import Filters
from .decide import decide
from .draw import draw_rows, row_uniform
from .geometry import candidate_rows, on_canvas, rows_on, slabs, token_at, under
from .params import Drawing, Sweep, Trace
from .philox import STREAM_NOISE
from .transition import noise_support, noise_token


def renoise_step_(
    x,
    logits,
    temperature,
    seed,
    step,
    quota,
    *,
    mask_id=-1,
    rule,
    level=0.0,
    low=0.0,
    strict=True,
    committed=None,
    argmax=None,
    unchanged=None,
    done=None,
    probs=None,
    stability=1,
    confident=0.0,
    window_start=0,
    window_stop=-1,
    frozen=None,
    start=None,
    rows=None,
    shift=0,
    suppress=None,
    uncond_logits=None,
    cfg_scale=0.0,
    top_k=None,
    top_p=None,
    min_p=None,
    filter_order="top_k_first",
    drop_crossing=False,
    keep_ties=False,
    softcap=0.0,
    uniform=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype="float32",
    trace=None,
    trace_steps=None,
):
    """Draw for every candidate position; those that the rule accepts take their draw, the others a uniform token. In place.

    Candidates are the positions of the window that are not frozen, not ``committed``, and of sequences that are not ``done``.
    Where ``committed`` (bool [B, L]) is given, accepted positions join it, and it counts towards the quota (diffusers' block
    refinement). ``argmax`` (like x) follows the most probable tokens, ``unchanged`` (int64 [B]) for how many steps it has been
    the same, and ``done`` (bool [B]) is whether that is ``stability`` steps and the mean entropy is below ``confident``
    (transformers' StableAndConfidentStoppingCriteria); ``probs`` (bfloat16) takes the law. Rows that are not read leave all of
    these alone, and a bad row ends nothing.

    Returns row-shaped (tokens and best like x, entropy, confidence float32, accepted bool), then num_accepted and num_bad,
    int64 [B], and at_rest, bool [B]: what ``done`` holds now, or without it what it would hold after a first step. Rows that are
    not read, and bad ones: the canvas token (-1 for padding), that of ``argmax`` if given, 0, -inf, False.
    """
    validate.renoise_step(**locals())
    filters = Filters(top_k, top_p, min_p, filter_order, drop_crossing, keep_ties)
    law = Sweep(logits, temperature, uncond_logits, cfg_scale, suppress, softcap, shift, filters)
    drawing = Drawing(seed, step, uniform, None, confidence, confidence_from, conf_dtype)
    note = Trace(trace, trace_steps, step)
    places = rows_on(x, logits, start, rows)
    read = candidate_rows(x, places, None, window_start, window_stop, frozen, committed, done)
    before = token_at(x, places)
    drawn = draw_rows(
        read,
        places,
        law,
        drawing,
        current=before.long(),
        committed=committed_tokens(note, places),
        probs=probs,
        column=0,
    )
    good = read & ~drawn.bad

    quota = quota.expand(x.shape[0])
    if committed is not None:
        quota = (quota - committed.sum(-1)).clamp(min=0)
    scores = (on_canvas(x, places, good, of) for of in (good, drawn.value, drawn.key.double(), drawn.entropy.double()))
    chosen = decide(rule, *scores, quota=quota, level=level, low=low, strict=strict, conf_dtype=conf_dtype)
    accepted = good & under(chosen, places, False)

    noise = torch.zeros_like(drawn.tokens)
    for index in slabs(good, 1):
        u_noise = row_uniform(drawing, index, places.batch[index], places.position[index], STREAM_NOISE, 1)
        noise[index] = noise_token(u_noise, noise_support(logits.shape[-1], mask_id), mask_id)
    after = torch.where(accepted, drawn.tokens, noise).to(x.dtype)
    gain = drawn.best_logprob - drawn.committed_logprob
    write_(x, places, good, after, note, by_noise=~accepted, committed=drawn.best, gain=gain)

    known = before if argmax is None else token_at(argmax, places)
    best = torch.where(good, drawn.best.to(x.dtype), known)
    if committed is not None:
        committed |= on_canvas(x, places, accepted, accepted)
    steps = _follow(x, places, read, good, best, argmax, unchanged)
    at_rest = _rests(x, places, read, good, drawn.entropy, steps, done, stability, confident)
    counts = (count(x, places, flags) for flags in (accepted, drawn.bad))
    return torch.where(good, after, before), best, drawn.entropy, drawn.value.float(), accepted, *counts, at_rest


def _follow(x, places, read, good, best, argmax, unchanged):
    """The most probable canvas: for how many steps it has been the same, [B]."""
    steps = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    if argmax is None:
        return steps
    new = torch.where(on_canvas(x, places, good, good), on_canvas(x, places, good, best), argmax)
    changed = (new != argmax).any(-1)
    argmax.copy_(new)
    if unchanged is None:
        return steps
    steps = torch.where(changed, 0, unchanged + 1)
    unchanged.copy_(torch.where(count(x, places, read) > 0, steps, unchanged))
    return steps


def _rests(x, places, read, good, entropy, steps, done, stability, confident):
    """[B]: whether the sequences that were read have come to rest; the others stay what they were."""
    num_read = count(x, places, read)
    mean = on_canvas(x, places, good, entropy.double()).sum(-1) / num_read
    rest = (steps >= stability) & (mean < confident) & (count(x, places, good) == num_read)
    rest = torch.where(num_read > 0, rest, False if done is None else done)
    if done is not None:
        done.copy_(rest)
    return rest
