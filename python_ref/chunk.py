"""The one partition of the vocabulary: at most 32 chunks per row, depending on V alone.

Every backend sums chunk by chunk in this order, which is what makes results independent of threads, batches and
shards. The reference itself needs no chunks; this file exists to say where the edges are.
"""

MAX_CHUNKS = 32


def chunk_size(vocab):
    """round_up(max(1024, ceil(V / 32)), 16)."""
    size = max(1024, -(-vocab // MAX_CHUNKS))
    return -(-size // 16) * 16


def num_chunks(vocab):
    """How many chunks cover [0, V): the last may be short, none is empty."""
    return -(-vocab // chunk_size(vocab))


def chunk_edges(vocab):
    """[(begin, end), ...] in index order."""
    size = chunk_size(vocab)
    return [(begin, min(begin + size, vocab)) for begin in range(0, vocab, size)]
