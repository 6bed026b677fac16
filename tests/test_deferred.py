"""Tensors that nobody has computed yet: to who looks at them they are tensors."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from dlm_kernels.integrations.deferred import Deferred, Law


def saved(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


LOOKS = {
    "operation": lambda t: t + 0,
    "index": lambda t: torch.stack([t[0], t[1]]),
    "numpy": lambda t: torch.from_numpy(t.cpu().numpy().copy()),
    "asarray": lambda t: torch.from_numpy(np.asarray(t).copy()),
    "tolist": lambda t: torch.tensor(t.tolist()),
    "iteration": lambda t: torch.stack(list(t)),
    "deep copy": copy.deepcopy,
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "file": saved,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looks(look):
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    law = Law(logits)
    assert torch.equal(look(law), logits.softmax(-1)) and law.source is None
    assert repr(law) == repr(logits.softmax(-1))


def test_what_is_written_stays():
    deferred = Deferred(torch.ones(2, 3, 5), lambda: torch.ones(2, 3, 5))
    deferred[0] = 7.0
    deferred.view(-1, 5)[-1].zero_()
    assert deferred.sum() == 7 * 15 + 10 and deferred.source is None
