"""Ops before a fork and in the processes behind it: DataLoader workers, and multiprocessing's.

python tests/fork_driver.py         prints what ran, ends with 0 if every process said the same
"""

import multiprocessing

import torch
from torch.utils.data import DataLoader, Dataset

import dlm_kernels as dlm

B, L, VOCAB, ITEMS = 2, 16, 4000, 8
LOGITS = 3 * torch.randn((B, L, VOCAB), generator=torch.Generator().manual_seed(0))


def item(i):
    """Noised, and denoised by a step: int64 [3, B, L]."""
    clean = torch.arange(B * L).view(B, L) + i
    noised = dlm.q_sample(clean, 0.5, vocab_size=VOCAB, mask_id=VOCAB, seed=i)
    step = dlm.denoise_step_(noised.clone(), LOGITS, mask_id=VOCAB, rule=dlm.TopK(5), temperature=1.0, seed=i)
    uniform = dlm.uniform_step_(clean.clone(), LOGITS, alpha_t=0.2, alpha_s=0.7, seed=i)
    return torch.stack([noised, step.x, uniform.x])


class Items(Dataset):
    def __len__(self):
        return ITEMS

    def __getitem__(self, i):
        return item(i)


def in_child(i):
    torch.set_num_threads(1)  # as DataLoader does: after a fork OpenMP has no more threads to wake
    return item(i).numpy()


def main():
    torch.set_num_threads(2)
    wanted = torch.stack([item(i) for i in range(ITEMS)])  # the parent's pool of threads is running
    for method in ("fork", "spawn"):
        loader = DataLoader(Items(), batch_size=2, num_workers=2, multiprocessing_context=method)
        assert torch.equal(torch.cat(list(loader)), wanted), f"DataLoader, {method}"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        got = torch.stack([torch.from_numpy(each) for each in pool.map(in_child, range(ITEMS))])
    assert torch.equal(got, wanted), "a pool"
    assert torch.equal(torch.stack([item(i) for i in range(ITEMS)]), wanted), "the parent afterwards"
    print(
        f"2 DataLoader workers by fork, 2 by spawn, 2 forks of a pool, the parent before and after: {ITEMS} items alike"
    )


if __name__ == "__main__":
    main()
