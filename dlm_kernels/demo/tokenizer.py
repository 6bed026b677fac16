"""The demo's tokenizer: BPE inside words, from a tokenizer.json. It refuses characters its training text
lacks."""

from pathlib import Path

from .settings import ArgumentError


class TextTokenizer:
    """encode: str -> list of ids; decode: ids -> str. decode(encode(text)) == text."""

    def __init__(self, path: Path | str):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        # BPE starts from single characters, so those of length one are all it can read.
        self._alphabet = {piece for piece in self._tokenizer.get_vocab() if len(piece) == 1}

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. ArgumentError names the characters the vocabulary has no token for."""
        unknown = sorted(set(text) - self._alphabet)
        if unknown:
            raise ArgumentError(f"prompt: characters must occur in the training text, got {''.join(unknown)!r}")
        return self._tokenizer.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def piece(self, token: int) -> str:
        """Text of one token, leading space included."""
        return self._tokenizer.id_to_token(token)
