"""The ops of dlm_kernels in readable PyTorch: an independent second opinion, and the fallback on any device.

One file per header of csrc/core. Start with ``ops.py``: it is the whole algorithm on one page. The functions here
take and return exactly what ``torch.ops.dlm_kernels.*`` take and return. They are written to be read aloud, in fp64
where that is cheap, and share no code with the native kernels; tests compare the two. They import only torch.
"""

from .divergence import row_kl
from .ops import denoise_step_, draw_tokens, remask_, row_stats, topk_unmask_
from .renoise import renoise_step_
from .uniform import q_sample, transition_step_

__all__ = [
    "denoise_step_",
    "draw_tokens",
    "q_sample",
    "remask_",
    "renoise_step_",
    "row_kl",
    "row_stats",
    "topk_unmask_",
    "transition_step_",
]
