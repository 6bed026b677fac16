"""Words for what keeps kernels from running: what they were built for, what is here, what to install.

Plain data in, one line out; ``_load`` finds the data.
"""

from __future__ import annotations

import platform
import re

import torch

TORCH_MINIMUM = (2, 10)
# The oldest driver of each CUDA, from NVIDIA's release notes.
DRIVERS = {12: "525", 13: "580"}
REBUILD = "pip install . --no-build-isolation"
REINSTALL = "pip install --force-reinstall dlm_kernels"
# What to do about an error of the loader: (its text, the remedy), the first that fits.
REMEDIES = (
    (r"found torch", "pip install 'torch>=2.10'"),
    (r"cannot import name '_C'", f"it was not built here: {REBUILD}, or install a wheel"),
    (r"version `(GLIBC|GLIBCXX|CXXABI)_", f"this system is older than the wheel's: {REBUILD} in the source"),
    (r"undefined symbol: \S*dlm", f"its files are of two versions: {REINSTALL}"),
    (r"undefined symbol", f"this torch lacks what it was built for: {REBUILD} in the source, beside this torch"),
    (r"lib(torch|c10)\w*\.so.*cannot open", "torch is not whole: pip install --force-reinstall torch"),
    (r"", f"a file is missing or broken: {REINSTALL}"),
)


def check_torch() -> None:
    version = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    if version < TORCH_MINIMUM:
        raise ImportError(f"found torch {torch.__version__}")


def loader_error(error: Exception, built: dict | None) -> str:
    """``error`` of loading the extension, explained. ``built``: build_info(), None where that does not load either."""
    text = " ".join(str(error).split())
    remedy = next(remedy for pattern, remedy in REMEDIES if re.search(pattern, text))
    device = "an unknown device" if built is None else f"CUDA {built['cuda']['toolkit']}" if built["cuda"] else "CPUs"
    minimum = ".".join(map(str, TORCH_MINIMUM))
    here = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{text} (built for {device} and torch >= {minimum}, here is {here}; {remedy})"


def no_cuda_kernels(built: dict, driver: dict | None) -> str | None:
    """Why no CUDA kernel of this build can run here, whatever torch can. None if they can, or there is no driver."""
    if "cuda" not in built["backends"]:
        return "this build has no CUDA backend (built for: cpu); install a wheel with +cu in its version, or build where nvcc is"
    if driver is None or driver["suffices"]:
        return None
    toolkit = built["cuda"]["toolkit"]
    needed = DRIVERS.get(int(toolkit.split(".")[0]), "of that CUDA")
    return (
        f"built for CUDA {toolkit}, which needs NVIDIA driver {needed} or newer, here is {_named(driver)}; "
        f"update the driver, or install dlm_kernels built for CUDA {driver['cuda'].split('.')[0]}"
    )


def no_cuda_device(built: dict, driver: dict | None) -> str | None:
    """Why torch has no GPU here that this build has kernels for. None if all of its GPUs are."""
    toolkit, names = built["cuda"]["toolkit"], ", ".join(built["cuda"]["architectures"])
    if not torch.cuda.is_available():
        return f"built for CUDA {toolkit} ({names}), here is torch {torch.__version__}{_without_gpu(driver)}"
    oldest = min(map(int, re.findall(r"\d+", names)))
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if 10 * major + minor < oldest:
            gpu = f"{torch.cuda.get_device_name(index)} (cuda:{index}) with sm_{major}{minor}"
            return f"built for sm_{oldest} and newer, here is {gpu}"
    return None


def _without_gpu(driver):
    if torch.version.cuda is None:
        return ", which has no CUDA"
    return f" and {_named(driver)}, but no usable GPU" if driver else " and no NVIDIA driver"


def _named(driver):
    return f"driver {driver['version'] or 'of unknown version'} (CUDA {driver['cuda']})"
