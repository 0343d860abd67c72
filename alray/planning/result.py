"""What a run was planned to take, as data and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from alray.durations import duration
from alray.reasons import in_bytes


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    images: by use; read_bytes: of the encoded images, all epochs and rounds; feature_bytes: on disk at a time;
    shard_bytes, driver_bytes: memory of a selection actor and of the driver's tables; gpu_bytes: of the largest batch,
    0 without GPU; seconds: by stage and round; nodes; problems: why it cannot fit, with what to change; unknown: what
    is not in the plan.
    """

    images: dict[str, int]
    read_bytes: int
    feature_bytes: int
    shard_bytes: int
    driver_bytes: int
    gpu_bytes: int
    seconds: dict[str, list[float]]
    nodes: int = 1
    gpus: float = 0
    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return sum(map(sum, self.seconds.values()))

    def to_json(self) -> dict[str, Any]:
        """As a JSON tree."""
        return asdict(self)

    def lines(self, price: float = 0.0) -> list[str]:
        """The plan for a terminal. price: of one node for an hour, in any currency; 0: no money is shown."""
        rounds = max(map(len, self.seconds.values()), default=0)
        found = [f"{name:10} {number:,} images" for name, number in self.images.items()]
        found += [
            f"{'read':10} {in_bytes(self.read_bytes)} of encoded images, over all epochs and rounds",
            f"{'features':10} {in_bytes(self.feature_bytes)} on disk",
            f"{'memory':10} {in_bytes(self.shard_bytes)} per selection shard, "
            f"{in_bytes(self.driver_bytes)} of the driver"
            + (f", {in_bytes(self.gpu_bytes)} of a GPU" if self.gpu_bytes else ""),
        ]
        for name, values in self.seconds.items():
            if sum(values):
                each = "once" if sum(value > 0 for value in values) == 1 else f"{rounds} rounds"
                found.append(f"{name:10} {duration(sum(values))} ({each}; the longest {duration(max(values))})")
        hours = self.total / 3600
        whole = f"{'total':10} {duration(self.total)}"
        whole += f" · {hours * self.gpus:.2g} GPU-hours" if self.gpus else ""
        whole += f" · {hours * self.nodes * price:,.2f} for {self.nodes} node{'s' * (self.nodes > 1)}" if price else ""
        return [*found, whole, *self.unknown]
