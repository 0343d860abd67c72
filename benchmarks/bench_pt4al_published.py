"""PT4AL's published protocol on CIFAR-10: ten rounds of 1,000 labels from all 50,000 images, ordered by the rotation
losses that its authors published (as numbers, not as text), beside random, margin and BASE. Heads on embeddings of the
real images instead of networks trained from scratch: what two cores can do at the full size.

    python benchmarks/bench_pt4al_published.py --data ../shared/data

Also how pretext and supervised loss agree, with the bootstrap interval of Spearman's rho.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from bench_pt4al import agreement_of, labeled_rows
from results import record

from alray import RunConfig, replace
from alray.models.head import Head
from alray.rounds import run
from alray.store import Store

# By name: the changes to PT4AL as in the paper's text.
OTHERS = {"split.seed_set_how": "random", "strategy_options": {}}
VARIANTS: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random", **OTHERS},
    "margin": {"strategy": "margin", **OTHERS},
    "base": {"strategy": "base", **OTHERS},
    "pt4al": {},
    "pt4al, entropy": {"strategy_options": {"uncertainty": "entropy"}},
    "pt4al, class_balanced": {"strategy_options": {"class_balanced": True}},
    "pt4al, cold start from the middle": {"strategy_options": {"cold_start": "middle"}},
    "pt4al, rest carried": {"strategy_options": {"rest": "carry"}},
    "pt4al, normalised logits": {"strategy_options": {"normalise_logits": True}},
    "margin, cold start by pretext loss": {"strategy": "margin", "split.seed_set_how": "pretext"},
}


def source(data: Path, folder: Path) -> Path:
    """Embeddings, labels and the published losses in one file; test images have none, and are never drawn."""
    embeddings = np.load(data / "embeddings/cifar10_mnv2_pca64.npz")
    published = np.load(data / "reference/pt4al_cifar10_rotation_loss.npz")
    features, label = embeddings["features"], embeddings["label"]
    losses = np.zeros(len(features), np.float32)
    (name,) = [name for name in published.files if "loss" in name]
    losses[: len(published[name])] = published[name]
    path = folder / "cifar10.npz"
    np.savez(
        path, features=features, label=label, is_test=np.arange(len(label)) >= len(published[name]), pretext_loss=losses
    )
    return path


def config(path: Path, root: Path, seed: int) -> RunConfig:
    return RunConfig(
        name="cifar10-pt4al", root=str(root), seed=seed, rounds=10, budget=1_000, strategy="pt4al", top_k=(),
        data={"root": str(path)},
        split={"seed_set_size": 1_000, "seed_set_how": "pretext"},
        train={"mode": "linear", "epochs": 60, "batch_size": 128, "lr": 10.0, "weight_decay": 1e-5,
               "schedule": "cosine"},
        resources={"select_workers": "process"},
    )  # type: ignore[arg-type]  # fmt: skip


def agreement(run_dir: str, path: Path) -> dict[str, Any]:
    """Of the images that a run never labeled, by its last head."""
    arrays, out = np.load(path), Store(run_dir)
    rows = np.setdiff1d(np.flatnonzero(~arrays["is_test"]), labeled_rows(out))
    last = max(name for name in out.names() if name.startswith("round_"))
    head = Head.load(out.child(last, "checkpoint"))
    return agreement_of(arrays["features"][rows], head, arrays["label"][rows], arrays["pretext_loss"][rows])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: no embeddings in {args.data}")
        return
    curves: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    entropies: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    agrees = []
    with tempfile.TemporaryDirectory() as temporary:
        path = source(args.data, Path(temporary))
        for seed in range(args.seeds):
            base = config(path, Path(temporary) / "runs", seed)
            for name, changes in VARIANTS.items():
                result = run(replace(base, changes), quiet=True)
                curves[name].append([r["test"]["top1"] for r in result.rounds])
                entropies[name].append([r["labeled_set"]["normalised_entropy"] for r in result.rounds])
                print(seed, name, [round(value, 3) for value in curves[name][-1]], flush=True)
                if name == "random":
                    agrees.append(agreement(result.dir, path))
    labels = [1_000 * (1 + number) for number in range(10)]
    summary = {
        name: {
            "top-1": [[mean(at), stdev(at) if len(at) > 1 else 0.0] for at in zip(*curves[name], strict=True)],
            "class entropy": [mean(at) for at in zip(*entropies[name], strict=True)],
        }
        for name in VARIANTS
    }
    record("pt4al_published", {"seeds": args.seeds, "labels": labels, "mean, deviation": summary, "agreement": agrees})


if __name__ == "__main__":
    main()
