#!/usr/bin/env python
"""The demo: scikit-learn's handwritten digits through the whole real path, BASE against random.

    python jobs/digits.py --strategy margin

1,797 real images are written out as an image folder, indexed, streamed by Ray Data, fine-tuned on by two Ray Train
workers, embedded by a Ray Data actor pool, and chosen from by two selection shards. Both strategies start from the
same seed set. The images go into <root>/digits-images, unless --data.root or --data.catalog names others.
"""

from __future__ import annotations

import io

from alray import RunConfig, replace
from alray.cli import guarded, options
from alray.config import (
    ConfigError,
    FeatureConfig,
    ModelConfig,
    ResourceConfig,
    SplitConfig,
    TrainConfig,
    TransformConfig,
)  # fmt: skip

CONFIG = RunConfig(
    name="digits",
    rounds=3,
    budget=60,
    strategy="base",
    top_k=(3,),
    split=SplitConfig(val_size=100, seed_set_size=40),
    transform=TransformConfig(size=16, train="crop_pad", pad=1, flip=False, resize=0),
    model=ModelConfig(
        backbone="resnet18",
        options={"channels": [16, 32, 64, 128]},
        small_stem=True,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    train=TrainConfig(
        epochs=30, patience=0, batch_size=32, lr=0.1, weight_decay=5e-4, schedule="cosine", checkpoint_every=10
    ),
    features=FeatureConfig(dtype="float32"),
    # Two workers would take two GPUs. On one: --resources.use-gpu yes --resources.train-workers 1
    resources=ResourceConfig(use_gpu="no", train_workers=2, extract_actors=1, select_shards=2),
)


def write_digits(folder: str) -> None:
    """scikit-learn's digits as <folder>/{train,test}/<digit>/<number>.png; every fourth image is a test image."""
    from PIL import Image

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError("the handwritten digits come with scikit-learn: pip install 'alray[demo]'") from None

    from alray.store import Store

    store, digits = Store(folder, sums=""), load_digits()  # images need no checksums
    names = [
        f"{'test' if number % 4 == 0 else 'train'}/{label}/{number:04d}.png"
        for number, label in enumerate(digits.target)
    ]
    if store.has(names[-1]):  # written last: all are there
        return
    for name, pixels in zip(names, digits.images, strict=True):
        image = io.BytesIO()
        Image.fromarray((pixels * 255 / 16).round().astype("uint8")).save(image, "PNG")
        store.write_bytes(name, image.getvalue())


def main() -> None:
    """Write the images, run both strategies, compare them."""
    config = options(CONFIG)

    from alray.cold_start import strategy_of
    from alray.report import report  # imported after the options are read, so that --help takes no seconds
    from alray.rounds import run
    from alray.store import absolute, join
    from alray.submitted import check_places

    check_places(config)
    strategy_of(config)  # a wrong name is told before images are written
    if not (config.data.root or config.data.catalog):
        config = replace(config, {"data.root": join(absolute(config.root), "digits-images")})
        write_digits(config.data.root)
    strategies = dict.fromkeys([config.strategy, "random"])
    runs = [run(replace(config, {"strategy": name})) for name in strategies]
    print(report([result.dir for result in runs], out=f"{config.root}/digits-report"))
    print("\n".join(f"run: {result.dir}" for result in runs))


if __name__ == "__main__":
    guarded(main)
