#!/usr/bin/env python
"""Random sampling on CIFAR-10, the baseline of every strategy: the runs of cifar10_base.py with another strategy.

python jobs/cifar10_random.py --preset scratch --data.root /data/cifar10
"""

from __future__ import annotations

from alray import replace
from alray.cli import job
from alray.recipes import presets

PRESETS = {name: replace(config, {"strategy": "random"}) for name, config in presets("cifar10_base").items()}

if __name__ == "__main__":
    job(PRESETS)
