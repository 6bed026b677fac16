"""Training text: the King James Bible from Debian's bible-kjv package, or any UTF-8 file with a line per
paragraph."""

import re
import shutil
import subprocess
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers


def king_james_bible() -> list[str]:
    """Every verse on a line of its own, without its reference. Needs Debian's bible-kjv package."""
    if shutil.which("bible") is None:
        raise SystemExit("the default text needs the `bible` command: apt install bible-kjv, or pass --text FILE")
    # -f switches pretty-printing off: "Ge1:1 In the beginning ..." one verse per line.
    output = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], check=True, capture_output=True, text=True).stdout
    return [re.sub(r"^\S+\d+:\d+\s+", "", line).strip() for line in output.splitlines()]


def read_lines(path: Path | None) -> list[str]:
    """Lines of the text with runs of blanks collapsed; empty lines are dropped."""
    lines = king_james_bible() if path is None else path.read_text(encoding="utf-8").splitlines()
    return [clean for line in lines if (clean := re.sub(r"\s+", " ", line).strip())]


def split(lines: list[str]) -> tuple[list[str], list[str]]:
    """(training, held-out) lines: one line in fifty is held out, in runs of up to 100 spread over the whole text."""
    run = max(1, min(100, len(lines) // 250))
    held_out = [i // run % 50 == 49 for i in range(len(lines))]
    training = [line for line, out in zip(lines, held_out, strict=True) if not out]
    return training, [line for line, out in zip(lines, held_out, strict=True) if out]


def train_tokenizer(lines: list[str], vocab_size: int) -> Tokenizer:
    """BPE inside words, which carry their leading space; a line break is a token. Decoding concatenates."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[\p{L}']+| ?[^\p{L}'\s]+|\s"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    alphabet = sorted(set("\n".join(lines)) | {"\n"})
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator((line + "\n" for line in lines), trainer)
    return tokenizer
