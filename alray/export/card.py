"""The model card: what the model is, what it was trained on, how good it is, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alray.labeling.drawn import tests
from alray.report.escape import code, markdown
from alray.rundir import RunDir

FILE = "README.md"


def card(run: RunDir, number: int, classes: Sequence[str], files: Sequence[str], images: int) -> str:
    """The card of a round's model, in Markdown. images: number of labeled images of the run."""
    about, config = run.about(), run.config()
    metrics = [run.round(one).metrics() for one in run.committed() if one <= number]
    model, train = config["model"], config["train"]
    source = config["data"]["root"] or config["data"]["catalog"]
    facts = {
        "backbone": model["backbone"], "starting weights": model["checkpoint"].rpartition("/")[2] or "none",
        "training": f"{train['mode']}, at most {train['epochs']} epochs", "strategy": config["strategy"],
        "seed": config["seed"], "data": source.rstrip("/").rpartition("/")[2], "classes": len(classes),
        "labels of this model": metrics[-1]["labels"], "labels of the run": images,
        "run": f"{about['name']}-{about['fingerprint']}, round {number}", "alray": about["versions"]["alray"],
    }  # fmt: skip
    tested = [markdown(test.sentence) for test in tests(run) if test.place.about()["round"] == number]
    parts = [
        f"# {markdown(about['name'])}: an image classifier",
        f"Trained by active learning with alray. {_accuracy(metrics[-1], bool(tested))}",
        *tested,
        _table(["", ""], [[name, str(value)] for name, value in facts.items()]),
        *_by_round(metrics),
        "## Load",
        *(_LOADS[name].format(name=model["backbone"], classes=len(classes)) for name in files if name in _LOADS),
        "## Classes",
        ", ".join(code(name) for name in classes),
    ]
    return "\n\n".join(parts) + "\n"


_LOADS = {
    "model.safetensors": "```python\nimport timm\n\nmodel = timm.create_model({name!r}, num_classes={classes}, "
    'checkpoint_path="model.safetensors")\n```\n\nImages are resized, scaled to [0, 1] and normalised with the mean '
    "and std of `config.json`.",
    "model.onnx": "`model.onnx` takes `images` (b, 3, h, w) float32 in [0, 1], not normalised, and gives `logits` "
    "(b, {classes}).",
}


def _accuracy(metrics: Mapping[str, Any], tested: bool) -> str:
    """tested: whether the accuracy of this model was estimated from drawn images, which is told elsewhere."""
    test = metrics["test"]
    if not test and tested:
        return "The accuracy was estimated from labels of drawn images, because there was no test set."
    if not test:
        return "There was no test set."
    return f"Top-1 accuracy on the test set: {test['top1']:.1%} with {metrics['labels']:,} labels."


def _by_round(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the accuracies after each round, with its title; nothing where none was measured."""
    if not any(one["test"] or one["validation"] for one in metrics):
        return []
    head = ["round", "labels", "test top-1", "validation top-1"]
    return ["## Accuracy by round", _table(head, [_round(one) for one in metrics])]


def _round(metrics: Mapping[str, Any]) -> list[str]:
    test, validation = metrics["test"], metrics["validation"]
    shown = [f"{one['top1']:.3f}" if one else "" for one in (test, validation)]
    return [str(metrics["round"]), f"{metrics['labels']:,}", *shown]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
