"""Where rows of logits belong on the canvas.

Dense logits [B, W, V]: row (b, i) speaks for position start_b + i. Packed logits [R, V]: row r speaks for
rows[r] = b * L + p, and -1 marks padding. "Row-shaped" means [B, W] or [R].
"""

from typing import NamedTuple

import torch

SLAB = 2**22  # logits in flight: bounds the fp64 temporaries to a few times 32 MiB


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


def rows_on(x, shaped, start, rows):
    """``Rows`` of a tensor that begins with [B, W] or [R]."""
    return dense_rows(*shaped.shape[:2], start, x.device) if rows is None else packed_rows(rows, x.shape[1])


def candidate_rows(x, rows, mask_id, window_start=0, window_stop=-1, frozen=None, committed=None, done=None):
    """bool, row-shaped: inside the window, not frozen, not committed, of a sequence that is not done, and masked unless
    ``mask_id`` is None. Only these rows of logits matter."""
    stop = x.shape[1] if window_stop == -1 else window_stop
    candidate = rows.real & (rows.position >= window_start) & (rows.position < stop)
    if mask_id is not None:
        candidate = candidate & holds(token_at(x, rows), mask_id)
    for closed in (frozen, committed, None if done is None else done[:, None].expand(x.shape)):
        if closed is not None:
            candidate = candidate & ~under(closed, rows, False)
    return candidate


def holds(tokens, mask_id):
    """Where ``tokens`` are the mask, None for none; compared as int64, so that 2^32 + 5 is not 5 in an int32 canvas."""
    return torch.zeros_like(tokens, dtype=torch.bool) if mask_id is None else tokens.long() == mask_id


def under(canvas, rows, padding):
    """[B, L] below the rows, row-shaped; ``padding`` where there is no canvas."""
    if canvas.numel() == 0 or rows.real.numel() == 0:
        return torch.full(rows.real.shape, padding, dtype=canvas.dtype, device=canvas.device)
    return torch.where(rows.real, canvas[rows.batch, rows.position], padding)


def token_at(x, rows):
    """The tokens below the rows; -1 below padding."""
    return under(x, rows, -1)


def on_canvas(x, rows, flags, values):
    """Row-shaped ``values`` laid out on the canvas [B, L] where ``flags`` are set; 0 or False elsewhere."""
    nowhere = x.numel()
    index = torch.where(flags, rows.batch * x.shape[1] + rows.position, nowhere).flatten()
    canvas = torch.zeros(nowhere + 1, dtype=values.dtype, device=x.device)
    return canvas.scatter(0, index, values.flatten())[:nowhere].reshape(x.shape)


def slabs(flags, vocab):
    """Index tuples of the rows that are flagged (bool, row-shaped), a bounded number of rows at a time.

    On a device they go through all rows: to know which are flagged would wait for it. Results of others are dropped.
    """
    if flags.numel() == 0:
        return ()
    if flags.device.type == "cpu":
        index = flags.nonzero(as_tuple=True)
    else:
        index = torch.unravel_index(torch.arange(flags.numel(), device=flags.device), flags.shape)
    return zip(*(i.split(max(1, SLAB // vocab)) for i in index)) if index[0].numel() else ()


def read_rows(tensor, index, shift):
    """[n, V]: rows of ``tensor`` ([B, W, V] or [R, V]) for ``index``, one index vector per leading dimension.

    With shift = -1 row i takes the logits of row i - 1, and row 0 its own (Dream).
    """
    *leading, last = index
    return tensor[(*leading, (last + shift).clamp(min=0))]


def per_request(tensor, batch):
    """A [1] or [B] tensor looked up by the sequence numbers ``batch`` (any shape)."""
    return tensor.expand(batch.shape) if tensor.numel() == 1 else tensor[batch]


def of_schedule(numbers, batch, position):
    """[n, m]: the numbers of positions (``batch``, ``position`` int64 [n]) out of [1, m], [B, m] or [B, L, m]."""
    if numbers.dim() == 3:
        return numbers[batch, position]
    return numbers.expand(len(batch), -1) if numbers.shape[0] == 1 else numbers[batch]
