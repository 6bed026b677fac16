"""A short soak: soak.py has the long one."""

import ctypes

import pytest
import soak
from helpers import using_threads

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")


def soaked():
    """What grew in as many steps as it takes for the same numbers to come again."""
    with using_threads(1):
        before, after = soak.soak(steps=1400, warm_up=1400, different=200)
    return after.grown(before)


def test_memory_does_not_grow():
    assert soaked() == []


@pytest.mark.parametrize(
    "leak, noticed",
    [
        (lambda: ctypes.CDLL(None).malloc(24), "in_use"),  # the smallest there is
        (lambda kept=[]: kept.append(object()), "blocks"),
    ],
)
def test_a_leak_in_one_kind_of_steps_is_noticed(monkeypatch, leak, noticed):
    refused = soak.Run.refused

    def leaking(self, *args):
        refused(self, *args)
        leak()

    monkeypatch.setattr(soak.Run, "refused", leaking)
    assert [text.split(":")[0] for text in soaked()] == [noticed]
