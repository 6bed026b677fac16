"""What the CUDA compiler made of the kernels: registers without spills on every architecture, instructions per logit."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from dlm_kernels.bench import sass

from dlm_kernels import _load

LOG = Path(__file__).parent.parent / "build" / "build.log"
KERNELS = {"rows_kernel", "sequences_kernel", "unmask_kernel", "noising_kernel", "divergence_kernel", "read_kernel"}
built_with_cuda = pytest.mark.skipif(
    not _load.library_path().exists() or "cuda" not in _load.build_info()["backends"], reason="this build has no CUDA"
)


def usage(log):
    """(arch, function) -> {"stack", "spill", "registers", "shared"} of everything that ptxas reports in a build log."""
    found = defaultdict(dict)
    arch = name = None
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)' for 'sm_(\w+)'", line):
            arch, name = entry[2], entry[1]
        elif function := re.search(r"Function properties for (\w+)", line):
            name = function[1]
        elif frame := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            found[arch, name].update(stack=int(frame[1]), spill=int(frame[2]) + int(frame[3]))
        elif used := re.search(r"Used (\d+) registers(?:.* (\d+) bytes smem)?", line):
            found[arch, entry_of(found, arch)].update(registers=int(used[1]), shared=int(used[2] or 0))
    return found


def entry_of(found, arch):
    """The kernel whose report is open: ptxas names it before the functions it calls."""
    return next(name for a, name in reversed(found) if a == arch and any(kernel in name for kernel in KERNELS))


@built_with_cuda
def test_no_kernel_spills(record_property):
    if not LOG.exists():
        pytest.skip("built elsewhere: no build log here")
    found = usage(LOG.read_text())
    if not found:
        pytest.skip("the last build had nothing to compile")
    architectures = {name.removeprefix("sm_") for name in _load.build_info()["cuda"]["architectures"] if "sm_" in name}
    assert {arch for arch, _ in found} == architectures
    for arch in architectures:
        names = " ".join(name for a, name in found if a == arch)
        assert all(kernel in names for kernel in KERNELS), (arch, names)
    spilling = {key: use for key, use in found.items() if use.get("spill", 0) or use.get("stack", 0)}
    assert not spilling
    # Three blocks into 100 KiB: with their copies ahead (feed.h), and the driver's share of each.
    copies, driver, room = 4 * 3 * (16 * 128 + 2 * 16), 1024, 100 * 1024
    rows = [use["shared"] for (_, name), use in found.items() if "rows_kernel" in name and "shared" in use]
    assert rows and 3 * (max(rows) + copies + driver) <= room, max(rows)
    most = {
        arch: max(u["registers"] for (a, _), u in found.items() if a == arch and "registers" in u)
        for arch in architectures
    }
    record_property("registers", most)
    (LOG.parent / "registers.txt").write_text(
        "".join(f"sm_{a}: {n} registers at most, no spills\n" for a, n in sorted(most.items()))
    )


def test_a_spill_is_seen():
    log = """
ptxas info    : Compiling entry function '_ZN3dlm4cuda11rows_kernelIfLb0EEEvi' for 'sm_90'
ptxas info    : Function properties for _ZN3dlm4cuda11rows_kernelIfLb0EEEvi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 1840 bytes smem
ptxas info    : Function properties for _ZN3dlm4cuda10finish_rowEv
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
"""
    kernel, function = usage(log).values()
    assert kernel == {"stack": 0, "spill": 0, "registers": 96, "shared": 1840} and function == {"stack": 8, "spill": 16}


@pytest.mark.skipif(sass.nvcc() is None or sass.nvdisasm() is None, reason="needs nvcc and nvdisasm")
@pytest.mark.parametrize("dtype, most", [("bfloat16", 7.0), ("float16", 7.0), ("float32", 9.0)])
def test_instructions_per_logit(dtype, most):
    """An H200 has 13.8 issue slots per bf16 logit at full bandwidth, twice that in fp32."""
    found = sass.count(dtype)
    assert 4 < found.tile <= most and found.tile < found.chunk <= most + 2


def test_the_cheapest_way_round():
    """A loop of four blocks with a costly branch: the way that makes the copies and no store is found."""
    copies, reads = ["LDGSTS.E.BYPASS.128 [R0]", "LDGDEPBAR"], ["LDS R0, [R1]"] * 4
    blocks = [["MUFU.EX2 R1, R1"] * 2, copies + reads, ["IADD"] * 9, ["STG.E.128 R0"]]
    edges = [{1, 3}, {0, 2}, {0}, {1}]
    assert sass.around(blocks, edges, sass.Seen(1, 1, 4, 2, 0), 0) == 8
    assert sass.around(blocks, edges, sass.Seen(1, 1, 4, 2, 1), 0) == 9
    for exps in (9, 1):  # more than there are; fewer
        with pytest.raises(LookupError):
            sass.around(blocks, edges, sass.Seen(1, 1, 4, exps, 0), 0)
