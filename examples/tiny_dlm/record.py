"""What a training run leaves behind: weights, their checksums, and a JSON with recipe, losses and time."""

import hashlib
import json
import platform
import time
from pathlib import Path

import torch

from dlm_kernels.demo.model import Denoiser, save_model


class Record:
    """Writes <family>.safetensors, <family>.json and SHA256SUMS into `folder`, which holds tokenizer.json already.

    facts: what is known before training (text, recipe, sizes); it opens the JSON.
    """

    def __init__(self, folder: Path, family: str, facts: dict):
        self._folder, self._family, self._facts = folder, family, facts
        self._curve: list[dict] = []
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def checkpoint(self, model: Denoiser, step: int, train: float, held_out: float, tokens_seen: int) -> None:
        """Replace the files by the state at `step`; losses in nats per token."""
        self._curve.append({"step": step, "train": round(train, 4), "held_out": round(held_out, 4)})
        report = {
            **self._facts,
            "tokens_seen": tokens_seen,
            "held_out_nats_per_token": round(held_out, 4),
            "held_out_nats_per_character": round(held_out / self._facts["characters_per_token"], 4),
            "cpu_minutes": round((time.process_time() - self._cpu) / 60, 1),
            "wall_minutes": round((time.monotonic() - self._wall) / 60, 1),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "curve": self._curve,
        }
        weights = self._folder / f"{self._family}.safetensors"
        save_model(model, weights)
        weights.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        files = (*sorted(self._folder.glob("*.safetensors")), self._folder / "tokenizer.json")
        sums = (f"{digest(path)}  {path.name}\n" for path in files)
        (self._folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
