"""Builds dlm_kernels: CMakeLists.txt has the sources and flags, this file hands it torch, Python and the environment.

Environment: DLM_KERNELS_BUILD=auto|cpu|cuda (auto: with CUDA where nvcc is found; FORCE_CUDA=1 means cuda), CUDA_HOME or
CUDA_PATH, TORCH_CUDA_ARCH_LIST, DLM_KERNELS_VERSION, DLM_KERNELS_EMULATE_AVX512=1 (test builds), MAX_JOBS, CMAKE_ARGS.
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


def nvcc():
    """The CUDA compiler: of CUDA_HOME or CUDA_PATH, else from PATH, else of the default toolkit; None without one."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        if home:
            compiler = Path(home) / "bin" / "nvcc"
            if not compiler.exists():
                sys.exit(f"{variable}: must be the folder of a CUDA toolkit, with bin/nvcc, got {home}")
            return str(compiler)
    default = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(default) if default.exists() else None)


def cuda_compiler():
    """nvcc if the CUDA backend is to be built, else None."""
    wanted = os.environ.get("DLM_KERNELS_BUILD", "auto")
    if wanted not in ("auto", "cpu", "cuda"):
        sys.exit(f"DLM_KERNELS_BUILD: must be auto, cpu or cuda, got {wanted}")
    if os.environ.get("FORCE_CUDA", "0") == "1":
        if wanted == "cpu":
            sys.exit("FORCE_CUDA: must not be 1 where DLM_KERNELS_BUILD is cpu")
        wanted = "cuda"
    if wanted == "cpu":
        return None
    found = nvcc()
    if found is None and wanted == "cuda":
        sys.exit(
            "DLM_KERNELS_BUILD: cuda needs nvcc (CUDA_HOME, or on PATH), and there is none; use cpu to build without"
        )
    return found


def architectures():
    """TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX") as CMakeLists.txt takes it ("80;90+PTX"); None for its default."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";").replace(",", ";")
    names = [name for name in listed.split(";") if name]
    for name in names:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            sys.exit(f"TORCH_CUDA_ARCH_LIST: must be versions like 8.0;9.0+PTX, got {name}")
        if int(name.split(".")[0]) < 8:
            sys.exit(f"TORCH_CUDA_ARCH_LIST: must be at least 8.0 (Ampere), got {name}")
    return ";".join(name.replace(".", "", 1) for name in names) or None


def tool(name):
    """From PATH, or beside this Python, where pip puts it when the environment is not activated."""
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        sys.exit(f"dlm_kernels needs {name} to build: pip install {name}")
    return found


def with_array():
    """Whether the NumPy extension is built. Without it the rest serves every Python >= 3.10."""
    return "-DDLM_BUILD_PYBIND=OFF" not in shlex.split(os.environ.get("CMAKE_ARGS", ""))


def pybind11_location():
    """Where CMake finds pybind11; without it only -DDLM_BUILD_PYBIND=OFF builds."""
    if not with_array():
        return []
    if importlib.util.find_spec("pybind11") is None:
        sys.exit("dlm_kernels needs pybind11 to build: pip install pybind11 (or CMAKE_ARGS=-DDLM_BUILD_PYBIND=OFF)")
    import pybind11

    return [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]


class BuildWithCMake(build_ext):
    def run(self):
        compiler = cuda_compiler()
        sms = architectures() if compiler else None
        torch_dir, torch_version = torch_location()
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
            *pybind11_location(),
            f"-DDLM_BUILD_CUDA={'ON' if compiler else 'OFF'}",
            *([f"-DCMAKE_CUDA_COMPILER={compiler}"] if compiler else []),
            *([f"-DDLM_CUDA_ARCHITECTURES={sms}"] if compiler and sms else []),
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
        if subprocess.run(configure).returncode != 0:
            sys.exit("dlm_kernels: CMake could not configure the build; its reason is above")
        self.build(build, jobs)
        for stale in target.glob("*.so"):  # of a build with other parts
            stale.unlink()
        subprocess.run([tool("cmake"), "--install", str(build), "--component", "python", "--strip"], check=True)

    def build(self, folder, jobs):
        """Compile, and keep what the compilers said: ptxas reports registers and spills, which a test reads."""
        log = ROOT / "build" / "build.log"
        log.parent.mkdir(exist_ok=True)
        command = [tool("cmake"), "--build", str(folder), "--parallel", jobs]
        with (
            log.open("w") as copy,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as compiling,
        ):
            for line in compiling.stdout:
                copy.write(line)
                sys.stdout.write(line)
        if compiling.returncode != 0:
            sys.exit(f"dlm_kernels: the build failed; its output is above and in {log}")

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
        *([Extension("dlm_kernels._array", sources=[])] if with_array() else []),
    ],
    options={} if with_array() else {"bdist_wheel": {"py_limited_api": "cp310"}},
    cmdclass={"build_ext": BuildWithCMake},
)
