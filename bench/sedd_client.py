"""SEDD's modules ``sampling``, ``graph_lib``, ``noise_lib`` and ``model.utils`` as one: names, signatures, and semantics anew. A
model (tokens [B, L], sigma [B]) gives the logarithms of scores [B, L, V], 0 for the token that is there."""

from types import SimpleNamespace

import torch

from .uniform_peers import race


def get_score_fn(model, train=False, sampling=False):
    def score_fn(x, sigma):
        score = model(x, sigma.reshape(-1))
        return score.exp() if sampling else score

    return score_fn


mutils = SimpleNamespace(get_score_fn=get_score_fn)  # the client imports a module under this name


class GeometricNoise:
    def __call__(self, t):
        low, high = torch.tensor(1e-3), torch.tensor(20.0)
        sigma = low ** (1 - t) * high**t
        return sigma, sigma * (high.log() - low.log())


class Graph:
    absorb = False

    def __init__(self, dim):
        self.dim = dim


class Uniform(Graph):
    def rate(self, i):
        edge = torch.ones(*i.shape, self.dim) / self.dim
        return edge.scatter(-1, i[..., None], -(self.dim - 1) / self.dim)

    def reverse_rate(self, i, score):
        rate = self.rate(i) * score
        rate.scatter_(-1, i[..., None], torch.zeros_like(rate))
        return rate.scatter_(-1, i[..., None], -rate.sum(-1, keepdim=True))

    def staggered_score(self, score, dsigma):
        left = (-dsigma).exp()[..., None]
        return (left - 1) / (self.dim * left) * score.sum(-1, keepdim=True) + score / left

    def transp_transition(self, i, sigma):
        moves = torch.ones(*i.shape, self.dim) * (1 - (-sigma[..., None]).exp()) / self.dim
        moves = moves.scatter(-1, i[..., None], torch.zeros_like(moves))
        return moves.scatter(-1, i[..., None], 1 - moves.sum(-1, keepdim=True))


class Absorbing(Graph):
    absorb = True

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
        return self.draw(torch.nn.functional.one_hot(x, self.graph.dim).to(rate) + rate)


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
