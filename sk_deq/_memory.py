"""How much memory there is, asked before something large is allocated."""

import os
from pathlib import Path

import torch

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def total_memory(device="cpu"):
    """Bytes that a process can hope for on `device`; infinity where the platform does not tell."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")
    try:
        return min(total, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or no limit
        return total


def require_memory(needed, purpose, remedy, device="cpu"):
    """Raise a MemoryError that names the purpose and the remedy if `needed` bytes cannot fit."""
    total = total_memory(device)
    if needed > total:
        raise MemoryError(
            f"{purpose} needs {needed / 2**30:.1f} GiB of memory, but there are "
            f"{total / 2**30:.1f} GiB. {remedy}"
        )
