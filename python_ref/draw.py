"""One token per row from one uniform number: invert the CDF of softmax(z / T) in index order."""

import torch


def draw(z, stats, temperature, uniform):
    """The drawn token of each row, int64 [n].

    ``z`` float32 [n, V] effective logits without bad rows, ``stats`` their RowStats (only max and argmax are used),
    ``temperature`` float64 [n], ``uniform`` float64 [n] in [0, 1). The token is the first index whose cumulative mass
    exceeds uniform * total, hence never one of mass zero. Temperature 0 takes the argmax and no random number.
    """
    greedy = temperature == 0
    scale = torch.where(greedy, 1.0, temperature)[:, None]
    cdf = torch.exp((z.double() - stats.max[:, None]) / scale).cumsum(-1)
    total = cdf[:, -1:].contiguous()
    token = torch.searchsorted(cdf, uniform[:, None] * total, right=True)
    # uniform * total may round up to total; the last index that added mass is the answer then.
    token = torch.minimum(token, torch.searchsorted(cdf, total))
    return torch.where(greedy, stats.argmax, token[:, 0])
