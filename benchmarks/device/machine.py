"""What the machine is, and two rates against which everything else is held: a copy and a bf16 product."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGES = ("torch", "torchvision", "timm", "ray", "numpy", "pyarrow", "scipy", "scikit-learn", "faiss-gpu")


def about(commit: str) -> dict[str, Any]:
    """Card, driver, versions, commit and date."""
    card, driver, memory = _card()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit or _commit(),
        "card": card,
        "driver": driver,
        "card_memory": memory,
        "cuda": torch.version.cuda,
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _card() -> tuple[str, str, str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        name, driver, memory = (part.strip() for part in said.splitlines()[0].split(","))
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        return "none", "", ""
    return name, driver, memory


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    try:
        said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def device_name(device: torch.device) -> str:
    """For tables."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def synchronize(device: torch.device) -> None:
    """Wait for what was given to the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    """The median time of a piece of work after two warm-ups, each measured to its end."""
    times = []
    for turn in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def rates(device: torch.device, tiny: bool) -> dict[str, float]:
    """Bytes a second of a copy in the device's memory (read and written) and of one to the device from pinned memory,
    and operations a second of a bf16 product of random numbers."""
    numbers, side = (1 << 20, 256) if tiny or device.type == "cpu" else (1 << 30, 8192)
    return {
        "copy_bytes_per_second": _copied(device, numbers, device),
        "host_to_device_bytes_per_second": _copied(torch.device("cpu"), numbers // 4, device) / 2,
        "bf16_operations_per_second": _multiplied(device, side),
    }


def _copied(origin: torch.device, numbers: int, device: torch.device) -> float:
    """Bytes read and written a second."""
    source = torch.randn(numbers, device=origin).bfloat16()
    source = source.pin_memory() if origin.type != device.type else source
    target = torch.empty_like(source, device=device)
    return 4 * numbers / median_seconds(lambda: target.copy_(source), device)


def _multiplied(device: torch.device, side: int) -> float:
    x, y = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: x @ y, device)


def peaks(device: torch.device) -> dict[str, float]:
    """Largest memory so far in GiB: of this process with the files that it maps, and of the GPU."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cuda = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {"host_peak_gib": round(host / 2**30, 2), "gpu_peak_gib": round(cuda / 2**30, 2)}


def allocated() -> int:
    """Bytes asked of the GPU so far, freed ones too: more of them after some work means that it used the GPU."""
    return int(torch.cuda.memory_stats().get("allocated_bytes.all.allocated", 0)) if torch.cuda.is_available() else 0
