"""Write the chosen tokens into the canvas, in place, and count what is left."""

import torch


def commit_(x, tokens, rows, committed):
    """x[b, p] = token for every row of ``committed``; ``tokens`` and ``committed`` row-shaped ([B, W] or [R])."""
    x[rows.batch[committed], rows.position[committed]] = tokens[committed].to(x.dtype)


def count(rows, flags, batch_size):
    """Set ``flags`` (bool, row-shaped) per sequence: int64 [B]."""
    return torch.bincount(rows.batch[flags], minlength=batch_size)[:batch_size]
