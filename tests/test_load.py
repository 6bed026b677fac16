"""Loading: an import does nothing; a library that cannot be used says why, and the reference takes over."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import dlm_kernels
from dlm_kernels import _diagnosis, _load, reference

STEP = """
import torch, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import dlm_kernels as dlm
    x = torch.full((1, 4), 9)
    for _ in range(3):
        out = dlm.denoise_step_(x, torch.zeros(1, 4, 8), mask_id=9, rule=dlm.TopK(1))
        dlm.row_stats(torch.zeros(2, 3))
    dlm.draw_tokens(torch.zeros(2, 3, 8), temperature=1.0)
mine = [str(w.message) for w in caught if "dlm_kernels" in str(w.message)]
from dlm_kernels import _load
print(x.tolist(), _load.load().backend)
print("\\n".join(mine))
"""
native = pytest.mark.skipif(_load.load().backend == "reference", reason="needs the compiled extension")


@pytest.fixture
def copied_package(tmp_path):
    """A private copy of the installed package, to break."""
    home = tmp_path / "site" / "dlm_kernels"
    skip = shutil.ignore_patterns("__pycache__", "assets", "demo", "bench")
    shutil.copytree(Path(dlm_kernels.__file__).parent, home, ignore=skip)
    shutil.copytree(Path(reference.__file__).parent, home / "reference", ignore=skip, dirs_exist_ok=True)
    return home


def test_import_does_nothing(run_python):
    run_python("""
import sys
before = set(sys.modules)
import dlm_kernels
assert dlm_kernels.__version__
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not new & {"torch", "numpy", "ctypes"}, new
assert "denoise_step" in dir(dlm_kernels)
""")


def test_names_arrive_on_first_use(run_python):
    run_python("""
import sys, dlm_kernels
dlm_kernels.TopK(3)
assert "torch" not in sys.modules  # rules are plain data
for name in dlm_kernels.__all__:
    if name not in ("bench", "demo"):
        getattr(dlm_kernels, name)
assert "torch" in sys.modules
try:
    dlm_kernels.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
""")


@native
def test_the_numpy_entry_never_imports_torch(run_python):
    done = run_python("""
import sys, json, numpy as np
from dlm_kernels import array
logits = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
stats = array.row_stats(logits, temperature=0.7)
assert "torch" not in sys.modules
print(json.dumps([stats.argmax.tolist(), logits.argmax(-1).tolist()]))
""")
    got, want = json.loads(done.stdout)
    assert got == want


@native
def test_the_library_is_used_where_it_can_be(run_python):
    done = run_python(STEP).stdout.splitlines()
    assert done == ["[[0, 0, 0, 9]] cpu", ""]


BREAKAGES = {
    "garbage": lambda home: next(home.glob("_C*")).write_bytes(b"not a library"),
    "no extension": lambda home: next(home.glob("_C*")).unlink(),
    "no kernel library": lambda home: (home / "libdlm_kernels.so").unlink(),
}
CAUSES = {"garbage": "_C.abi3.so", "no extension": "_C", "no kernel library": "libdlm_kernels.so"}


# An editable install has a finder of its own, which would find the whole library for the broken copy.
ALONE = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"


@native
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_library_falls_back_with_one_warning(run_python, copied_package, breakage):
    path = str(copied_package.parent)

    def run(code, **kwargs):
        return run_python(ALONE + code, PYTHONPATH=path, **kwargs)

    assert run(STEP).stdout.splitlines()[0] == "[[0, 0, 0, 9]] cpu"  # whole as yet
    BREAKAGES[breakage](copied_package)
    lines = run(STEP).stdout.splitlines()
    assert lines[0] == "[[0, 0, 0, 9]] reference"
    assert len(lines) == 2, lines  # exactly one warning, on one line
    assert "reference" in lines[1] and CAUSES[breakage] in lines[1]

    strict = run(STEP, check=False, DLM_KERNELS_STRICT="1")
    assert strict.returncode != 0
    assert "Error" in strict.stderr.splitlines()[-1] and CAUSES[breakage] in strict.stderr.splitlines()[-1]
    run("import dlm_kernels, sys; assert 'torch' not in sys.modules", DLM_KERNELS_STRICT="1")

    info = run("from dlm_kernels.__main__ import main; main(['info', '--json'])").stdout
    assert CAUSES[breakage] in json.dumps(json.loads(info))


OLD_DRIVER = """
int cuDriverGetVersion(int* version) { *version = 12080; return 0; }
int cuInit(unsigned flags) { __builtin_trap(); }
"""


@pytest.fixture
def old_driver(tmp_path):
    """A folder with a libcuda.so.1 that is for CUDA 12.8 and must not be asked for anything else."""
    (tmp_path / "driver.c").write_text(OLD_DRIVER)
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    return str(tmp_path)


@native
def test_a_driver_that_is_too_old(run_python, old_driver):
    """CUDA tensors go to the reference, and info says which driver is needed; nothing initialises CUDA."""
    if "cuda" not in _load.build_info()["backends"]:
        pytest.skip("this build has no CUDA")
    done = run_python(
        """
import json, torch
from dlm_kernels import _load, _ops
registered = torch._C._dispatch_has_kernel_for_dispatch_key("dlm_kernels::denoise_step_", "CUDA")
print(json.dumps([registered, _load.cuda_driver(), _load.why_not_cuda(), _load.load().backend]))
""",
        LD_LIBRARY_PATH=old_driver,
    )
    registered, driver, why, backend = json.loads(done.stdout)
    assert not registered and backend == "cpu"
    assert driver["cuda"] == "12.8" and not driver["suffices"]
    assert "needs NVIDIA driver 580 or newer" in why and "CUDA 12.8" in why and "built for CUDA 12" in why
    refused = run_python(
        "from dlm_kernels import _ops", check=False, LD_LIBRARY_PATH=old_driver, DLM_KERNELS_BACKEND="cuda"
    )
    assert "DLM_KERNELS_BACKEND: built for CUDA 13" in refused.stderr.splitlines()[-1]


WITH_CUDA = {
    "backends": ["cpu", "cuda"],
    "cuda": {"toolkit": "13.0.88", "architectures": ["sm_80", "sm_90", "compute_90"]},
}
WITHOUT_CUDA = {"backends": ["cpu"], "cuda": None}
DRIVERS = {
    "none": None,
    "old": {"version": "570.86.15", "cuda": "12.8", "suffices": False},
    "good": {"version": "580.65.06", "cuda": "13.0", "suffices": True},
}


@pytest.mark.parametrize(
    "built, driver, words",
    [
        (WITHOUT_CUDA, "good", ["no CUDA backend", "built for: cpu", "install a wheel with +cu"]),
        (WITH_CUDA, "none", []),
        (WITH_CUDA, "good", []),
        (
            WITH_CUDA,
            "old",
            ["CUDA 13.0.88", "driver 580 or newer", "here is driver 570.86.15 (CUDA 12.8)", "update the driver"],
        ),
    ],
)
def test_a_wheel_for_another_cuda(built, driver, words):
    why = _diagnosis.no_cuda_kernels(built, DRIVERS[driver])
    assert why is None if not words else all(word in why for word in words)


@pytest.mark.parametrize(
    "torch_cuda, gpu, driver, words",
    [
        (
            None,
            None,
            "good",
            ["built for CUDA 13.0.88 (sm_80, sm_90, compute_90)", torch.__version__, "which has no CUDA"],
        ),
        ("13.0", None, "none", ["here is torch", "no NVIDIA driver"]),
        ("13.0", None, "good", ["driver 580.65.06 (CUDA 13.0), but no usable GPU"]),
        ("13.0", (7, 5), "good", ["built for sm_80 and newer", "Old (cuda:0) with sm_75"]),
        ("13.0", (9, 0), "good", []),
        ("13.0", (12, 1), "good", []),
    ],
)
def test_a_gpu_that_cannot_be_used(monkeypatch, torch_cuda, gpu, driver, words):
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Old")
    why = _diagnosis.no_cuda_device(WITH_CUDA, DRIVERS[driver])
    assert why is None if not words else all(word in why for word in words)


@pytest.mark.parametrize(
    "error, built, words",
    [
        ("cannot import name '_C' from 'dlm_kernels'", None, ["unknown device", "was not built here"]),
        ("/lib/libc.so.6: version `GLIBC_2.34' not found", WITHOUT_CUDA, ["built for CPUs", "this system is older"]),
        ("_C.abi3.so: undefined symbol: torch_list_size", WITH_CUDA, ["built for CUDA 13.0.88", "this torch lacks"]),
        ("_C.abi3.so: undefined symbol: dlm_cpu_row_kl", WITH_CUDA, ["two versions", "--force-reinstall dlm_kernels"]),
        ("libc10.so: cannot open shared object file", WITH_CUDA, ["--force-reinstall torch"]),
        (
            "libdlm_kernels.so: cannot open shared object file",
            None,
            ["missing or broken", "--force-reinstall dlm_kernels"],
        ),
        (
            "libstdc++.so.6: version `GLIBCXX_3.4.30'\n not found",
            WITH_CUDA,
            ["`GLIBCXX_3.4.30' not found", "--no-build"],
        ),
    ],
)
def test_what_to_install(error, built, words):
    text = _diagnosis.loader_error(ImportError(error), built)
    assert all(word in text for word in [*words, f"here is torch {torch.__version__}", "torch >= 2.10"])
    assert "\n" not in text


@native
def test_an_old_torch_is_named(run_python):
    lines = run_python("import torch\ntorch.__version__ = '2.9.1+cpu'\n" + STEP).stdout.splitlines()
    assert lines[0].endswith("reference") and "2.9.1" in lines[1]
    assert "torch >= 2.10" in lines[1] and "pip install 'torch>=2.10'" in lines[1]


def test_the_reference_can_be_asked_for(run_python):
    lines = run_python(STEP, DLM_KERNELS_BACKEND="reference").stdout.splitlines()
    assert lines[0] == "[[0, 0, 0, 9]] reference" and lines[1:] in ([], [""])  # a wish is not worth a warning


@pytest.mark.parametrize("name, text", [("gpu", "auto, cuda, cpu or reference, got gpu"), ("cuda", "CUDA")])
def test_backends_that_are_not_there(run_python, name, text):
    if name == "cuda" and "cuda" in _load.build_info()["backends"]:
        pytest.skip("this build has the CUDA backend")
    done = run_python(STEP, check=False, DLM_KERNELS_BACKEND=name)
    assert done.returncode != 0 and text in done.stderr.splitlines()[-1]


@native
def test_info_says_why_cuda_tensors_run_the_reference(run_python):
    code = "from dlm_kernels import _load; print(_load.why_not_cuda())"
    built = _load.build_info()
    if "cuda" not in built["backends"]:
        want = ["no CUDA backend", "built for: cpu"]
    elif not torch.cuda.is_available():
        want = ["built for CUDA", built["cuda"]["toolkit"], "here is"]
    else:
        want = ["None"]
    assert all(text in run_python(code).stdout for text in want)
    assert run_python(code, DLM_KERNELS_BACKEND="cpu").stdout.strip() == "DLM_KERNELS_BACKEND is cpu"


@native
def test_instruction_sets_can_be_named(run_python):
    code = "from dlm_kernels import _load; print(_load.cpu_isa())"
    for name in _load.cpu_isas():
        assert run_python(code, DLM_KERNELS_CPU_ISA=name).stdout.strip() == name
    with pytest.raises(ValueError, match="^name: must be auto or one of .*, got avx1024$"):
        _load.set_cpu_isa("avx1024")
    assert _load.cpu_isa() == _load.cpu_isas()[0]


def test_info(run_python):
    """Versions, backends, what it was built for and what is here: JSON for machines, lines for people."""
    facts = json.loads(run_python("from dlm_kernels.__main__ import main; main(['info', '--json'])").stdout)
    assert dlm_kernels.__version__ in json.dumps(facts)
    assert {"built", "torch", "backends"} <= set(facts)
    assert facts["backends"]["cpu"]["runs_on"] in ("native", "reference")
    text = run_python("from dlm_kernels.__main__ import main; main(['info'])").stdout
    assert dlm_kernels.__version__ in text and len(text.splitlines()) > 5
