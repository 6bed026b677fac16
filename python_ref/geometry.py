"""Where rows of logits belong on the canvas.

Dense logits [B, W, V]: row (b, i) speaks for position start_b + i. Packed logits [R, V]: row r speaks for
rows[r] = b * L + p, and -1 marks padding. "Row-shaped" means [B, W] or [R].
"""

from typing import NamedTuple

import torch


class Rows(NamedTuple):
    batch: torch.Tensor  # int64, row-shaped: the sequence b
    position: torch.Tensor  # int64, row-shaped: the canvas position p
    real: torch.Tensor  # bool, row-shaped: False for padding


def dense_rows(batch_size, width, start, device):
    """``start`` None or int64 [1] or [B]."""
    batch = torch.arange(batch_size, device=device)[:, None].expand(batch_size, width)
    position = torch.arange(width, device=device)[None].expand(batch_size, width)
    if start is not None:
        position = position + start[:, None]
    return Rows(batch, position, torch.ones_like(batch, dtype=torch.bool))


def packed_rows(rows, length):
    """``rows`` int64 [R], ``length`` the L of b * L + p. Padding is filed under b = 0, p = 0, and is not real."""
    real = rows >= 0
    index = rows.clamp(min=0)
    return Rows(index // max(length, 1), index % max(length, 1), real)


def candidate_rows(x, rows, mask_id, window_start, window_stop, frozen):
    """bool, row-shaped: masked, inside the window and not frozen. Only these rows of logits are ever read."""
    stop = x.shape[1] if window_stop == -1 else window_stop
    candidate = rows.real & (rows.position >= window_start) & (rows.position < stop)
    if rows.real.numel() == 0 or x.numel() == 0:
        return candidate
    candidate = candidate & holds(x[rows.batch, rows.position], mask_id)
    return candidate if frozen is None else candidate & ~frozen[rows.batch, rows.position]


def holds(tokens, mask_id):
    """Where ``tokens`` are the mask; compared as int64, so that 2^32 + 5 is not 5 in an int32 canvas."""
    return tokens.long() == mask_id


def read_rows(tensor, index, shift):
    """[n, V]: rows of ``tensor`` ([B, W, V] or [R, V]) for ``index``, one index vector per leading dimension.

    With shift = -1 row i takes the logits of row i - 1, and row 0 its own (Dream).
    """
    *leading, last = index
    return tensor[(*leading, (last + shift).clamp(min=0))]


def per_request(tensor, batch):
    """A [1] or [B] tensor looked up by the sequence numbers ``batch`` (any shape)."""
    return tensor.expand(batch.shape) if tensor.numel() == 1 else tensor[batch]
