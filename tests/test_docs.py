"""The documentation: every Python block runs, quoted code stands in its file, what is named exists, the site builds."""

import argparse
import html
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import dlm_kernels as dlm
from dlm_kernels.__main__ import COMMANDS
from dlm_kernels.integrations import accelerate

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BESIDE = [ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md"]  # which have no Python
FENCE = re.compile(r"(?:<!-- not run: (?P<why>.+?) -->\n+)?^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.S | re.M)
# Blocks that cannot run here, by their reasons; `<!-- not run: reason -->` stands before such a block.
NOT_RUN = []


class Block(NamedTuple):
    page: str
    line: int
    info: str
    body: str
    why: str | None

    @property
    def quotes(self):
        """The file that has this code."""
        found = re.search(r'title="(.+?)"', self.info)
        return found and found[1]

    @property
    def includes(self):
        """The file that is put here."""
        found = re.fullmatch(r'--8<-- "(.+?)"\n', self.body)
        return found and found[1]


def blocks_of(page):
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text[: found.start("info")].count("\n") + 1
        yield Block(str(page.relative_to(ROOT)), line, found["info"], found["body"], found["why"])


BLOCKS = [block for page in [*PAGES, *BESIDE] for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.info.split()[:1] == ["python"]]


def runnable(page):
    return [b for b in PYTHON if b.page == page and not (b.quotes or b.includes or b.why)]


def run(block, names):
    exec(compile("\n" * block.line + block.body, block.page, "exec"), names)  # an error names the line of the page


@pytest.mark.parametrize("page", sorted({b.page for b in PYTHON if b.page != "README.md" and runnable(b.page)}))
def test_blocks_of_a_page(page, tmp_path, monkeypatch):
    """From top to bottom, as a reader would try them."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    for block in runnable(page):
        run(block, names)


def readers_names():
    """What the README takes for granted."""
    from dlm_kernels.bench.duo_client import UniformState

    g = torch.Generator().manual_seed(0)
    vocab, mask = 126464, 126336
    x = torch.randint(vocab, (2, 8), generator=g)
    x[:, 2:] = mask
    return dict(
        dlm=dlm,
        torch=torch,
        F=torch.nn.functional,
        obj=UniformState(torch.nn.Embedding(8, 8), 8),
        x=x,
        logits=torch.randn(2, 8, vocab, generator=g),
        mask_id=mask,
        k=torch.tensor([1, 4]),
        alpha_t=0.30,
        alpha_s=0.31,
        temperature=1.0,
    )


def test_blocks_of_the_readme():
    """Each by itself; and the step writes what the code does that it claims to be equivalent to."""
    after = []
    for block in runnable("README.md"):
        names = readers_names()
        run(block, names)
        after.append((block.body, names["x"]))
    (step, ours), (equivalent, theirs) = [
        (body, x) for body, x in after if "dlm.denoise_step_(" in body or "logits.argmax(-1)" in body
    ]
    assert "denoise_step_" in step and "argmax" in equivalent
    assert torch.equal(ours, theirs) and not torch.equal(ours, readers_names()["x"])


def test_no_block_is_left_out_silently():
    assert len(PYTHON) >= 25
    assert [b.why for b in PYTHON if b.why] == NOT_RUN
    for block in BLOCKS:
        if block.includes:  # examples run in test_examples.py, that in C++ in test_cpp_package.py
            assert block.includes.startswith("examples/") and (ROOT / block.includes).is_file(), block


def test_every_example_is_shown():
    shown = {b.includes for b in BLOCKS if b.page == "docs/quickstart.md"}
    files = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "cpp").iterdir()]
    assert {str(path.relative_to(ROOT)) for path in files} <= shown


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.quotes], ids=lambda b: f"{b.page}:{b.line}")
def test_quotes(block):
    assert block.body in (ROOT / block.quotes).read_text()


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: f"{page.parent.name}-{page.name}")
def test_what_is_named_exists(page):
    """Tests, files and folders of this repository, and names of the package, in backticks."""
    for name in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text())):
        path, _, test = name.partition("::")
        if re.match(r"(csrc|python_ref|dlm_kernels|tests|bench|docs|examples|\.ci)/[\w./*<>]+$", path):
            path = re.sub(r"<\w+>|\*", "*", path)
            assert list(ROOT.glob(path.rstrip("/"))) or path.startswith("docs/plots"), name
        if test:
            assert f"def {test}(" in (ROOT / path).read_text(), name
        if re.fullmatch(r"dlm(_kernels)?(\.\w+)+", path):
            found = dlm
            for part in path.split(".")[1:]:
                assert hasattr(found, part), name
                found = getattr(found, part)


def commands():
    """Lines that call something of this repository, as lists of words."""
    for block in BLOCKS:
        if "python" not in block.info:
            for line in block.body.splitlines():
                if re.match(r"(bash \.ci/|bash bench/|python (-m dlm_kernels|examples/))", line):
                    yield pytest.param(shlex.split(line, comments=True), id=f"{block.page}: {line.split('  ')[0]}")


@pytest.mark.parametrize("command", list(commands()))
def test_commands_are_what_the_programs_take(command):
    if command[0] == "bash":
        assert os.access(ROOT / command[1], os.X_OK)
    if command[:2] == ["bash", ".ci/demo"]:
        command = ["python", "-m", "dlm_kernels", "demo", *command[2:]]
    if command[1:3] == ["-m", "dlm_kernels"]:
        name, *arguments = command[3:]
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(f"dlm_kernels.{COMMANDS[name][0]}").add_arguments(parser)
        parser.parse_args(arguments)


def clients():
    return [import_module(f"dlm_kernels.integrations.{name}") for name in accelerate._CLIENTS]


def public_functions():
    from dlm_kernels import array, quotas, remasking, schedules, transitions

    modules = (array, quotas, remasking, schedules, transitions)
    named = [(client, client.__all__) for client in clients() if client.__name__.rpartition(".")[2] != "diffusers"]
    for module, names in [(dlm, dlm._HOMES), *((module, vars(module)) for module in modules), *named]:
        for name in names:
            value = getattr(module, name)
            if not name.startswith("_") and "Args:\n" in (inspect.getdoc(value) or ""):
                yield pytest.param(value, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_docstrings_have_the_arguments_of_the_signature(function):
    text = inspect.getdoc(function)
    block = re.search(r"Args:\n(.*?)(\n\n|$)", text, re.S)[1]
    documented = {name for line in re.findall(r"^    (\w[\w, ]*):", block, re.M) for name in line.split(", ")}
    arguments = inspect.signature(function).parameters
    assert documented <= set(arguments)
    if "The others are those of" not in text:
        assert documented == set(arguments)


def test_every_public_name_has_a_place_in_the_api():
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    listed = set(re.findall(r"\w+", pages))
    whole = {"results", "quotas", "transitions", "schedules", "remasking", "stability", "array"}  # modules
    assert all(f"::: dlm_kernels.{module}\n" in pages for module in whole)
    homes = {name: home for name, home in dlm._HOMES.items() if home not in whole}
    assert set(homes) <= listed
    assert all(f"::: dlm_kernels.integrations.{client}\n" in pages for client in accelerate._CLIENTS)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    mkdocs = shutil.which("mkdocs", path=Path(sys.executable).parent)
    if mkdocs is None:
        pytest.skip("needs mkdocs: pip install .[docs]")
    folder = tmp_path_factory.mktemp("site")
    config = ROOT / "docs" / "site" / "mkdocs.yml"
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--config-file", config, "--site-dir", folder],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds(site):
    """With warnings as errors; and nothing of the docstrings is taken for a quotation."""
    text = {path.name: path.read_text() for path in [*site.glob("*.html"), *site.glob("api/*.html")]}
    assert {"index.html", "quickstart.html", "masked.html", "commands.html"} <= set(text)
    assert not [name for name, page in text.items() if "<blockquote" in page]
    assert "--slower-than FACTOR" in html.unescape(text["commands.html"])
    assert "lowest index on ties" in text["results.html"]  # comments behind fields
    assert text["how-it-works.html"].count('role="img"') == 3
    for client in clients():
        assert f'id="{client.__name__}"' in text["integrations.html"], client
        if client.__name__.rpartition(".")[2] != "diffusers":  # whose classes are made when asked for
            names = {f"{client.__name__}.{name}" for name in client.__all__} - {f"{client.__name__}.ADAPTERS"}
            assert not [name for name in names if f'id="{name}"' not in text["integrations.html"]]
