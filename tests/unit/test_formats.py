"""`alray formats`: every sentence comes from the owner of what it describes."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import tree

from alray.cli import main
from alray.data.catalog import CatalogError, index
from alray.data.formats import described
from alray.data.sources import refused
from alray.data.sources.kinds import SOURCES
from alray.data.sources.split_names import SYNONYMS


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_says_what_it_reads(name: str) -> None:
    kind = SOURCES[name]
    for text in (kind.about, kind.labels, kind.keys):
        assert len(text) > 20 and text.endswith(".")
    alone = described([name])
    assert alone.startswith(name) and alone in described()
    assert all(ending in alone for ending in kind.extensions) and all(known in alone for known in kind.layouts)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["formats"])
    printed = capsys.readouterr().out
    assert all(word in printed for words in SYNONYMS.values() for word in words)
    for what in (*SOURCES, "s3://", "gs://", "hf://", "abfs://", "http://", "PASCAL VOC", "Tiny ImageNet", "TFRecord"):
        assert what in printed
    main(["formats", "folder"])
    assert "TFRecord" not in capsys.readouterr().out
    with pytest.raises(CatalogError, match="format: expected one of folder, .*, got tfrecord"):
        described(["tfrecord"])


@pytest.mark.parametrize("endings", list(refused._KNOWN))
def test_a_format_that_is_not_read_is_refused_by_its_name(endings: tuple[str, ...], tmp_path: Path) -> None:
    what, todo = refused._KNOWN[endings]
    for ending in endings:
        name = ending if not ending.startswith(".") else f"part-00000{ending}"
        source = tree(tmp_path / f"s{ending}", name, "README.md")
        with pytest.raises(CatalogError) as error:
            index(source, str(tmp_path / "o"))
        assert f"{name} is {what}, which is not read here: {todo}" in str(error.value)
