"""The public steps of the masked family: ``denoise_step`` (sweep, draw, decide, commit in one) and its parts."""

from __future__ import annotations

import math

import torch

from .arguments import FINITE_ROWS, NAMES, bounds, flag, integer, number, require
from .calling import begin, call, deciding, filters, quotas, scoring, seeds, starts, temperatures, token_ids, writing
from .reference.geometry import rows_on, token_at
from .results import Draw, EditResult, RemaskResult, RowStats, StepResult, UnmaskResult
from .tensors import tensor

_WRITTEN = ("x", "edits_left", "edited", "num_edited")
_NAMES_OF_TOPK, _NAMES_OF_OTHERS = NAMES | {"quota": "k"}, NAMES | {"quota": "at_least"}


def needs_noise(temperature, confidence, rank_temperature=None):
    """Whether anything random is used."""
    if type(temperature) is float:
        if temperature != 0:
            return True
    elif isinstance(temperature, torch.Tensor) or number("temperature", temperature) != 0:
        return True
    at_random = isinstance(confidence, str) and confidence == "random"
    return at_random or (rank_temperature is not None and number("rank_temperature", rank_temperature) != 0)


def row_stats(logits, *, temperature=1.0, given=None, uncond_logits=None, cfg_scale=0.0, suppress=None):
    """Statistics of the law softmax(z / T) of every row, in one read of the logits.

    Args:
        logits: float32, float16 or bfloat16, [B, W, V] or [R, V]; any strides but unit stride in V.
        temperature: T > 0, a float or float32 [B] ([R] for [R, V] logits).
        given: int64, logits' leading shape: tokens whose probability is wanted, -1 for none.
        uncond_logits, cfg_scale: like logits; z = u + (w + 1) (c - u), classifier-free guidance as LLaDA writes it.
        suppress: token ids whose logit counts as -inf.

    Returns:
        RowStats(argmax, max, logsumexp, second, rest, entropy, p_given, bad).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value.
    """
    logits = tensor("logits", logits)
    ids = token_ids("suppress", suppress, logits.device)
    return RowStats(*call("row_stats", NAMES, logits, temperatures(temperature), given, uncond_logits, cfg_scale, ids))


def require_finite_rows(bad, position=None):
    """Raise if a row is ``bad`` (row-shaped), naming the first; by its ``position`` [B, W], if given, else by its index."""
    if not bool(bad.any()):
        return
    b, *i = bad.nonzero()[0].tolist()
    if position is not None:
        i = [position[b, i[0]].item()]
    where = f"(b, i) = {(b, *i)}" if i else f"row = {b}"
    raise ValueError(f"logits: {FINITE_ROWS}, got a bad one at {where}")


def draw_tokens(
    logits,
    *,
    temperature=0.0,
    seed=None,
    step=0,
    generator=None,
    start=None,
    rows=None,
    length=None,
    shift=0,
    suppress=None,
    demote=None,
    uncond_logits=None,
    cfg_scale=0.0,
    top_k=None,
    top_p=None,
    min_p=None,
    filter_order="top_k_first",
    top_p_crossing="keep",
    top_k_ties="lowest",
    uniform=None,
    given=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype=torch.float32,
    rank_temperature=None,
    check=False,
):
    """Draw one token per row and score it: the sweep and draw of ``denoise_step``, without a canvas.

    Args:
        logits: float32, float16 or bfloat16: [B, W, V], row (b, i) for canvas position start_b + i; or [R, V], one sequence;
            or packed [R, V] with ``rows`` int64 [R] = b * length + position, -1 for padding, of as many sequences as temperature,
            seed, top_k, top_p or min_p has numbers.
        length: the canvas length L that ``rows`` refers to.
        given: int64, row-shaped: what every position holds, which the confidences "gain" and "change" compare with.
        The others are those of ``denoise_step_``.

    Returns:
        Draw(tokens, confidence, entropy, logprob, key, bad). The same tokens and confidences ``denoise_step_`` would use.

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; with ``check=True`` also for the first bad row.
    """
    logits = tensor("logits", logits)
    device = logits.device
    per_sequence = temperatures(temperature)
    ranking = 0.0 if rank_temperature is None else number("rank_temperature", rank_temperature)
    random = needs_noise(temperature, confidence, ranking)
    count = _sequences(per_sequence, top_k, top_p, min_p) if logits.dim() == 2 else None
    seed = seeds(seed, generator, logits, random, count)
    tokens, score, key, logprob, entropy, bad = call(
        "draw_tokens", NAMES, logits, per_sequence, seed, step, begin(start), rows,
        0 if length is None else length, shift, token_ids("suppress", suppress, device),
        token_ids("demote", demote, device), uncond_logits, cfg_scale,
        *filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties), uniform, given,
        *scoring(confidence, confidence_from, conf_dtype), ranking,
    )  # fmt: skip
    if flag("check", check):
        require_finite_rows(bad)
    return Draw(tokens, score, entropy, logprob, key, bad)


def _sequences(*per_request):
    """How many sequences packed rows are of: as many as a tensor has numbers."""
    return max([1, *(t.shape[0] for t in per_request if isinstance(t, torch.Tensor) and t.dim() == 1)])


def denoise_step_(
    x,
    logits,
    *,
    mask_id,
    rule,
    ready=None,
    edit=None,
    edits_left=None,
    temperature=0.0,
    seed=None,
    step=0,
    generator=None,
    confidence="prob",
    confidence_from="raw",
    conf_dtype=torch.float32,
    rank_temperature=None,
    start=None,
    rows=None,
    shift=0,
    window=None,
    frozen=None,
    suppress=None,
    demote=None,
    uncond_logits=None,
    cfg_scale=0.0,
    top_k=None,
    top_p=None,
    min_p=None,
    filter_order="top_k_first",
    top_p_crossing="keep",
    top_k_ties="lowest",
    uniform=None,
    check=False,
    trace=None,
):
    """One fused step of masked denoising, in place: draw a token for every open position, score it, commit those the rule
    picks. Only rows that can change are read; nothing synchronises with the host.

    Args:
        x: int64 or int32 [B, L], the canvas; written where committed.
        logits: float32, float16 or bfloat16. Dense [B, W, V]: row (b, i) is for position start_b + i. Packed [R, V] with
            ``rows``. Any strides, unit stride in V.
        mask_id: the token of an open position; may lie outside the vocabulary. None: every position is open, whatever it holds.
            That makes the selecting steps of the uniform family: with ``confidence="gain"`` Sumi's and GIDD's adaptive step, with
            "change" GIDD's self-correction, and TopK(L) at temperature 0 is the greedy overwrite.
        rule: TopK(k), Threshold(tau, at_least, strict, within), Factor(f), EntropyThreshold(bound, at_least),
            EntropyBudget(bound, order) or SegmentMax(tau, low).
        ready: bool, row-shaped, for a Threshold: only these positions count as above it; a sequence that has none of them fills
            its at_least most confident, ready or not (KLASS, see ``klass_step_``). None: all are ready.
        edit: token editing (LLaDA2.1's T2T; BlockRefinementScheduler's and JointThreshold's editing threshold), a number in
            [0, 1]. Filled positions that are not frozen are read too, and take their draw where that is another token and its
            confidence exceeds ``edit``, beside the rule and its quota. Prompts must be frozen, or outside the window. None: off.
        edits_left: int64 [B], updated in place: in how many more steps a sequence without a mask may still edit (LLaDA2.1's
            max_post_steps). Such a step lowers it by one. None: no limit.
        temperature: a float >= 0, or float32 [B]. 0 is the argmax, lowest index on ties; otherwise an exact draw from
            softmax(z / T).
        seed: int64 [B], one per request; an int is the same seed for every sequence (``request_seeds`` makes different
            ones); None draws fresh ones. Noise is keyed by (seed, position, step).
        generator: a torch.Generator for fresh seeds; None: torch's own.
        step: int or int64 tensor of one element: another step, other noise.
        confidence: "prob" p(token), "margin" p1 - p2, "neg_entropy", "random" (keyed noise), "gain" p(argmax) - p(what the
            position holds), or "change" p(token), but 0 where the position holds it already.
        confidence_from: law of the confidence: "raw" logits at T = 1 (LLaDA, Fast-dLLM, dInfer); the "sampled" law, at T and
            filtered (Dream, LLaDA2, diffusers); or "tempered", at T and unfiltered. Where T is 0 it counts as 1.
        conf_dtype: float32 ranks on the mass left beside the token, which does not tie at p = 1; bfloat16 and float64 rank
            on p rounded as codebases computing in that dtype hold it.
        rank_temperature: with TopK, rank at random: the positions are drawn one after the other, without replacement, from
            softmax(confidence / rank_temperature), by keyed noise: Dream's alg_temp. The reported confidence is the plain one.
            0 or None: off.
        start: int or int64 [B], first position of dense logits; default 0.
        rows: int64 [R], the places of packed logits: b * L + position, -1 for padding, no position twice.
        shift: -1: position i reads row i - 1, the first row itself (Dream). Dense logits only.
        window: (start, stop): positions that may change.
        frozen: bool [B, L], True where they may not.
        suppress: token ids never drawn: their logit counts as -inf.
        demote: token ids whose positions rank last.
        uncond_logits, cfg_scale: z = u + (w + 1) (c - u).
        top_k, top_p, min_p: numbers or [B] tensors; None, 0, 1 and 0 are off. What is left of softmax(z / T), renormalised, is
            drawn from: the k most probable tokens; of these the most probable whose mass, before each, is at most p; of these
            those of at least min_p times the largest probability. Equal logits count from the lowest index. At T = 0 the argmax
            stays the draw, and the filters are those at T = 1.
        filter_order: "top_k_first": top_p counts the mass that top_k left (transformers, LLaDA2, vLLM), or "top_p_first": all of
            it (Dream).
        top_p_crossing: "keep" the token that crosses p (transformers), or "drop" it unless it is the first (ReMDM).
        top_k_ties: of tokens that tie with the k-th, keep the "lowest" or "all" (transformers).
        uniform: float64 in [0, 1), row-shaped: the uniforms to draw with, instead of the keyed ones.
        check: raise if a row that was read is bad, naming the first (b, i), before anything is written. Synchronises.
        trace: a RevisionTrace that takes note of the step, under the number ``step``.

    Returns:
        StepResult(tokens, confidence, committed, num_committed, num_open, num_bad, x). Rows not read: token = x,
        confidence = -inf. A row with NaN, +inf or no finite logit is never committed, and counted in num_bad.
        With ``edit`` an EditResult, which goes on with (edited, num_edited).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; x is untouched.
    """
    x, logits = tensor("x", x), tensor("logits", logits)
    quota, rule = deciding(rule)
    device, mask = logits.device, None if mask_id is None else integer("mask_id", mask_id)
    ranking = 0.0 if rank_temperature is None else number("rank_temperature", rank_temperature)
    seed = seeds(seed, generator, x, needs_noise(temperature, confidence, ranking))
    require(edit is not None or edits_left is None, "edits_left", "must be given with edit", "without")
    editing = (None, None, None) if edit is None else (edits_left, *_edited(x, logits))
    held, traced, writes = writing(check, trace, _WRITTEN, (x, *editing))
    out = call(
        "denoise_step_", _NAMES_OF_TOPK if rule[0] == "topk" else _NAMES_OF_OTHERS,
        held[0], logits, temperatures(temperature), seed, step, quota, mask, *rule, ready, edit, *held[1:], *bounds(window),
        frozen, begin(start), rows, shift, token_ids("suppress", suppress, device), token_ids("demote", demote, device),
        uncond_logits, cfg_scale, *filters(top_k, top_p, min_p, filter_order, top_p_crossing, top_k_ties), uniform,
        *scoring(confidence, confidence_from, conf_dtype), ranking, *traced,
    )  # fmt: skip
    if writes is not None:
        tokens, score, committed, _, _, num_bad = out
        if check:
            suspect = score == -torch.inf
            if mask is not None and edit is None:  # of the candidates, only a bad row keeps its mask at confidence -inf
                suspect &= tokens == mask
            read_for = mask if edit is None else None
            writes.check(num_bad, "logits", FINITE_ROWS, suspect, x, read_for, window, frozen, start, rows)
        if writes.keeps_history:
            moved = committed if edit is None else committed | held[2]
            _note(writes, step, start, rows, tokens, moved, mask)
    return StepResult(*out, x) if edit is None else EditResult(*out, x, *held[2:])


def _edited(x, logits):
    """What a step with ``edit`` tells besides."""
    edited = torch.empty(logits.shape[:-1], dtype=torch.bool, device=x.device)
    return edited, torch.empty(x.shape[:1], dtype=torch.int64, device=x.device)


def _note(writes, step, start, rows, tokens, committed, mask):
    filled = committed if mask is None else committed & (tokens != mask)  # a model may draw the mask itself
    writes.note(step, start, rows, torch.zeros_like(filled), torch.where(filled, tokens, -1))


def denoise_step(x, logits, **kwargs):
    """``denoise_step_`` on a copy of ``x``: the same arguments and result; ``result.x`` is the new canvas."""
    return denoise_step_(tensor("x", x).clone(), logits, **kwargs)


def topk_unmask_(
    x,
    tokens,
    confidence,
    k,
    *,
    mask_id,
    window=None,
    frozen=None,
    start=None,
    rows=None,
    check=False,
    step=0,
    trace=None,
):
    """Confidence-ranked top-k unmasking, in place: write the ``k`` most confident ``tokens`` of every sequence.

    Args:
        x: int64 or int32 [B, L], the canvas.
        tokens: dtype of x, [B, W] or packed [R] with ``rows``: what to write.
        confidence: float32, float64, float16 or bfloat16, like tokens. Higher is written first, ties to the lowest
            position. -inf keeps a position out; so does NaN, which is counted in num_bad.
        k: int or int64 [B], quota per sequence; all open positions where fewer are open.
        mask_id, window, frozen, start, rows: as in ``denoise_step_``.
        check: raise if a candidate's confidence is NaN, naming the first (b, i), before anything is written. Synchronises.
        trace, step: a RevisionTrace that takes note of the step, and its number.

    Returns:
        UnmaskResult(committed, num_committed, num_open, num_bad, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; x is untouched.
    """
    x, tokens, confidence = tensor("x", x), tensor("tokens", tokens), tensor("confidence", confidence)
    mask = None if mask_id is None else integer("mask_id", mask_id)
    held, traced, writes = writing(check, trace, ("x",), (x,))
    given, where = (tokens, confidence, quotas("k", k), mask), (*bounds(window), frozen, begin(start), rows)
    number = None if trace is None else step
    out = call("topk_unmask_", _NAMES_OF_TOPK, *held, *given, *where, number, *traced)
    if writes is not None:
        if check:
            rule, suspect = "must not be NaN at a candidate", confidence.isnan()
            writes.check(out[3], "confidence", rule, suspect, x, mask, window, frozen, start, rows)
        if writes.keeps_history:
            _note(writes, step, start, rows, tokens, out[0], mask)
    return UnmaskResult(*out, x)


def topk_unmask(x, tokens, confidence, k, **kwargs):
    """``topk_unmask_`` on a copy of ``x``: the same arguments and result; ``result.x`` is the new canvas."""
    return topk_unmask_(tensor("x", x).clone(), tokens, confidence, k, **kwargs)


def remask_(
    x,
    confidence,
    k,
    *,
    mask_id,
    below=math.inf,
    window=None,
    frozen=None,
    start=None,
    rows=None,
    check=False,
    step=0,
    trace=None,
):
    """Confidence-ranked remasking, in place: the mirror of ``topk_unmask_``. The ``k`` least confident filled positions of every
    sequence hold the mask again.

    Args:
        x: int64 or int32 [B, L], the canvas.
        confidence: float32, float64, float16 or bfloat16, [B, W] or packed [R] with ``rows``. The lowest goes first, -inf before
            all, ties to the lowest position. +inf keeps a position as it is; so does NaN, which is counted in num_bad.
        k: int or int64 [B], quota per sequence; all that qualify where those are fewer.
        mask_id: the mask. Positions that hold it are not ranked.
        below: only positions of lower confidence than this are remasked.
        window, frozen, start, rows: as in ``denoise_step_``. Prompts must be frozen, or outside the window.
        check: raise if a filled position's confidence is NaN, naming the first (b, i), before anything is written. Synchronises.
        trace, step: a RevisionTrace that takes note of the step, and its number. Remasking is noise, not a move of the model.

    Returns:
        RemaskResult(remasked, num_remasked, num_open, num_bad, x).

    Raises:
        TypeError, ValueError: naming the argument, the rule and the value; x is untouched.
    """
    x, confidence = tensor("x", x), tensor("confidence", confidence)
    mask = integer("mask_id", mask_id)
    held, traced, writes = writing(check, trace, ("x",), (x,))
    given, where = (confidence, quotas("k", k), mask, below), (*bounds(window), frozen, begin(start), rows)
    number = None if trace is None else step
    out = call("remask_", _NAMES_OF_TOPK, *held, *given, *where, number, *traced)
    if writes is not None:
        if check:
            places = rows_on(x, confidence, starts(start, x.device), rows)
            rule, suspect = "must not be NaN at a filled position", confidence.isnan() & (token_at(x, places) != mask)
            writes.check(out[3], "confidence", rule, suspect, x, None, window, frozen, start, rows)
        if writes.keeps_history:
            remasked = out[0]
            writes.note(step, start, rows, remasked, torch.full_like(remasked, -1, dtype=torch.int64))
    return RemaskResult(*out, x)


def remask(x, confidence, k, **kwargs):
    """``remask_`` on a copy of ``x``: the same arguments and result; ``result.x`` is the new canvas."""
    return remask_(tensor("x", x).clone(), confidence, k, **kwargs)
