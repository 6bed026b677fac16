"""What the ops return: named tuples of tensors (torch ops) or arrays (``dlm_kernels.array``), row-shaped unless said
otherwise: [B, W] for dense logits, [R] for packed ones."""

from typing import Any, NamedTuple


class RowStats(NamedTuple):
    """Statistics of the law softmax(z / T) of every row. Bad rows hold -1, -inf, -inf, -inf, 0, 0, 0, True."""

    argmax: Any  # int64, lowest index on ties
    max: Any  # float32, the largest logit z (not divided by T)
    logsumexp: Any  # float32, of z / T
    second: Any  # float32, the second largest logit; equals max on a tie
    rest: Any  # float32, sum of exp((z - max) / T) without the argmax: p(argmax) = 1 / (1 + rest)
    entropy: Any  # float32, nats
    p_given: Any  # float32, probability of the `given` token; 0 without one
    bad: Any  # bool: holds NaN or +inf, or no finite logit


class Draw(NamedTuple):
    """One drawn token per row and how confident the model is of it. Bad and padding rows hold -1, -inf, 0, -inf, -inf."""

    tokens: Any  # int64
    confidence: Any  # float32
    entropy: Any  # float32, nats, of the confidence law
    logprob: Any  # float32, log p(token) under the confidence law
    key: Any  # float32, what ranks: as confidence, but without ties at p = 1
    bad: Any  # bool


class StepResult(NamedTuple):
    """What a denoise step did. Rows it did not read: token = x, confidence = -inf, not committed."""

    tokens: Any  # dtype of x
    confidence: Any  # float32
    committed: Any  # bool
    num_committed: Any  # int64 [B]
    num_open: Any  # int64 [B]: candidates that still hold mask_id; 0 without one
    num_bad: Any  # int64 [B]: candidates whose logits hold NaN, +inf, or nothing finite; never committed
    x: Any  # [B, L], the canvas after the step


class EditResult(NamedTuple):
    """What a denoise step with ``edit`` did: the fields of StepResult, ``x`` the last of them, and then what it edited.

    A sequence has come to rest in the step in which ``num_committed + num_open + num_edited`` is 0: it began without a mask, and
    the model agreed with all it holds, or had no steps left to say otherwise.
    """

    tokens: Any  # dtype of x
    confidence: Any  # float32
    committed: Any  # bool: masks that were filled
    num_committed: Any  # int64 [B]
    num_open: Any  # int64 [B]: positions that hold mask_id now
    num_bad: Any  # int64 [B]: rows that were read, masks or not, and hold NaN, +inf, or nothing finite
    x: Any  # [B, L], the canvas after the step
    edited: Any  # bool: filled positions that took their draw
    num_edited: Any  # int64 [B]


class UnmaskResult(NamedTuple):
    """What ``topk_unmask`` did."""

    committed: Any  # bool
    num_committed: Any  # int64 [B]
    num_open: Any  # int64 [B]: candidates that still hold mask_id
    num_bad: Any  # int64 [B]: candidates whose confidence is NaN; never committed
    x: Any  # [B, L], the canvas after the step


class RemaskResult(NamedTuple):
    """What ``remask`` did."""

    remasked: Any  # bool
    num_remasked: Any  # int64 [B]
    num_open: Any  # int64 [B]: positions that hold mask_id now
    num_bad: Any  # int64 [B]: filled positions whose confidence is NaN; left as they are
    x: Any  # [B, L], the canvas after the step


class RemaskStepResult(NamedTuple):
    """What a step of ``dlm_kernels.remasking`` did. Rows it did not draw for: token = x as it was, confidence = -inf."""

    tokens: Any  # dtype of x, the draws
    confidence: Any  # float32
    committed: Any  # bool: took their draw
    remasked: Any  # bool: hold the mask again
    num_committed: Any  # int64 [B]
    num_remasked: Any  # int64 [B]
    num_open: Any  # int64 [B]: positions that hold mask_id now
    num_bad: Any  # int64 [B]: rows drawn for that hold NaN, +inf, or nothing finite; never committed
    x: Any  # [B, L], the canvas after the step


class TransitionResult(NamedTuple):
    """What a transition did. Rows it did not read, and bad ones: token = x, route 0, p_current 0, confidence = -inf."""

    tokens: Any  # dtype of x, what the canvas holds now
    route: Any  # uint8: 0 stay, 1 model, 2 noise, 3 mask (of a redraw, noise by its share in the conditional posterior)
    p_current: Any  # float32, p(x_t) under the law at the temperature (T = 1 where that is 0)
    confidence: Any  # float32, p(token) under the same law; 0 for the mask
    num_changed: Any  # int64 [B]: positions that hold another token now
    num_bad: Any  # int64 [B]: candidates whose logits hold NaN, +inf, or nothing finite; left as they are
    x: Any  # [B, L], the canvas after the step


class RenoiseResult(NamedTuple):
    """What ``renoise_step`` did. Rows it did not read, and bad ones: token = x, argmax as in the state, entropy 0, confidence =
    -inf, not accepted."""

    tokens: Any  # dtype of x, what the canvas holds now: the draw where accepted, else noise
    argmax: Any  # dtype of x, lowest index on ties
    entropy: Any  # float32, nats
    confidence: Any  # float32, of the draw
    accepted: Any  # bool
    num_accepted: Any  # int64 [B]
    num_bad: Any  # int64 [B]: candidates whose logits hold NaN, +inf, or nothing finite; left as they are
    done: Any  # bool [B]: at rest, now or before
    x: Any  # [B, L], the canvas after the step
