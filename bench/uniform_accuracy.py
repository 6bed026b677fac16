"""Is rare noise drawn as often as it should be? Late in a long run a uniform token comes once in thousands of draws, and each of
the V tokens with a probability near 2^-24 of the likeliest: fp32 noise does not resolve that.

The problem: the middle one of Sumi's 1000 linear steps, a model sure of one token, and a canvas that holds another, implausible
one. The step itself is run, one row of logits read again and again (stride 0), with keyed noise. Minutes at most.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from . import native, schedule
from .cases import RARE_NOISE, RARE_NOISE_PEER, ROUTE_GRID, VOCAB, Case
from .uniform_check import weights
from .uniform_peers import exponentials, sumi_posterior

STEPS = 1000
DRAWS, GRID_DRAWS = 3 << 20, 1 << 20
RACES = {"log": 1 << 14, "cuda": 1 << 16, "fp64": 1 << 15}
_BATCH, _LENGTH = 64, 1024
_HELD, _BEST = 7, 4321


@dataclasses.dataclass(frozen=True)
class Problem:
    case: Case
    row: torch.Tensor  # bf16 [V]

    @classmethod
    def make(cls, vocab: int = VOCAB["sumi"], steps: int = STEPS) -> Problem:
        row = torch.randn(vocab, generator=torch.Generator().manual_seed(0))
        row[_BEST % vocab], row[_HELD] = 30.0, -10.0
        case = Case(op="uniform_step", model="sumi", rows=1, vocab=vocab, temperature=1.0, steps=steps)
        return cls(case, row.bfloat16())

    def exact(self) -> list[float]:
        """The probabilities of the routes: stay (a draw of x_t included), model, noise, mask."""
        p = self.row.double().softmax(0)[_HELD]
        stay, model, noise, mask = (float(v) for v in weights(self.case, p, torch.tensor(False)))
        return [stay + model * float(p), model * (1 - float(p)), noise, mask]

    def routes(self, rows: int, **how) -> torch.Tensor:
        """How often the step takes each route, in `rows` rows: int64 [4]. `how(block, rows)` gives its keyword arguments."""
        import dlm_kernels as dlm

        t, s = schedule.sumi(self.case)
        length = min(_LENGTH, rows)
        batch = min(_BATCH, rows // length)
        x = torch.full((batch, length), _HELD)
        logits = self.row.expand(batch, length, -1)
        counts = torch.zeros(4, dtype=torch.int64)
        for block in range(rows // (batch * length)):
            arguments = {name: make(block, x) for name, make in how.items()}
            out = dlm.uniform_step_(x.clone(), logits, alpha_t=t.alpha, alpha_s=s.alpha, **arguments)
            counts += torch.bincount(out.route.flatten(), minlength=4)
        return counts


def sigmas(events: float, expected: float, rows: int) -> float:
    """By how many standard deviations of a binomial count `events` differs from `expected` in `rows`."""
    return abs(events - expected) / math.sqrt(expected * (1 - expected / rows))


def keyed(problem: Problem, draws: int = DRAWS) -> dict:
    """The noise route of the step, by keyed noise: request seeds from one number, a step number per block."""
    import dlm_kernels as dlm

    counts = problem.routes(
        draws,
        seed=lambda block, x: dlm.request_seeds(1000 + block, x.shape[0]),
        step=lambda block, x: STEPS // 2,
    )
    rows = int(counts.sum())
    return _row(RARE_NOISE, "uniform_step_, keyed noise", int(counts[2]), problem.exact()[2] * rows, rows)


def grid_deviation(problem: Problem, draws: int = GRID_DRAWS) -> float:
    """Fed u = (i + 0.5) / n, the step takes each route just n w times, up to its two edges. The largest |count - n w|."""

    def uniform(block, x):
        i = torch.arange(block * x.numel(), (block + 1) * x.numel(), dtype=torch.float64)
        numbers = torch.full((x.numel(), 3), 0.5, dtype=torch.float64)
        numbers[:, 0] = (i + 0.5) / draws
        return numbers.view(*x.shape, 3)

    counts = problem.routes(draws, uniform=uniform, seed=lambda block, x: 0)
    return max(abs(float(count) - draws * w) for count, w in zip(counts, problem.exact()))


def race(problem: Problem, kind: str, draws: int) -> dict:
    """Draws from the dense fp32 posterior by argmax(P / E), counted where a token wins that only noise can be.

    kind "log": E = 1e-10 - log(u + 1e-10) by torch.rand in fp32, UDLM's categorical, run as it is. "cuda": torch.multinomial with
    the numbers that torch makes on CUDA, u = fp32 of 32 bits and E = max(-log u, 2^-24), emulated: on a CPU torch draws E from
    more bits. "fp64": the same with 53 bits, the control. Of the tokens that only noise can be, all equally likely, the
    latter two look at the one with the smallest E alone, which is the one that the argmax would take.
    """
    t, s = (math.log(level.alpha / level.noise) for level in schedule.sumi(problem.case))
    law, vocab = problem.row.float().softmax(-1), problem.case.vocab
    others = torch.ones(vocab, dtype=torch.bool)
    others[[_HELD, _BEST % vocab]] = False
    posterior = sumi_posterior(law[None, None], torch.tensor([[_HELD]]), t, s)[0][0, 0]
    if posterior[others].max() > posterior[others].min() * (1 + 1e-6):
        raise RuntimeError("the tokens that only noise can be are not equally likely")
    events = _dense_race(posterior, others, draws) if kind == "log" else _emulated_race(posterior, others, kind, draws)
    expected = problem.exact()[2] * (vocab - 2) / vocab * draws
    return _row(RARE_NOISE_PEER, _RACES[kind], events, expected, draws)


_RACES = {
    "log": "fp32 -log(rand) race (UDLM's categorical), run here",
    "cuda": "fp32 multinomial with CUDA's random bits, emulated",
    "fp64": "the same race with fp64 noise, emulated",
}


def _dense_race(posterior: torch.Tensor, others: torch.Tensor, draws: int, block: int = 64) -> int:
    generator, events = torch.Generator().manual_seed(1), 0
    for _ in range(draws // block):
        noise = exponentials(torch.rand(block, len(posterior), generator=generator))
        events += int(others[(posterior / noise).argmax(-1)].sum())
    return events


def _emulated_race(posterior: torch.Tensor, others: torch.Tensor, kind: str, draws: int, block: int = 256) -> int:
    import numpy as np

    named = (~others).nonzero()[:, 0].tolist()
    law = posterior[[*named, int(others.nonzero()[0])]].numpy()
    numbers, events = np.random.default_rng(1), 0
    for _ in range(draws // block):
        if kind == "cuda":
            bits = numbers.integers(0, 1 << 32, size=(block, len(posterior)), dtype=np.uint32)
            first = bits[:, named]
            bits[:, named] = 0
            bits = np.concatenate([first, bits.max(-1, keepdims=True)], -1)
            u = bits.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
            noise = np.maximum(-np.log(u), np.float32(2.0**-24))
        else:
            u = numbers.random((block, len(posterior)))
            first = u[:, named]
            u[:, named] = 1.0
            noise = -np.log1p(-np.concatenate([first, u.min(-1, keepdims=True)], -1))
        events += int(((law / noise).argmax(-1) == len(named)).sum())
    return events


def _row(kind: str, what: str, events: int, expected: float, rows: int) -> dict:
    value = sigmas(events, expected, rows)
    return {
        "accuracy": kind,
        "what": what,
        "value": value,
        "skipped": "",
        "events": events,
        "expected": expected,
        "rows": rows,
    }


def rows(threads: int) -> list[dict]:
    """The accuracy rows of the family: ours by keyed noise and on a grid of numbers, and the dense races beside it."""
    torch.set_num_threads(threads)
    problem = Problem.make()
    found = []
    with torch.inference_mode():
        if native.available():
            found.append(keyed(problem))
            deviation = grid_deviation(problem)
            found.append({"accuracy": ROUTE_GRID, "what": f"{GRID_DRAWS} numbers", "value": deviation, "skipped": ""})
        else:
            why = "native library not loaded; the reference would take hours"
            found += [
                {"accuracy": kind, "what": "", "value": None, "skipped": why} for kind in (RARE_NOISE, ROUTE_GRID)
            ]
        found += [race(problem, kind, draws) for kind, draws in RACES.items()]
    return found
