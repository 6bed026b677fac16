"""Builds dlm_kernels: CMakeLists.txt has the sources and flags, this file hands it torch, Python and the environment.

Environment: DLM_KERNELS_BUILD=auto|cpu, DLM_KERNELS_VERSION, DLM_KERNELS_EMULATE_AVX512=1 (test builds), MAX_JOBS, CMAKE_ARGS.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
TORCH_MINIMUM = (2, 10)


def package_version():
    text = (ROOT / "dlm_kernels" / "_version.py").read_text()
    return os.environ.get("DLM_KERNELS_VERSION") or re.search(r'__version__ = "(.+)"', text)[1]


def torch_location():
    """Folder and version of the torch to build against, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None:
        sys.exit(
            "dlm_kernels builds against the torch it will run with, and this build environment has none: "
            "install torch >= 2.10, then `pip install . --no-build-isolation`."
        )
    folder = Path(spec.origin).parent
    version = re.search(r"__version__ = '(.+?)'", (folder / "version.py").read_text())[1]
    if tuple(int(n) for n in version.split(".")[:2]) < TORCH_MINIMUM:
        sys.exit(f"dlm_kernels needs torch >= 2.10 (LibTorch stable ABI), found {version}.")
    return folder, version


def check_requested_backend():
    wanted = os.environ.get("DLM_KERNELS_BUILD", "auto")
    if wanted not in ("auto", "cpu"):
        sys.exit(f"DLM_KERNELS_BUILD: must be auto or cpu (this version has no CUDA backend), got {wanted}")


def tool(name):
    """From PATH, or beside this Python, where pip puts it when the environment is not activated."""
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        sys.exit(f"dlm_kernels needs {name} to build: pip install {name}")
    return found


class BuildWithCMake(build_ext):
    def run(self):
        check_requested_backend()
        torch_dir, torch_version = torch_location()
        import pybind11

        build = Path(self.build_temp).resolve()
        target = Path(self.get_ext_fullpath("dlm_kernels._C")).resolve().parent
        build.mkdir(parents=True, exist_ok=True)
        emulate = os.environ.get("DLM_KERNELS_EMULATE_AVX512", "0") == "1"
        configure = [
            tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DCMAKE_INSTALL_PREFIX={target}",
            f"-DDLM_VERSION={package_version()}",
            f"-DDLM_TORCH_DIR={torch_dir}",
            f"-DDLM_TORCH_VERSION={torch_version}",
            f"-DDLM_PYTHON_INCLUDE={sysconfig.get_paths()['include']}",
            f"-DDLM_EMULATE_AVX512={'ON' if emulate else 'OFF'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
        subprocess.run(configure, check=True)
        subprocess.run([tool("cmake"), "--build", str(build), "--parallel", jobs], check=True)
        subprocess.run([tool("cmake"), "--install", str(build), "--component", "python", "--strip"], check=True)

    def get_outputs(self):
        folder = Path(self.get_ext_fullpath("dlm_kernels._C")).parent
        return [*super().get_outputs(), str(folder / "libdlm_kernels.so")]


setup(
    version=package_version(),
    packages=[
        "dlm_kernels",
        "dlm_kernels.demo",
        "dlm_kernels.integrations",
        "dlm_kernels.reference",
        "dlm_kernels.bench",
    ],
    # The reference and the bench live beside the package, so that they read on their own, and ship inside it.
    package_dir={
        "dlm_kernels": "dlm_kernels",
        "dlm_kernels.reference": "python_ref",
        "dlm_kernels.bench": "bench",
    },
    package_data={"dlm_kernels.demo": ["assets/*"]},
    ext_modules=[
        Extension("dlm_kernels._C", sources=[], py_limited_api=True),
        Extension("dlm_kernels._array", sources=[]),
    ],
    cmdclass={"build_ext": BuildWithCMake},
)
