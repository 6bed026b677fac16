"""SEDD's modules ``sampling``, ``graph_lib``, ``noise_lib`` and ``model.utils`` as one: names, signatures, and semantics anew."""

from types import SimpleNamespace

import torch
from toy_uniform import VOCAB, Network, race


class Score(torch.nn.Module):
    """Logarithms of scores, 0 for the token that is there."""

    def __init__(self, seed=0, dtype=torch.float32):
        super().__init__()
        self.network, self.own = Network(seed=seed, dtype=dtype), 0.0

    def forward(self, x, sigma):
        return self.network(x).scatter(-1, x[..., None], self.own)


exps = []


def get_score_fn(model, train=False, sampling=False):
    def score_fn(x, sigma):
        score = model(x, sigma.reshape(-1))
        if sampling:
            exps.append(sigma)
            return score.exp()
        return score

    return score_fn


mutils = SimpleNamespace(get_score_fn=get_score_fn)  # the client imports a module under this name


class GeometricNoise:
    def __call__(self, t):
        low, high = torch.tensor(1e-3), torch.tensor(20.0)
        sigma = low ** (1 - t) * high**t
        return sigma, sigma * (high.log() - low.log())


class Uniform:
    dim, absorb = VOCAB, False

    def reverse_rate(self, i, score):
        rate = (score / self.dim).scatter(-1, i[..., None], 0.0)
        return rate.scatter(-1, i[..., None], -rate.sum(-1, keepdim=True))

    def staggered_score(self, score, dsigma):
        left = (-dsigma).exp()[..., None]
        return (score - (1 - left) / self.dim * score.sum(-1, keepdim=True)) / left

    def transp_transition(self, i, sigma):
        left = (-sigma).exp()[..., None]
        one_hot = torch.nn.functional.one_hot(i, self.dim)
        return (1 - left) / self.dim + left * one_hot


class Absorbing:
    dim, absorb = VOCAB, True

    def reverse_rate(self, i, score):
        return torch.zeros_like(score)


class _Keeping:
    def __init__(self, graph, noise):
        self.graph, self.noise = graph, noise

    def draw(self, probs):
        self.law = probs
        return race(probs)


class EulerPredictor(_Keeping):
    def update_fn(self, score_fn, x, t, step_size):
        """One step."""
        sigma, dsigma = self.noise(t)
        rate = step_size * dsigma[..., None] * self.graph.reverse_rate(x, score_fn(x, sigma))
        return self.draw(torch.nn.functional.one_hot(x, self.graph.dim) + rate)


class AnalyticPredictor(_Keeping):
    def update_fn(self, score_fn, x, t, step_size):
        sigma = self.noise(t)[0]
        dsigma = sigma - self.noise(t - step_size)[0]
        score = self.graph.staggered_score(score_fn(x, sigma), dsigma)
        return self.draw(score * self.graph.transp_transition(x, dsigma))


class Denoiser(_Keeping):
    def update_fn(self, score_fn, x, t):
        sigma = self.noise(t)[0]
        score = self.graph.staggered_score(score_fn(x, sigma), sigma)
        return self.draw(score * self.graph.transp_transition(x, sigma))


def get_pc_sampler(graph, noise, batch_dims, predictor, steps, denoise=True, eps=1e-5):
    predictor = dict(euler=EulerPredictor, analytic=AnalyticPredictor)[predictor](graph, noise)
    denoiser = Denoiser(graph, noise)

    @torch.no_grad()
    def pc_sampler(model):
        score_fn = mutils.get_score_fn(model, train=False, sampling=True)
        x, timesteps = torch.randint(graph.dim, batch_dims), torch.linspace(1, eps, steps + 1)
        ones = torch.ones(batch_dims[0], 1)
        for i in range(steps):
            x = predictor.update_fn(score_fn, x, timesteps[i] * ones, (1 - eps) / steps)
        return denoiser.update_fn(score_fn, x, timesteps[-1] * ones) if denoise else x

    return pc_sampler
