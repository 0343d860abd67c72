"""Section e: a whole run of active learning on scikit-learn's digits: Ray Train, Ray Data, selection on actors."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch
from section import Section

import alray
from jobs.digits import CONFIG, write_digits

_ROUND = "round_{:02d}"
_ROUND_SECONDS = 45  # what a round takes on a machine that loads torch slowly
_LEARNED = 0.3  # top-1 with 40 labels; chance is 0.1


def _settings(section: Section, folder: str) -> dict[str, object]:
    """The demo with one worker, because a worker takes a whole GPU; fewer epochs where the time is short."""
    epochs = 1 if section.tiny else max(2, min(30, int(section.left / 4)))
    if not section.tiny and epochs < 30:
        section.note(f"Cut from 30 to {epochs} epochs a round: there was no time for more.")
    return {
        "root": f"{folder}/runs",
        "data.root": f"{folder}/digits",
        "strategy": "k_center",  # the strategy whose shards use the GPU
        "rounds": 2 if section.tiny else max(1, min(3, int(section.left / _ROUND_SECONDS))),
        "train.epochs": epochs,
        "train.amp": "none" if section.tiny else "bf16",
        "train.checkpoint_every": max(1, epochs // 2),
        "resources.use_gpu": "yes" if torch.cuda.is_available() else "no",
        "resources.train_workers": 1,
        "resources.address": "local",
    }


def run(section: Section) -> None:
    """The run, then a row for each round."""
    with tempfile.TemporaryDirectory() as folder:
        write_digits(str(Path(folder) / "digits"))
        settings = _settings(section, folder)
        start = time.monotonic()
        done = alray.run(alray.replace(CONFIG, settings))
        seconds = time.monotonic() - start
        stages = [
            json.loads((Path(done.dir) / _ROUND.format(n) / "timings.json").read_text())
            for n in range(len(done.rounds))
        ]
    for number, (metrics, took) in enumerate(zip(done.rounds, stages, strict=True)):
        test = metrics["test"] or {}
        section.add("Rounds", round=number, labels=metrics["labels"], top1=test.get("top1"), **_seconds(took))
        if not section.tiny and not (test.get("top1") or 0) > _LEARNED:
            section.failures.append(f"round {number}: nothing was learned, top-1 is {test.get('top1')}")
    section.more["metrics"] = list(done.rounds)
    section.add(
        "Whole run",
        use_gpu=settings["resources.use_gpu"],
        epochs=settings["train.epochs"],
        precision=settings["train.amp"],
        seconds=seconds,
    )


def _seconds(stages: dict[str, float]) -> dict[str, float]:
    return {f"{name}_seconds": value for name, value in stages.items()}
