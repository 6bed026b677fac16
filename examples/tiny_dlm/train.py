"""Train the demo's denoiser on one CPU core; see README.md."""

import argparse
import copy
import math
from pathlib import Path

import torch
from corpus import read_lines, split
from families import FAMILIES, Family
from muon import Muon
from record import Record
from rich.progress import track
from start import start_model, start_tokenizer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from dlm_kernels.demo.model import Denoiser


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a tiny diffusion language model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--family", choices=sorted(FAMILIES), default="masked")
    parser.add_argument("--text", type=Path, help="UTF-8 file to train on (default: Debian's bible-kjv)")
    parser.add_argument(
        "--out", type=Path, default=Path("tiny_dlm_out"), help="folder for weights, tokenizer and recipe"
    )
    parser.add_argument(
        "--init",
        type=Path,
        help="weights to start from, with tokenizer.json beside them; they set vocabulary and shape",
    )
    parser.add_argument("--vocab", type=int, default=2048, help="BPE vocabulary")
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--window", type=int, default=96, help="tokens per training window")
    parser.add_argument("--batch", type=int, default=32, help="windows per step")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--lr", type=float, default=3e-3, help="AdamW: embedding, gains and bias")
    parser.add_argument("--muon-lr", type=float, default=0.02, help="Muon: the matrices; 0 gives them to AdamW too")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--weight-floor", type=float, default=0.1, help="cap of the loss weight 1 / t, as a share of t")
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints of the averaged weights")
    return parser.parse_args()


class Windows:
    """Windows of `length` tokens that start where a line starts, as the canvases of the demo do."""

    def __init__(self, tokenizer, lines: list[str], length: int):
        encoded = [e.ids for e in tokenizer.encode_batch([line + "\n" for line in lines])]
        self.tokens = torch.tensor([token for ids in encoded for token in ids])
        starts = torch.tensor([0] + [len(ids) for ids in encoded[:-1]]).cumsum(0)
        self.starts = starts[starts + length <= len(self.tokens)]
        self.offsets = torch.arange(length)
        if not len(self.starts):
            raise SystemExit(f"the text has {len(self.tokens)} tokens, fewer than a window of {length}")

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Clean tokens int64 [count, length]."""
        chosen = self.starts[torch.randint(len(self.starts), (count,), generator=generator)]
        return self.tokens[chosen[:, None] + self.offsets]


@torch.no_grad()
def held_out_bound(model: Denoiser, windows: Windows, family: Family, batches: int = 8, batch: int = 96) -> float:
    """The bound on held-out windows, the same windows and noise at every call."""
    generator = torch.Generator().manual_seed(1234)
    bounds = [family.bound(model, windows.sample(batch, generator), generator) for _ in range(batches)]
    return float(torch.stack(bounds).mean())


def optimizers(model: Denoiser, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] if args.muon_lr > 0 else []
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    groups = [
        {"params": [p for p in others if p.ndim == 2], "weight_decay": args.weight_decay},
        {"params": [p for p in others if p.ndim != 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    return [adam, Muon(matrices, lr=args.muon_lr, weight_decay=args.weight_decay)] if matrices else [adam]


def schedules(optims: list[torch.optim.Optimizer], steps: int, warmup: int) -> list[LambdaLR]:
    """Linear warm-up, then half a cosine down to 0."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return [LambdaLR(optim, factor) for optim in optims]


@torch.no_grad()
def average_into(averaged: Denoiser, model: Denoiser, step: int, ema: float) -> None:
    """Move the averaged weights towards the trained ones; the first steps forget the initial weights sooner."""
    decay = min(ema, (step + 1) / (step + 10))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    generator = torch.Generator().manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    training, held_out = split(read_lines(args.text))
    tokenizer = start_tokenizer(args, training + held_out)
    windows, held_out_windows = (Windows(tokenizer, lines, args.window) for lines in (training, held_out))

    model = start_model(args, tokenizer, windows.tokens)
    averaged = copy.deepcopy(model).requires_grad_(False)
    family = FAMILIES[args.family]
    optims = optimizers(model, args)
    schedulers = schedules(optims, args.steps, args.warmup)

    facts = {
        "text": args.text.name if args.text else "King James Bible (Debian package bible-kjv)",
        "recipe": {
            name: getattr(value, "name", value) for name, value in vars(args).items() if name not in ("text", "out")
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_tokens": len(windows.tokens),
        "characters_per_token": round(sum(len(line) + 1 for line in held_out) / len(held_out_windows.tokens), 4),
    }
    print({name: value for name, value in facts.items() if name != "recipe"}, flush=True)
    record = Record(args.out, args.family, facts)

    running = None
    for step in track(range(args.steps), "training"):
        loss = family.loss(model, windows.sample(args.batch, generator), generator, args.weight_floor)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim, scheduler in zip(optims, schedulers, strict=True):
            optim.step()
            optim.zero_grad(set_to_none=True)
            scheduler.step()
        average_into(averaged, model, step, args.ema)
        value = float(loss.detach())
        running = value if running is None else 0.98 * running + 0.02 * value
        done = step + 1
        if done % args.save_every == 0 or done == args.steps:
            held = held_out_bound(averaged, held_out_windows, family)
            record.checkpoint(averaged, done, running, held, done * args.batch * args.window)
            print(f"step {done}: train {running:.3f}, held out {held:.3f} nats/token", flush=True)


if __name__ == "__main__":
    train(arguments())
