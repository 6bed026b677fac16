"""Ops from several Python threads, which run at the same time: torch lets go of the interpreter's lock. And the library's own
threads under ThreadSanitizer."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import assert_equal, using_threads
from strategies import make_logits

import dlm_kernels as dlm
from dlm_kernels import transitions

B, L, VOCAB, CALLERS = 2, 12, 3000, 4
LOGITS = make_logits(torch.Generator().manual_seed(0), "normal", (B, L, VOCAB))


def a_run(caller):
    """Three steps of every kind on canvases of its own; all that they said and left."""
    masked, uniform = torch.full((B, L), VOCAB), torch.full((B, L), caller)
    renoised, state = uniform.clone(), dlm.RenoiseState.start(uniform)
    klass, remasked = dlm.KlassState.start(LOGITS), masked.clone()
    trace, table = dlm.RevisionTrace(B, L, "full", mask_id=VOCAB), []
    seed = torch.tensor([caller, 99])
    for step in range(3):
        common = dict(seed=seed, step=step, temperature=0.5 + caller)
        kept = dict(top_k=50 + caller, top_p=0.9)
        table += dlm.denoise_step_(masked, LOGITS, mask_id=VOCAB, rule=dlm.TopK(3), trace=trace, **kept, **common)
        table += dlm.klass_step_(remasked, LOGITS, klass, mask_id=VOCAB, k=2, **common)
        table += dlm.transition_step_(uniform, LOGITS, transition=transitions.uniform(0.1, 0.6), **common)
        table += dlm.renoise_step_(renoised, LOGITS, entropy_bound=3.0, state=state, **common)
        table += dlm.row_stats(LOGITS, temperature=0.5 + caller, given=uniform)
        table += [dlm.q_sample(uniform, 0.5, vocab_size=VOCAB, seed=caller, step=step)]
    return [*table, masked, uniform, renoised, state.argmax, trace.positions, trace.steps, klass.stable]


@pytest.mark.parametrize("threads", [1, 2])
def test_ops_from_several_threads(isa, threads):
    """Bit by bit what they say one after the other."""
    with using_threads(1):
        wanted = [a_run(caller) for caller in range(CALLERS)]
    # every thread has its own number of workers in torch
    with ThreadPoolExecutor(CALLERS, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        got = list(pool.map(a_run, range(CALLERS)))
    for caller in range(CALLERS):
        assert len(got[caller]) == len(wanted[caller])
        for i, (g, w) in enumerate(zip(got[caller], wanted[caller])):
            assert_equal(f"result {i} of caller {caller}", g, w)
    assert not torch.equal(wanted[0][0], wanted[1][0])  # they had different things to say


@pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on x86-64")
def test_no_data_races():
    """race_driver.cpp: callers and workers on threads of its own. No report, and no result that depends on them."""
    import sanitized

    program = sanitized.race_driver()
    isas = ("avx2", "portable")
    for name in isas:
        environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "DLM_KERNELS_CPU_ISA": name}
        done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
        assert done.stdout.startswith("96 calls") and "0 wrong" in done.stdout
