"""DiffusionGemma's generate in transformers: a tiny model with the real vocabulary and canvas."""

from __future__ import annotations

import functools
from unittest import mock

import torch

from .loops import Built, Loop

VOCAB, CANVAS, STEPS = 262_144, 256, 3


def tiny_model(vocab=128, canvas=8, hidden=64, dtype=torch.float32, seed=0, sharpness=60.0, calm=0.3):
    """A DiffusionGemmaForBlockDiffusion of random weights, no downloads. Random weights are sure of nothing and never come to
    rest: ``sharpness`` scales the logits before the cap, ``calm`` how far the embeddings of tokens are apart."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
    from transformers.models.diffusion_gemma.configuration_diffusion_gemma import DiffusionGemmaTextConfig
    from transformers.models.gemma4.configuration_gemma4 import Gemma4VisionConfig

    layers = ["sliding_attention", "full_attention"]
    text = DiffusionGemmaTextConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        global_head_dim=32,
        sliding_window=64,
        layer_types=layers,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=hidden,
    )
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        global_head_dim=16,
    )
    special = dict(image_token_id=vocab - 3, boi_token_id=vocab - 2, eoi_token_id=vocab - 1)
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=canvas, **special)
    torch.manual_seed(seed)
    model = DiffusionGemmaForBlockDiffusion(config).eval().to(dtype)
    embeddings = model.model.decoder.embed_tokens.weight
    with torch.no_grad():
        embeddings.copy_(embeddings[:1] + calm * embeddings)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * sharpness)
    return model


class _Forward(torch.nn.Module):
    """The model's forward as a module of its own: generate calls the method, which runs no hooks."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def _build(vocab):
    model = tiny_model(vocab, CANVAS, dtype=torch.bfloat16)
    ids = torch.arange(16)[None]
    forward = _Forward(type(model).forward)

    @functools.wraps(type(model).forward)
    def watched(self, *args, **kwargs):
        return forward(self, *args, **kwargs)

    def run():
        torch.manual_seed(0)
        with mock.patch.object(type(model), "forward", watched):
            return model.generate(ids, max_new_tokens=CANVAS, max_denoising_steps=STEPS).sequences

    return Built(run, forward, client=model)


LOOPS = [
    Loop(
        "transformers DiffusionGemma generate, bf16",
        "dlm_kernels.accelerate(model)",
        VOCAB,
        CANVAS,
        STEPS,
        _build,
        same=False,
        at_least=3.0,
    )
]
