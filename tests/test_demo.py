"""The demo: shipped files, generation, what it prints, what it refuses, and the script that trained it."""

import argparse
import dataclasses
import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

for package in ("rich", "safetensors", "tokenizers"):
    pytest.importorskip(package)

from rich.console import Console  # noqa: E402

from dlm_kernels.demo import cli, sampling, settings, show, table, uniform  # noqa: E402
from dlm_kernels.demo.canvas import MASK, canvas_text  # noqa: E402
from dlm_kernels.demo.frame import State  # noqa: E402
from dlm_kernels.demo.masked import BLOCK, split_evenly, view  # noqa: E402
from dlm_kernels.demo.model import Denoiser, ModelConfig, load_model, save_model  # noqa: E402

# Psalm 68:1-10, King James Version (1611, public domain). These verses were held out of the training.
HELD_OUT = """\
Let God arise, let his enemies be scattered: let them also that hate him flee before him.
As smoke is driven away, so drive them away: as wax melteth before the fire, so let the wicked perish at the presence of God.
But let the righteous be glad; let them rejoice before God: yea, let them exceedingly rejoice.
Sing unto God, sing praises to his name: extol him that rideth upon the heavens by his name JAH, and rejoice before him.
A father of the fatherless, and a judge of the widows, is God in his holy habitation.
God setteth the solitary in families: he bringeth out those which are bound with chains: but the rebellious dwell in a dry land.
O God, when thou wentest forth before thy people, when thou didst march through the wilderness; Selah:
The earth shook, the heavens also dropped at the presence of God: even Sinai itself was moved at the presence of God.
Thou, O God, didst send a plentiful rain, whereby thou didst confirm thine inheritance, when it was weary.
Thy congregation hath dwelt therein: thou, O God, hast prepared of thy goodness for the poor.
"""  # noqa: E501

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny_dlm"
TRAIN = EXAMPLE / "train.py"
FAMILIES = ("masked", "uniform")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Six generations of the masked family without a prompt, two tokens per step."""
    return [sampling.generate("", seed=seed, length=64, steps=32).text for seed in range(6)]


@pytest.fixture(scope="module")
def uniform_texts() -> list[str]:
    return [sampling.generate("", seed=seed, length=64, family="uniform").text for seed in range(6)]


def example(name: str):
    """A module of examples/tiny_dlm."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def denoising_loss(text: str) -> float:
    """Mean cross-entropy (nats) of the masked tokens of `text` with a quarter, half and three quarters masked, over its
    windows; the same masks for every text of the same length."""
    model, tokenizer = sampling.load()
    ids = torch.tensor(tokenizer.encode(text))
    losses = []
    for window in ids.split(model.config.window):
        rank = torch.rand(len(window), generator=torch.Generator().manual_seed(0)).argsort().argsort()
        for share in (0.25, 0.5, 0.75):
            masked = rank < max(1, int(share * len(window)))
            with torch.no_grad():
                logits = model(torch.where(masked, model.config.mask_id, window)[None])[0]
            losses.append(torch.nn.functional.cross_entropy(logits[masked], window[masked]))
    return float(torch.stack(losses).mean())


def distinct_pairs(text: str) -> float:
    """Share of the word pairs of `text` that are not repeats of an earlier pair."""
    words = text.split()
    pairs = list(zip(words, words[1:], strict=False))
    return len(set(pairs)) / len(pairs)


# -- shipped files ---------------------------------------------------------------------------------------------------


def test_assets_match_their_checksums():
    lines = (sampling.ASSETS / "SHA256SUMS").read_text().splitlines()
    assert {line.split()[1] for line in lines} == {"masked.safetensors", "uniform.safetensors", "tokenizer.json"}
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((sampling.ASSETS / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_small_and_recorded(family):
    """In a wheel, which compresses them, too."""
    stored = (sampling.ASSETS / f"{family}.safetensors").read_bytes()
    parameters = sum(p.numel() for p in sampling.load(family)[0].parameters())
    record = json.loads((sampling.ASSETS / f"{family}.json").read_text())
    assert 1e6 <= parameters <= 3e6 and len(stored) < 2.3e6 and len(zlib.compress(stored)) < 1.55e6
    assert record["parameters"] == parameters and record["curve"][-1]["step"] == record["recipe"]["steps"]


def test_weights_are_rounded_to_half_a_step(tmp_path):
    """Of rows of any size, of zeros, and with a weight far out; the rest is fp16."""
    torch.manual_seed(0)
    model = Denoiser(ModelConfig("masked", 40, dim=16, layers=1, heads=2))
    exact = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    table = exact["embedding.weight"]
    table *= torch.logspace(-2, 2, len(table))[:, None]
    table[3], table[4, 5] = 0.0, 400.0
    model.load_state_dict(exact)
    save_model(model, tmp_path / "model.safetensors")
    for name, got in load_model(tmp_path / "model.safetensors").state_dict().items():
        want = exact[name]
        if want.ndim == 2:
            step = (want.square().mean(1, keepdim=True).sqrt() / 8).maximum(want.abs().amax(1, keepdim=True) / 127)
            assert ((got - want).abs() <= 0.501 * step).all(), name
        else:
            assert torch.equal(got, want.half().float()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_weights_are_refused(family, tmp_path):
    for path in sampling.ASSETS.iterdir():
        shutil.copy(path, tmp_path)
    damaged = bytearray((tmp_path / f"{family}.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / f"{family}.safetensors").write_bytes(damaged)
    with pytest.raises(RuntimeError, match=f"{family}.safetensors: damaged"):
        sampling.load(family, tmp_path)


def test_tokenizer_round_trip():
    tokenizer = sampling.load()[1]
    assert tokenizer.decode(tokenizer.encode(HELD_OUT)) == HELD_OUT
    assert tokenizer.vocab_size == sampling.load()[0].config.vocab_size


# -- generation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_text(family):
    one, again, other = (
        sampling.generate("The LORD is", seed=s, length=40, steps=20, family=family) for s in (7, 7, 8)
    )
    assert one == again
    assert one.tokens != other.tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_of_threads_changes_nothing(family):
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(sampling.generate("", seed=5, length=24, steps=12, family=family))
            assert torch.get_num_threads() == threads  # restored
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1]


def test_temperature_zero_ignores_the_seed():
    one, other = (sampling.generate("Blessed", seed=s, length=24, temperature=0, steps=12) for s in (1, 2))
    assert one.tokens == other.tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", ["", "And God said, Let there be", "In those days\nthere was"])
def test_prompt_is_kept_and_length_holds(prompt, family):
    result = sampling.generate(prompt, seed=1, length=30, steps=10, family=family)
    tokenizer = sampling.load()[1]
    given_ids = tokenizer.encode(prompt)
    assert result.text.startswith(prompt)
    assert result.tokens[: len(given_ids)] == given_ids and len(result.tokens) == len(given_ids) + 30
    assert max(result.tokens) < tokenizer.vocab_size  # no mask is left
    assert result.steps == 10


@pytest.mark.parametrize("prompt", ["", HELD_OUT])
def test_canvas_longer_than_the_window(prompt):
    """Blocks are done one after another: no later block opens before the earlier ones are full."""
    frames = []
    result = sampling.generate(prompt, seed=2, length=170, steps=34, on_frame=frames.append)
    assert len(result.tokens) > sampling.load()[0].config.window
    assert result.steps == 34 and State.OPEN not in frames[-1].states
    for frame in frames[1:]:
        done = [i for i, state in enumerate(frame.states) if state in (State.COMMITTED, State.KEPT)]
        todo = [i for i, state in enumerate(frame.states) if state is State.OPEN]
        assert not todo or max(done) - min(todo) < BLOCK


@given(st.integers(1, 300), st.data())
def test_the_view_holds_the_block(length, data):
    begin = data.draw(st.integers(0, length - 1))
    first, last = view(begin, length, window=96)
    assert 0 <= first <= begin and min(begin + BLOCK, length) <= last <= length
    assert last - first == min(length, 96)


def test_frames_tell_what_happened():
    frames = []
    sampling.generate("And it came to pass", seed=3, length=25, steps=8, on_frame=frames.append)
    assert [frame.step for frame in frames] == list(range(9)) and {frame.steps for frame in frames} == {8}
    for before, after in zip(frames, frames[1:], strict=False):
        for i, (old, new) in enumerate(zip(before.states, after.states, strict=True)):
            if new is State.COMMITTED:
                assert old is State.OPEN
            elif old is not State.OPEN:
                assert before.ids[i] == after.ids[i]
            assert (old is State.GIVEN) == (new is State.GIVEN)
        assert State.COMMITTED in after.states


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("prompt", ["", HELD_OUT])
def test_next_to_nothing_to_write(prompt, length):
    """The last token is given, a line break: nothing is open, or one position is."""
    result = sampling.generate(prompt, seed=0, length=length, steps=3, family="uniform")
    assert result.text.startswith(prompt.rstrip("\n")) and result.steps == 3 * (length - 1)


@pytest.mark.parametrize(("prompt", "length", "steps"), [("And God said", 25, 24), ("", 170, 40), (HELD_OUT, 70, 20)])
def test_uniform_frames_tell_what_happened(prompt, length, steps):
    frames = []
    result = sampling.generate(prompt, seed=3, length=length, steps=steps, family="uniform", on_frame=frames.append)
    assert [frame.step for frame in frames] == list(range(steps + 1)) and {frame.steps for frame in frames} == {steps}
    changes, seen = 0, set()
    for before, after in zip(frames, frames[1:], strict=False):
        for i, (old, new) in enumerate(zip(before.states, after.states, strict=True)):
            changed = before.ids[i] != after.ids[i]
            changes += changed
            seen.add(new)
            assert (old is State.GIVEN) == (new is State.GIVEN)
            assert not changed or new in (State.NOISE, State.COMMITTED, State.REWRITTEN)
            if new is State.REWRITTEN:
                assert changed and old not in (State.GIVEN, State.NOISE)
            elif new is State.COMMITTED:
                assert old is State.NOISE
            elif new is State.KEPT:
                assert old not in (State.GIVEN, State.NOISE)
    assert seen >= {State.GIVEN, State.NOISE, State.COMMITTED, State.KEPT}
    assert result.trace.summary()["flips"] == changes  # what is shown is what is counted


def test_a_long_uniform_canvas_is_written_block_by_block():
    frames = []
    sampling.generate("", seed=2, length=170, steps=30, family="uniform", on_frame=frames.append)
    blocks = uniform.cut(frames[0].states, sampling.load("uniform")[0].config.window)
    order = []
    for before, after in zip(frames, frames[1:], strict=False):
        places = [i for i, (old, new) in enumerate(zip(before.ids, after.ids, strict=True)) if old != new]
        touched = {n for n, (begin, end) in enumerate(blocks) for i in places if begin <= i < end}
        assert len(touched) <= 1
        order += touched
    assert len(blocks) > 1 and order == sorted(order) and set(order) == set(range(len(blocks)))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(1, 700))
def test_steps_are_shared_out(opened, steps):
    shares = uniform.split_steps(opened, steps)
    assert len(shares) == len(opened) and min(shares) >= 1
    assert steps <= sum(shares) <= max(steps, len(opened)) + len(opened)


@given(st.integers(0, 300), st.integers(0, 300))
def test_blocks_cover_what_is_open(prompt, opened):
    blocks = uniform.cut([State.GIVEN] * prompt + [State.NOISE] * opened, window=96)
    places = [i for begin, end in blocks for i in range(begin, end)]
    assert places == list(range(prompt, prompt + opened))
    assert all(end - begin <= max(uniform.BLOCK, 96 - prompt) for begin, end in blocks)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6), st.integers(1, 700))
def test_quotas_add_up(opened, steps):
    shares = split_evenly(opened, steps)
    assert [sum(share) for share in shares] == opened
    assert all(quota >= 1 for share in shares for quota in share)
    blocks = sum(tokens > 0 for tokens in opened)
    assert sum(map(len, shares)) <= max(steps, blocks) + blocks


# -- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_text_reads_like_the_training_text(family, request):
    """The masked denoiser finds the text of either family as plausible as held-out verses, or nearly so, and it is not
    plausible by being repetitive."""
    texts = request.getfixturevalue("texts" if family == "masked" else "uniform_texts")
    generated = "\n".join(texts)
    assert denoising_loss(generated) < denoising_loss(HELD_OUT) + {"masked": 0.25, "uniform": 0.5}[family]
    assert distinct_pairs(generated) > 0.6
    assert len(set(texts)) == len(texts)


@pytest.mark.skipif(shutil.which("bible") is None, reason="needs the training text: apt install bible-kjv")
def test_uniform_text_is_made_of_words(uniform_texts):
    known = set(re.findall(r"[\w']+", " ".join(example("corpus").king_james_bible())))
    words = re.findall(r"[\w']+", " ".join(uniform_texts))
    assert sum(word in known for word in words) > 0.93 * len(words)


def test_the_quality_measures_tell_text_from_noise():
    tokenizer = sampling.load()[1]
    ids = tokenizer.encode(HELD_OUT)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    shuffled = tokenizer.decode([ids[i] for i in order])
    noise = tokenizer.decode(torch.randint(tokenizer.vocab_size, (len(ids),)).tolist())
    assert denoising_loss(HELD_OUT) < 0.8 * denoising_loss(shuffled) < 0.8 * denoising_loss(noise)
    assert distinct_pairs("and the LORD said unto them, " * 20) < 0.1


# -- display ---------------------------------------------------------------------------------------------------------


def shown(terminal: bool, **arguments) -> str:
    colors = "truecolor" if terminal else "auto"
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=colors)
    show.run("And God said", seed=4, length=20, steps=5, table=False, console=console, **arguments)
    return console.file.getvalue()


def test_plain_output_without_a_terminal():
    output = shown(terminal=False)
    assert "\x1b" not in output
    lines = output.splitlines()
    assert "step 0/5  And God said _ _" in output and any(line.startswith("step 5/5") for line in lines)
    text = sampling.generate("And God said", seed=4, length=20, steps=5).text
    assert text in output


def test_live_output_on_a_terminal():
    output = shown(terminal=True)
    assert "\x1b[" in output and MASK.strip() in output and "5/5" in output


def test_canvas_styles():
    frames = []
    sampling.generate("And God said", seed=4, length=20, steps=5, on_frame=frames.append)
    text = canvas_text(frames[2], sampling.load()[1])
    assert {span.style for span in text.spans} == {"cyan", "grey50", "bold green", "default"}


def test_uniform_output_without_a_terminal(tmp_path):
    pytest.importorskip("matplotlib")
    output = shown(terminal=False, family="uniform", picture=tmp_path / "trace.svg")
    result = sampling.generate("And God said", seed=4, length=20, steps=5, family="uniform")
    assert "\x1b" not in output and result.text in output and show.round_trips(result.trace.summary()) in output
    assert "step 0/5  And God said" in output and " _" not in output
    assert f"picture: {tmp_path / 'trace.svg'}" in output and "<svg" in (tmp_path / "trace.svg").read_text()


def test_uniform_output_on_a_terminal():
    output = shown(terminal=True, family="uniform")
    assert "5/5" in output and "rewritten" in output and "masked" not in output
    assert "rewritten" not in shown(terminal=True)


def test_round_trips_in_words():
    assert show.round_trips({"revisions": 8, "round_trips": 2}).endswith("2 of them round trips A -> B -> A (25%)")
    assert show.round_trips({"revisions": 0, "round_trips": 0}).startswith("0 revisions")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_demo_measures_and_tabulates(monkeypatch, terminal):
    """As the command does, with what it says meanwhile, at a size that takes no time."""
    from dlm_kernels.bench.cases import Case

    small = Case(rows=4, vocab=300, dtype="fp32", k=2)
    monkeypatch.setattr(table, "cases", lambda family: [small])
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    table.print_table(console, "masked")
    said = console.file.getvalue()
    assert (
        "exact: " in said and ("% timing 2 steps" in said) == terminal and ("about a minute" in said) == (not terminal)
    )


def tabulated(family: str, cases: list) -> str:
    """The rows of the bench are what the table reads, at a size that takes no time."""
    from dlm_kernels.bench.measure import side_by_side
    from dlm_kernels.bench.timing import Method

    method = Method(budget_s=0.01, min_rounds=1, max_rounds=2)
    console = Console(file=io.StringIO(), width=80)
    console.print(table.build_table(side_by_side(cases, [table.CONTESTS[family].peer], method=method)))
    output = console.file.getvalue()
    assert max(map(len, output.splitlines())) <= 80
    return output


def test_table_from_real_measurements():
    from dlm_kernels.bench.cases import Case

    output = tabulated("masked", [Case(rows=8, vocab=1000, dtype="fp32", temperature=t, k=2) for t in (0.0, 1.0)])
    assert "8/8 same" in output and "8/8 exact" in output and "LLaDA" in output


def test_uniform_table_from_real_measurements():
    small = [
        dataclasses.replace(case, rows=case.rows // 32, vocab=1000, open_rows=-1) for case in table.cases("uniform")
    ]
    output = tabulated("uniform", small)
    assert "8/8 exact" in output and "37/37 exact" in output and "V = 1000" in output and "Sumi" in output


def test_uniform_table_is_of_real_size():
    assert [(case.rows, case.vocab, case.dtype) for case in table.cases("uniform")] == [
        (256, 100278, "bf16"),
        (1184, 100278, "bf16"),
    ]


# -- command line ----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "0"), "steps: must be >= 1, got 0"),
        (("--steps", "-3"), "steps: must be >= 1, got -3"),
        (("--temperature", "-0.5"), "temperature: must be finite and >= 0, got -0.5"),
        (("--temperature", "nan"), "temperature: must be finite and >= 0, got nan"),
        (("--length", "0"), "length: must be in 1..4096, got 0"),
        (("--seed", str(2**63)), f"seed: must fit in 64 bits, got {2**63}"),
        (("--prompt", "naïve 日本"), "prompt: characters must occur in the training text, got '"),
        (("--picture", "trace.txt"), "picture: must end in .png, .pdf, .svg, got trace.txt"),
        (("--picture", "no/such/folder/trace.png"), "picture: its folder must exist, got no/such/folder/trace.png"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert command(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize("arguments", [("--steps", "many"), ("--family", "causal"), ("--unknown",)])
def test_arguments_the_parser_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        command(*arguments)
    assert exit_info.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_command_prints_the_text(capsys):
    assert command("--no-table", "--prompt", "", "--seed", "9", "--length", "16", "--steps", "4") == 0
    assert sampling.generate("", seed=9, length=16, steps=4).text in capsys.readouterr().out


def test_missing_package_is_named(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else found(name))
    assert command("--no-table") == 1
    assert capsys.readouterr().err == "the demo needs rich: pip install rich\n"


def test_a_picture_needs_matplotlib(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert command("--no-table", "--family", "uniform") == 1
    assert capsys.readouterr().err == "the demo needs matplotlib: pip install matplotlib\n"
    assert command("--no-table", "--length", "4") == 0  # of the masked family, nobody asked for a picture


def test_the_uniform_family_draws_a_picture_unasked(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert command("--no-table", "--family", "uniform", "--length", "16", "--steps", "4") == 0
    assert "picture: revisions.png" in capsys.readouterr().out
    assert (tmp_path / "revisions.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_family():
    with pytest.raises(settings.ArgumentError, match="family: must be one of masked, uniform, got 'causal'"):
        sampling.generate(family="causal")


# -- training --------------------------------------------------------------------------------------------------------


def train(*arguments) -> None:
    small = "--batch 8 --steps 4 --save-every 2 --window 24".split()
    run = subprocess.run([sys.executable, str(TRAIN), *map(str, arguments), *small], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_training_script_writes_what_the_demo_reads(tmp_path):
    """The masked family from nothing, then the uniform one from its weights, into the same folder."""
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(HELD_OUT * 30, encoding="utf-8")
    train("--text", text, "--out", out, *"--vocab 120 --dim 32 --layers 1 --heads 2".split())
    masked_file = out / "masked.safetensors"
    tokens = (out / "tokenizer.json").read_bytes()
    train("--text", text, "--out", out, "--family", "uniform", "--init", masked_file)
    assert (out / "tokenizer.json").read_bytes() == tokens

    names = ("masked.safetensors", "uniform.safetensors", "tokenizer.json")
    sums = [f"{hashlib.sha256((out / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    assert (out / "SHA256SUMS").read_text() == "".join(sums)
    for family, start in (("masked", None), ("uniform", "masked.safetensors")):
        record = json.loads((out / f"{family}.json").read_text())
        assert [point["step"] for point in record["curve"]] == [2, 4]
        assert record["recipe"]["dim"] == 32 and record["recipe"]["init"] == start
        model, tokenizer = sampling.load(family, out)
        assert model.config.vocab_size == tokenizer.vocab_size and not model.training
    before, after = (sampling.load(family, out)[0].embedding.weight for family in FAMILIES)
    assert (before[:-1] - after).abs().max() < 0.1 * before.std()  # it began where the other ended


def test_the_uniform_bound_is_the_entropy_for_the_exact_law(monkeypatch):
    """Independent tokens of a known law, and a denoiser that is told t: no bound can be lower, and this one is no higher."""
    families = example("families")
    law = torch.tensor([0.6, 0.2, 0.1, 0.05, 0.03, 0.01, 0.01])
    levels = []
    add_noise = families.uniform_noise
    monkeypatch.setattr(
        families, "uniform_noise", lambda clean, t, *rest: levels.append(t) or add_noise(clean, t, *rest)
    )

    def denoiser(noisy):
        t = levels[-1][..., None]
        evidence = torch.log1p(len(law) * (1 - t) / t).expand(*noisy.shape, 1)
        return law.log().expand(*noisy.shape, -1).scatter_add(-1, noisy[..., None], evidence)

    denoiser.config = argparse.Namespace(vocab_size=len(law))
    generator = torch.Generator().manual_seed(0)
    clean = torch.multinomial(law.expand(4096, -1), 64, replacement=True, generator=generator)
    bounds = [families.uniform_bound(denoiser, batch, generator) for batch in clean.split(256)]
    mean, error = torch.stack(bounds).mean(), torch.stack(bounds).std() / len(bounds) ** 0.5
    assert abs(mean + (law * law.log()).sum()) < 4 * error < 0.1
