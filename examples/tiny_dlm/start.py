"""Where a run starts: at a new tokenizer and random weights, or, with `--init`, at those of an earlier run."""

import argparse
from dataclasses import replace

import torch
from corpus import train_tokenizer
from tokenizers import Tokenizer
from torch import Tensor

from dlm_kernels.demo.model import Denoiser, ModelConfig, load_model


def start_tokenizer(args: argparse.Namespace, lines: list[str]) -> Tokenizer:
    """The tokenizer, which is also written to the output folder."""
    target = args.out / "tokenizer.json"
    if args.init is None:
        train_tokenizer(lines, args.vocab).save(str(target))
    else:
        target.write_bytes(args.init.with_name("tokenizer.json").read_bytes())
    return Tokenizer.from_file(str(target))


def start_model(args: argparse.Namespace, tokenizer: Tokenizer, tokens: Tensor) -> Denoiser:
    """Random weights that predict the frequencies of `tokens`, or those of `--init`, whose shape is entered into `args`.

    Either family knows the language that the other one needs; what differs is the mask, the last row of the embedding.
    """
    if args.init is None:
        shape = (args.family, tokenizer.get_vocab_size(), args.dim, args.layers, args.heads, args.window)
        model = Denoiser(ModelConfig(*shape))
        counts = torch.bincount(tokens, minlength=model.config.vocab_size).float() + 1
        model.output_bias.data = (counts / counts.sum()).log()
        return model
    given = load_model(args.init)
    model = Denoiser(replace(given.config, family=args.family, window=args.window))
    if model.config.input_size > given.config.input_size:
        raise SystemExit(f"--init: a {given.config.family} model has no mask, which a {args.family} one needs")
    weights = given.state_dict()
    weights["embedding.weight"] = weights["embedding.weight"][: model.config.input_size]
    model.load_state_dict(weights)
    args.vocab, args.dim, args.layers = model.config.vocab_size, model.config.dim, model.config.layers
    args.heads = model.config.heads
    return model
