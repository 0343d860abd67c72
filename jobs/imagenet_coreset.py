#!/usr/bin/env python
"""Core-Set on ImageNet (Sener & Savarese 2018): exact k-center greedy on the whole pool, no sub-sampling.

    python jobs/imagenet_coreset.py --data.root s3://bucket/imagenet --model.checkpoint moco_v2_800ep_pretrain.pth.tar
    python jobs/imagenet_coreset.py --preset finetune --resources.train-workers 8 ...

The protocol is that of `imagenet_base.py`, so that both papers' strategies can be compared label by label.
"""

from __future__ import annotations

from alray import replace
from alray.cli import job
from alray.recipes import presets

PRESETS = {name: replace(config, {"strategy": "k_center"}) for name, config in presets("imagenet_base").items()}

if __name__ == "__main__":
    job(PRESETS)
