"""Soak: many steps of every kind, and what the process's memory does meanwhile.

    python tests/soak.py --steps 100000

Temperatures and noise levels are others in every step, so that whatever is kept of them (1024 constants, 1024 coefficients of
transitions) is full after the warm-up. Ends with 1 if since then any of these has grown by more than noise does:

    in use      what malloc has handed out and not got back, to the byte: what C++ leaks, and tensors that somebody holds
    blocks      what Python's own allocator has handed out
    resident    pages of the process, as the kernel counts them: fragmentation too
"""

import argparse
import ctypes
import gc
import os
import sys
import time
from typing import NamedTuple

import torch

import dlm_kernels as dlm
from dlm_kernels import remasking, transitions

B, L, VOCAB = 2, 16, 600


class Memory(NamedTuple):
    in_use: int  # bytes
    blocks: int
    resident: int  # bytes

    @classmethod
    def now(cls):
        gc.collect()
        heap = _mallinfo()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return cls(heap.uordblks + heap.hblkhd, sys.getallocatedblocks(), pages * os.sysconf("SC_PAGE_SIZE"))

    def grown(self, before):
        """What is more than before by more than noise, in words."""
        allowed = Memory(2**12, 100, 2**20)
        growth = [now - then for now, then in zip(self, before)]
        return [f"{name}: {n} more" for name, n, most in zip(self._fields, growth, allowed) if n > most]


class _Mallinfo(ctypes.Structure):  # glibc's mallinfo2, of 2.33 or later
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def _mallinfo():
    function = ctypes.CDLL(None).mallinfo2
    function.restype = _Mallinfo
    return function()


class Run:
    """Canvases, states and traces that live as long as the run, of steps with so many different numbers."""

    def __init__(self, different):
        self.different = different
        generator = torch.Generator().manual_seed(0)
        self.logits = [
            3 * torch.randn((B, L, VOCAB), generator=generator).to(d) for d in (torch.float32, torch.bfloat16)
        ]
        self.masked, self.uniform = torch.full((B, L), VOCAB), torch.zeros((B, L), dtype=torch.int64)
        self.state, self.klass = dlm.RenoiseState.start(self.uniform), dlm.KlassState.start(self.logits[0])
        self.trace = dlm.RevisionTrace(B, L, mask_id=VOCAB)
        self.history = dlm.RevisionTrace(B, L, "full")
        self.kinds = (
            self.denoise,
            self.remask,
            self.transition,
            self.renoise,
            self.klass_step,
            self.noise,
            self.refused,
        )

    def step(self, i):
        self.kinds[i % len(self.kinds)](i % self.different, self.logits[i % 2], 0.5 + i % self.different * 1e-6)

    def denoise(self, i, logits, temperature):
        if i % 8 == 0:
            self.masked.fill_(VOCAB)
        kept = dict(top_k=40, top_p=0.95, suppress=[i % 2000])
        step = dict(temperature=temperature, seed=i, step=i, trace=self.trace)
        dlm.denoise_step_(self.masked, logits, mask_id=VOCAB, rule=dlm.Threshold(0.5), edit=0.9, **kept, **step)

    def remask(self, i, logits, temperature):
        remasking.p2_step_(self.masked, logits, mask_id=VOCAB, kappa=0.5, temperature=temperature, seed=i, step=i)

    def transition(self, i, logits, temperature):
        if i % 50 == 0:
            self.history.reset()  # it grows by every step: that is what it is
        step = dict(temperature=temperature, seed=i, step=i, trace=self.history)
        dlm.uniform_step_(self.uniform, logits, alpha_t=0.3, alpha_s=0.3 + i * 1e-7, **step)
        guided = transitions.guided(transitions.uniform(0.2, 0.4), 1.5)
        dlm.transition_step_(self.uniform, logits, transition=guided, uncond_logits=logits, seed=i)

    def renoise(self, i, logits, temperature):
        self.state.done.fill_(False)
        dlm.renoise_step_(self.uniform, logits, state=self.state, temperature=temperature, seed=i, check=True)

    def klass_step(self, i, logits, temperature):
        dlm.klass_step_(self.masked, logits, self.klass, mask_id=VOCAB, temperature=temperature, seed=i)

    def noise(self, i, logits, temperature):
        self.uniform = dlm.q_sample(self.uniform, 0.9, vocab_size=VOCAB, seed=i)
        dlm.row_stats(logits, temperature=temperature)

    def refused(self, i, logits, temperature):
        try:
            dlm.denoise_step_(self.masked, logits, mask_id=VOCAB, rule=dlm.TopK(1), temperature=-temperature)
        except ValueError:
            return
        raise AssertionError("a negative temperature went through")


def soak(steps, warm_up, different=2**20):
    """(Memory after the warm-up, and at the end)."""
    run, found = Run(different), []
    for some in (range(warm_up), range(warm_up, warm_up + steps)):
        for i in some:
            run.step(i)
        run.history.reset()
        found.append(Memory.now())
    return tuple(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--warm-up", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    begun = time.monotonic()
    before, after = soak(args.steps, args.warm_up)
    print(f"{args.steps} steps after {args.warm_up}, {time.monotonic() - begun:.0f} s in all")
    for name in Memory._fields:
        print(f"{name:10}{getattr(before, name):12} -> {getattr(after, name):12}")
    grown = after.grown(before)
    print(*grown, sep="\n")
    return 1 if grown else 0


if __name__ == "__main__":
    raise SystemExit(main())
