"""A run's model loads in timm and in ONNX Runtime with the same logits; its labels are written with keys."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alray.cli import main
from alray.config import DataConfig, ModelConfig, RunConfig, SplitConfig, TrainConfig, TransformConfig, replace
from alray.data.catalog import Catalog, index
from alray.data.oracle import Status
from alray.export.labels import ExportError, Labeled, write_images
from alray.export.model import as_timm, rebuild
from alray.export.write import export
from alray.labeling.deliveries import Delivered
from alray.labeling.ledger import Ledger
from alray.models.backbone import create, evaluating
from alray.models.head import Head
from alray.provenance import open_run
from alray.rundir import MODEL, RunDir
from alray.store import Store
from alray.train.objective import write_weights

CLASSES = ("cat", "dog", "owl")
BACKBONES = {
    "resnet18": {"channels": [8, 8, 16, 16]},
    "vit_tiny_patch16_224": {"depth": 2},
    "mobilenetv3_small_050": {},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
}


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def finished(root: Path, model: ModelConfig, mode: str = "finetune") -> tuple[RunDir, RunConfig]:
    """The files of a finished round of a run on 12 images, with random weights."""
    for n in range(12):
        path = root / "images" / CLASSES[n % 3] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(n))
    catalog: Catalog = index(str(root / "images"), str(root / "catalog"), yes=True)
    config = RunConfig(
        name="given", root=str(root / "runs"), rounds=1, model=model, transform=TransformConfig(size=32, resize=0),
        data=DataConfig(root=str(root / "images"), catalog=str(root / "catalog")), split=SplitConfig(seed_set_size=3),
        train=TrainConfig(mode=mode),
    )  # fmt: skip
    run = open_run(config, catalog, CLASSES, {"peeks": False, "frozen": False})
    run.write_split(np.ones(12, bool), np.array([0]), np.array([1, 2, 3]), np.array([], int), catalog.labels()[:4])
    network = create(config.model, 3, 5, 32)
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(1))
        network.head.bias.normal_(generator=torch.Generator().manual_seed(2))
    checkpoint = run.round(0).checkpoint
    if mode == "linear":
        Head(network.head.weight.detach().numpy(), network.head.bias.detach().numpy()).save(checkpoint)
    else:
        write_weights({name: tensor.clone() for name, tensor in network.state_dict().items()}, checkpoint)
    run.round(0).write_metrics(
        {"round": 0, "labels": 3, "test": {"top1": 0.5}, "validation": None, "labeled_set": {"counts": [1, 1, 1]}}
    )
    return run, config


LOADER = """
import json, sys, numpy as np, timm, torch
folder, name, images, out = sys.argv[1:]
config = json.load(open(f"{folder}/config.json"))
model = timm.create_model(name, num_classes=3, checkpoint_path=f"{folder}/model.safetensors", **config["model_args"])
cfg = config["pretrained_cfg"]
mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
pixels = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2).float() / 255
with torch.no_grad():
    np.save(out, model.eval()((pixels - mean) / std).numpy())
"""


@pytest.mark.parametrize("name", BACKBONES)
def test_a_fresh_process_with_timm_and_onnx_runtime_give_the_logits_of_the_run(tmp_path, name):
    import onnxruntime

    run, config = finished(tmp_path, ModelConfig(backbone=name, options=BACKBONES[name]))
    out = tmp_path / "out"
    export(run, str(out), "all", "csv")
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    arguments = [str(out), name, str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    subprocess.run([sys.executable, "-c", LOADER, *arguments], check=True)
    model = rebuild(run, 0, CLASSES)
    with evaluating(model):
        expected = model(torch.from_numpy(images))[1].numpy()
    scale = np.abs(expected).max()
    assert np.abs(np.load(tmp_path / "logits.npy") - expected).max() < 1e-5 * scale
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    pixels = (images.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    assert np.abs(session.run(["logits"], {"images": pixels})[0] - expected).max() < 1e-4 * scale
    assert json.loads((out / "config.json").read_text())["pretrained_cfg"]["label_names"] == list(CLASSES)
    card = (out / "README.md").read_text()
    assert name in card
    assert "50.0%" in card
    assert config.name in card


def test_the_head_of_a_linear_run_and_its_backbone_are_one_network(tmp_path):
    weights = tmp_path / "backbone.pt"
    model = ModelConfig(backbone="resnet18", options=BACKBONES["resnet18"])
    torch.save(create(model, 1, 9, 32).backbone.state_dict(), weights)
    run, config = finished(
        tmp_path, replace(RunConfig(model=model), {"model.checkpoint": str(weights)}).model, "linear"
    )
    network = rebuild(run, 0, CLASSES)
    made = as_timm(network, config, CLASSES)
    assert made.model.get_classifier().weight.equal(network.head.weight)


def test_a_replaced_stem_is_exported_as_onnx_only(tmp_path):
    model = ModelConfig(backbone="resnet18", options=BACKBONES["resnet18"], small_stem=True)
    run, _ = finished(tmp_path, model)
    with pytest.raises(ExportError, match="small_stem"):
        export(run, str(tmp_path / "one"), "timm", "csv")
    told = export(run, str(tmp_path / "two"), "all", "csv")
    assert any("timm was left out" in line for line in told)
    assert (tmp_path / "two" / "model.onnx").exists()


@pytest.mark.parametrize("form", ["csv", "folder", "webdataset"])
def test_labels_are_written_as_they_were_corrected_with_their_origin_and_images(tmp_path, form, capsys):
    run, _ = finished(tmp_path, ModelConfig(backbone="resnet18", options=BACKBONES["resnet18"]))
    keys = run.catalog().keys().to_pylist()
    ledger = Ledger(run.deliveries)
    ledger.deliver([Delivered("x", keys[1], Status.LABEL, "owl")], "x", "correction")
    ledger.deliver([Delivered("x", keys[9], Status.LABEL, "dog")], "x", "extra")
    ledger.deliver([Delivered("x", keys[10], Status.UNUSABLE, "")], "x", "answer")
    main(["export", run.uri, "--out", str(tmp_path / "out"), "--format", "none", "--labels", form])
    assert "without a label: 1 unusable" in capsys.readouterr().out
    lines = list(csv.DictReader((tmp_path / "out" / "labels.csv").open()))
    assert [line["key"] for line in lines] == [*keys[:4], keys[9]]
    assert [line["origin"] for line in lines] == ["validation", *["seed set"] * 3, "extra"]
    assert lines[1]["label"] == "owl"
    assert lines[4]["label"] == "dog"
    if form != "csv":
        again = index(str(tmp_path / "out" / "images"), str(tmp_path / "again"), yes=True)
        names = [again.classes[label] for label in again.labels().tolist()]
        assert sorted(names) == sorted(line["label"] for line in lines)
        assert len(again) == 5


@pytest.mark.parametrize(
    ("labels", "in_folder"),
    [
        (["a", "b", "c"], True), (["a/b", "a/c", "d/e"], True), (["a/b", "a_b", "c"], False), (["..", "b", "c"], False),
        ([".", "b", "c"], False), ([".a", "b", "c"], False), (["train", "test", "c"], False),
        (["a\0", "b", "c"], False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["folder", "webdataset"])
def test_exported_images_have_their_classes_when_they_are_indexed(form, labels, in_folder, tmp_path):
    """Or they are not written, and never elsewhere: people may give any text as a class."""
    for name in "xyz":
        (tmp_path / "source" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "source" / name / "0.png")
    catalog = index(str(tmp_path / "source"), str(tmp_path / "catalog"), yes=True, label_column="")
    images = [Labeled(key, "", name, "") for key, name in zip(catalog.keys().to_pylist(), labels, strict=True)]
    place = tmp_path / "out" / "images"
    if form == "folder" and not in_folder:
        with pytest.raises(
            ExportError, match="--labels folder cannot hold these keys and classes: .*; csv and webdataset may$"
        ):
            write_images(images, catalog, sorted(labels), form, Store(str(place), ""))
        assert not (tmp_path / "out").exists()
        return
    write_images(images, catalog, sorted(labels), form, Store(str(place), ""))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["images"]
    again = index(str(place), str(tmp_path / "again"), yes=True)
    assert [again.classes[label] for label in again.labels()] == [image.label for image in images]


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path):
    run, _ = finished(tmp_path, ModelConfig(backbone="resnet18", options=BACKBONES["resnet18"]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ExportError, match="empty or new directory"):
        export(run, str(tmp_path / "full"), "none", "csv")
    with pytest.raises(ExportError, match="expected a finished round 3"):
        export(run, str(tmp_path / "new"), "none", "csv", 3)
    for form in ("tar", "manifest"):
        with pytest.raises(ExportError, match=f"--labels: expected one of csv, folder, webdataset, got '{form}'"):
            export(run, str(tmp_path / "labels"), "timm", form)
    assert not (tmp_path / "labels").exists()
    run.round(0).checkpoint.delete(MODEL)
    with pytest.raises(ExportError, match="they were deleted"):
        export(run, str(tmp_path / "newer"), "timm", "csv")
    run.round(0).delete("metrics.json")
    with pytest.raises(ExportError, match="expected a finished round, got none$"):
        export(run, str(tmp_path / "new"), "none", "csv")
