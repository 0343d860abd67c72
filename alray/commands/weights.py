"""The command ``alray weights``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from alray.commands.command import Command
from alray.config import ConfigError


class Weights(Command):
    """Say what is in a file of weights and whether a backbone loads it. Without a file: list the families that are
    known. Nothing in the file is run, and nothing is downloaded."""

    positional = ("files",)
    usage = "alray weights [FILE ...] [--backbone NAME] [--option value ...]"
    files: tuple[str, ...] = ()
    """Paths or URIs, as for model.checkpoint; none: list the families."""
    backbone: str = ""
    """Any model name of timm: try to load the file into it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for timm.create_model, as for model.options."""
    checkpoint_part: str = ""
    """Which copy of the backbone to take, as for model.checkpoint_part."""
    small_stem: bool = False
    """As for model.small_stem."""
    image_size: int = Field(0, ge=0)
    """Side of the images in pixels; 0 takes the model's own."""

    def work(self) -> None:
        """Print the table, or what is in each file and how it loads."""
        self._refuse_unread()
        from alray.models.weight_files import CheckpointError, read

        if not self.files:
            from alray.models.describe import families

            print(families())
        refused = []
        for file in self.files:
            try:
                content = read(file)  # refuses other files before torch is imported, which takes seconds
                from alray.models.describe import described

                print(described(file, content))
                if self.backbone:
                    print(self._loaded(file))
            except CheckpointError as error:
                if len(self.files) == 1:
                    raise
                print(f"refused: {error}")
                refused.append(file)
        if refused:
            raise CheckpointError(f"{len(refused)} of {len(self.files)} files were refused")

    def _refuse_unread(self) -> None:
        """Raise ConfigError for an option that nothing would read."""
        plain = Weights()
        changed = [name for name in type(self).model_fields if getattr(self, name) != getattr(plain, name)]
        options = [name for name in changed if name != "files"]
        if self.backbone and not self.files:
            raise ConfigError(f"backbone: expected a file to load into {self.backbone}, got none")
        if options and not self.backbone:
            raise ConfigError(f"{options[-1]}: expected a backbone that it is for (--backbone NAME), got none")

    def _loaded(self, file: str) -> str:
        from alray.config import ModelConfig
        from alray.models.backbone import create

        model = ModelConfig(
            backbone=self.backbone,
            options=self.options,
            checkpoint=file,
            checkpoint_part=self.checkpoint_part,
            small_stem=self.small_stem,
        )
        return str(create(model, 2, 0, self.image_size).report)
