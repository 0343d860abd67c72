"""Why a run that is planned cannot fit on this machine."""

from __future__ import annotations

import os
import shutil

from alray.atomic import existing
from alray.planning.result import Plan
from alray.reasons import in_bytes
from alray.store import is_remote


def lacking(made: Plan, root: str, alone: bool) -> list[str]:
    """What this machine has too little of, and what to change. root: where features are written; alone: whether the
    run joins no cluster; the memory of a cluster is not looked at."""
    found = []
    if not is_remote(root) and made.feature_bytes > (free := shutil.disk_usage(existing(root)).free):
        found.append(
            f"root: the features need {in_bytes(made.feature_bytes)} on disk, {root} has {in_bytes(free)} free: "
            "choose another --root, or features.dtype float16"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if alone and made.driver_bytes > memory:
        found.append(f"memory: the driver needs {in_bytes(made.driver_bytes)}, this machine has {in_bytes(memory)}")
    if made.gpu_bytes and (total := _gpu_bytes()) and made.gpu_bytes > total:
        found.append(
            f"train.batch_size: a batch needs {in_bytes(made.gpu_bytes)} of a GPU, it has {in_bytes(total)}: lower "
            "train.batch_size or features.batch_size, or use more workers"
        )
    return found


def _gpu_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else 0
