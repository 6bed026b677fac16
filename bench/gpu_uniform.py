"""Small problems of the uniform family, for the checks on a GPU: gpu_problems.py has those of the masked one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from .gpu_problems import Problem

UNIFORM_OPTIONS = ("trace", "committed", "probs", "softcap", "min_p", "guidance", "score")
# How many numbers of its own a row takes.
_NUMBERS = {"renoise_step_": 2, "transition_step_": 3, "q_sample": 2}


@dataclasses.dataclass(frozen=True)
class UniformProblem(Problem):
    """One call of renoise_step_, transition_step_ or q_sample, or of denoise_step_ with every position open. `kind`: of
    transition_step_. State is among the tensors, and what becomes of it among the outputs."""

    kind: str = "uniform"

    @property
    def name(self) -> str:
        return f"{super().name} {self.kind}"

    @property
    def mask_id(self) -> int:
        return self.vocab - 1 if self.kind in ("gidd", "remdm") else -1

    @property
    def always_warm(self) -> bool:
        return self._redraw != "none"

    @property
    def _redraw(self) -> str:
        return next((name for name in ("min_p", "guidance", "score") if name in self.options), "none")

    def tensors(self, device: torch.device, seed: int | None = None) -> dict[str, torch.Tensor]:
        found = super().tensors(device, seed)
        g = torch.Generator().manual_seed((self.seed if seed is None else seed) + 1)
        b, n, v = self.batch, self.length, self.vocab
        x = torch.randint(v, (b, n), generator=g)
        if self.mask_id >= 0:
            x = torch.where(torch.rand(b, n, generator=g) < 0.5, self.mask_id, x)
        rows = (b, n) if self.op == "q_sample" else tuple(found["logits"].shape[:-1])
        more = {"x": x, "coefficients": self._transition().coefficients, "rates": _rates(self.mask_id)}
        if self.op in _NUMBERS:
            more["uniform"] = torch.rand(*rows, _NUMBERS[self.op], generator=g, dtype=torch.float64)
        if self.op == "renoise_step_":
            best = found["logits"].argmax(-1).reshape(-1)[: b * n].cpu()
            canvas = torch.nn.functional.pad(best, (0, b * n - len(best)), value=-1).reshape(b, n)
            more["argmax"] = torch.where(torch.rand(b, 1, generator=g) < 0.5, canvas, x)
            more["unchanged"] = torch.randint(3, (b,), generator=g)
            more["done"] = torch.rand(b, generator=g) < 0.2
        if "committed" in self.options:
            more["committed"] = torch.rand(b, n, generator=g) < 0.3
        if "probs" in self.options:
            more["probs"] = torch.zeros(*rows, v, dtype=torch.bfloat16)
        if "guidance" in self.options:
            more["uncond"] = found["logits"].cpu().roll(1, -1)
        if "trace" in self.options:
            first = torch.randint(-1, v, (b, n), generator=g)
            cells = torch.tensor([-1, -1, -1, -1, 0, 0, 0, -1]).repeat(b, n, 1)
            cells[..., 0] = cells[..., 1] = first
            more["trace"], more["trace_steps"] = cells.int(), torch.zeros(3, b, 8, dtype=torch.int64)
        return {**found, **{name: tensor.to(device) for name, tensor in more.items()}}

    def run(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = getattr(self, f"_{self.op}")(t)
        for name in ("x", "argmax", "unchanged", "done", "committed", "probs", "trace"):
            if name in t:
                out[f"{name} after"] = t[name]
        if "trace" in t:
            out["events"], out["gain"] = t["trace_steps"][..., :7], t["trace_steps"][..., 7].double() * 2.0**-20
        return out

    def _transition(self):
        from .. import transitions

        made = {
            "uniform": lambda: transitions.uniform(0.4, 0.6),
            "denoiser": lambda: transitions.uniform(0.4, 0.6, prediction="denoiser"),
            "gidd": lambda: transitions.gidd(0.7, 0.5, 0.2),
            "remdm": lambda: transitions.remdm(0.4, 0.6, 0.3),
        }[self.kind]()
        if self._redraw == "min_p":
            return transitions.with_min_p(made, 1e-3)
        if self._redraw == "guidance":
            return transitions.guided(made, 1.5)
        return transitions.sedd_analytic(2.0, 1.0) if self._redraw == "score" else made

    def _shared(self, t: dict[str, torch.Tensor]) -> dict:
        start, stop = (1, self.length - 1) if "window" in self.options else (0, -1)
        names = ("frozen", "start", "rows", "suppress", "uniform", "trace", "trace_steps")
        return {
            **{name: t.get(name) for name in names},
            "window_start": start,
            "window_stop": stop,
            "shift": -1 if "shift" in self.options else 0,
            "uncond_logits": t.get("uncond"),
            "cfg_scale": 1.5 if "guided" in self.options else 0.0,
        }

    def _args(self, t: dict[str, torch.Tensor]) -> tuple:
        return t["x"], t["logits"], t["temperature"], t["seed"], t["step"]

    def _scored(self) -> dict:
        rule, level = {
            "topk": ("topk", 0.0),
            "threshold": ("threshold", 0.05),
            "factor": ("factor", 0.5),
            "entropy": ("entropy_budget", 6.0),
        }[self.rule]
        return {
            "rule": rule,
            "level": level,
            "confidence": self.confidence,
            "confidence_from": self.confidence_from,
            "conf_dtype": str(self.conf_dtype).removeprefix("torch."),
        }

    def _denoise_step_(self, t: dict[str, torch.Tensor]) -> dict:
        from .. import _ops

        out = _ops.denoise_step_(*self._args(t), t["k"], mask_id=None, **self._scored(), **self._shared(t))
        return dict(zip(("tokens", "confidence", "committed", "num_committed", "num_open", "num_bad"), out))

    def _renoise_step_(self, t: dict[str, torch.Tensor]) -> dict:
        from .. import _ops

        state = {name: t.get(name) for name in ("committed", "argmax", "unchanged", "done", "probs")}
        more = dict(
            mask_id=self.mask_id, stability=1, confident=3.0, softcap=30.0 if "softcap" in self.options else 0.0
        )
        out = _ops.renoise_step_(*self._args(t), t["k"], **state, **more, **self._scored(), **self._shared(t))
        names = ("tokens", "best", "entropy", "confidence", "accepted", "num_accepted", "num_bad", "at_rest")
        return dict(zip(names, out))

    def _transition_step_(self, t: dict[str, torch.Tensor]) -> dict:
        from .. import _ops

        made = self._transition()
        more = dict(mask_id=self.mask_id, tempered=made.tempered, redraw=made.redraw, level=made.level)
        shared = self._shared(t)
        if self.mask_id >= 0:  # a law never has the mask
            shared["suppress"] = torch.full((1,), self.mask_id, device=t["x"].device)
        out = _ops.transition_step_(*self._args(t), t["coefficients"], **more, **shared)
        return dict(zip(("tokens", "route", "p_current", "confidence", "num_changed", "num_bad"), out))

    def _q_sample(self, t: dict[str, torch.Tensor]) -> dict:
        from .. import _ops

        more = dict(vocab_size=self.vocab, mask_id=self.mask_id, frozen=t.get("frozen"), uniform=t["uniform"])
        return dict(zip(("tokens", "route"), _ops.q_sample(t["x"], t["rates"], t["seed"], t["step"], **more)))


def _rates(mask_id: int) -> torch.Tensor:
    return torch.tensor([[0.3, 0.2 if mask_id >= 0 else 0.0]], dtype=torch.float64)


def uniform_problems() -> Iterator[UniformProblem]:
    for dtype in ("fp32", "bf16", "fp16"):
        for kind in ("uniform", "gidd"):
            yield UniformProblem("transition_step_", dtype=dtype, temperature=1.0, kind=kind, options=("trace",))
        yield UniformProblem(
            "renoise_step_", dtype=dtype, temperature=0.7, rule="entropy", options=("trace", "probs", "softcap")
        )
    for kind in ("denoiser", "remdm"):
        yield UniformProblem("transition_step_", temperature=0.8, kind=kind)
    yield UniformProblem("transition_step_", temperature=0.0)
    for redraw in ("min_p", "guidance", "score"):
        yield UniformProblem("transition_step_", temperature=0.9, dtype="fp32", options=(redraw,))
    for option in ("frozen", "window", "start", "packed", "shift", "guided", "strided", "bad"):
        yield UniformProblem("transition_step_", temperature=0.7, options=(option, "trace"))
        yield UniformProblem("renoise_step_", temperature=1.0, rule="entropy", options=(option, "probs"))
    for rule in ("topk", "threshold", "factor"):
        yield UniformProblem("renoise_step_", temperature=1.0, rule=rule, options=("committed",))
    for confidence in ("gain", "change"):
        yield UniformProblem(temperature=0.7, confidence=confidence, options=("trace",))
    for kind in ("uniform", "gidd"):
        yield UniformProblem("q_sample", kind=kind, length=300, options=("frozen",))
    # A chunk's neighbours, many positions, many sequences.
    for vocab in (7, 1025, 33001):
        yield UniformProblem("transition_step_", vocab=vocab, temperature=1.0)
        yield UniformProblem("renoise_step_", vocab=vocab, temperature=0.0, rule="entropy", options=("probs",))
    for op in ("transition_step_", "renoise_step_"):
        yield UniformProblem(op, vocab=50, length=700, temperature=1.0, options=("trace",))
        yield UniformProblem(op, vocab=50, batch=33, length=4, temperature=1.0, options=("packed", "trace"))


def large_uniform_problems() -> Iterator[UniformProblem]:
    yield UniformProblem("transition_step_", vocab=100278, batch=1, length=24, temperature=1.0)
    options = ("probs", "softcap")
    yield UniformProblem(
        "renoise_step_", vocab=262144, batch=1, length=16, temperature=0.6, rule="entropy", options=options
    )
