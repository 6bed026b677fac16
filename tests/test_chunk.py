"""The partition of the vocabulary: at most 32 chunks, multiples of 16, from V alone."""

import pytest
from dlm_kernels.reference import chunk
from hypothesis import given
from hypothesis import strategies as st

SIZES = {
    1: 1024,
    1000: 1024,
    1024: 1024,
    1025: 1024,
    32768: 1024,
    32769: 1040,
    126464: 3952,
    152064: 4752,
    157184: 4912,
    262144: 8192,
}


@pytest.mark.parametrize("vocab, size", SIZES.items())
def test_known_sizes(native_core, vocab, size):
    assert chunk.chunk_size(vocab) == native_core.chunk_size(vocab) == size


@given(vocab=st.integers(1, 2**40))
def test_partition(native_core, vocab):
    size, count = chunk.chunk_size(vocab), chunk.num_chunks(vocab)
    assert (native_core.chunk_size(vocab), native_core.num_chunks(vocab)) == (size, count)
    assert size % 16 == 0 and size >= 1024 and 1 <= count <= 32
    assert (count - 1) * size < vocab <= count * size  # covers [0, V), and the last chunk is not empty


@given(vocab=st.integers(1, 300_000))
def test_edges_tile_the_vocabulary(vocab):
    edges = chunk.chunk_edges(vocab)
    assert len(edges) == chunk.num_chunks(vocab)
    assert edges[0][0] == 0 and edges[-1][1] == vocab
    assert all(a[1] == b[0] for a, b in zip(edges, edges[1:]))
    assert all(0 < end - begin <= chunk.chunk_size(vocab) for begin, end in edges)


@pytest.mark.parametrize("vocab", [126464, 152064, 157184, 262144])
@pytest.mark.parametrize("shards", [2, 4, 8, 16, 32])
def test_shards_of_real_vocabularies_end_on_chunk_edges(vocab, shards):
    """LLaDA, Dream, LLaDA2 and Gemma split over up to 32 ranks: what makes results tensor-parallel-invariant."""
    assert vocab % shards == 0
    assert vocab // shards % chunk.chunk_size(vocab) == 0
