"""Functions of PyTorch on a CPU whose first call in a process must not be made by several threads at once.

PyTorch hands some functions of single numbers to Intel's MKL, which looks for the code that fits the processor when a
function is first called. Threads that call it meanwhile may be given code of half the precision for that one call:
every second token's rotation off by 1.5e-4, once in some hundred processes of a busy machine, and never again in the
same process (https://github.com/pytorch/pytorch/issues/188792; MKL 2024.2, which PyTorch's wheels bring along).

Only torch is imported: engines in other environments run this file, too. Not reached are processes that vLLM's server
starts for itself on a CPU.
"""

import torch

FUNCTIONS = (
    "acos",
    "asin",
    "atan",
    "cos",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "log",
    "log10",
    "log2",
    "sin",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
)
"""What PyTorch hands to MKL (ATen/cpu/vml.h)."""


def make() -> None:
    """Call each of them once, from this thread alone, for each type of numbers that MKL has code for."""
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)  # a single number is not spread over threads
        for name in FUNCTIONS:
            getattr(torch, name)(one)
