"""The property tests once more over the CUDA sources: under AddressSanitizer and UBSan, and for line coverage. Both need a
process of their own."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("denoise_step", "row_stats", "draw", "commit", "device_values")
NAMES += ("renoise_step", "transition_step", "redraw", "traced_steps", "q_sample", "divergence", "edit", "remask")
FILES = [f"test_{name}.py" for name in NAMES]
# Other builds run what is long because it counts frequencies, of large shapes, or of every rule on the same sort.
FEW = "not (law and not min_p and not outside) and not 40000 and not 4200 and not 1500"
FEW += " and not (many_rows and (factor or threshold or by_confidence))"
pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on x86-64"
)


def run_tests(backend, *arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", f"{backend} and {FEW}", *arguments]
    env = {**os.environ, "DLM_KERNELS_TEST_BACKENDS": backend, **environment}
    files = [str(ROOT / "tests" / name) for name in FILES]
    return subprocess.run([*command, *files], env=env, cwd=ROOT, capture_output=True, text=True, timeout=900)


def test_address_and_undefined_behaviour_sanitizers(tmp_path):
    from simt import bridge

    bridge.library("asan")  # compiled here: the compiler must not run with ASan preloaded
    bridge.compile_bridge()
    done = run_tests("simt_asan", "--hypothesis-profile=brief", **bridge.build.asan_environment(tmp_path))
    reports = "\n".join(path.read_text() for path in tmp_path.iterdir())
    assert done.returncode == 0 and not reports, f"{reports}\n{done.stdout}\n{done.stderr}"
    assert "100%" in done.stdout  # something ran


def test_line_coverage_of_the_kernels():
    from simt import bridge, coverage

    coverage.reset(bridge.FOLDER)
    done = run_tests("simt_coverage", "--hypothesis-profile=brief")
    assert done.returncode == 0, done.stdout
    lines = coverage.lines(bridge.FOLDER, ROOT / "csrc" / "cuda")
    table = coverage.table(lines)
    (bridge.FOLDER / "coverage.txt").write_text(table)
    # What only a GPU runs: the device's properties, the read bandwidth.
    lines = {name: counts for name, counts in lines.items() if name not in ("device.cu", "roofline.cu")}
    times = [count for counts in lines.values() for count in counts.values()]
    assert len(times) > 400 and sum(map(bool, times)) >= 0.97 * len(times), table
