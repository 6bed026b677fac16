"""The law of the layers: core <- {cpu, cuda} <- api.h <- ops.h <- {torch, pybind} <- dlm_kernels <- integrations."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STANDARD = r"[a-z_0-9]+"  # <vector>, <cmath>: no slash, no extension

# folder of csrc -> (what its quoted includes may resolve to, what its <...> includes may be)
NATIVE = {
    "core": (["core/"], [STANDARD]),
    "cpu": (["core/", "cpu/", "api.h"], [STANDARD, r"(imm|x86)intrin\.h", r"arm_neon\.h"]),
    "cuda": (
        ["core/", "cuda/", "api.h"],
        [STANDARD, r"dlfcn\.h", r"cuda_\w+\.h", r"cuda/.*", r"cub/.*", r"cooperative_groups.*", r"mma\.h"],
    ),
    "torch": (
        ["torch/", "ops.h", "api.h", "dlpack.h"],
        [STANDARD, r"Python\.h", r"torch/(csrc/stable|headeronly|csrc/inductor/aoti_torch/c)/.*"],
    ),
    "pybind": (["pybind/", "ops.h", "api.h", "dlpack.h"], [STANDARD, r"pybind11/.*"]),
    "ops.h": (["api.h"], [STANDARD]),
    "api.h": (["core/"], [STANDARD]),
    "dlpack.h": ([], [STANDARD]),
}
# part of the package -> parts it may import
PYTHON = {
    "reference": {"reference"},
    "package": {"package", "reference"},
    "integrations": {"integrations", "package", "reference"},
    "bench": {"bench", "integrations", "package", "reference"},
    "demo": {"demo", "bench", "integrations", "package", "reference"},
}
# and the libraries beside the standard one; only where that is part of the promise
LIBRARIES = {"reference": {"torch"}, "package": {"torch", "numpy", "cupy"}}


def native_violations(sources):
    """``sources``: path below csrc -> text. Every include that points the wrong way, in words."""
    wrong = []
    for path, text in sources.items():
        layer = path.split("/")[0]  # a file of its own, or a folder
        if layer not in NATIVE:
            wrong.append(f"{path}: {layer} is not a layer")
            continue
        inside, outside = NATIVE[layer]
        for kind, name in re.findall(r'^\s*#\s*include\s*(["<]|)([\w./+-]+)', text, re.MULTILINE):
            if kind == "<":
                good = any(re.fullmatch(pattern, name) for pattern in outside)
            elif kind == '"':
                target = _normal((Path("csrc") / path).parent / name)
                good = any(
                    target == f"csrc/{place}" or place.endswith("/") and target.startswith(f"csrc/{place}")
                    for place in inside
                )
            else:  # a macro names the header: test builds put an emulation there
                good = layer in ("cpu", "cuda")
            if not good:
                wrong.append(f"{path}: must not include {name}")
    return wrong


def _normal(path):
    parts = []
    for part in path.parts:
        parts.pop() if part == ".." and parts else parts.append(part)
    return "/".join(parts)


def part_of(module):
    """dlm_kernels.reference.ops -> reference; dlm_kernels.step -> package; torch.nn -> None."""
    names = module.split(".")
    if names[0] != "dlm_kernels":
        return None
    return names[1] if len(names) > 1 and names[1] in PYTHON else "package"


def python_violations(sources):
    """``sources``: dotted module (a package ends in .__init__) -> text."""
    wrong = []
    for module, text in sources.items():
        part = part_of(module)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = module.split(".")[: -node.level] if node.level else []
                stem = ".".join([*base, *([node.module] if node.module else [])])
                targets = [f"{stem}.{alias.name}" for alias in node.names] if stem == "dlm_kernels" else [stem]
            else:
                continue
            for target in targets:
                other, top = part_of(target), target.split(".")[0]
                if other is None:
                    free = part not in LIBRARIES or top in LIBRARIES[part] or top in sys.stdlib_module_names
                    wrong += [] if free else [f"{module}: must not import {target}"]
                elif other not in PYTHON[part]:
                    wrong.append(f"{module}: must not import {target}")
    return wrong


def native_sources():
    folder = ROOT / "csrc"
    files = [path for path in folder.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def python_sources():
    homes = {"python_ref": "dlm_kernels.reference", "bench": "dlm_kernels.bench", "dlm_kernels": "dlm_kernels"}
    return {
        ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]): path.read_text()
        for folder, package in homes.items()
        for path in (ROOT / folder).rglob("*.py")
    }


def test_native_arrows():
    sources = native_sources()
    assert {"core/row_stats.h", "cpu/sweep.cpp", "api.h"} <= set(sources)
    assert native_violations(sources) == []


def test_python_arrows():
    sources = python_sources()
    assert {"dlm_kernels.step", "dlm_kernels.reference.ops", "dlm_kernels.integrations.llada"} <= set(sources)
    assert python_violations(sources) == []


@pytest.mark.parametrize(
    "path, include",
    [
        ("core/draw.h", '#include "../cpu/sweep.h"'),
        ("core/draw.h", '#include "../api.h"'),
        ("core/draw.h", "#include <torch/extension.h>"),
        ("core/draw.h", "  #  include <cuda_runtime.h>"),
        ("core/draw.h", "#include <immintrin.h>"),
        ("core/draw.h", "#include DLM_SOME_HEADER"),
        ("cpu/sweep.cpp", '#include "../torch/views.h"'),
        ("cpu/sweep.cpp", '#include "../cuda/launch.h"'),
        ("cpu/sweep.cpp", "#include <torch/csrc/stable/tensor.h>"),
        ("cuda/sweep.cu", '#include "../cpu/sweep.h"'),
        ("cuda/sweep.cu", "#include <ATen/cuda/CUDAContext.h>"),
        ("torch/library.cpp", '#include "../cpu/backend.h"'),
        ("torch/library.cpp", "#include <torch/extension.h>"),
        ("torch/library.cpp", "#include <ATen/ATen.h>"),
        ("pybind/array.cpp", '#include "../torch/views.h"'),
        ("api.h", '#include "cpu/backend.h"'),
        ("api.h", '#include "ops.h"'),
        ("ops.h", '#include "cpu/backend.h"'),
        ("cpu/api.cpp", '#include "../ops.h"'),
        ("gpu/sweep.cu", "#include <vector>"),
    ],
)
def test_a_wrong_native_arrow_is_found(path, include):
    assert (
        len(native_violations({path: f"#include <vector>\n{include}\nint x;\n", "core/hd.h": "#include <cmath>\n"}))
        == 1
    )


@pytest.mark.parametrize(
    "module, line",
    [
        ("dlm_kernels.reference.draw", "from .. import step"),
        ("dlm_kernels.reference.draw", "from ..step import draw_tokens"),
        ("dlm_kernels.reference.draw", "import dlm_kernels._load"),
        ("dlm_kernels.reference.draw", "import numpy as np"),
        ("dlm_kernels.reference.draw", "def late():\n    import scipy.stats"),
        ("dlm_kernels.step", "from .integrations import llada"),
        ("dlm_kernels.step", "from dlm_kernels.bench import cases"),
        ("dlm_kernels.step", "from dlm_kernels import demo"),
        ("dlm_kernels.step", "import transformers"),
        ("dlm_kernels.integrations.llada", "from ..demo import model"),
        ("dlm_kernels.bench.cases", "from ..demo.model import TinyDLM"),
    ],
)
def test_a_wrong_python_arrow_is_found(module, line):
    assert len(python_violations({module: f"import torch\n{line}\n", "dlm_kernels.rules": "import math\n"})) == 1


def test_right_arrows_pass():
    assert (
        native_violations(
            {
                "core/a.h": '#include "b.h"\n#include <cmath>',
                "cpu/a.cpp": '#include "../core/b.h"\n#include "../api.h"',
                "torch/a.cpp": '#include "../api.h"\n#include <torch/csrc/stable/ops.h>',
            }
        )
        == []
    )
    assert (
        python_violations(
            {
                "dlm_kernels.step": "import torch\nfrom . import _ops\nfrom .reference import ops",
                "dlm_kernels.integrations.x": "from .. import TopK\nfrom ..rules import Factor\nimport anything",
                "dlm_kernels.reference.__init__": "from .ops import row_stats\nimport math",
            }
        )
        == []
    )


def test_core_reference_and_tests_mirror_each_other():
    """Every header with math in it has a reference and a test of its name."""
    headers = {path.stem for path in (ROOT / "csrc" / "core").glob("*.h")} - {
        "hd",
        "dtype",
        "params",
        "resolved",
        "carve",
        "check",  # beside validate, whose texts it has
    }
    assert headers
    for name in headers:
        assert (ROOT / "python_ref" / f"{name}.py").exists(), name
        assert (ROOT / "tests" / f"test_{name}.py").exists(), name
