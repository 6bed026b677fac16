"""Who is measured: a registry of providers, each doing the whole step, logits to committed canvas.

The eager peers follow the semantics of the published samplers (what they compute, in which dtype, in which
order), written anew. A provider is added by one `Provider(...)` entry in PROVIDERS; check.py applies to it at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

import torch

from . import chunked, filtering, native, uniform_careful, uniform_peers, uniform_steps
from .cases import FILTERS, OURS, UNIFORM_OPS, Case
from .inputs import Inputs, guided

# step(x, uniform=None) -> (tokens, confidence), each [B, L]; writes x in place. `uniform` fp64 [B, L] replaces the
# random numbers of providers that invert a CDF, so that their draws can be checked one by one. Steps of the uniform family
# return a `uniform_steps.Moved` instead.
Step = Callable[..., tuple[torch.Tensor, torch.Tensor]]

# What a whole step produces.
OUTPUTS = ("tokens", "confidence", "canvas")
# torch sums a softmax row in a few fp32 lanes: notes/fp32-softmax.md.
FP32_SOFTMAX_RTOL = 5e-4


@dataclasses.dataclass(frozen=True)
class Provider:
    """name, kind ("ours" | "eager" | "compiled" | "triton" | "library"), one line of description, and a builder of the step.

    ops, models (None: all), confidences: what it has; filters: of ``Case.filter``, "" for none; greedy, warm: whether it takes
    T = 0, T > 0.
    noise: how a draw is checked. "uniform": the CDF bracket of the given uniform; "gumbel": replay of torch.rand;
    "own": `replay(inputs)` gives the exponential variates `[rows, V]` of its noise (of renoise_step, the noise tokens as well);
    "cdf": the bracket of the given uniform on the whole posterior; "hidden": it cannot be.
    conf_rtol: relative confidence error that its arithmetic explains, by logits dtype.
    guided_in: the dtype in which it combines guided logits, None for that of the logits.
    outputs: what it produces; anything but OUTPUTS is partial, and said to be.
    """

    name: str
    kind: str
    about: str
    build: Callable[[Inputs], Step]
    ops: tuple[str, ...] = ("denoise_step",)
    models: tuple[str, ...] | None = None
    noise: str = "uniform"
    conf_rtol: Callable[[torch.dtype], float] = lambda dtype: FP32_SOFTMAX_RTOL
    confidences: tuple[str, ...] = ("prob",)
    filters: tuple[str, ...] = ("",)
    greedy: bool = True
    warm: bool = True
    replay: Callable[[Inputs], torch.Tensor | tuple[torch.Tensor, torch.Tensor]] | None = None
    guided_in: torch.dtype | None = torch.float32
    outputs: tuple[str, ...] = OUTPUTS
    context: Callable[[], AbstractContextManager] = contextlib.nullcontext

    @property
    def partial(self) -> bool:
        return self.outputs != OUTPUTS

    def takes(self, case: Case) -> bool:
        """Whether it has this op, model, confidence and temperature."""
        return (
            case.op in self.ops
            and (self.models is None or case.model in self.models)
            and case.confidence in self.confidences
            and case.filter in self.filters
            and (self.warm if case.temperature else self.greedy)
        )


# -- ours


def ours(inputs: Inputs) -> Step:
    import dlm_kernels as dlm

    case, mask_id = inputs.case, inputs.mask_id
    if case.op in UNIFORM_OPS:
        return uniform_steps.ours(inputs)
    if case.op == "topk_unmask":

        def unmask(x: torch.Tensor, uniform=None):
            dlm.topk_unmask_(x, inputs.tokens, inputs.confidence, case.k, mask_id=mask_id)
            return inputs.tokens, inputs.confidence

        return unmask
    return fused(inputs, k=case.k, temperature=case.temperature, seed=case.seed, step_number=0)


def fused(inputs: Inputs, *, k, temperature, seed, step_number, filter=None) -> Step:
    """Our whole step; the numbers as Python numbers or as device tensors, `filter` that of the case unless it is given."""
    import dlm_kernels as dlm

    case, rule = inputs.case, dlm.TopK(k)
    filtered = {}
    if case.filter:
        value = getattr(case, case.filter) if filter is None else filter
        filtered = {case.filter: value, "top_k_ties": "all", "confidence_from": "sampled"}

    def step(x: torch.Tensor, uniform=None):
        out = dlm.denoise_step_(
            x,
            inputs.logits,
            mask_id=inputs.mask_id,
            rule=rule,
            temperature=temperature,
            seed=seed,
            step=step_number,
            uniform=uniform,
            confidence=case.confidence,
            uncond_logits=inputs.uncond,
            cfg_scale=case.cfg_scale,
            **filtered,
        )
        return out.tokens, out.confidence

    return step


# -- eager codes as published


def gumbel_scores(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """LLaDA's noise: exp(z) / (-log u)^T in fp64; its argmax is a draw from softmax(z / T). T = 0: the logits."""
    if temperature == 0:
        return logits
    z = logits.to(torch.float64)
    u = torch.rand_like(z)
    return z.exp() / (-u.log()).pow(temperature)


def _rank_each_sequence(x: torch.Tensor, tokens: torch.Tensor, confidence: torch.Tensor, case: Case, mask_id: int):
    """The published loop: one topk per sequence, then one indexed write."""
    masked = x == mask_id
    tokens = torch.where(masked, tokens, x)
    confidence = torch.where(masked, confidence, -torch.inf)
    transfer = torch.zeros_like(masked)
    for b in range(x.shape[0]):
        best = torch.topk(confidence[b], k=case.k).indices
        if x.is_cuda:
            transfer[b].scatter_(0, best, True)
        else:
            transfer[b, best] = True
    if x.is_cuda:  # the published indexed writes wait for the device; these can be captured, which favours the peer
        x.copy_(torch.where(transfer, tokens, x))
    else:
        x[transfer] = tokens[transfer]
    return tokens, confidence


def llada(inputs: Inputs) -> Step:
    """Confidence from a softmax in the dtype of the logits."""
    case, mask_id = inputs.case, inputs.mask_id
    if case.op == "topk_unmask":
        return lambda x, uniform=None: _rank_each_sequence(x, inputs.tokens, inputs.confidence, case, mask_id)

    def step(x: torch.Tensor, uniform=None):
        logits = guided(inputs)
        tokens = gumbel_scores(logits, case.temperature).argmax(-1)
        confidence = logits.softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
        return _rank_each_sequence(x, tokens, confidence, case, mask_id)

    return step


def fast_dllm(inputs: Inputs) -> Step:
    """As LLaDA with the softmax in fp64, at every temperature."""
    case, mask_id = inputs.case, inputs.mask_id

    def step(x: torch.Tensor, uniform=None):
        logits = guided(inputs)
        tokens = gumbel_scores(logits, case.temperature).argmax(-1)
        confidence = logits.to(torch.float64).softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
        return _rank_each_sequence(x, tokens, confidence, case, mask_id)

    return step


def dream(inputs: Inputs) -> Step:
    """Dream at temperature 0: softmax in the logits dtype, then its maximum, a full sort for the margin, or the entropy."""
    case, mask_id = inputs.case, inputs.mask_id

    def step(x: torch.Tensor, uniform=None):
        prob = guided(inputs).softmax(-1)
        confidence, tokens = prob.max(-1)
        if case.confidence == "margin":
            ordered = torch.sort(prob, dim=-1, descending=True).values
            confidence = ordered[..., 0] - ordered[..., 1]
        elif case.confidence == "neg_entropy":
            confidence = (prob * torch.log(prob + 1e-10)).sum(-1)
        return _rank_each_sequence(x, tokens, confidence, case, mask_id)

    return step


def _filtered(cut) -> Callable[[Inputs], Step]:
    """Draws in fp32 from what cut(logits / T, case) leaves; the confidence is of what is left."""

    def build(inputs: Inputs) -> Step:
        case, mask_id = inputs.case, inputs.mask_id

        def step(x: torch.Tensor, uniform=None):
            tokens, confidence = filtering.draw(cut(inputs.logits.float() / case.temperature, case))
            return _rank_each_sequence(x, tokens, confidence, case, mask_id)

        return step

    return build


# -- PyTorch as one would write it with care


def commit_topk(x: torch.Tensor, tokens: torch.Tensor, confidence: torch.Tensor, k: int, mask_id: int) -> None:
    """The whole batch at once: rank the masked positions, write the first k of each sequence. In place."""
    masked = x == mask_id
    best = confidence.masked_fill(~masked, -torch.inf).topk(k, dim=-1).indices
    chosen = torch.zeros_like(masked).scatter(1, best, True) & masked
    x.copy_(torch.where(chosen, tokens, x))


def _uniform(x: torch.Tensor, uniform: torch.Tensor | None) -> torch.Tensor:
    return torch.rand(x.shape, dtype=torch.float64, device=x.device) if uniform is None else uniform


def fp32_greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax in fp32, then its maximum: the fastest eager form (max + logsumexp is slower uncompiled)."""
    confidence, tokens = logits.softmax(-1, dtype=torch.float32).max(-1)
    return tokens, confidence


def max_logsumexp(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same numbers without a probability tensor: what to give a compiler."""
    z = logits.float()
    best, tokens = z.max(-1)
    return tokens, (best - z.logsumexp(-1)).exp()


def scored_greedy(logits: torch.Tensor, confidence: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Argmax with the margin or the negative entropy, in fp32, without a probability tensor where compiled."""
    z = logits.float()
    best, tokens = z.max(-1)
    norm = z.logsumexp(-1)
    if confidence == "margin":
        second = z.masked_fill(torch.arange(z.shape[-1], device=z.device) == tokens[..., None], -torch.inf).amax(-1)
        return tokens, (best - norm).exp() - (second - norm).exp()
    logprob = z - norm[..., None]
    return tokens, (logprob.exp() * logprob).sum(-1)


def fp32_draw(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax, cumsum, searchsorted, in fp32. At T != 1 the confidence needs a second softmax (its law is T = 1)."""
    prob = logits.softmax(-1, dtype=torch.float32)
    law = prob if temperature == 1 else (logits.float() / temperature).softmax(-1)
    cdf = law.cumsum(-1)
    target = uniform[..., None].float() * cdf[..., -1:]
    tokens = torch.searchsorted(cdf, target, right=True).clamp(max=logits.shape[-1] - 1)
    return tokens.squeeze(-1), prob.gather(-1, tokens).squeeze(-1)


def torch_fp32(inputs: Inputs) -> Step:
    case, mask_id = inputs.case, inputs.mask_id
    if case.op in UNIFORM_OPS:
        return uniform_careful.careful(inputs)
    if case.op == "topk_unmask":

        def unmask(x: torch.Tensor, uniform=None):
            commit_topk(x, inputs.tokens, inputs.confidence, case.k, mask_id)
            return inputs.tokens, inputs.confidence

        return unmask

    def step(x: torch.Tensor, uniform=None):
        logits = guided(inputs, torch.float32)
        if case.confidence != "prob":
            tokens, confidence = scored_greedy(logits, case.confidence)
        elif case.temperature == 0:
            tokens, confidence = fp32_greedy(logits)
        else:
            tokens, confidence = fp32_draw(logits, _uniform(x, uniform), case.temperature)
        commit_topk(x, tokens, confidence, case.k, mask_id)
        return tokens, confidence

    return step


def _compiled(inputs: Inputs, greedy: Callable, draw: Callable) -> Step:
    """torch.compile of the whole step, canvas write included. fullgraph: a silent graph break or a fall-back to eager
    code would be timed as "compiled"."""
    case, logits, uncond, mask_id = inputs.case, inputs.logits, inputs.uncond, inputs.mask_id
    k, temperature, weight = case.k, case.temperature, case.cfg_scale + 1

    def whole(x: torch.Tensor, z: torch.Tensor, u: torch.Tensor | None, uniform: torch.Tensor | None):
        if u is not None:
            z = u.float() + weight * (z.float() - u.float())
        tokens, confidence = greedy(z) if uniform is None else draw(z, uniform, temperature)
        commit_topk(x, tokens, confidence, k, mask_id)
        return tokens, confidence

    compiled = torch.compile(whole, fullgraph=True, dynamic=False)
    if temperature == 0:
        return lambda x, uniform=None: compiled(x, logits, uncond, None)
    return lambda x, uniform=None: compiled(x, logits, uncond, _uniform(x, uniform))


_SCORED = {name: partial(scored_greedy, confidence=name) for name in ("margin", "neg_entropy")}


def compiled_fp32(inputs: Inputs) -> Step:
    return _compiled(inputs, _SCORED.get(inputs.case.confidence, max_logsumexp), fp32_draw)


def compiled_chunked(inputs: Inputs) -> Step:
    if inputs.case.op in UNIFORM_OPS:
        return uniform_careful.compiled_chunked(inputs)
    return _compiled(inputs, chunked.greedy, chunked.draw)


# -- the registry

# One rounding of a probability to 8 or 11 bits, or the error of the fp32 sum, whichever is larger.
_SOFTMAX_RTOL = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-9, torch.float32: FP32_SOFTMAX_RTOL}


def _registry(providers: Iterable[Provider]) -> dict[str, Provider]:
    return {provider.name: provider for provider in providers}


_BOTH = ("denoise_step", "topk_unmask")
_ALL = (*_BOTH, *UNIFORM_OPS)
_SWEEPING = ("denoise_step", "uniform_step", "transition_step", "renoise_step")
_ALL_SCORES = ("prob", "margin", "neg_entropy", "gain")
PROVIDERS = _registry(
    [
        Provider(
            OURS,
            "ours",
            "this package",
            ours,
            _ALL,
            conf_rtol=lambda dtype: 2e-6,
            confidences=_ALL_SCORES,
            filters=("", *FILTERS),
        ),
        Provider(
            "llada",
            "eager",
            "LLaDA: fp64 Gumbel power form at T > 0, softmax in logits dtype, topk per sequence",
            llada,
            _BOTH,
            noise="gumbel",
            conf_rtol=_SOFTMAX_RTOL.__getitem__,
            guided_in=None,
        ),
        Provider(
            "fast_dllm",
            "eager",
            "Fast-dLLM: the same noise, softmax in fp64, topk per sequence",
            fast_dllm,
            noise="gumbel",
            conf_rtol=lambda dtype: 1e-9,
            guided_in=None,
        ),
        Provider(
            "dream",
            "eager",
            "Dream at T = 0: softmax in logits dtype, its maximum, sorted margin or entropy; topk per sequence",
            dream,
            conf_rtol=_SOFTMAX_RTOL.__getitem__,
            confidences=("margin", "neg_entropy"),
            warm=False,
            guided_in=None,
        ),
        Provider(
            "sorted_top_p",
            "eager",
            "LLaDA2's top_p: sort, softmax, cumsum, scatter, softmax, multinomial; topk per sequence",
            _filtered(filtering.top_p_by_sorting),
            noise="own",
            replay=uniform_peers.multinomial_noise,
            filters=("top_p",),
        ),
        Provider(
            "eager_filters",
            "eager",
            "transformers' top_k and min_p: topk or softmax, masked_fill, softmax, multinomial; topk per sequence",
            _filtered(filtering.top_k_or_min_p),
            noise="own",
            replay=uniform_peers.multinomial_noise,
            filters=("top_k", "min_p"),
        ),
        Provider(
            "torch_fp32",
            "eager",
            "with care: fp32 softmax + max, or softmax + cumsum + searchsorted; batched topk; transitions as a mixture",
            torch_fp32,
            _ALL,
            confidences=_ALL_SCORES,
        ),
        Provider(
            "compiled_fp32",
            "compiled",
            "torch.compile of max + logsumexp, or of softmax + cumsum + searchsorted",
            compiled_fp32,
            confidences=("prob", "margin", "neg_entropy"),
        ),
        Provider(
            "compiled_chunked",
            "compiled",
            "torch.compile of our own chunked algorithm in PyTorch: the honest competitor",
            compiled_chunked,
            _SWEEPING,
        ),
        Provider(
            "sumi",
            "eager",
            "Sumi: the posterior over the vocabulary in fp32, torch.multinomial; adaptive and greedy steps",
            uniform_peers.sumi,
            ("uniform_step", "select_step"),
            ("sumi",),
            noise="own",
            replay=uniform_peers.multinomial_noise,
            confidences=("prob", "gain"),
        ),
        Provider(
            "sumi_compiled",
            "compiled",
            "torch.compile of Sumi's posterior and multinomial",
            uniform_peers.sumi_compiled,
            ("uniform_step",),
            ("sumi",),
            noise="own",
            replay=uniform_peers.multinomial_noise,
        ),
        Provider(
            "gidd",
            "eager",
            "GIDD: two softmaxes, the posterior over the vocabulary, inverse CDF; noising by one-hots",
            uniform_peers.gidd,
            ("transition_step", "q_sample"),
            ("gidd",),
            noise="cdf",
        ),
        Provider(
            "gidd_compiled",
            "compiled",
            "torch.compile of GIDD's step, which is how it runs it",
            uniform_peers.gidd_compiled,
            ("transition_step",),
            ("gidd",),
            noise="cdf",
        ),
        Provider(
            "duo",
            "eager",
            "Duo's Psi sampler in fp64: two posteriors, Gumbel noise",
            uniform_peers.duo,
            ("transition_step",),
            ("duo",),
            noise="own",
            replay=uniform_peers.duo_noise,
        ),
        Provider(
            "diffusion_gemma",
            "eager",
            "transformers' DiffusionGemma: softmax, multinomial, argmax, entropy twice, sort, randint",
            uniform_peers.diffusion_gemma,
            ("renoise_step",),
            ("gemma",),
            noise="own",
            replay=uniform_peers.diffusion_gemma_noise,
        ),
    ]
)


def isa_variants() -> dict[str, Provider]:
    """Our step on the instruction sets this machine can run besides the one in use: "dlm_kernels[portable]", ..."""
    return _registry(
        dataclasses.replace(
            PROVIDERS[OURS],
            name=f"{OURS}[{isa}]",
            about=f"this package, instruction set {isa}",
            ops=("denoise_step",),
            context=lambda isa=isa: native.use_isa(isa),
        )
        for isa in native.isas()
        if isa != native.current_isa()
    )


def resolve(names: Iterable[str] | None) -> list[Provider]:
    """Providers by name (None: all), ours first. Unknown names: ValueError listing the known ones."""
    known = {**PROVIDERS, **isa_variants()}
    wanted = list(PROVIDERS) if names is None else list(dict.fromkeys([OURS, *names]))
    for name in wanted:
        if name not in known:
            raise ValueError(f"provider: must be one of {', '.join(known)}, got {name!r}")
    return [known[name] for name in wanted]
