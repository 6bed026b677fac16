"""SEDD's steps under uniform noise, as drop-ins: a random score network, no downloads.  Run: python examples/sedd.py

In SEDD's own folder one line does it for ``sampling.get_pc_sampler`` and everything that calls it:

    import sampling, dlm_kernels
    dlm_kernels.accelerate(sampling)
"""

import torch

from dlm_kernels.integrations.sedd import AnalyticPredictor, Denoiser, EulerPredictor  # <- the line that changes

VOCAB = 2000
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Embedding(VOCAB, 64), torch.nn.Linear(64, VOCAB))


class Uniform:  # graph_lib.Uniform has more, of which a step needs nothing
    absorb = False


def noise(t, low=1e-3, high=20.0):
    """noise_lib.GeometricNoise."""
    sigma = low ** (1 - t) * high**t
    return sigma, sigma * torch.log(torch.tensor(high / low))


def score_fn(x, sigma):
    """The network's logarithms are 0 for the token that is there, as SEDD's are."""
    return (3 * network(x)).scatter(-1, x[..., None], 0.0).exp()


def sample(predictor, batch, length, steps, eps=1e-5):
    predictor, denoiser = predictor(Uniform(), noise), Denoiser(Uniform(), noise)
    x, times = torch.randint(VOCAB, (batch, length)), torch.linspace(1, eps, steps + 1)
    for t in times[:-1]:
        x = predictor.update_fn(score_fn, x, t * torch.ones(batch, 1), (1 - eps) / steps)
    return denoiser.update_fn(score_fn, x, times[-1] * torch.ones(batch, 1))


with torch.no_grad():
    for predictor in (EulerPredictor, AnalyticPredictor):
        print(f"{predictor.__name__}: {sample(predictor, 2, 32, steps=16)[0, :10].tolist()}")
