"""The SIMT builds catch bugs: each one planted in simt/kernels/planted_bugs.cu is found, and correct kernels pass."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux" or os.uname().machine != "x86_64":
    pytest.skip("the SIMT runtime needs x86-64 Linux", allow_module_level=True)

from simt import build, planted
from simt.planted import BUGS, KERNELS, Case, Schedule

FORWARD, REVERSE = [Schedule()], [Schedule(order=1)]
RANDOM = [Schedule(order=2, seed=seed) for seed in range(20)]
SEARCHES = {  # what a bug is looked for with, in the shape that shows it
    "plain forward": ("plain", FORWARD),
    "plain reverse": ("plain", REVERSE),
    "plain random": ("plain", RANDOM),
    "asan forward": ("asan", FORWARD),
    "race forward": ("race", FORWARD),
}
NAMES = [f"{kernel}.{name}" for kernel, name in BUGS]
# The compiler loads a vector by its members, so the race build does not see that they were to be one load.
NOT_IN_RACE = {"row_sums.misaligned_vector_load"}
# What the race build says of a bug, where the checker or the runtime names the cause.
REPORTS = {
    "row_sums.missing_release_fence": "race: read by block 8 thread 0 at planted_bugs.cu:",
    "row_sums.missing_acquire_fence": "needs __threadfence() after the atomic that saw it published",
    "row_sums.fence_before_store": "both of global partials+0 (of 216 bytes)",
    "row_sums.fence_of_block_only": "both of global partials+0 (of 216 bytes)",
    "row_sums.partials_without_counter": "both of global partials+0 (of 216 bytes)",
    "row_sums.missing_barrier_flag": "both of shared last+0 (of 4 bytes)",
    "row_sums.global_read_past_end": "out of bounds: read of 4 bytes",
    "row_sums.global_write_past_end": "at global sums+24 (of 24 bytes)",
    "row_sums.exit_before_barrier": "barrier after a partial exit",
    "row_sums.differing_masks": "divergent collective",
    "row_sums.divergent_barrier": "divergent barrier",
    "block_scan.missing_barrier_raw": "both of shared prefix+0 (of 512 bytes)",
    "block_scan.missing_barrier_war": "both of shared prefix+0 (of 512 bytes)",
    "block_scan.missing_barrier_last_pass": "both of shared prefix+0 (of 512 bytes)",
    "block_scan.dynamic_shared_past_end": "at shared prefix+512 (of 512 bytes)",
    "warp_reverse.missing_syncwarp_war": "needs __syncwarp() or a barrier",
    "warp_reverse.shuffle_as_fence": "shuffles do not order memory",
    "warp_relay.missing_block_fence": "write by block 0 thread 0",
    "warp_relay.half_warp_reads_other": "needs __syncwarp() or a barrier",
    "swap_pairs.missing_syncwarp_filled": "that its block has not written",
    "swap_pairs.missing_syncwarp_emptied": "needs __syncwarp() or a barrier",
    "swap_pairs.misaligned_copy": "async copy: misaligned at planted_bugs.cu:",
    "swap_pairs.ends_before_its_copies": "has ended before its copies",
    "histogram.uninitialised_bins": "uninitialised: read of 4 bytes",
    "histogram.non_atomic_shared": "race: read by block 0 thread 1",
    "histogram.non_atomic_global": "race: read by block 1 thread 0",
    "histogram.shared_past_end_near": "at shared bins+800 (of 800 bytes)",
    "histogram.shared_past_end_far": "at shared bins+52000 (of 800 bytes)",
    "row_sums.flag_reset_early": "race: write by block 8 thread 127",
    "chained_scan.missing_acquire_fence": "needs __threadfence() after the atomic that saw it published",
    "chained_scan.flag_without_atomic": "needs to be atomic in both places",
    "chained_scan.waits_for_successor": "livelock",
    "moves.missing_barrier_choice": "of shared from",
    "moves.choice_by_every_thread": "of global canvas",
    "moves.missing_barrier_parts": "of shared part",
    "moves.non_atomic_total": "both of global total+0 (of 4 bytes)",
    "moves.part_cleared_early": "of shared part+0",
}


def run(kind, cases, folder):
    library = build.library(kind, [planted.SOURCE], build.CACHE)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_PERTURB_": "165"}
    if kind == "asan":
        environment |= build.asan_environment(folder)
        environment["ASAN_OPTIONS"] += ":symbolize=0"  # slow, and only the kind of error is asked for
        environment["UBSAN_OPTIONS"] += ":symbolize=0"
    command = [sys.executable, str(Path(planted.__file__)), str(library)]
    done = subprocess.run(
        command, input=json.dumps(cases), env=environment, cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """{bug: {search: what was found, or None}}"""
    found = {name: {} for name in NAMES}
    for search, (kind, schedules) in SEARCHES.items():
        cases = [Case(kernel, 1 + i, schedules) for i, (kernel, _) in enumerate(BUGS)]
        for name, fault in zip(NAMES, run(kind, cases, tmp_path_factory.mktemp(kind))):
            found[name][search] = fault
    return found


@pytest.mark.parametrize("kind", ["plain", "asan", "race"])
def test_correct_kernels_pass(kind, tmp_path):
    rng = random.Random(20)
    schedules = [
        Schedule(rng.randrange(3), rng.randrange(1000), rng.randint(1, 4), rng.random() < 0.3) for _ in range(60)
    ]
    cases = [Case(kernel, 0, schedules, shapes=seed) for seed, kernel in enumerate(KERNELS)]
    cases += [Case(kernel, 0, FORWARD + REVERSE) for kernel in KERNELS]
    faults = {case.kernel: fault for case, fault in zip(cases, run(kind, cases, tmp_path)) if fault is not None}
    assert not faults


@pytest.mark.parametrize("name", NAMES)
def test_bug_is_caught(name, table):
    caught = {search for search, fault in table[name].items() if fault is not None}
    assert caught, "by no build"
    assert ("race forward" in caught) == (name not in NOT_IN_RACE)


@pytest.mark.parametrize("name", REPORTS)
def test_report_names_the_cause(name, table):
    assert REPORTS[name] in table[name]["race forward"]


def test_table(table):
    """Not much of a test; -rA or -s shows which build catches what, and what the race build says."""
    print("\n" + " " * 40 + "  ".join(SEARCHES))
    for name, found in table.items():
        print(f"{name:40}" + "  ".join(("yes" if found[s] else "-").ljust(len(s)) for s in SEARCHES))
    counts = [sum(found[s] is not None for found in table.values()) for s in SEARCHES]
    print(f"{f'all {len(table)}':40}" + "  ".join(str(n).ljust(len(s)) for n, s in zip(counts, SEARCHES)))
    for name, found in table.items():
        print(f"{name}: {found['race forward']}")
    assert counts[-1] == max(counts)
