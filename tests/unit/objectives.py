"""A training of any objective in this process or in two, on images made on the spot instead of read by Ray."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from two_workers import in_two

from alray.store import Store
from alray.train.batches import Batch, BatchPlan, PairedPlan
from alray.train.loop import fit
from alray.train.objective import Place, Recipe
from alray.train.summary import TrainSummary

Picture = Callable[[int, int], np.ndarray]  # (row, epoch)


@dataclass(frozen=True)
class Made:
    """Images made on the spot."""

    recipe: Recipe
    picture: Picture

    def training(self, plan: BatchPlan | PairedPlan, first_epoch: int) -> Generator[Batch, None, None]:
        for tables in plan.streams(first_epoch, self.recipe.epochs, 17):
            for table in tables:
                block = {name: table[name].to_numpy() for name in ("row", "epoch", "label")}
                images = [self.picture(*pair) for pair in zip(block["row"], block["epoch"], strict=True)]
                yield {**block, "image": np.stack(images)}

    def validation(self) -> Iterator[Batch]:
        raise AssertionError("these objectives have no validation images")


def train(
    recipe: Recipe, picture: Picture, state: dict[str, Any] | None = None
) -> tuple[TrainSummary, list[dict[str, Any]]]:
    """The summary and every state that was reported, as it would be read back."""
    states: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        states.append(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))

    images = Made(recipe, picture)
    summary = fit(
        recipe, Place(), images, wrap=lambda m: m, report=report, tell=lambda make: make() and None, state=state
    )
    return summary, states


def _worker(rank: int, recipe: Recipe, picture: Picture, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    images = Made(recipe, picture)
    wrapped: list[torch.nn.Module] = []

    def wrap(module: torch.nn.Module) -> torch.nn.Module:
        wrapped.append(DistributedDataParallel(module))
        return wrapped[-1]

    summary = fit(recipe, Place(rank, 2), images, wrap=wrap, report=lambda *_: None, tell=lambda make: None)
    Store(recipe.out.uri, "").write_json(f"{rank}.json", summary.to_json())
    learned = [parameter.detach() for module in wrapped for parameter in module.parameters()]
    buffer = io.BytesIO()
    torch.save(learned, buffer)
    Store(recipe.out.uri, "").write_bytes(f"{rank}.pt", buffer.getvalue())
    dist.destroy_process_group()


def train_in_two(recipe: Recipe, picture: Picture, folder: Path) -> list[TrainSummary]:
    in_two(_worker, recipe, picture, str(folder / "meeting"))
    return [TrainSummary.from_json(Store(recipe.out.uri, "").read_json(f"{rank}.json")) for rank in (0, 1)]
