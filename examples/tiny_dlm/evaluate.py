"""How much the demo's text resembles its training text, in numbers; held-out lines give the scale."""

import argparse
import re
from pathlib import Path

from corpus import read_lines, split
from rich.progress import track

from dlm_kernels.demo import generate, settings


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of n words, punctuation ignored, not across line breaks."""
    found = []
    for line in text.splitlines():
        words = re.findall(r"[\w']+", line)
        found += zip(*(words[i:] for i in range(n)))
    return found


def shares(text: str, known: dict[int, set]) -> dict[str, float]:
    """Share of the n-grams of `text` that occur in the training text, and of word pairs that are no repeats."""
    found = {f"known {n}-grams": sum(g in seen for g in grams) / len(grams)
             for n, seen in known.items() if (grams := ngrams(text, n))}  # fmt: skip
    pairs = ngrams(text, 2)
    return {**found, "distinct pairs": len(set(pairs)) / len(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="the training text (default: Debian's bible-kjv)")
    parser.add_argument("--count", type=int, default=64, help="texts to generate")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--family", choices=settings.FAMILIES, default="masked")
    parser.add_argument("--temperature", type=float, help="default: the family's")
    parser.add_argument("--length", type=int, default=settings.LENGTH)
    parser.add_argument("--show", type=int, default=8, help="texts to print")
    args = parser.parse_args()

    training, held_out = split(read_lines(args.text))
    known = {n: set(ngrams("\n".join(training), n)) for n in (1, 2, 3, 8)}
    how = {"steps": args.steps, "temperature": args.temperature, "length": args.length, "family": args.family}
    texts = [generate(args.prompt, seed=seed, **how).text for seed in track(range(args.count), "generating")]
    for text in texts[: args.show]:
        print(text, end="\n\n")
    generated = "\n".join(texts)
    # As many words as were generated, since the share of repeated pairs depends on the amount of text.
    real, words = [], len(ngrams(generated, 1))
    for line in held_out[:: max(1, len(held_out) // len(generated.splitlines()))]:
        real.append(line)
        if len(ngrams("\n".join(real), 1)) >= words:
            break
    for name, text in (("generated", generated), ("held out", "\n".join(real))):
        print(f"{name:10}", {key: round(value, 3) for key, value in shares(text, known).items()})


if __name__ == "__main__":
    main()
