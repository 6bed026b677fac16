"""Drop-ins: one module per codebase, with that codebase's own names and signatures.

They are adapters only: the sampler work is in ``dlm_kernels``. Nothing is imported or patched until one of
them is imported by name::

    from dlm_kernels.integrations.llada import generate
"""
