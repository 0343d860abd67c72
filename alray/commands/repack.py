"""The command ``alray repack``."""

from __future__ import annotations

from typing import Literal

from alray.commands.command import Command


class Repack(Command):
    """Write the images of a catalog as WebDataset tars or as an image folder, byte for byte."""

    positional = ("catalog",)
    usage = "alray repack CATALOG --out DIRECTORY [--format webdataset|folder]"
    catalog: str
    """Directory of the catalog."""
    out: str
    """Directory for the tars or the folder."""
    format: Literal["webdataset", "folder"] = "webdataset"
    """What to write."""

    def work(self) -> None:
        """Write the files, and say how many images they have."""
        from alray.data.catalog import Catalog
        from alray.data.repack import repack
        from alray.reasons import terminal

        written = repack(Catalog.open(self.catalog), self.out, self.format, progress=True)
        print(terminal(f"{written:,} images: {self.out}"))
