"""The command ``alray index``."""

from __future__ import annotations

from alray.commands.command import Command
from alray.config import IndexConfig


class Index(IndexConfig, Command):
    """Build a catalog, one row per image, from a folder, tars, Parquet, a manifest or embeddings."""

    positional = ("root",)
    usage = "alray index ROOT --out DIRECTORY [--option value ...]"
    out: str
    """Directory for the catalog."""
    overwrite: bool = False
    """Replace a catalog of another source. One of the same source is always made anew."""

    def work(self) -> None:
        """Write the catalog and print what was understood and what was left out."""
        from alray.data import catalog
        from alray.data.origin import refuse_to_replace
        from alray.data.sources.scan import amount
        from alray.reasons import terminal

        if not self.overwrite:
            refuse_to_replace(self, self.out)
        built = catalog.build(self, self.out, progress=True, wants_test=True)
        print(terminal(f"{self.root}:"))
        for line in built.told():
            print(terminal(f"  {line}"))
        print(terminal(f"catalog: {built.uri} ({amount(len(built), 'image')})"))
