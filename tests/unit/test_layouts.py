"""Splits, classes and annotations by the names of folders: the usual ones, those of published data sets, and those that
cannot be understood."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from trees import indexed, tree

from alray.data.catalog import CatalogError, index
from alray.data.sources.split_names import split_of_file

PETS = ("cat/{0..1}.png", "dog/{0..1}.png")


def under(*folders: str) -> list[str]:
    return [f"{folder}/{name}" for folder in folders for name in PETS]


def counted(found: dict[str, str]) -> Counter[str]:
    return Counter(found.values())


BOTH = {"train cat": 2, "train dog": 2, "test cat": 2, "test dog": 2}


# ---- names of splits


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training_set", "train2017", "trainval"])
@pytest.mark.parametrize(
    "test", ["test", "Testing", "val", "VALID", "validation", "dev", "eval", "test_images", "val2017"]
)
def test_splits_under_their_usual_names(train: str, test: str, tmp_path: Path) -> None:
    """Case 01."""
    assert counted(indexed(tree(tmp_path / "s", *under(train, test)), tmp_path / "o")) == BOTH


@pytest.mark.parametrize("above", ["data", "data/v1", "images", "seg_train_test/x"])
def test_split_folders_at_any_one_depth(above: str, tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *under(f"{above}/Train", f"{above}/Test"), "README.md")
    assert counted(indexed(source, tmp_path / "o")) == BOTH


def test_split_folders_inside_of_themselves(tmp_path: Path) -> None:
    """As Kaggle packs them: seg_train/seg_train/cat."""
    source = tree(tmp_path / "s", *under("seg_train/seg_train", "seg_test/seg_test"))
    assert counted(indexed(source, tmp_path / "o")) == BOTH


def test_a_class_with_the_name_of_a_split(tmp_path: Path) -> None:
    """CIFAR-100 and VOC have a class train. Below split folders it is a class like others."""
    names = [f"{split}/{label}/{{0..1}}.png" for split in ("train", "test") for label in ("train", "bus", "tram")]
    found = indexed(tree(tmp_path / "s", *names), tmp_path / "o")
    assert counted(found)["test train"] == counted(found)["train train"] == 2
    source = tree(tmp_path / "t", "train/{0..1}.png", "bus/{0..1}.png", "tram/{0..1}.png")
    with pytest.raises(
        CatalogError, match=r"bus \(2\), tram \(2\): 4 of 6 images in no split folder(.|\n)*--split train class"
    ):
        index(source, str(tmp_path / "o2"))
    assert set(indexed(source, tmp_path / "o2", split={"train": "class"}).values()) == {
        "train train",
        "train bus",
        "train tram",
    }


@pytest.mark.parametrize("name", ["train_station", "crash_test", "contest", "test_pilot", "evaluated", "devil"])
def test_classes_that_only_contain_such_a_word(name: str, tmp_path: Path) -> None:
    found = indexed(tree(tmp_path / "s", f"{name}/{{0..1}}.png", "dog/{0..1}.png"), tmp_path / "o")
    assert counted(found) == {f"train {name}": 2, "train dog": 2}


def test_a_word_in_the_name_of_an_image_makes_no_split(tmp_path: Path) -> None:
    found = indexed(tree(tmp_path / "s", "cat/test_{0..1}.png", "dog/val-{0..1}.png", "cat/train.png"), tmp_path / "o")
    assert counted(found) == {"train cat": 3, "train dog": 2}


def test_folders_beside_the_splits(tmp_path: Path) -> None:
    """Case 01, extra: loud, unless there are no images in them; and every way out works."""
    assert counted(indexed(tree(tmp_path / "d", *under("train", "test"), "docs/a.txt"), tmp_path / "d-o")) == BOTH
    source = tree(tmp_path / "s", *under("train", "test", "extra"), "logo.png")
    for wrong in ({}, {"split": {"extra": "train"}}):
        with pytest.raises(
            CatalogError, match=r"\d of 13 images in no split folder; the split folders are .*test, train"
        ):
            index(source, str(tmp_path / "o"), **wrong)
    assert not (tmp_path / "o" / "meta.json").exists()
    assert counted(indexed(source, tmp_path / "y", yes=True)) == BOTH
    more = {"extra": "train", ".": "ignore"}
    assert counted(indexed(source, tmp_path / "t", split=more)) == {**BOTH, "train cat": 4, "train dog": 4}
    with pytest.raises(CatalogError, match="split: expected names of folders, .* got extar"):
        index(source, str(tmp_path / "o"), split={"extar": "train"})


def test_val_and_test_are_both_test_images_until_the_user_says_more(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *under("train", "val", "test"))
    catalog = index(source, str(tmp_path / "o"))
    assert catalog.is_test().sum() == 8
    assert "test (4) and val (4) are both used as test images; --split val train puts val into the pool" in "\n".join(
        catalog.notes()
    )
    found = indexed(source, tmp_path / "p", split={"val": "train", "test": "test"})
    assert counted(found) == {"train cat": 4, "train dog": 4, "test cat": 2, "test dog": 2}
    assert all(found[key].startswith("train") for key in found if key.startswith("val/"))
    catalog = index(source, str(tmp_path / "q"), split={"val": "ignore"})
    assert len(catalog) == 8 and "val: 4 images left out, as --split says" in catalog.notes()


def test_two_names_of_one_split_may_be_a_copy(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *under("train", "Train", "test"))
    with pytest.raises(
        CatalogError, match=r"Train \(4\), train \(4\): these names mean the same split.*--split Train ignore"
    ):
        index(source, str(tmp_path / "o"))
    assert counted(indexed(source, tmp_path / "o", split={"Train": "ignore"})) == BOTH


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("test-00000.tar", "test"), ("train-00000-of-00003.parquet", "train"),
        ("cifar10_train_00-of-03.parquet", "train"),
        ("imagenet1k-validation-00.tar", "validation"), ("train-00000-of-00001-a09b74b3ef9c3b56.parquet", "train"),
        ("images_test_00-of-01.parquet", "test"), ("Val.0001.tar", "Val"), ("train00.tar", "train"),
        ("default/test/0000.parquet", "test"), ("train/part-test.tar", "train"), ("imagenet-train-000000.tar", "train"),
        ("contest.parquet", None), ("latest-0000.tar", None), ("protest_1.csv", None), ("shard-00000.tar", None),
        ("crash_test_dummies-01.tar", None), ("train_vs_test.parquet", None), ("evaluated-0.tar", None),
        ("all.parquet", None),
    ],
)  # fmt: skip
def test_the_split_in_the_path_of_a_shard(path: str, split: str | None) -> None:
    assert split_of_file(path, {}) == split


def test_the_user_names_shards(tmp_path: Path) -> None:
    given = {"old": "ignore", "extra": "test", "dev": "class"}
    assert [split_of_file(name, given) for name in ("old-0.tar", "extra_3.tar", "dev-0.tar")] == ["old", "extra", None]


# ---- classes


def test_the_class_is_the_path_between_the_split_and_the_file(tmp_path: Path) -> None:
    names = ("train/animal/cat/1.png", "train/plant/rose/2.png", "val/animal/cat/3.png", "val/plant/rose/4.png")
    assert set(indexed(tree(tmp_path / "s", *names), tmp_path / "o").values()) == {
        "train animal/cat", "train plant/rose", "test animal/cat", "test plant/rose"
    }  # fmt: skip


@pytest.mark.parametrize("above", ["v1/{}", "train/v1/{}", "train/a/b/{}"])
def test_a_folder_that_all_images_are_in_is_no_part_of_the_class(above: str, tmp_path: Path) -> None:
    names = [above.format(label) + "/{0..1}.png" for label in ("cat", "dog")]
    assert counted(indexed(tree(tmp_path / "s", *names), tmp_path / "o")) == {"train cat": 2, "train dog": 2}


@pytest.mark.parametrize("where", ["{}/images", "images/{}", "{}/img"])
def test_a_folder_called_images_is_no_class(where: str, tmp_path: Path) -> None:
    names = [where.format(label) + "/{0..1}.png" for label in ("cat", "dog")]
    assert counted(indexed(tree(tmp_path / "s", *names), tmp_path / "o")) == {"train cat": 2, "train dog": 2}


def test_splits_below_the_classes(tmp_path: Path) -> None:
    names = [f"{label}/{split}/{{0..1}}.png" for split in ("train", "test") for label in ("cat", "dog")]
    assert counted(indexed(tree(tmp_path / "s", *names), tmp_path / "o")) == BOTH


def test_folders_above_and_below_the_splits_are_ambiguous(tmp_path: Path) -> None:
    """Domains, as in PACS, or objects."""
    source = tree(tmp_path / "s", *under("art/train", "art/test", "photo/train", "photo/test"))
    with pytest.raises(CatalogError, match=r"in 2 different folders \(art, photo.*Index one of these folders alone"):
        index(source, str(tmp_path / "o"))
    assert counted(indexed(source, tmp_path / "o", yes=True)) == {name: 4 for name in BOTH}


def test_one_depth_is_required(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "train/cat/a/{0..2}.png", "train/dog/{0..1}.png", "test/cat/1.png", "test/dog/1.png")
    with pytest.raises(
        CatalogError, match=r"4 images 1 deep \((train|test)/\w+/\), 3 images 2 deep \(train/cat/a/\).*--class-depth 1"
    ):
        index(source, str(tmp_path / "o"))
    assert counted(indexed(source, tmp_path / "o", class_depth=1)) == {
        "train cat": 3, "train dog": 2, "test cat": 1, "test dog": 1
    }  # fmt: skip
    assert "train cat/a" in indexed(source, tmp_path / "p", yes=True).values()


def test_images_beside_class_folders_are_doubted(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "cat/{0..1}.png", "dog/{0..1}.png", "montage.png")
    with pytest.raises(CatalogError, match=r"1 image 0 deep \(\.\), 4 images 1 deep"):
        index(source, str(tmp_path / "o"))
    assert counted(indexed(source, tmp_path / "o", yes=True)) == {"train cat": 2, "train dog": 2, "train": 1}


def test_a_flat_validation_folder_is_told(tmp_path: Path) -> None:
    """Case 24: inside of the root, or as the test root."""
    tree(tmp_path / "s", *under("train"), "val/ILSVRC_{0..5}.JPEG")
    for source, test_root in ((tmp_path / "s", ""), (tmp_path / "s" / "train", str(tmp_path / "s" / "val"))):
        catalog = index(str(source), str(tmp_path / "o"), test_root=test_root)
        told = "\n".join(catalog.notes())
        assert "6 of 6 images without a label, which cannot be used for testing" in told
        assert "10 images: 4 train, 6 test" in told and "6 images without a label (0 train, 6 test)" in told


def test_flat_folders_of_splits_have_no_classes(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "train/{0..3}.png", "test/{0..1}.png")
    assert counted(indexed(source, tmp_path / "o")) == {"train": 4, "test": 2}


def test_a_test_root_with_training_images_is_doubted(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *under("train", "val"))
    with pytest.raises(CatalogError, match="has images for training, train, but all its images would be test images"):
        index(f"{source}/train", str(tmp_path / "o"), test_root=source)


# ---- published data sets


GTSRB_TEST = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2"


def gtsrb(place: Path, top: str = "GTSRB/") -> str:
    names = [f"{top}Final_Training/Images/000{c:02d}/000{c:02d}_{{0..2}}.ppm" for c in (0, 1, 14)]
    lists = [f"{top}Final_Training/Images/000{c:02d}/GT-000{c:02d}.csv" for c in (0, 1, 14)]
    return tree(place, *names, *lists, f"{top}Final_Test/Images/{{0..3}}.ppm", f"{top}Readme-Images.txt")


def test_gtsrb(tmp_path: Path) -> None:
    source = gtsrb(tmp_path / "s")
    catalog = index(source, str(tmp_path / "o"))
    assert catalog.classes == ("00000", "00001", "00014") and catalog.is_test().sum() == 4
    assert "Final_Test: 4 of 4 images without a label" in "\n".join(catalog.notes())
    lines = [f"{i};5;5;0;0;4;4" for i in ("0.ppm", "1.ppm", "2.ppm", "3.ppm")]
    folder = tmp_path / "s/GTSRB/Final_Test/Images"
    (folder / "GT-final_test.test.csv").write_text("\n".join([GTSRB_TEST, *lines]))
    assert "Final_Test: 4 of 4 images without a label" in "\n".join(index(source, str(tmp_path / "p")).notes())
    numbers = (14, 0, 1, 14)
    (folder / "GT-final_test.csv").write_text(
        "\n".join([f"{GTSRB_TEST};ClassId", *(f"{a};{c}" for a, c in zip(lines, numbers, strict=True))])
    )
    found = indexed(source, tmp_path / "q")
    assert [found[f"GTSRB/Final_Test/Images/{i}.ppm"] for i in range(4)] == [
        "test 00014", "test 00000", "test 00001", "test 00014"
    ]  # fmt: skip


def test_gtsrb_of_kaggle(tmp_path: Path) -> None:
    rows = "".join(f"53,54,6,5,48,49,{c},Test/{i:05d}.png\n" for i, c in enumerate((16, 1, 16)))
    source = tree(
        tmp_path / "s", "Train/1/{0..2}.png", "Train/16/{0..2}.png", "Test/0000{0..2}.png", "Meta/1.png", "Meta/16.png",
        "Meta.csv", "Train.csv", **{"Test.csv": "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n" + rows},
    )  # fmt: skip
    with pytest.raises(CatalogError, match=r"Meta \(2\): 2 of 11 images in no split folder.*--split Meta ignore"):
        index(source, str(tmp_path / "o"))
    catalog = index(source, str(tmp_path / "o"), split={"Meta": "ignore"})
    assert catalog.classes == ("1", "16") and (catalog.labels() >= 0).all()
    assert counted(indexed(source, tmp_path / "p", split={"Meta": "ignore"})) == {
        "train 1": 3, "train 16": 3, "test 16": 2, "test 1": 1
    }  # fmt: skip


def test_tiny_imagenet(tmp_path: Path) -> None:
    boxes = "".join(f"val_{i}.JPEG\tn0{i % 2}\t0\t0\t9\t9\n" for i in range(4))
    source = tree(
        tmp_path / "s", "train/n00/images/n00_{0..2}.JPEG", "train/n01/images/n01_{0..2}.JPEG",
        "train/n00/n00_boxes.txt",
        "train/n01/n01_boxes.txt", "val/images/val_{0..3}.JPEG", "test/images/test_{0..2}.JPEG", "wnids.txt",
        "words.txt",
        **{"val/val_annotations.txt": boxes},
    )  # fmt: skip
    found = indexed(source, tmp_path / "o")
    assert counted(found) == {"train n00": 3, "train n01": 3, "test n00": 2, "test n01": 2, "test": 3}
    told = "\n".join(index(source, str(tmp_path / "p")).notes())
    assert "val: the classes of 4 of 4 images are those of val/val_annotations.txt" in told
    assert "test: 3 of 3 images without a label" in told


@pytest.mark.data
def test_real_tiny_imagenet(shared_data: Path, tmp_path: Path) -> None:
    """The real images in the folders in which they are published."""
    import pyarrow.parquet as pq

    rows = pq.read_table(shared_data / "tiny_imagenet100/tiny_imagenet_dev100_2500.parquet").to_pylist()
    lines = []
    for number, row in enumerate(rows):
        train = row["split"] == "train"
        name = f"{row['label']}_{number}.JPEG" if train else f"val_{number}.JPEG"
        path = tmp_path / "s" / (f"train/n{row['label']:08d}/images/{name}" if train else f"val/images/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"])
        lines += [] if train else [f"{name}\tn{row['label']:08d}\t0\t0\t63\t63\n"]
    (tmp_path / "s/val/val_annotations.txt").write_text("".join(lines))
    catalog = index(str(tmp_path / "s"), str(tmp_path / "o"))
    assert len(catalog.classes) == 100 and catalog.is_test().sum() == 500 and (catalog.labels() >= 0).all()


def test_camvid_of_segnet(tmp_path: Path) -> None:
    names = [f"{split}{kind}/000{{0..2}}.png" for split in ("train", "val", "test") for kind in ("", "annot")]
    catalog = index(tree(tmp_path / "s", *names, "train.txt"), str(tmp_path / "o"))
    assert len(catalog) == 9 and catalog.classes == () and catalog.is_test().sum() == 6
    assert not any("annot" in key for key in catalog.keys().to_pylist())
    assert any(note.startswith("left out as masks or other annotations: 9 files in ") for note in catalog.notes())


@pytest.mark.parametrize(
    ("images", "masks", "keys"),
    [
        ("701_StillsRaw_full/0001TP_{0..2}.png", "LabeledApproved_full/0001TP_{0..2}_L.png", "0001TP_0.png"),
        ("images/train/x/{0..2}.png", "masks/train/x/{0..2}.png", "train/x/0.png"),
        ("leftImg8bit/train/ulm/u_{0..2}_leftImg8bit.png", "gtFine/train/ulm/u_{0..2}_gtFine_labelIds.png",
         "train/ulm/u_0_leftImg8bit.png"),
        ("train/{0..2}.png", "train_labels/{0..2}_L.png", "train/0.png"),
        ("train/images/{0..2}.png", "train/masks/{0..2}.png", "0.png"),
    ],
)  # fmt: skip
def test_folders_of_masks_are_left_out(images: str, masks: str, keys: str, tmp_path: Path) -> None:
    """Keys begin where masks have the names of images, so that data.mask_root finds them."""
    catalog = index(tree(tmp_path / "s", images, masks), str(tmp_path / "o"), label_column="")
    assert len(catalog) == 3 and catalog.keys().to_pylist()[0] == keys
    assert any("3 files in" in note and "annotations" in note for note in catalog.notes())


def test_a_class_called_mask_is_a_class(tmp_path: Path) -> None:
    found = indexed(tree(tmp_path / "s", "train/mask/{0..1}.png", "train/no_mask/{0..1}.png"), tmp_path / "o")
    assert counted(found) == {"train mask": 2, "train no_mask": 2}
    source = tree(tmp_path / "t", "images/{0..1}.png", "masks/{0..1}.png")
    assert len(indexed(source, tmp_path / "p")) == 2
    with pytest.raises(CatalogError, match="2 images 0 deep .*, 2 images 1 deep"):
        index(source, str(tmp_path / "q"), split={"masks": "class"})


def test_cities_of_cityscapes_are_no_classes(tmp_path: Path) -> None:
    names = [f"train/{city}/{{0..1}}_leftImg8bit.png" for city in ("bonn", "jena")]
    source = tree(tmp_path / "s", *names, "val/ulm/{0..1}_leftImg8bit.png")
    with pytest.raises(
        CatalogError, match="1 of 3 classes have test images but no training image: ulm.*--label-column ''"
    ):
        index(source, str(tmp_path / "o"))
    assert counted(indexed(source, tmp_path / "o", label_column="")) == {"train": 4, "test": 2}


def voc(place: Path) -> str:
    return tree(
        place, "VOC2012/JPEGImages/2007_{0..6}.jpg", "VOC2012/Annotations/2007_{0..6}.xml",
        "VOC2012/SegmentationClass/2007_{0..2}.png", "VOC2012/SegmentationObject/2007_{0..2}.png",
        **{
            "VOC2012/ImageSets/Main/train.txt": "2007_0\n2007_1\n2007_2\n2007_3\n",
            "VOC2012/ImageSets/Main/val.txt": "2007_4\n2007_5\n",
            "VOC2012/ImageSets/Main/cat_train.txt": "2007_0  1\n2007_1 -1\n2007_2  1\n2007_3  0\n",
            "VOC2012/ImageSets/Segmentation/train.txt": "2007_0\n2007_1\n",
            "VOC2012/ImageSets/Segmentation/val.txt": "2007_2\n",
        },
    )  # fmt: skip


def test_voc(tmp_path: Path) -> None:
    """An image has several classes: refused for classes; for masks the lists of the segmentation are the splits."""
    source = voc(tmp_path / "s")
    with pytest.raises(
        CatalogError, match="this is PASCAL VOC, whose images have several classes each(.|\n)*--label-column ''"
    ):
        index(source, str(tmp_path / "o"))
    assert counted(indexed(source, tmp_path / "o", yes=True)) == {"train": 4, "test": 2}
    found = indexed(source, tmp_path / "p", label_column="")
    assert found == {"2007_0.jpg": "train", "2007_1.jpg": "train", "2007_2.jpg": "test"}
    told = "\n".join(index(source, str(tmp_path / "q"), label_column="").notes())
    assert "the splits are those of ImageSets/Segmentation, which names 3 of 7 images; the others are left out" in told
    assert "6 files in VOC2012/SegmentationClass (3), VOC2012/SegmentationObject (3)" in told


def test_mvtec(tmp_path: Path) -> None:
    """Anomaly detection: the test set has classes that are unknown to training."""
    source = tree(tmp_path / "s", "bottle/train/good/{0..3}.png", "bottle/test/good/{0..1}.png",
                  "bottle/test/broken/{0..1}.png", "bottle/ground_truth/broken/{0..1}_mask.png")  # fmt: skip
    with pytest.raises(CatalogError, match="1 of 2 classes have test images but no training image: broken"):
        index(source, str(tmp_path / "o"))
    assert counted(indexed(source, tmp_path / "o", yes=True)) == {"train good": 4, "test good": 2, "test broken": 2}


def test_one_class_per_folder_without_splits(tmp_path: Path) -> None:
    """Caltech, Food-101, CUB with its segmentations."""
    source = tree(tmp_path / "s", "CUB/images/001.Albatross/{0..1}.jpg", "CUB/images/002.Auk/{0..1}.jpg",
                  "CUB/segmentations/001.Albatross/{0..1}.png", "CUB/segmentations/002.Auk/{0..1}.png",
                  "CUB/classes.txt")  # fmt: skip
    assert counted(indexed(source, tmp_path / "o")) == {"train 001.Albatross": 2, "train 002.Auk": 2}


def test_yolo_and_roboflow_images_have_no_classes(tmp_path: Path) -> None:
    names = [f"{split}/images/{{0..1}}.jpg" for split in ("train", "valid", "test")]
    labels = [f"{split}/labels/{{0..1}}.txt" for split in ("train", "valid", "test")]
    assert counted(indexed(tree(tmp_path / "s", *names, *labels, "data.yaml"), tmp_path / "o")) == {
        "train": 2,
        "test": 4,
    }
