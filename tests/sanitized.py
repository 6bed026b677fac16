"""The CPU backend under sanitizers, in folders of their own: the whole package for Python under AddressSanitizer and UBSan, and
the C ABI with threads of its own under ThreadSanitizer. ``python tests/sanitized.py`` builds the first."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from simt import build as simt_build

HERE = Path(__file__).parent
ROOT = HERE.parent
FOLDER = ROOT / "build"
FLAGS = "-O1 -g1 -fno-omit-frame-pointer"


def asan_environment(log_folder):
    """For a Python process that is to import the package as built here. Reports go to files asan.<pid> in ``log_folder``."""
    environment = simt_build.asan_environment(log_folder)
    environment["ASAN_OPTIONS"] += ":allocator_may_return_null=1"
    path = os.environ.get("PYTHONPATH")
    return environment | {"PYTHONPATH": str(package()) + (f":{path}" if path else "")}


def package():
    """A folder to import dlm_kernels from: the sources of Python as they are, beside binaries that are up to date."""
    folder = FOLDER / "asan" / "package"
    home = folder / "dlm_kernels"
    home.mkdir(parents=True, exist_ok=True)
    links = {path.name: path for path in (ROOT / "dlm_kernels").iterdir() if path.suffix != ".so"}
    links |= {"reference": ROOT / "python_ref", "bench": ROOT / "bench"}
    for name, path in links.items():
        if not (home / name).is_symlink():
            (home / name).symlink_to(path)
    built = _build("asan", "address,undefined", "ON")
    _cmake("--install", built, "--component", "python", "--prefix", home)
    return folder


def race_driver():
    """The program of race_driver.cpp, which is to say nothing and end with 0."""
    built = _build("tsan", "thread", "OFF")
    program = built / "race_driver"
    source = HERE / "race_driver.cpp"
    flags = [*FLAGS.split(), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsanitize=thread", "-pthread"]
    _run(["g++", *flags, source, "-o", program, "-L", built, "-ldlm_kernels", f"-Wl,-rpath,{built}"])
    return program


def _build(name, sanitizers, torch_too):
    """CMake's folder of a build that is up to date."""
    folder = FOLDER / name / "cmake"
    options = dict(
        CMAKE_BUILD_TYPE="Sanitized",
        CMAKE_CXX_FLAGS=f"{FLAGS} -fsanitize={sanitizers} -fno-sanitize-recover=undefined",
        DLM_BUILD_PYBIND="OFF",
        DLM_BUILD_TORCH=torch_too,
        DLM_TORCH_DIR=Path(torch.__file__).parent,
        DLM_TORCH_VERSION=torch.__version__,
        DLM_PYTHON_INCLUDE=sysconfig.get_paths()["include"],
    )
    if not (folder / "build.ninja").exists():
        _cmake("-S", ROOT, "-B", folder, "-G", "Ninja", *(f"-D{name}={value}" for name, value in options.items()))
    _cmake("--build", folder)
    return folder


def _cmake(*arguments):
    _run(["cmake", *arguments])


def _run(command):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # tools of this Python, also where it is not activated
    command = [shutil.which(command[0], path=path), *map(str, command[1:])]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


if __name__ == "__main__":
    print(package())
