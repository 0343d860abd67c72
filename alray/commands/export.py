"""The command ``alray export``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from alray.commands.command import Command


class Export(Command):
    """Write a run's model (for timm and ONNX, with a model card) and its labeled images."""

    positional: ClassVar[tuple[str, ...]] = ("run",)
    usage: ClassVar[str] = (
        "alray export RUN --out DIRECTORY [--format timm|onnx|all|none] [--labels csv|folder|webdataset]"
    )
    run: str
    """Directory of the run."""
    out: str
    """Directory to write, empty or new."""
    format: Literal["all", "timm", "onnx", "none"] = "all"
    """Form of the model. timm: model.safetensors with config.json; onnx: model.onnx; none: no model."""
    labels: str = "csv"
    """Form of the labeled images. csv: labels.csv with key, label, origin and URI; folder and webdataset also copy the
    images."""
    round: int = Field(-1, ge=-1)
    """Round whose model is written; -1: the last one."""

    def work(self) -> None:
        """Write the files and name them."""
        from alray.labeling.state import existing

        run = existing(self.run)  # before imports that take seconds
        from alray.export.write import export

        for line in export(run, self.out, self.format, self.labels, self.round):
            print(line)
