"""CUDA toolkits: fetching one from PyPI or taking one that is there, and what its compiler can build."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .command import WheelError, run

ROOT = Path(__file__).resolve().parents[2]
# A CUDA needs a compiler that knows sm_80 and C++17, which 12 does. PyPI has whole compilers from 13 on: of 12 its
# packages hold ptxas and no nvcc.
OLDEST, OLDEST_ON_PYPI = (12, 0), (13, 0)


@dataclass(frozen=True)
class Toolkit:
    home: Path
    version: str  # "13.0"
    knows: frozenset  # of SM versions: {80, 90}

    @property
    def label(self):
        """As in the local version of a wheel: cu130."""
        return "cu" + self.version.replace(".", "")


def parsed(version):
    """ "13.0" -> (13, 0), if there may be a toolkit of that version on PyPI."""
    if not re.fullmatch(r"\d+\.\d+", version):
        raise WheelError(f"--cuda: must be a version like 13.0, got {version}")
    numbers = tuple(map(int, version.split(".")))
    if numbers < OLDEST:
        raise WheelError(f"--cuda: must be at least {dotted(OLDEST)}, got {version}")
    if numbers < OLDEST_ON_PYPI:
        raise WheelError(
            f"--cuda: must be at least {dotted(OLDEST_ON_PYPI)}, the first with a compiler on PyPI, got {version}; "
            f"give the folder of a toolkit {version} by --cuda-home"
        )
    return numbers


def dotted(numbers):
    return ".".join(map(str, numbers))


def fetch(version, cache):
    """The toolkit of that version from PyPI, into a folder of its own below ``cache``; again only if that is not there."""
    major, _ = parsed(version)
    folder = cache / f"cuda-{version}"
    home = folder / "nvidia" / f"cu{major}"
    if not (home / "lib64").exists():
        package = f"cuda-toolkit[nvcc,cudart,cccl,crt,nvvm]=={version}.*"
        try:
            run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, package], quiet=True)
        except WheelError as error:
            raise WheelError(f"--cuda: must be a version of cuda-toolkit on PyPI, got {version}\n{error}") from None
        # The names that nvcc and CMake look for, and the packages lack.
        (home / "lib" / "libcudart.so").symlink_to(f"libcudart.so.{major}")
        (home / "lib64").symlink_to("lib")
    return at(home)


def at(home):
    """The toolkit in a folder."""
    nvcc = Path(home) / "bin" / "nvcc"
    if not nvcc.exists():
        raise WheelError(f"--cuda-home: must be the folder of a CUDA toolkit, with bin/nvcc, got {home}")
    release = re.search(r"release (\d+)\.(\d+)", run([nvcc, "--version"], quiet=True))
    version = tuple(map(int, release.groups()))
    if version < OLDEST:
        raise WheelError(f"--cuda-home: must hold CUDA {dotted(OLDEST)} or newer, got {dotted(version)} in {home}")
    listed = run([nvcc, "--list-gpu-arch"], quiet=True)
    return Toolkit(Path(home).resolve(), dotted(version), frozenset(map(int, re.findall(r"compute_(\d+)\b", listed))))


def default_architectures():
    """[80, 90, ...] of CMakeLists.txt."""
    listed = re.search(r'set\(DLM_CUDA_ARCHITECTURES "([\d;]+)\+PTX"', (ROOT / "CMakeLists.txt").read_text())
    return [int(sm) for sm in listed[1].split(";")]


def architectures(toolkit, asked=None):
    """TORCH_CUDA_ARCH_LIST: what was asked for, else all defaults that this compiler knows, the last with its PTX."""
    if asked:
        names = re.split(r"[;, ]+", asked.strip())
        for name in names:
            if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
                raise WheelError(f"--arch: must be versions like 8.0;9.0+PTX, got {name}")
            if int(re.sub(r"\D", "", name)) not in toolkit.knows:
                known = ", ".join(f"{sm // 10}.{sm % 10}" for sm in sorted(toolkit.knows))
                raise WheelError(f"--arch: must be known to CUDA {toolkit.version} ({known}), got {name}")
        return ";".join(names)
    names = [f"{sm // 10}.{sm % 10}" for sm in default_architectures() if sm in toolkit.knows]
    if not names:
        raise WheelError(f"--cuda-home: must know one of {default_architectures()}, got CUDA {toolkit.version}")
    return ";".join(names) + "+PTX"
