"""What is in a wheel: checked against what belongs there, listed by size, compared with another."""

import base64
import csv
import hashlib
import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path

from .command import WheelError, run

WANTED = 10 * 10**6  # bytes at most
ENTRY_POINTS = ("vllm.general_plugins", "sglang.srt.plugins")
# What a system or the torch beside it provides. Anything else would have to be in the wheel.
PROVIDED = {
    "libtorch.so", "libtorch_cpu.so", "libc10.so", "libdlm_kernels.so",
    "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0",
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1",
}  # fmt: skip
ASK = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.dlm_build_info.restype = ctypes.c_char_p
print(library.dlm_build_info().decode())
"""


def check(wheel, *, binaries, version, cuda, architectures, secrets, patchelf):
    """WheelError with all that is wrong with a wheel.

    Args:
        binaries: names of the .so files that belong in it.
        version: with the local part; cuda: "13.0" or None; architectures: TORCH_CUDA_ARCH_LIST or None.
        secrets: paths of the building machine, which must not be in it.
        patchelf: the program that says what a binary needs.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        archive.extractall(folder)
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
        wrong = [
            *wrong_files(files, binaries),
            *wrong_record(files),
            *(f"{name} holds the path {path}" for path in secrets for name, data in files.items() if path in data),
        ]
        for name in files:
            if name.endswith(".so"):
                wrong += wrong_links(Path(folder) / name, patchelf)
        library = Path(folder) / "dlm_kernels" / "libdlm_kernels.so"
        if library.exists():
            built = json.loads(run([sys.executable, "-c", ASK, library], quiet=True))
            wrong += wrong_build(built, version, cuda, architectures)
    if wrong:
        raise WheelError(f"{wheel.name}: " + "; ".join(wrong))


def wrong_files(files, binaries):
    """Files that are missing, and those that must not be there."""
    got = {name for name in files if ".so" in Path(name).name}
    want = {f"dlm_kernels/{name}" for name in binaries}
    for name in sorted(want - got):
        yield f"{name} is missing"
    for name in sorted(got - want):
        yield f"{name} does not belong in it"
    for name in files:
        parts = Path(name).parts
        if not (parts[0] == "dlm_kernels" or parts[0].endswith(".dist-info")):
            yield f"{name} lies outside the package"
        if {"tests", "build", "results", "__pycache__"} & set(parts) or name.endswith((".log", ".cu", ".cpp", ".o")):
            yield f"{name} does not belong in it"
    for end in ("licenses/LICENSE", "METADATA", "RECORD", "WHEEL", "entry_points.txt"):
        if not any(name.endswith(f".dist-info/{end}") for name in files):
            yield f"{end} is missing"
    entry_points = b"".join(data for name, data in files.items() if name.endswith("entry_points.txt")).decode()
    for group in ENTRY_POINTS:
        if f"[{group}]" not in entry_points:
            yield f"the entry point {group} is missing"


def wrong_record(files):
    """Files whose hash is not that of RECORD."""
    record = next((data for name, data in files.items() if name.endswith(".dist-info/RECORD")), b"")
    listed = {row[0]: row[1] for row in csv.reader(io.StringIO(record.decode())) if row}
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        if not name.endswith("RECORD") and listed.get(name) != f"sha256={digest}":
            yield f"{name} is not as RECORD has it"


def wrong_links(binary, patchelf):
    """Libraries that nobody provides, and search paths other than the binary's own folder."""
    needed = set(run([patchelf, "--print-needed", binary], quiet=True).split())
    for name in sorted(needed - PROVIDED):
        yield f"{binary.name} needs {name}"
    path = run([patchelf, "--print-rpath", binary], quiet=True).strip()
    if path not in ("", "$ORIGIN"):
        yield f"{binary.name} looks for libraries in {path}"


def wrong_build(built, version, cuda, architectures):
    """What the library says of itself, where that is not what was asked for."""
    if built["version"] != version:
        yield f"it was built as {built['version']}, not {version}"
    toolkit = built["cuda"]["toolkit"] if built["cuda"] else "none"
    if not (toolkit == "none" if cuda is None else toolkit == cuda or toolkit.startswith(f"{cuda}.")):
        yield f"it was built with CUDA {toolkit}, not {cuda or 'none'}"
    if architectures:
        names = [name.replace(".", "") for name in architectures.split(";")]
        want = {f"sm_{name.removesuffix('+PTX')}" for name in names}
        want |= {f"compute_{name.removesuffix('+PTX')}" for name in names if name.endswith("+PTX")}
        if built["cuda"] and set(built["cuda"]["architectures"]) != want:
            yield f"it has {built['cuda']['architectures']}, not {sorted(want)}"
    if built["build_type"] != "Release" or "avx512-emulated" in built["cpu_isas"]:
        yield "it is a build for tests"


def sizes(wheel):
    """A table of files, large ones first: bytes, compressed, name. Small ones are one line; a last one complains of the size."""
    with zipfile.ZipFile(wheel) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: -entry.compress_size)
    large = [(e.file_size, e.compress_size, e.filename) for e in entries if e.compress_size >= 10_000]
    small = [e for e in entries if e.compress_size < 10_000]
    rows = [
        *large,
        (sum(e.file_size for e in small), sum(e.compress_size for e in small), f"{len(small)} smaller files"),
    ]
    total = (sum(e.file_size for e in entries), wheel.stat().st_size, "the wheel")
    lines = [f"{size:>12,}  {packed:>12,}  {name}" for size, packed, name in [*rows, total]]
    if total[1] > WANTED:
        lines.append(f"TOO LARGE: {total[1] / 1e6:.1f} MB, where {WANTED / 1e6:.0f} MB are wanted")
    return "\n".join([wheel.name, f"{'bytes':>12}  {'compressed':>12}", *lines])


def differences(one, other):
    """Names of the files in which two wheels differ; [] where they are the same bytes."""
    if one.read_bytes() == other.read_bytes():
        return []
    with zipfile.ZipFile(one) as a, zipfile.ZipFile(other) as b:
        names = sorted({*a.namelist(), *b.namelist()})
        different = [
            name
            for name in names
            if name not in a.namelist() or name not in b.namelist() or a.read(name) != b.read(name)
        ]
    return different or ["the archive itself: order, times or modes"]
