"""p(x_s | x_t) over the whole vocabulary, as each sampler's paper or code defines it: what the routes are compared with.

Written from the formulas, in whatever dtype the law comes in. ``law`` [n, V] is the model's law of x_0; ``x_t`` int64 [n];
schedule numbers are tensors [n]. Every function returns [n, V].
"""

import torch


def column(v):
    return v[:, None]


def at(law, x_t):
    """law(x_t), [n, 1]."""
    return law.gather(-1, column(x_t))


def one_hot(x_t, law):
    return torch.zeros_like(law).scatter(-1, column(x_t), 1.0)


def bridge(law, x_t, alpha_t, alpha_s, prior_t, prior_s):
    """q_{t|s}(x_t | v) q_s(v | law) / q_t(x_t | law); ``prior`` [n, V] is (1 - alpha) pi, as in GIDD."""
    ratio = column(alpha_t / alpha_s)
    forward = ratio * one_hot(x_t, law) + at(prior_t, x_t) - ratio * at(prior_s, x_t)
    return forward * (column(alpha_s) * law + prior_s) / (column(alpha_t) * at(law, x_t) + at(prior_t, x_t))


def uniform_prior(law, alpha):
    return column((1 - alpha) / law.shape[-1]).expand_as(law)


def sumi(law, x_t, alpha_t, alpha_s):
    """Sumi ``_ancestral_step``: Bayes' rule with uniform noise."""
    return bridge(law, x_t, alpha_t, alpha_s, uniform_prior(law, alpha_t), uniform_prior(law, alpha_s))


def udlm(law, x_t, alpha_t, alpha_s):
    """UDLM and Duo ``_ancestral_update``: the posterior as their papers write it out."""
    vocab, seen = law.shape[-1], one_hot(x_t, law)
    ratio = alpha_t / alpha_s
    top = (
        column(alpha_t) * vocab * seen * law
        + column(ratio - alpha_t) * seen
        + column(alpha_s - alpha_t) * law
        + column((alpha_s - alpha_t) * (1 - alpha_s) / (vocab * alpha_s))
    )
    return top / (column(alpha_t) * vocab * at(law, x_t) + column(1 - alpha_t))


def discrete_ddim(law, x_t, alpha_t, alpha_s):
    """diffusers: draw x_0 from the law, then x_s from q(x_s | x_t, x_0); here summed over x_0."""
    n, vocab = law.shape
    given = torch.eye(vocab, dtype=law.dtype).repeat(n, 1)  # [n V, V], every x_0 of every row
    again = lambda v: v.repeat_interleave(vocab, 0)
    each = sumi(given, again(x_t), again(alpha_t), again(alpha_s)).reshape(n, vocab, vocab)
    return torch.einsum("nx,nxv->nv", law, each)


def leave_one_out(logits, x_t, alpha_t, temperature, tempered):
    """The law with x_t's own evidence taken out: delta off its logit, after or before the temperature."""
    delta = torch.log1p(logits.shape[-1] * alpha_t / (1 - alpha_t))
    shift = column(delta) * one_hot(x_t, logits)
    if tempered == "before":
        return (logits / temperature - shift).softmax(-1)
    return ((logits - shift) / temperature).softmax(-1)


def duo_psi(law, x_t, alpha_t, alpha_s, kappa):
    """Duo ``_psi_update``: kappa of the posterior, and x_0 from its own posterior noised anew to s."""
    x_0 = sumi(law, x_t, alpha_t, torch.ones_like(alpha_s))
    anew = column(alpha_s) * x_0 + uniform_prior(law, alpha_s)
    return column(kappa) * sumi(law, x_t, alpha_t, alpha_s) + column(1 - kappa) * anew


def max_coupling(law, x_t, alpha_t, alpha_s):
    return (column(1 - alpha_s) * one_hot(x_t, law) + column(alpha_s - alpha_t) * law) / column(1 - alpha_t)


def gidd_prior(law, mask_id, t, b):
    """((1 - alpha) pi at time t, alpha): t of it mask and c = B sqrt(t (1 - t)) uniform on the other tokens."""
    c = b * torch.sqrt(t * (1 - t))
    prior = column(c / (law.shape[-1] - 1)).repeat(1, law.shape[-1])
    prior[:, mask_id] = t
    return prior / column(1 + c), (1 - t) / (1 + c)


def gidd(law, x_t, t, s, p_uniform, mask_id):
    """GIDD's ``HybridDiffusion`` and ``DenoisingStep``, gamma = 1."""
    b = 2 * p_uniform / (1 - p_uniform)
    (prior_t, alpha_t), (prior_s, alpha_s) = (gidd_prior(law, mask_id, time, b) for time in (t, s))
    return bridge(law, x_t, alpha_t, alpha_s, prior_t, prior_s)


def gidd_snr(law, x_t, log_snr_t, log_snr_s, shift, mask_id):
    """GIDD's SNR form: of the noise, sigmoid(l + shift) is uniform on the other tokens and the rest is mask."""
    priors = []
    for lam in (log_snr_t, log_snr_s):
        share = torch.sigmoid(lam + shift)
        prior = column(share / (law.shape[-1] - 1)).repeat(1, law.shape[-1])
        prior[:, mask_id] = torch.sigmoid(-lam - shift)
        priors.append(column(torch.sigmoid(-lam)) * prior)
    return bridge(law, x_t, torch.sigmoid(log_snr_t), torch.sigmoid(log_snr_s), *priors)


def mdlm(law, x_t, alpha_t, alpha_s, mask_id):
    masked = column(alpha_s - alpha_t) * law
    masked[:, mask_id] = 1 - alpha_s
    return torch.where(column(x_t == mask_id), masked / column(1 - alpha_t), one_hot(x_t, law))


def remdm(law, x_t, alpha_t, alpha_s, sigma, mask_id):
    """ReMDM, equation of the remasking posterior."""
    masked = column(alpha_s - (1 - sigma) * alpha_t) * law
    masked[:, mask_id] = 1 - alpha_s - sigma * alpha_t
    token = column(1 - sigma) * one_hot(x_t, law)
    token[:, mask_id] = sigma
    return torch.where(column(x_t == mask_id), masked / column(1 - alpha_t), token)


def sedd_euler(law, x_t, d):
    """SEDD ``EulerPredictor`` with ``Uniform``: one_hot + d * reverse rate, negative entries never drawn."""
    score = law / at(law, x_t)
    rate = score / law.shape[-1]
    rate = rate.scatter(-1, column(x_t), 0.0)
    rate = rate.scatter(-1, column(x_t), -rate.sum(-1, keepdim=True))
    p = (one_hot(x_t, law) + column(d) * rate).clamp(min=0)
    return p / p.sum(-1, keepdim=True)
