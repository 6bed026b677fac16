"""Pipelines of diffusers with small random models, for the bench, the tests and the examples: nothing is downloaded."""

import types

import torch
from diffusers import DiffusionGemmaPipeline, LLaDA2Pipeline

from .loops_transformers import tiny_model

VOCAB, MASK, EOS = 200, 199, 7


class Bidirectional(torch.nn.Module):
    """As LLaDA2Pipeline calls its model. Every position sees the others, so that every step of a block differs."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, vocab=VOCAB, hidden=32, scale=6.0, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = torch.nn.Parameter(torch.randn(vocab, hidden, generator=generator))
        self.head = torch.nn.Parameter(scale * torch.randn(hidden, vocab, generator=generator) / hidden**0.5)
        self.calls = 0

    def forward(self, x, attention_mask=None, position_ids=None):
        self.calls += 1
        seen = self.embed[x] * attention_mask[..., None]
        mixed = seen.cumsum(dim=1) + 0.7 * seen.flip(1).cumsum(dim=1).flip(1) + position_ids[..., None].sin()
        return types.SimpleNamespace(logits=torch.nn.functional.normalize(mixed, dim=-1) @ self.head)


def llada2(scheduler, **model):
    """A LLaDA2Pipeline without a tokenizer."""
    pipe = LLaDA2Pipeline(Bidirectional(**model), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Processor:
    """A prompt is the text of its token ids."""

    eos_token_id = EOS

    def apply_chat_template(self, messages, **options):
        talks = messages if isinstance(messages[0], list) else [messages]
        return {"input_ids": torch.tensor([[int(t) for t in talk[0]["content"].split()] for talk in talks])}

    def batch_decode(self, sequences, skip_special_tokens=True):
        return [" ".join(str(int(t)) for t in s) for s in sequences]


def diffusion_gemma(scheduler, vocab=512, canvas=16, **model):
    """A DiffusionGemmaPipeline."""
    with torch.random.fork_rng():
        pipe = DiffusionGemmaPipeline(tiny_model(vocab, canvas, **model), scheduler, Processor())
    pipe.set_progress_bar_config(disable=True)
    return pipe
