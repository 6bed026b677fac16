"""Small problems that between them reach every kernel and option: what the checks on a GPU run (gpu_agreement.py,
gpu_graphs.py, gpu_sanitize.py). They need neither pytest nor any other package, so that a bare machine can run them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from .inputs import TORCH_DTYPE

OPTIONS = (
    *("frozen", "window", "start", "packed", "shift", "suppress", "demote", "guided", "strided", "bad", "uniform"),
    "filtered",
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One call of one op. `options`: names out of OPTIONS. `rule` and `confidence` matter to the ops that have them."""

    op: str = "denoise_step_"
    vocab: int = 1000
    batch: int = 2
    length: int = 6
    dtype: str = "bf16"
    temperature: float = 0.0
    rule: str = "topk"
    confidence: str = "prob"
    confidence_from: str = "raw"
    conf_dtype: torch.dtype = torch.float32
    options: tuple[str, ...] = ()
    seed: int = 0

    @property
    def name(self) -> str:
        scored = "" if self.op == "row_stats" else f" {self.rule} {self.confidence} {self.confidence_from}"
        kept = "" if self.conf_dtype == torch.float32 else f" {str(self.conf_dtype).removeprefix('torch.')}"
        more = f" {'+'.join(self.options)}" if self.options else ""
        return (
            f"{self.op} {self.batch}x{self.length}x{self.vocab} {self.dtype} T={self.temperature:g}{scored}{kept}{more}"
        )

    @property
    def mask_id(self) -> int:
        return self.vocab

    @property
    def always_warm(self) -> bool:
        """Whether temperature 0 makes no sense."""
        return self.op == "row_stats"

    def tensors(self, device: torch.device, seed: int | None = None) -> dict[str, torch.Tensor]:
        """Every tensor of the call on `device`; made on the CPU, so that all devices get the same bits. Another `seed` gives
        the same shapes with other values, so that one can be copied over the other."""
        g = torch.Generator().manual_seed(self.seed if seed is None else seed)
        b, n, v = self.batch, self.length, self.vocab
        width = n - 2 if "start" in self.options else n
        rows = b * n if "packed" in self.options else None
        shape = (rows,) if rows else (b, width)

        def law() -> torch.Tensor:
            z = (torch.randn(*shape, v, generator=g) * 3).to(TORCH_DTYPE[self.dtype])
            if "bad" in self.options:
                z.view(-1, v)[0, v // 2] = torch.nan
                z.view(-1, v)[-1] = -torch.inf
                z.view(-1, v)[1, ::2] = -torch.inf
            return z

        x = torch.randint(v, (b, n), generator=g)
        opened = torch.rand(b, n, generator=g) < 0.75
        found = {
            "x": torch.where(opened, self.mask_id, x),
            "logits": law(),
            "temperature": torch.full((b,), self.temperature),
            "seed": torch.randint(1 << 60, (b,), generator=g),
            "step": torch.randint(1000, (1,), generator=g),
            "k": torch.randint(1, 4, (b,), generator=g),
            "tokens": torch.randint(v, shape, generator=g),
            "confidence": torch.rand(shape, generator=g),
        }
        if "guided" in self.options:
            found["uncond"] = law()
        if "frozen" in self.options:
            found["frozen"] = torch.rand(b, n, generator=g) < 0.3
        if "start" in self.options:
            found["start"] = torch.randint(3, (b,), generator=g)
        if "packed" in self.options:
            places = torch.randperm(b * n, generator=g)
            places[:2] = -1
            found["rows"] = places
        if "suppress" in self.options:
            found["suppress"] = torch.randint(v, (3,), generator=g)
        if "demote" in self.options:
            found["demote"] = torch.randint(v, (max(2, v // 2),), generator=g)
        if "filtered" in self.options:
            found["top_k"] = torch.randint(1, v + 1, (b,), generator=g)
            found["top_p"] = torch.full((b,), 0.95, dtype=torch.float64)
            found["min_p"] = torch.full((1,), 1e-4, dtype=torch.float64)
        if "uniform" in self.options:
            found["uniform"] = torch.rand(shape, generator=g, dtype=torch.float64)
        found = {name: tensor.to(device) for name, tensor in found.items()}
        if "strided" in self.options:
            # Rows with a gap behind them, and so not on 16-byte boundaries where the vocabulary is odd.
            wide = torch.zeros(*found["logits"].shape[:-1], v + 3, dtype=found["logits"].dtype, device=device)
            found["logits"] = wide[..., :v].copy_(found["logits"])
        return found

    def run(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Call the op on these tensors; its outputs by name. Writes t["x"]."""
        import dlm_kernels as dlm

        shared = {name: t.get(name) for name in ("start", "rows")}
        if self.op == "topk_unmask_":
            out = dlm.topk_unmask_(t["x"], t["tokens"], t["confidence"], t["k"], **shared, **self._where(t))
            return out._asdict()
        law = {
            "suppress": t.get("suppress"),
            "uncond_logits": t.get("uncond"),
            "cfg_scale": 1.5 if "uncond" in t else 0.0,
        }
        if self.op == "row_stats":
            return dlm.row_stats(t["logits"], temperature=t["temperature"], given=t["tokens"], **law)._asdict()
        draw = {
            **law,
            **shared,
            **{name: t.get(name) for name in ("demote", "uniform", "top_k", "top_p", "min_p")},
            "temperature": t["temperature"],
            "seed": t["seed"],
            "step": t["step"],
            "shift": -1 if "shift" in self.options else 0,
            "confidence": self.confidence,
            "confidence_from": self.confidence_from,
            "conf_dtype": self.conf_dtype,
        }
        if self.op == "draw_tokens":
            length = self.length if "rows" in t else None
            return dlm.draw_tokens(t["logits"], length=length, **draw)._asdict()
        rules = {
            "topk": lambda: dlm.TopK(t["k"]),
            "threshold": lambda: dlm.Threshold(0.05, at_least=t["k"]),
            "factor": lambda: dlm.Factor(0.5),
            "entropy": lambda: dlm.EntropyBudget(6.0),
        }
        return dlm.denoise_step_(t["x"], t["logits"], rule=rules[self.rule](), **draw, **self._where(t))._asdict()

    def _where(self, t: dict[str, torch.Tensor]) -> dict:
        window = (1, self.length - 1) if "window" in self.options else None
        return {"mask_id": self.mask_id, "frozen": t.get("frozen"), "window": window}


def problems(large: bool = True) -> list[Problem]:
    """All of them; without `large` only those that take no time under a checker of memory."""
    from .gpu_uniform import large_uniform_problems, uniform_problems

    found = [*_small(), *uniform_problems()]
    if large:
        found += [*_large(), *large_uniform_problems()]
    return [dataclasses.replace(problem, seed=i) for i, problem in enumerate(dict.fromkeys(found))]


def _small() -> Iterator[Problem]:
    for dtype in ("fp32", "bf16", "fp16"):
        for temperature in (0.0, 1.0, 0.7):
            yield Problem(dtype=dtype, temperature=temperature)
    # One element, less than a vector, a chunk and its neighbours, several chunks with a ragged end, odd rows.
    for vocab in (1, 7, 1023, 1024, 1025, 4097, 33001):
        for temperature in (0.0, 1.0):
            yield Problem(vocab=vocab, temperature=temperature)
        yield Problem("row_stats", vocab=vocab, dtype="fp32", temperature=1.0)
    for rule in ("topk", "threshold", "factor", "entropy"):
        for confidence in ("prob", "margin", "neg_entropy", "random"):
            yield Problem(rule=rule, confidence=confidence, temperature=0.7, confidence_from="sampled")
    for conf_dtype in (torch.bfloat16, torch.float64):
        yield Problem(conf_dtype=conf_dtype, temperature=1.0)
    for option in OPTIONS:
        temperature = 1.0 if option in ("suppress", "uniform", "bad") else 0.7
        yield Problem(options=(option,), temperature=temperature)
        yield Problem(options=(option,), vocab=2049, dtype="fp32")
    yield Problem(options=("frozen", "window", "start", "guided", "suppress", "demote"), temperature=0.7)
    yield Problem(options=("packed", "strided", "bad", "guided"), vocab=1501, temperature=1.0)
    for op in ("draw_tokens", "row_stats"):
        for options in ((), ("guided", "suppress"), ("strided", "bad")):
            yield Problem(op, options=options, temperature=0.7, vocab=3001)
    yield Problem("draw_tokens", options=("packed",), temperature=1.0)
    for dtype in ("fp32", "bf16", "fp16"):
        for source in ("raw", "sampled", "tempered"):
            yield Problem(options=("filtered",), dtype=dtype, temperature=0.7, confidence_from=source, vocab=5001)
    # Selection: a warp, a block, many positions.
    for length in (1, 32, 33, 257, 1500, 4096):
        yield Problem("topk_unmask_", length=length, vocab=50)
    for option in ("frozen", "window", "packed"):
        yield Problem("topk_unmask_", length=40, vocab=50, options=(option,))


def _large() -> Iterator[Problem]:
    for vocab in (126464, 152064, 157184, 100278):
        for temperature in (0.0, 1.0):
            yield Problem(vocab=vocab, batch=1, length=32, temperature=temperature)
    yield Problem(vocab=126464, batch=4, length=64, temperature=1.0)
    yield Problem(vocab=126464, batch=1, length=16, temperature=0.7, dtype="fp32", options=("guided",))
    yield Problem(vocab=152064, batch=1, length=16, confidence="neg_entropy", options=("shift",))
    for dtype in ("fp32", "bf16"):
        yield Problem(vocab=157184, batch=1, length=32, temperature=1.0, dtype=dtype, options=("filtered",))
