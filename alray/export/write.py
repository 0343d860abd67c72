"""Write what a run gives away into one directory."""

from __future__ import annotations

from collections.abc import Callable

from alray.data.oracle import Status
from alray.export import card
from alray.export.labels import (
    CSV,
    MASKS,
    ExportError,
    as_csv,
    check_images,
    labeled,
    skipped,
    write_images,
    write_masks,
)
from alray.labeling import state
from alray.rundir import Missing, RunDir
from alray.store import Store, absolute
from alray.tasks import task_of


def export(run: RunDir, out: str, format: str, labels: str, number: int = -1) -> list[str]:
    """Write the model of a round and the labeled images. Returns sentences about what was written.

    format: timm, onnx, all or none; labels: csv, folder or webdataset; number: of the round, -1 for the last one.
    Raises ExportError, CatalogError, RunError, StoreError.
    """
    done = run.committed()
    if not done or (number >= 0 and number not in done):
        have = f"rounds {done[0]} to {done[-1]}" if done else "none"
        raise ExportError(f"{run.uri}: expected a finished round{'' if number < 0 else f' {number}'}, got {have}")
    number = done[-1] if number < 0 else number
    store = Store(absolute(out), "")
    if store.names():
        raise ExportError(f"{out}: expected an empty or new directory, got one with {store.names()[0]}")
    store.check_writable()
    try:
        catalog = run.catalog()
    except Missing as missing:
        raise ExportError(f"{run.uri}: {missing}") from None
    images, drawn = labeled(run, catalog), task_of(run.settings()).answers == Status.MASK
    if drawn and labels != "csv":
        raise ExportError(f"--labels: expected csv, because images have masks and no classes, got {labels}")
    if labels != "csv":
        check_images(images, catalog, labels)  # before anything is written
    files: list[str] = []
    told: list[str] = []
    if format != "none":
        files, told = _write_model(run, number, format, store)
    store.write_bytes(CSV, as_csv(images).encode())
    if drawn:
        write_masks(images, run, catalog, store)
        told.append(f"{len(images):,} masks: {store.at(MASKS)}")
    if labels != "csv":
        write_images(images, catalog, state.classes(run), labels, store.child("images"))
        told.append(f"{len(images):,} labeled images: {store.at('images')}")
    left = ", ".join(f"{count} {what}" for what, count in skipped(run).items() if count)
    told.append(f"{len(images):,} labels: {store.at(CSV)}" + (f" (without a label: {left})" if left else ""))
    classes = _classes(run, number)
    store.write_bytes(card.FILE, card.card(run, number, classes, files, len(images)).encode())
    return [*told, f"model card: {store.at(card.FILE)}"]


def _classes(run: RunDir, number: int) -> tuple[str, ...]:
    """The classes that the model of a round knows: later ones may have come since."""
    return tuple(state.classes(run)[: len(run.round(number).metrics()["labeled_set"]["counts"])])


def _write_model(run: RunDir, number: int, format: str, store: Store) -> tuple[list[str], list[str]]:
    """The names of the files, and sentences. With format "all" a form that cannot be made is told, not refused."""
    from alray.export.model import as_timm, rebuild, write_onnx, write_timm  # imports torch

    classes, config = _classes(run, number), run.settings()
    try:
        model = rebuild(run, number, classes)
    except ExportError as error:
        if format != "all":
            raise
        return [], [f"no model was written: {error}"]
    makers: dict[str, Callable[[], list[str]]] = {
        "timm": lambda: write_timm(as_timm(model, config, classes), store),
        "onnx": lambda: write_onnx(model, config.transform.size, store),
    }
    files, told = [], []
    for name, make in makers.items():
        if format in (name, "all"):
            try:
                made = make()
                files += made
                told.append(f"{name}: {', '.join(map(store.at, made))}")
            except ExportError as error:
                if format != "all":
                    raise
                told.append(f"{name} was left out: {error}")
    return files, told
