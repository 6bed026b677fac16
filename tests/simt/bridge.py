"""torch.ops.dlm_simt: csrc/cuda as the SIMT runtime executes it, behind the schemas of the real ops."""

import ctypes
import functools
import importlib.util
import sysconfig
from pathlib import Path

import torch

from dlm_kernels._ops import SCHEMAS

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FOLDER = ROOT / "build" / "simt"
KERNELS = [*sorted((ROOT / "csrc" / "cuda").glob("*.cu")), *sorted((ROOT / "csrc" / "cuda").glob("*.cpp"))]

_spec = importlib.util.spec_from_file_location("simt_build", HERE / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)


@functools.cache
def library(kind):
    """The kernels and their C ABI, compiled for the CPU: ``kind`` as in build.py."""
    return build.library(kind, KERNELS, FOLDER)


def compile_bridge():
    """Path of the library that registers the ops and forwards them."""
    home = Path(torch.__file__).parent
    flags = [
        *("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        *("-isystem", str(home / "include"), "-isystem", sysconfig.get_paths()["include"]),
    ]
    return build.shared_object(
        HERE / "torch_ops.cpp", flags, ["-L", str(home / "lib"), "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"], FOLDER
    )


@functools.cache
def _bridge():
    definitions = torch.library.Library("dlm_simt", "DEF")
    for name, schema in SCHEMAS.items():
        definitions.define(name + schema)
    native = ctypes.CDLL(str(compile_bridge()))
    native.dlm_simt_use.restype = ctypes.c_char_p
    native.dlm_simt_use.argtypes = [ctypes.c_char_p]
    return native, definitions


class Ops:
    """The ops in the build of this ``kind``: each call goes there, whatever others are loaded."""

    def __init__(self, kind):
        self._path = str(library(kind)).encode()

    def __getattr__(self, name):
        def op(*args, **kwargs):
            missing = _bridge()[0].dlm_simt_use(self._path)
            assert missing is None, missing
            return getattr(torch.ops.dlm_simt, name).default(*args, **kwargs)

        return op
