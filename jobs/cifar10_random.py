#!/usr/bin/env python
"""Random sampling on CIFAR-10: what every strategy has to beat. The same runs as jobs/cifar10_base.py otherwise.

python jobs/cifar10_random.py --preset scratch --data.root /data/cifar10
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # a job file is a program, not part of the package

import cifar10_base

from alray import replace
from alray.cli import job

PRESETS = {name: replace(config, {"strategy": "random"}) for name, config in cifar10_base.PRESETS.items()}

if __name__ == "__main__":
    job(PRESETS)
