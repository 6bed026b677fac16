"""CPU against CUDA: `python -m dlm_kernels.bench.gpu_agreement`. The same bits go into both; greedy tokens, actions and
counts must be equal, drawn tokens equal or both inside the rounding of one CDF step, floats close. Needs torch alone.

Ends with status 1 if anything disagrees, and says what.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from .check import DRAW_TOLERANCE, _judge_draw
from .gpu_problems import Problem, problems
from .gpu_uniform import UniformProblem

# Relative; absolute near 0. Sums of fp32 terms over a vocabulary differ by some 1e-6; an entropy adds their logarithms.
RTOL, ATOL = 2e-5, 1e-6
ENTROPY_ATOL = 1e-4
_FLOATS = (torch.float32, torch.float64, torch.bfloat16)


class Disagreement(AssertionError):
    pass


def compare(problem: Problem, device: torch.device) -> int:
    """Run `problem` on the CPU and on `device`; the number of proven ties. Disagreement otherwise."""
    cpu, other = problem.tensors(torch.device("cpu")), problem.tensors(device)
    want = problem.run(cpu)
    got = {name: value.cpu() for name, value in problem.run(other).items()}
    again = problem.tensors(device)
    for name, value in problem.run(again).items():
        if not torch.equal(_bits(value.cpu()), _bits(got[name])):
            raise Disagreement(f"{name}: two runs differ")
    tied = torch.zeros(want["tokens"].shape if "tokens" in want else (0,), dtype=torch.bool)
    if "tokens" in want:
        tied = want["tokens"] != got["tokens"]
        if bool(tied.any()):
            prove = _prove_by_moving if isinstance(problem, UniformProblem) else _prove_ties
            prove(problem, want, got, tied)
    cut = _cut_ties(want, got, tied)
    for name in want:
        if name == "tokens":
            continue
        _compare_output(name, want[name], got[name], problem, tied, cut)
    return int(tied.sum()) + int(cut)


def _bits(value: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(value, nan=-12345.0) if value.is_floating_point() else value


def _prove_ties(problem: Problem, want: dict, got: dict, tied: torch.Tensor) -> None:
    """Every differing token must be drawn, and its cell of the CDF must reach the uniform that both were given."""
    from ..reference import geometry, philox
    from ..reference.cutoff import Filters, keep
    from ..reference.row_stats import effective_logits

    if problem.temperature == 0:
        at = tuple(tied.nonzero()[0].tolist())
        raise Disagreement(f"token at {at}: {got['tokens'][at].item()}, the CPU has {want['tokens'][at].item()}")
    t = problem.tensors(torch.device("cpu"))
    if "packed" in problem.options:
        places = geometry.packed_rows(t["rows"], problem.length)
    else:
        places = geometry.dense_rows(*tied.shape, t.get("start"), tied.device)
    index = tied.nonzero(as_tuple=True)
    shift = -1 if "shift" in problem.options else 0
    uncond = None if "uncond" not in t else geometry.read_rows(t["uncond"], index, shift)
    scale = 1.5 if "uncond" in t else 0.0
    z = effective_logits(geometry.read_rows(t["logits"], index, shift), uncond, scale, t.get("suppress"))
    batch, position = places.batch[index], places.position[index]
    if "filtered" in problem.options:
        z = keep(z, t["temperature"][batch].double(), batch, Filters(t["top_k"], t["top_p"], t["min_p"]))
    uniform = t["uniform"][index] if "uniform" in t else philox.draw_uniform(t["seed"][batch], position, t["step"])
    wrong, _ = _judge_draw(z.double() / problem.temperature, got["tokens"][index].long(), uniform)
    if bool(wrong.any()):
        at = tuple(tied.nonzero()[int(wrong.nonzero()[0])].tolist())
        raise Disagreement(f"drawn token at {at}: {got['tokens'][at].item()}, outside the cell of its uniform")


def _prove_by_moving(problem: Problem, want: dict, got: dict, tied: torch.Tensor) -> None:
    """A token that differs must be the CPU's once one of the row's numbers has moved by what rounding is worth."""
    numbers = problem.tensors(torch.device("cpu")).get("uniform")
    for column in range(0 if numbers is None else numbers.shape[-1]):
        for by in (-DRAW_TOLERANCE, DRAW_TOLERANCE):
            t = problem.tensors(torch.device("cpu"))
            t["uniform"][..., column] = (numbers[..., column] + by).clamp(0, 1 - 2.0**-53)
            tied = tied & (problem.run(t)["tokens"] != got["tokens"])
    if bool(tied.any()):
        at = tuple(tied.nonzero()[0].tolist())
        raise Disagreement(f"token at {at}: {got['tokens'][at].item()}, the CPU has {want['tokens'][at].item()}")


def _cut_ties(want: dict, got: dict, tied: torch.Tensor) -> bool:
    """Whether the committed sets differ only among confidences that rounding cannot tell apart."""
    if "committed" not in want or "confidence" not in want or torch.equal(want["committed"], got["committed"]):
        return False
    if bool(tied.any()):
        return True  # another token, another confidence: the ranks may differ from there on
    changed = want["committed"] != got["committed"]
    values = want["confidence"][changed].double()
    edge = want["confidence"][want["committed"]].double().min() if want["committed"].any() else values.max()
    if not torch.allclose(values, edge.expand_as(values), rtol=RTOL, atol=ATOL):
        raise Disagreement(f"committed: {int(changed.sum())} positions differ, not by a tie")
    return True


def _compare_output(
    name: str, want: torch.Tensor, got: torch.Tensor, problem: Problem, tied: torch.Tensor, cut: bool
) -> None:
    if want.dtype != got.dtype or want.shape != got.shape:
        raise Disagreement(f"{name}: {got.dtype} {list(got.shape)}, the CPU has {want.dtype} {list(want.shape)}")
    if want.dtype in _FLOATS:
        keep = ~tied if want.shape == tied.shape else torch.ones(want.shape, dtype=torch.bool)
        capped = "softcap" in problem.options  # 30 tanh(z / 30): logits to some 1e-5
        loose = capped or name in ("entropy", "gain") or problem.confidence == "neg_entropy"
        rtol = 2.0**-7 if torch.bfloat16 in (problem.conf_dtype, want.dtype) else 1e-4 if capped else RTOL
        close = torch.isclose(got[keep], want[keep], rtol=rtol, atol=ENTROPY_ATOL if loose else ATOL)
        if not bool(close.all()):
            worst = int((~close).nonzero()[0])
            raise Disagreement(f"{name}: {got[keep][worst].item()!r}, the CPU has {want[keep][worst].item()!r}")
    elif not torch.equal(want, got) and not cut and not bool(tied.any()):
        at = tuple((want != got).nonzero()[0].tolist())
        raise Disagreement(f"{name} at {at}: {got[at].item()!r}, the CPU has {want[at].item()!r}")


def alone_and_together(device: torch.device) -> None:
    """A sequence alone draws the same tokens, with the same confidence bits, as in its batch."""
    problem = Problem(batch=3, length=5, vocab=5000, temperature=0.7)
    whole = problem.tensors(device)
    together = problem.run({name: tensor.clone() for name, tensor in whole.items()})
    for b in range(problem.batch):
        # One step for all; everything else has a leading batch dimension.
        part = {n: t.clone() if n == "step" else t[b : b + 1].clone() for n, t in whole.items()}
        alone = problem.run(part)
        for name in ("tokens", "confidence", "committed", "x"):
            if not torch.equal(alone[name][0], together[name][b]):
                raise Disagreement(f"{name}: sequence {b} alone differs from itself in the batch")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dlm_kernels.bench.gpu_agreement", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--seconds", type=float, default=60.0, help="start no problem after this time (default: 60)")
    args = parser.parse_args(arguments)
    device, start = torch.device(args.device), time.perf_counter()
    failed = ties = done = 0
    listed = problems()
    for problem in listed:
        if time.perf_counter() - start > args.seconds:
            break
        done += 1
        try:
            ties += compare(problem, device)
        except Exception as error:
            failed += 1
            print(f"FAIL {problem.name}: {type(error).__name__}: {str(error)[:500]}", flush=True)
    try:
        alone_and_together(device)
    except Exception as error:
        failed += 1
        print(f"FAIL alone and together: {type(error).__name__}: {str(error)[:500]}")
    late = "" if done == len(listed) else f"; {len(listed) - done} not reached"
    print(f"{done - failed} of {done} problems agree, {ties} proven ties{late}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
