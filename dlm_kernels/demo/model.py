"""The demo's denoiser: a small bidirectional transformer that predicts clean tokens from a noisy canvas.

It takes no time input: a masked canvas shows its noise level by its masks, and a canvas of uniform noise can
be denoised without being told the level. So one module serves both families; they differ in the ids it can
read.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a denoiser, stored as JSON in the metadata of its safetensors file.

    family:      "masked" (one extra input id, the mask) or "uniform" (input ids = output ids).
    vocab_size:  number of ids the model can predict, V.
    window:      number of tokens it was trained on; longer canvases have to be fed in windows of this size.
    """

    family: str
    vocab_size: int
    dim: int = 192
    layers: int = 4
    heads: int = 6
    window: int = 96
    rope_base: float = 1000.0

    @property
    def mask_id(self) -> int:
        """Id of the mask: the first id past the vocabulary, so that the model has no logit for it."""
        if self.family != "masked":
            raise ValueError(f"family: must be 'masked' to have a mask id, got '{self.family}'")
        return self.vocab_size

    @property
    def input_size(self) -> int:
        """Number of ids the embedding knows."""
        return self.vocab_size + (self.family == "masked")


def rope_table(length: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles, fp32 [length, head_dim // 2] each."""
    frequency = base ** -torch.linspace(0, 1, head_dim // 2)
    angle = torch.arange(length)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of x [..., length, head_dim] by their positions' angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Block(nn.Module):
    """Pre-norm attention over the whole canvas, then a squared-ReLU MLP, on a residual stream [B, L, dim]."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.head_dim = config.heads, config.dim // config.heads
        self.attention_norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.attention_out = nn.Linear(config.dim, config.dim, bias=False)
        self.mlp_norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.mlp_in = nn.Linear(config.dim, 4 * config.dim, bias=False)
        self.mlp_out = nn.Linear(4 * config.dim, config.dim, bias=False)

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, dim = h.shape
        qkv = self.qkv(self.attention_norm(h)).view(batch, length, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # Normalised queries and keys bound the attention logits, so training can use a large learning rate.
        q = rotate(F.rms_norm(q, (self.head_dim,), eps=1e-5), cos, sin)
        k = rotate(F.rms_norm(k, (self.head_dim,), eps=1e-5), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v)
        h = h + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, dim))
        return h + self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(h))).square())


class Denoiser(nn.Module):
    """Token ids int64 [B, L] -> logits fp32 [B, L, vocab_size] of the clean token at every position."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.input_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self._initialise()

    def _initialise(self) -> None:
        """Small embeddings, output layers at zero: training starts from the law of the output bias."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        for block in self.blocks:
            for linear in (block.qkv, block.mlp_in):
                nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(block.attention_out.weight)
            nn.init.zeros_(block.mlp_out.weight)

    def hidden(self, x: Tensor) -> Tensor:
        """Final normalised states [B, L, dim]; training projects only the positions that carry loss."""
        cos, sin = rope_table(x.shape[1], self.config.dim // self.config.heads, self.config.rope_base)
        h = self.embedding(x)
        for block in self.blocks:
            h = block(h, cos.to(h), sin.to(h))
        return self.norm(h)

    def project(self, h: Tensor) -> Tensor:
        """Logits [..., vocab_size] of states [..., dim]; the embedding is shared, without the mask's row."""
        return F.linear(h, self.embedding.weight[: self.config.vocab_size], self.output_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.hidden(x))


STEP = 1 / 8  # of a row's root mean square: 5.5 bits per weight once a wheel is compressed (assets/README.md)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as int8 multiples of its rows' steps: levels like ``weight``, steps fp16 [rows, 1]."""
    rms, most = weight.square().mean(1, keepdim=True).sqrt(), weight.abs().amax(1, keepdim=True)
    step = torch.maximum(rms * STEP, most / 127).clamp_min(2**-14).half()
    return (weight / step.float()).round().to(torch.int8), step


def save_model(model: Denoiser, path: Path | str) -> None:
    """Write safetensors: matrices ``rounded``, their steps beside them as <name>.step, the rest fp16; the config is metadata."""
    from safetensors.torch import save_file

    weights = {}
    for name, value in model.state_dict().items():
        if value.ndim == 2:
            weights[name], weights[f"{name}.step"] = rounded(value.detach())
        else:
            weights[name] = value.detach().half()
    save_file(weights, str(path), metadata={"config": json.dumps(asdict(model.config))})


def load_model(path: Path | str) -> Denoiser:
    """Read weights written by save_model into an fp32 model in eval mode."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        config = ModelConfig(**json.loads(file.metadata()["config"]))
        stored = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    steps = {name: stored.pop(f"{name}.step", 1.0) for name in list(stored) if not name.endswith(".step")}
    model = Denoiser(config)
    model.load_state_dict({name: value * steps[name] for name, value in stored.items()})
    return model.eval()
