"""The same random numbers for a client's own code and for the ops: these draw by keys, so the client is made to invert the CDF
of its own law on the numbers of those keys."""

import contextlib
from unittest import mock

import torch
from dlm_kernels.reference.philox import STREAM_DRAW, draw_uniform, rank_uniform

from dlm_kernels import _ops, eager


def invert(law, uniform):
    """The first token whose cumulative mass exceeds uniform x total, [...]; ``law`` [..., V] need not be normalised."""
    cdf = law.double().cumsum(dim=-1)
    return torch.searchsorted(cdf, (uniform * cdf[..., -1])[..., None], right=True)[..., 0]


def uniforms(seeds, length, step=0, stream=STREAM_DRAW):
    """float64 [B, length] for the positions of sequences with these ``seeds`` [B]."""
    return draw_uniform(seeds[:, None], torch.arange(length)[None], torch.tensor(step), stream)


class Numbers:
    """Call n of a sampler has the seeds 1000 n + b. Positions are those of the tensors that it is given."""

    def __init__(self, batch=1):
        self.calls = 0
        self.batch = batch  # of what is flat

    def seeds(self, batch, device=None, generator=None):
        self.calls += 1
        return torch.arange(batch) + 1000 * self.calls

    def uniforms(self, batch, length, stream=STREAM_DRAW):
        """float64 [batch, length]; of the first draw of the next call."""
        return uniforms(self.seeds(batch), length, stream=stream)

    def ranks(self, batch, length):
        return rank_uniform(self.seeds(batch)[:, None], torch.arange(length)[None], torch.tensor(0))

    # ---- what a client draws with

    def gumbel(self, logits, temperature):
        """In place of an add_gumbel_noise, of which the argmax is taken."""
        if temperature == 0:
            return logits
        law = (logits.double() / temperature).softmax(dim=-1)
        return torch.nn.functional.one_hot(invert(law, self.uniforms(*logits.shape[:2])), logits.shape[-1]).float()

    def multinomial(self, probs, num_samples=1, replacement=False, generator=None):
        """In place of torch.multinomial over rows [batch * n, V]."""
        return invert(probs, self.uniforms(self.batch, len(probs) // self.batch).flatten())[:, None]


@contextlib.contextmanager
def ours(where="dlm_kernels.calling", numbers=None):
    """The ops draw with the seeds of these ``Numbers``, or of fresh ones."""
    numbers = numbers or Numbers()
    with mock.patch(f"{where}.fresh_seeds", numbers.seeds), contextlib.ExitStack() as more:
        if where == "dlm_kernels.calling":
            functions = {name: _seeded(name, function, numbers) for name, function in eager.FUNCTIONS.items()}
            more.enter_context(mock.patch.object(eager, "FUNCTIONS", functions))
        yield


def _seeded(name, function, numbers):
    """A function past the dispatcher, which would let torch draw."""
    names = [p.name for p in getattr(_ops, name)._schema.arguments]

    def call(*arguments):
        given = dict(zip(names, arguments))
        if "seed" in given and given["seed"] is None:
            given["seed"] = numbers.seeds(len(arguments[0]))
        return function(*given.values())

    return call
