"""Write tokens into the canvas, in place and with the trace, and count per sequence."""

import torch

from .geometry import on_canvas, token_at
from .trace import record_, unpack


def committed_tokens(trace, rows):
    """What ``trace`` has committed below the rows, int64 row-shaped, -1 for nothing; None without a trace."""
    return None if trace.positions is None else token_at(unpack(trace.positions).cur, rows)


def write_(x, rows, flags, tokens, trace, *, by_noise, committed, gain):
    """x[b, p] = token for every row that is flagged: the only way a step changes the canvas.

    All row-shaped: ``flags`` bool, ``tokens``, ``by_noise`` bool, ``committed`` int64 with -1 for none, ``gain`` float.
    """
    if trace.positions is not None:
        record_(
            trace.positions,
            trace.steps,
            trace.step,
            rows.batch[flags],
            rows.position[flags],
            before=token_at(x, rows)[flags].long(),
            after=tokens[flags].long(),
            by_noise=by_noise[flags],
            committed=committed[flags],
            gain=gain[flags].float(),
        )
    x.copy_(torch.where(on_canvas(x, rows, flags, flags), on_canvas(x, rows, flags, tokens.to(x.dtype)), x))


def count(x, rows, flags):
    """Set ``flags`` (bool, row-shaped) per sequence: int64 [B]."""
    return on_canvas(x, rows, flags, flags).sum(-1)
