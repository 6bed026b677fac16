"""The builder of wheels (.ci/wheels): what it decides, what it refuses, and what its checks of a wheel see.

Building itself takes minutes and a network: ``.ci/wheel`` does that, and runs these checks on every wheel it makes.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".ci"))

from wheels import build, inspection, smoke, toolkit  # noqa: E402
from wheels.command import WheelError, run  # noqa: E402

BUILT = {
    "version": "0.1.0+cu130",
    "cuda": {"toolkit": "13.0.88", "architectures": ["sm_80", "sm_90", "compute_90"]},
    "cpu_isas": ["portable", "avx2", "avx512"],
    "build_type": "Release",
}
BINARIES = ["libdlm_kernels.so", "_C.abi3.so", "_array.cpython-311-x86_64-linux-gnu.so"]
INFO = "dlm_kernels-0.1.0+cu130.dist-info"


def a_toolkit(*knows, version="13.0"):
    return toolkit.Toolkit(Path("/nowhere"), version, frozenset(knows))


@pytest.fixture
def compiler(tmp_path):
    """compiler(version, *sms) -> the folder of a toolkit whose nvcc says that of itself."""

    def make(version, *sms):
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.parent.mkdir(exist_ok=True)
        listed = "\\n".join(f"compute_{sm}" for sm in sms)
        nvcc.write_text(
            f"#!/bin/sh\ncase $1 in\n--version) echo 'Cuda compilation tools, release {version}, V{version}.9';;\n"
            f"--list-gpu-arch) printf '{listed}\\n';;\nesac\n"
        )
        nvcc.chmod(0o755)
        return tmp_path

    return make


def test_a_toolkit_says_what_it_is(compiler):
    found = toolkit.at(compiler("12.4", 50, 80, 90))
    assert (found.version, found.label, found.knows) == ("12.4", "cu124", {50, 80, 90})
    assert build.version(found.label).endswith("+cu124")
    assert toolkit.architectures(found) == "8.0;9.0+PTX"  # 10.0 and 12.0 came later


def test_architectures_are_those_of_cmake():
    """The builder names none of its own: what CMakeLists.txt builds by default is what a new toolkit gets."""
    text = (ROOT / "CMakeLists.txt").read_text()
    every = a_toolkit(*range(50, 130))
    named = ";".join(
        f"{sm[:-1]}.{sm[-1]}" for sm in text.split('DLM_CUDA_ARCHITECTURES "')[1].split("+PTX")[0].split(";")
    )
    assert toolkit.architectures(every) == named + "+PTX"
    assert toolkit.architectures(every, "9.0, 12.1+PTX") == "9.0;12.1+PTX"


@pytest.mark.parametrize(
    "asked, message",
    [
        ("sm_90", "--arch: must be versions like 8.0;9.0+PTX, got sm_90"),
        ("9.0;12.0", "--arch: must be known to CUDA 12.4 (8.0, 9.0), got 12.0"),
    ],
)
def test_architectures_that_are_refused(asked, message):
    with pytest.raises(WheelError) as error:
        toolkit.architectures(a_toolkit(80, 90, version="12.4"), asked)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "version, message",
    [
        ("13", "--cuda: must be a version like 13.0, got 13"),
        ("latest", "--cuda: must be a version like 13.0, got latest"),
        ("11.8", "--cuda: must be at least 12.0, got 11.8"),
        (
            "12.8",
            "--cuda: must be at least 13.0, the first with a compiler on PyPI, got 12.8; "
            "give the folder of a toolkit 12.8 by --cuda-home",
        ),
    ],
)
def test_versions_that_are_refused(tmp_path, version, message):
    """Before anything is fetched."""
    with pytest.raises(WheelError) as error:
        toolkit.fetch(version, tmp_path)
    assert str(error.value) == message and not list(tmp_path.iterdir())


def test_a_version_that_pypi_lacks(tmp_path, monkeypatch):
    def no_such_release(command, **_):
        raise WheelError("No matching distribution found for cuda-toolkit==99.1.*")

    monkeypatch.setattr(toolkit, "run", no_such_release)
    with pytest.raises(WheelError, match=r"^--cuda: must be a version of cuda-toolkit on PyPI, got 99.1\nNo matching"):
        toolkit.fetch("99.1", tmp_path)


def test_folders_that_are_no_toolkit(compiler, tmp_path):
    with pytest.raises(
        WheelError, match=f"^--cuda-home: must be the folder of a CUDA toolkit, with bin/nvcc, got {tmp_path}$"
    ):
        toolkit.at(tmp_path)
    with pytest.raises(WheelError, match="^--cuda-home: must hold CUDA 12.0 or newer, got 11.8 in "):
        toolkit.at(compiler("11.8", 80))
    with pytest.raises(WheelError, match="^--cuda-home: must know one of .*, got CUDA 12.1$"):
        toolkit.architectures(toolkit.at(compiler("12.1", 50, 75)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--cuda 11.8", ".ci/wheel: --cuda: must be at least 12.0, got 11.8"),
        (
            "--cuda-home /nowhere",
            ".ci/wheel: --cuda-home: must be the folder of a CUDA toolkit, with bin/nvcc, got /nowhere",
        ),
        ("--cpu --arch 9.0", ".ci/wheel: --arch: must not be given with --cpu, got 9.0"),
        ("--cpu --python no-python", ".ci/wheel: --python: must be a Python interpreter, got no-python"),
        ("", "one of the arguments --cuda --cuda-home --cpu is required"),
        ("--cpu --cuda 13.0", "argument --cuda: not allowed with argument --cpu"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, arguments, message):
    command = [
        "bash",
        str(ROOT / ".ci" / "wheel"),
        *arguments.split(),
        "--cache",
        str(tmp_path),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    )
    assert done.returncode != 0 and done.stderr.strip().endswith(message), done.stderr


def test_the_copy_of_the_source_has_nothing_stale(tmp_path):
    """Also where the tree it is copied from has libraries in it, as an editable installation leaves them."""
    build.copy_source(tmp_path / "source")
    names = {path.relative_to(tmp_path / "source").as_posix() for path in (tmp_path / "source").rglob("*")}
    read_by_cmake = re.findall(r"configure_file\((\S+)", (ROOT / "CMakeLists.txt").read_text())
    assert read_by_cmake and names.issuperset(read_by_cmake)
    assert {"setup.py", "CMakeLists.txt", "LICENSE", "csrc/api.h", "dlm_kernels/_load.py", "python_ref/ops.py"} <= names
    assert not [
        name
        for name in names
        if name.endswith((".so", ".pyc", ".log", ".jsonl")) or name.startswith(("build", "tests"))
    ]


def test_flags_hide_the_folders(tmp_path):
    kit = toolkit.Toolkit(tmp_path / "cuda", "13.0", frozenset({90}))
    job = build.Build(tmp_path / "work", tmp_path, kit, "9.0")
    last = f"-Xcompiler=-ffile-prefix-map={tmp_path / 'work'}=dlm_kernels"
    assert job.mapped("-Xcompiler=").endswith(last) and str(tmp_path / "cuda") in job.mapped("")


@pytest.mark.parametrize(
    "cmake, names, tag",
    [("-DDLM_BUILD_PYBIND=ON", ["_C", "_array"], None), ("-DDLM_BUILD_PYBIND=OFF", ["_C"], "cp310")],
)
def test_a_wheel_without_numpy_module_is_for_every_python(cmake, names, tag):
    code = (
        "from distutils.core import run_setup; d = run_setup('setup.py', stop_after='config'); import json; "
        "print(json.dumps([[e.name for e in d.ext_modules], d.get_option_dict('bdist_wheel').get('py_limited_api')]))"
    )
    done = run(
        [sys.executable, "-c", "import setuptools; " + code],
        quiet=True,
        cwd=ROOT,
        env={**os.environ, "CMAKE_ARGS": cmake},
    )
    modules, limited = json.loads(done.splitlines()[-1])
    assert modules == [f"dlm_kernels.{name}" for name in names] and (limited or [None])[-1] == tag


def write_wheel(path, changes=()):
    """A wheel with everything that belongs in one; ``changes`` replaces files, or with None removes them."""
    files = {f"dlm_kernels/{name}": b"\x7fELF" for name in BINARIES}
    files |= {
        "dlm_kernels/__init__.py": b"",
        f"{INFO}/licenses/LICENSE": b"Apache",
        f"{INFO}/METADATA": b"",
        f"{INFO}/WHEEL": b"",
    }
    files[f"{INFO}/entry_points.txt"] = b"[sglang.srt.plugins]\na = b\n[vllm.general_plugins]\na = b\n"
    files = {name: data for name, data in {**files, **dict(changes)}.items() if data is not None}
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    files.setdefault(f"{INFO}/RECORD", record.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return {name: data for name, data in files.items()}


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({}, None),
        ({"dlm_kernels/_C.abi3.so": None}, "dlm_kernels/_C.abi3.so is missing"),
        (
            {"dlm_kernels/_array.cpython-312-x86_64-linux-gnu.so": b"old"},
            "_array.cpython-312-x86_64-linux-gnu.so does not belong",
        ),
        ({"dlm_kernels.libs/libcudart-1.so.13": b""}, "libcudart-1.so.13 does not belong"),
        ({"dlm_kernels/build.log": b""}, "build.log does not belong"),
        ({"tests/test_wheel.py": b""}, "tests/test_wheel.py lies outside the package"),
        ({"dlm_kernels/tests/x.py": b""}, "dlm_kernels/tests/x.py does not belong"),
        ({f"{INFO}/licenses/LICENSE": None}, "licenses/LICENSE is missing"),
        ({f"{INFO}/entry_points.txt": b"[vllm.general_plugins]"}, "the entry point sglang.srt.plugins is missing"),
    ],
)
def test_files_that_do_not_belong_are_seen(tmp_path, changes, complaint):
    wrong = list(inspection.wrong_files(write_wheel(tmp_path / "a.whl", changes), BINARIES))
    assert not wrong if complaint is None else any(complaint in text for text in wrong)


def test_a_record_that_is_not_true_is_seen(tmp_path):
    files = write_wheel(tmp_path / "a.whl")
    assert not list(inspection.wrong_record(files))
    files["dlm_kernels/__init__.py"] = b"import this"
    assert list(inspection.wrong_record(files)) == ["dlm_kernels/__init__.py is not as RECORD has it"]


@pytest.mark.parametrize(
    "needed, path, complaint",
    [
        ("libtorch_cpu.so\nlibc.so.6", "$ORIGIN", None),
        ("libcudart.so.13\nlibc.so.6", "", "a.so needs libcudart.so.13"),
        ("libc.so.6", "/home/me/torch/lib", "a.so looks for libraries in /home/me/torch/lib"),
    ],
)
def test_libraries_from_elsewhere_are_seen(tmp_path, needed, path, complaint):
    says = tmp_path / "patchelf"
    says.write_text(f"#!/bin/sh\ncase $1 in\n--print-needed) echo '{needed}';;\n--print-rpath) echo '{path}';;\nesac\n")
    says.chmod(0o755)
    assert list(inspection.wrong_links(tmp_path / "a.so", says)) == ([] if complaint is None else [complaint])


@pytest.mark.parametrize(
    "got, complaint",
    [
        ({}, None),
        ({"version": "0.1.0"}, "it was built as 0.1.0, not 0.1.0+cu130"),
        ({"cuda": None}, "it was built with CUDA none, not 13.0"),
        ({"cuda": {"toolkit": "13.2.51", "architectures": BUILT["cuda"]["architectures"]}}, "CUDA 13.2.51, not 13.0"),
        ({"cuda": {"toolkit": "13.0.88", "architectures": ["sm_80"]}}, "it has ['sm_80'], not"),
        ({"build_type": "Debug"}, "it is a build for tests"),
        ({"cpu_isas": ["portable", "avx512-emulated"]}, "it is a build for tests"),
    ],
)
def test_another_build_than_asked_for_is_seen(got, complaint):
    wrong = list(inspection.wrong_build({**BUILT, **got}, "0.1.0+cu130", "13.0", "8.0;9.0+PTX"))
    assert not wrong if complaint is None else any(complaint in text for text in wrong)


def test_a_large_wheel_is_seen(tmp_path, monkeypatch):
    write_wheel(tmp_path / "a.whl")
    assert "TOO LARGE" not in inspection.sizes(tmp_path / "a.whl")
    monkeypatch.setattr(inspection, "WANTED", 1000)
    assert inspection.sizes(tmp_path / "a.whl").splitlines()[-1].startswith("TOO LARGE: 0.0 MB, where 0 MB are wanted")


def test_differences_are_named(tmp_path):
    one, other = tmp_path / "a.whl", tmp_path / "b.whl"
    write_wheel(one)
    write_wheel(other)
    assert inspection.differences(one, other) == []
    write_wheel(other, {"dlm_kernels/_C.abi3.so": b"\x7fELF2"})
    assert inspection.differences(one, other) == [f"{INFO}/RECORD", "dlm_kernels/_C.abi3.so"]


def test_packing_in_order(tmp_path):
    """Another order, other times and modes: the same bytes after all, and the same files."""
    one, other = tmp_path / "a.whl", tmp_path / "b.whl"
    files = write_wheel(one)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("dlm_kernels/", b"")
        for name, data in reversed(files.items()):
            lines = data.splitlines(keepends=True)
            entry = zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6))
            archive.writestr(entry, b"".join(reversed(lines)) if name.endswith("RECORD") else data)
    assert inspection.differences(one, other)
    for wheel in (one, other):
        build.pack_in_order(wheel, 1_700_000_000)
    assert inspection.differences(one, other) == []
    with zipfile.ZipFile(one) as archive:
        assert {n: archive.read(n) for n in archive.namelist() if n != f"{INFO}/RECORD"} == {
            n: d for n, d in files.items() if n != f"{INFO}/RECORD"
        }
        assert {entry.date_time for entry in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_sizes_add_up(tmp_path):
    write_wheel(tmp_path / "a.whl", {"dlm_kernels/libdlm_kernels.so": bytes(range(256)) * 100})
    table = inspection.sizes(tmp_path / "a.whl").splitlines()
    assert table[0] == "a.whl" and "libdlm_kernels.so" in table[2] and "25,600" in table[2]
    assert table[-1].endswith("the wheel") and f"{(tmp_path / 'a.whl').stat().st_size:,}" in table[-1]


def test_a_failing_program_is_quoted():
    with pytest.raises(WheelError, match="(?s)^failed: .*sys.exit.*\nno luck$"):
        run([sys.executable, "-c", "import sys; sys.exit('no luck')"], quiet=True)
    assert json.loads(run([sys.executable, "-c", "print([1])"], quiet=True)) == [1]


def test_a_wheel_without_the_numpy_module_says_so(tmp_path, monkeypatch, run_python):
    for name in ("__init__.py", "array.py", "_array_schedule.py"):
        (tmp_path / name).touch()
    assert smoke.array_entry() == "dlm_kernels.array"
    monkeypatch.setattr(smoke.dlm, "__file__", str(tmp_path / "__init__.py"))
    assert smoke.array_entry() == "no dlm_kernels.array (torch-only wheel)"
    done = run_python("""
import sys
sys.modules["dlm_kernels._array"] = None
from dlm_kernels import info
print(info.collect()["numpy_entry"]["error"])
""")
    assert "install the wheel for this Python" in done.stdout
