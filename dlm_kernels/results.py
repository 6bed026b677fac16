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
    num_open: Any  # int64 [B]: candidates that still hold mask_id
    num_bad: Any  # int64 [B]: candidates whose logits hold NaN, +inf, or nothing finite; never committed
    x: Any  # [B, L], the canvas after the step


class UnmaskResult(NamedTuple):
    """What ``topk_unmask`` did."""

    committed: Any  # bool
    num_committed: Any  # int64 [B]
    num_open: Any  # int64 [B]: candidates that still hold mask_id
    num_bad: Any  # int64 [B]: candidates whose confidence is NaN; never committed
    x: Any  # [B, L], the canvas after the step
