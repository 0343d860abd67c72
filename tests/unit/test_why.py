"""`alray why`: every strategy tells the reasons of a pick and of an image that was not picked."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from alray.cli import main
from alray.config import DataConfig, FeatureConfig, ModelConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig
from alray.explain.briefly import Briefly
from alray.explain.images import UnknownImage, find
from alray.explain.replay import Replay
from alray.explain.why import reasons, why
from alray.reasons import terminal
from alray.rounds import run
from alray.rundir import RunDir, RunError
from alray.selection.registry import STRATEGIES

LINEAR = [name for name in STRATEGIES if name != "vaal"]  # VAAL trains on images
N, CLASSES = 90, ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of three rounds on generated embeddings, made when they are first asked for."""
    root, made = tmp_path_factory.mktemp("why"), {}
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 3
    features = (2 * np.eye(3, 6)[labels] + rng.standard_normal((N, 6))).astype(np.float32)
    np.savez(root / "pool.npz", features=features, label=labels, pretext_loss=rng.random(N))

    def get(name, **options):
        key = name, repr(options)
        if key not in made:
            config = RunConfig(
                name=f"why-{len(made)}", root=str(root / "runs"), rounds=3, budget=7, top_k=(), strategy=name,
                strategy_options=options, data=DataConfig(root=str(root / "pool.npz"), classes=CLASSES),
                split=SplitConfig(seed_set_size=9, val_size=3, test_share=0.1), model=ModelConfig(),
                train=TrainConfig(mode="linear", epochs=3, lr=1.0), features=FeatureConfig(keep="all"),
                resources=ResourceConfig(select_workers="process", select_shards=2),
            )  # fmt: skip
            made[key] = RunDir(run(config, quiet=True).dir)
        return made[key]

    return get


class Round:
    """What plain NumPy needs to compute the reasons of a round again."""

    def __init__(self, folder, number=1):
        self.replay = Replay(folder)
        self.pool = next(s.pool for s in self.replay.steps() if (s.kind, s.number) == ("said", number))
        self.picks = folder.round(number).picks()["row"].to_numpy()
        self.scores = folder.round(number).picks()["score"].to_numpy()
        self.others = np.setdiff1d(self.pool.unlabeled, self.picks)
        table = folder.round(number).selected_by()
        self.x = np.zeros((N, 6))
        self.x[table.rows] = table.embedding(table.rows)  # as they are stored
        head = folder.round(number).head()
        self.weight = head.weight.astype(np.float64)
        self.z = self.x @ self.weight.T + head.bias
        self.number = number

    def case(self, row):
        return self.replay.case(self.number, self.pool, int(row))

    def said(self, row):
        return " ".join(reasons(self.replay, self.case(row)))

    def key(self, row):
        return self.replay.key(int(row))


def numbers(pattern, text):
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return [float(value) for value in found.groups()]


@pytest.mark.parametrize("name", LINEAR)
def test_every_strategy_gives_reasons_for_a_pick_and_for_an_image_that_was_not_picked(name, runs):
    here = Round(runs(name))
    picked, other = here.said(here.picks[2]), here.said(here.others[5])
    partitioned = name.startswith("partitioned")
    assert f"It was pick {'1 of 1' if partitioned else '3 of 7'}, with the score " in picked
    assert numbers(r"with the score (-?[\d.e+-]*\d)\.", picked)[0] == pytest.approx(here.scores[2], rel=1e-3)
    assert "It was pick" not in other
    assert len(other) > 40
    for row in (*here.picks, *here.others[:10]):
        assert "nan" not in here.said(row)


@pytest.mark.parametrize("name", ["margin", "entropy", "confidence", "mase", "random", "balanced_random"])
def test_the_score_of_an_image_that_was_not_picked_is_that_of_the_selection(name, runs):
    here = Round(runs(name))
    assert sorted(here.replay.strategy.score_of(here.case(row)) for row in here.picks) == pytest.approx(
        sorted(here.scores), abs=0
    )
    if name != "balanced_random":  # which has a quota per class
        assert max(here.replay.strategy.score_of(here.case(row)) for row in here.others) <= here.scores.min()


def test_margin_names_the_two_likeliest_classes_and_the_score_to_beat(runs):
    here = Round(runs("margin"))
    p = np.exp(here.z - here.z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for row in (here.picks[0], here.others[3]):
        first, second = np.argsort(-p[row])[:2]
        likely = f"{CLASSES[first]} ({p[row][first]:.1%}) and {CLASSES[second]} ({p[row][second]:.1%})"
        assert likely in here.said(row)
    top = np.sort(p, axis=1)
    score = np.log(1 - (top[:, -1] - top[:, -2]))
    own, least = numbers(r"Its score was (\S+); .* had (\S+)\.", here.said(here.others[3]).split(" The likeliest")[0])
    assert own == pytest.approx(score[here.others[3]], rel=1e-3)
    assert least == pytest.approx(score[here.picks[-1]], rel=1e-3)
    assert f"the last of the 7 picks, {here.key(here.picks[-1])}," in here.said(here.others[3])


@pytest.mark.parametrize("options", [{}, {"quota": "fill"}, {"class_order": "seeded"}])
def test_base_names_the_class_that_took_the_image_and_the_boundary(options, runs):
    here = Round(runs("base", **options))
    y = here.z.argmax(axis=1)
    gap = np.linalg.norm(here.weight[:, None] - here.weight[None], axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (here.z[np.arange(N), y][:, None] - here.z) / gap[y]
    distance[np.arange(N), y] = np.inf
    nearest = distance.argmin(axis=1)
    distance[np.arange(N), y] = distance.min(axis=1)
    taken = np.array([], int)
    served = []
    for rank, row in enumerate(here.picks.tolist()):
        said = here.said(row)
        took = CLASSES.index(re.search(r"images that the class (\w+) took", said)[1])
        served.append(took)
        assert -here.scores[rank] == pytest.approx(distance[row, took], rel=1e-6)
        free = np.setdiff1d(here.pool.unlabeled, taken)
        assert row == free[distance[free, took].argmin()]  # that class took it: it is its nearest that was free
        taken = np.append(taken, row)
        edge = CLASSES[nearest[row]] if took == y[row] else CLASSES[took]
        assert f"The model predicted {CLASSES[y[row]]}; " in said
        assert re.search(rf"bound(ary of|ary, that to) {edge},? was at", said), said
        assert numbers(r"was at the distance (\S+)\.$", said)[0] == pytest.approx(distance[row, took], rel=1e-3)
    assert len(dict.fromkeys(served)) == len([a for a, b in zip(served, [None, *served], strict=False) if a != b])
    row = here.others[4]
    last = {took: here.picks[max(at for at, one in enumerate(served) if one == took)] for took in served}
    beyond = {took: distance[row, took] - distance[end, took] for took, end in last.items()}
    closest = min(beyond, key=beyond.get)
    assert (
        f"The class that came nearest to taking it was {CLASSES[closest]}, which took {served.count(closest)} images"
        in here.said(row)
    )
    assert here.key(last[closest]) in here.said(row)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_k_center_names_the_nearest_labeled_or_earlier_picked_image(metric, runs):
    here = Round(runs("k_center", metric=metric))
    x = here.x / np.linalg.norm(here.x, axis=1, keepdims=True) if metric == "cosine" else here.x
    for rank, row in enumerate(here.picks.tolist()):
        centers = np.concatenate([here.pool.labeled, here.picks[:rank]])
        away = np.linalg.norm(x[centers] - x[row], axis=1)
        assert f"{here.key(centers[away.argmin()])}, was at the distance {away.min():.4g}." in here.said(row)
        assert away.min() == pytest.approx(here.scores[rank], rel=1e-6)
    centers = np.concatenate([here.pool.labeled, here.picks[:-1]])
    for row in here.others.tolist():
        away = np.linalg.norm(x[centers] - x[row], axis=1)
        said = here.said(row)
        assert f"{here.key(centers[away.argmin()])}, was at the distance {away.min():.4g}." in said
        assert f"the last one, {here.key(here.picks[-1])}, with {here.scores[-1]:.4g}" in said


@pytest.mark.parametrize("name", ["badge", "partitioned_badge"])
def test_badge_names_the_nearest_center_in_gradient_space(name, runs):
    here = Round(runs(name, **({"parts": 2} if name != "badge" else {})))
    for row, score in zip(here.picks, here.scores, strict=True):
        assert numbers(r"Before it was picked the nearest was .*, at (\S+)\.", here.said(row).split(" The likel")[0])[
            0
        ] == pytest.approx(score, rel=1e-3)
    before, after = numbers(
        r"Before the first pick the nearest was \S+, at (\S+)\. After the last pick .*, at (\S+)\. ",
        here.said(here.others[0]),
    )
    assert before >= after


def test_partitioned_k_center_tells_the_part(runs):
    here = Round(runs("partitioned_k_center", parts=2))
    for row, score in zip(here.picks, here.scores, strict=True):
        assert re.match(r"It is in part [12] of 2\.", here.said(row))
        assert f"was at the distance {score:.4g}." in here.said(row)


def test_pt4al_tells_the_batch_by_pretext_loss(runs):
    folder = runs("pt4al")
    here = Round(folder)
    losses = here.replay.catalog.pretext_loss()
    pool = np.union1d(here.pool.labeled, here.pool.unlabeled)
    order = pool[np.argsort(-losses[pool])]
    batches = np.array_split(order, 10)
    for row in (*here.picks[:2], here.others[0]):
        mine = next(number for number, batch in enumerate(batches) if row in batch)
        place = int(np.flatnonzero(order == row)[0])
        where = (
            f"Its pretext loss is {losses[row]:.4g}, number {place + 1} of {len(pool)} from the hardest, which is in "
        )
        assert where in here.said(row)
        assert f"batch {mine + 1} of 10; this round begins with batch 2." in here.said(row)
    elsewhere = next(row for row in here.others if row in batches[8])
    assert "did not look at it" in here.said(elsewhere)


def test_cluster_margin_tells_the_cluster(runs):
    here = Round(runs("cluster_margin", candidates=3, clusters=4))
    assert "candidates in its cluster" in here.said(here.picks[0])
    outside = [row for row in here.others if "not among the 21 candidates" in here.said(row)]
    inside = [row for row in here.others if "not its turn" in here.said(row)]
    assert len(inside) == 21 - 7
    assert len(outside) == len(here.others) - len(inside)


def test_without_features_only_what_is_known_is_told(runs):
    folder = runs("margin")
    here = Round(folder)
    here.replay._features = lambda out, needs: None
    assert "with the score" in here.said(here.picks[0])
    assert "the score of this image is not known" in here.said(here.others[0])
    assert "features of this round were deleted" in here.said(here.others[0])


def test_the_command_tells_where_an_image_stands_and_each_round(runs, capsys):
    folder = runs("margin")
    here = Round(folder)
    seed, held_out = folder.seed()[0][0], folder.held_out()[0][0]
    test = next(row for row in range(N) if row not in here.replay.pool_rows)

    def said(key, *more):
        main(["why", folder.uri, key, *more])
        return capsys.readouterr().out

    assert "It belongs to the seed set, with the label " in said(here.key(seed))
    assert "Round" not in said(here.key(seed))
    assert "could not be picked any more" in said(here.key(seed), "--round", "0")
    assert "belongs to the validation set" in said(here.key(held_out))
    assert "test image, drawn by split.test_share" in said(here.key(test))
    text = said(here.key(here.picks[0]))
    assert f"It is labeled since round 1, which picked it, with the label {CLASSES[here.picks[0] % 3]}." in text
    assert "Round 0, by margin: not picked." in text
    assert "Round 1, by margin: picked." in text
    never = next(row for row in here.others if row not in folder.round(0).picks()["row"].to_pylist())
    text = said(here.key(never))
    assert "It has no label so far." in text
    assert text.count("not picked") == 2
    assert said(here.key(never), "--round", "1").count("not picked") == 1
    with pytest.raises(RunError, match="expected one of the rounds with picks, 0 to 1, got round 2"):
        why(folder, here.key(never), 2)


def test_an_image_is_found_by_the_end_of_its_path_and_unknown_names_get_similar_ones(tmp_path):
    from PIL import Image

    from alray.data.catalog import index

    apart = unicodedata.normalize("NFD", "train/dog/ö.png")
    for name in ("train/cat/a.png", "train/cat/b.png", "train/dog/a.png", "test/dog/ü.png", "train/cat/ö.png", apart):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    catalog = index(str(tmp_path / "images"), str(tmp_path / "catalog"), yes=True)
    keys = catalog.keys().to_pylist()
    b = next(row for row, key in enumerate(keys) if key.endswith("b.png"))
    assert find(catalog, keys[b]) == find(catalog, "b.png") == find(catalog, "cat/b.png") == b
    assert find(catalog, str(Path(tmp_path / "images/train/cat/b.png"))) == b
    assert find(catalog, catalog.references(np.arange(6))["uri"][b].as_py()) == b
    composed = next(row for row, key in enumerate(keys) if key.endswith("ü.png"))
    for form in ("NFC", "NFD"):  # macOS decomposes the names of files
        for name in ("ü.png", "dog/ü.png", keys[composed]):
            assert find(catalog, unicodedata.normalize(form, name)) == composed
    for name in ("a.png", "ö.png", unicodedata.normalize("NFD", "ö.png")):
        with pytest.raises(UnknownImage, match="fits 2 images, among them .* give the whole key"):
            find(catalog, name)
    assert keys[find(catalog, "dog/ö.png")] == unicodedata.normalize("NFD", "train/dog/ö.png")
    with pytest.raises(UnknownImage, match=re.escape(keys[b])):
        find(catalog, keys[b].replace("b.png", "bb.png"))


def test_keys_that_look_the_same_are_shown_apart_and_found_as_they_are_shown(tmp_path):
    from alray.data.catalog import index_arrays

    keys = [unicodedata.normalize(form, f"cat/ö{end}") for form in ("NFC", "NFD") for end in (".png", "/😀.png")]
    catalog = index_arrays(np.zeros((4, 4, 4), np.uint8), None, str(tmp_path / "catalog"), keys=keys)
    for name, shown in (
        ("ö.png", [r"cat/\xf6.png", r"cat/o\u0308.png"]),
        ("ö/😀.png", [r"cat/\xf6/\U0001f600.png", r"cat/o\u0308/\U0001f600.png"]),
    ):
        with pytest.raises(UnknownImage) as refused:
            find(catalog, name)
        for one in shown:
            assert one in str(refused.value)
            key = catalog.keys().to_pylist()[find(catalog, one)]
            assert key == one.encode().decode("unicode_escape")


def test_a_key_is_found_by_the_spelling_that_is_printed(tmp_path):
    from alray.data.catalog import index_arrays

    shown = [r"train/new\nline/b0.png", r"train/new\nline/b1.png", r"train/a\x1b\x9f\t\rb.png"]
    keys = ["train/new\nline/b0.png", "train/new\nline/b1.png", "train/a\x1b\x9f\t\rb.png", r"a\nb.png", "a\nb.png"]
    catalog = index_arrays(np.zeros((5, 4, 4), np.uint8), None, str(tmp_path / "catalog"), keys=keys)
    assert [terminal(key) for key in keys[:3]] == shown
    for key, name in zip([*keys, *keys[:3], keys[3]], [*keys, *shown, r"a\nb.png"], strict=True):
        assert catalog.keys().to_pylist()[find(catalog, name)] == key
    assert catalog.keys().to_pylist()[find(catalog, r"new\nline/b0.png")] == keys[0]
    with pytest.raises(UnknownImage) as unknown:
        find(catalog, r"train/new\nline/b2.png")
    assert r"similar keys: train/new\nline/b" in str(unknown.value) and str(unknown.value).isprintable()


def test_the_gallery_tells_the_place_of_a_pick_and_the_class_that_took_it(runs):
    folder = runs("base")
    told, here = Briefly(folder), Round(folder)
    assert told.of(0, []) == {}
    words = told.of(1, here.picks.tolist())
    for rank, row in enumerate(here.picks.tolist()):
        took = re.search(r"images that the class (\w+) took", here.said(row))[1]
        assert words[row] == f"pick {rank + 1} of 7, taken by {took}"
    other = Round(runs("k_center"))
    assert Briefly(runs("k_center")).of(1, other.picks[2:3].tolist()) == {other.picks[2]: "pick 3 of 7"}
