"""People label in a real Label Studio: whole runs, and everything that can go wrong there."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import studio
import torch
from PIL import Image

from alray.config import (
    DataConfig,
    LabelConfig,
    ModelConfig,
    ResourceConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
    TransformConfig,
    replace,
)
from alray.data.catalog import Catalog, index
from alray.data.oracle import OracleError, Requests, Status
from alray.labeling import state
from alray.labeling.label_studio.oracle import NOTED, LabelStudio
from alray.labeling.label_studio.server import TOKEN, Server
from alray.labeling.ledger import Ledger
from alray.models.backbone import create
from alray.rundir import BATCHES, PLAN, RunDir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
studio.sdk()
from label_studio_sdk import LabelStudio as Sdk  # noqa: E402

NAMES = ("red", "green", "blue")
BUDGET = 9


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[studio.Studio]:
    made = studio.Studio(tmp_path_factory.mktemp("studio"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, studio.LEGACY)


@pytest.fixture
def sdk(server: studio.Studio) -> Any:
    return Sdk(base_url=server.url, api_key=studio.LEGACY)


def photos(folder: Path, count: int) -> str:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = rng.integers(0, 60, (16, 16, 3))
        pixels[..., number % 3] += 180
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return str(folder)


def choose(name: str, control: str = "label") -> list[dict[str, Any]]:
    return [{"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": [name]}}]


class Small:
    """A run directory and a catalog of twelve images, with an oracle that asks for some of them."""

    def __init__(self, folder: Path, server: studio.Studio, name: str, **labels: Any) -> None:
        self.catalog: Catalog = index(photos(folder / "photos", 12), str(folder / "catalog"), yes=True)
        self.run = RunDir(str(folder / "run"))
        self.run.write_about({"name": name, "fingerprint": "0123456789", "classes": list(NAMES)})
        self.config = LabelConfig(oracle="label_studio", url=server.url, **labels)
        self.rows = np.array([5, 2, 9])
        self.keys = ["005.png", "002.png", "009.png"]

    def oracle(self) -> LabelStudio:
        return LabelStudio(self.run, self.catalog, self.config)

    def requests(self, round: int | None = 0) -> Requests:
        return Requests.of(
            self.catalog, self.rows, round, np.array([1, -1, 0], np.int32), np.array([0.5, np.nan, 0.75])
        )


@pytest.fixture
def make(tmp_path: Path, server: studio.Studio, request: pytest.FixtureRequest) -> Callable[..., Small]:
    name = request.node.name.removeprefix("test_")[:30]
    return lambda **labels: Small(tmp_path, server, name, **labels)


def tasks_in(sdk: Any, oracle: LabelStudio) -> list[Any]:
    return list(sdk.tasks.list(project=oracle.project.id, fields="all"))


def test_tasks_are_pushed_once_with_predictions_and_annotations_are_read(make: Any, sdk: Any) -> None:
    small = make()
    oracle = small.oracle()
    first = oracle.answer(small.requests())
    assert first.status.tolist() == [Status.NOT_YET] * 3
    assert f"/projects/{oracle.project.id}/" in first.note
    tasks = tasks_in(sdk, oracle)
    assert [task.data["key"] for task in tasks] == small.keys
    assert [[(one.result[0]["value"]["choices"], one.score) for one in task.predictions] for task in tasks] == [
        [(["green"], 0.5)], [], [(["red"], 0.75)],
    ]  # fmt: skip
    sdk.annotations.create(id=tasks[0].id, result=choose("blue"))
    sdk.annotations.create(id=tasks[2].id, result=[], was_cancelled=True)
    again = small.oracle().answer(small.requests())  # another process: it finds the tasks
    assert again.status.tolist() == [Status.LABEL, Status.NOT_YET, Status.SKIP]
    assert again.names == ["blue", "", ""]
    assert again.by == ["1", "", "1"]
    sdk.annotations.create(id=tasks[1].id, result=choose("unusable", "unusable"))
    assert oracle.answer(small.requests()).status.tolist() == [Status.LABEL, Status.UNUSABLE, Status.SKIP]
    assert oracle.answer(small.requests(1)).status.tolist() == [Status.NOT_YET] * 3  # another batch
    assert len(tasks_in(sdk, oracle)) == 6


def test_a_push_that_nobody_noted_and_a_push_that_was_done_twice_leave_one_task(make: Any, sdk: Any) -> None:
    small = make()
    oracle = small.oracle()
    oracle.answer(small.requests())
    small.run.batch_files("round 0").delete(NOTED)
    assert "Pushed again" not in small.oracle().answer(small.requests()).note
    assert len(tasks_in(sdk, oracle)) == 3
    copies = [{"data": task.data} for task in tasks_in(sdk, oracle)]
    sdk.projects.import_tasks(oracle.project.id, request=copies)  # as when a killed sender's request ends late
    last = tasks_in(sdk, oracle)[-1]
    sdk.annotations.create(id=last.id, result=choose("red"))  # and somebody labeled the copy
    answers = small.oracle().answer(small.requests())
    assert answers.status.tolist() == [Status.NOT_YET, Status.NOT_YET, Status.LABEL]
    left = tasks_in(sdk, oracle)
    assert sorted(task.data["key"] for task in left) == sorted(small.keys)
    assert last.id in [task.id for task in left]


def test_a_deleted_task_is_told_and_is_there_again_unless_it_was_answered(make: Any, sdk: Any) -> None:
    small = make()
    oracle = small.oracle()
    oracle.answer(small.requests())
    tasks = tasks_in(sdk, oracle)
    for task in tasks[:2]:
        sdk.tasks.delete(str(task.id))
    answers = oracle.answer(small.requests().take([1, 2]))  # the first image has an answer already
    assert "somebody deleted them in Label Studio before they had an answer: 002.png. Skip" in answers.note
    assert sorted(task.data["key"] for task in tasks_in(sdk, oracle)) == ["002.png", "009.png"]
    assert "Pushed again" not in oracle.answer(small.requests().take([1, 2])).note


def test_a_deleted_project_is_an_error_that_says_how_to_go_on(make: Any, sdk: Any) -> None:
    small = make()
    oracle = small.oracle()
    oracle.answer(small.requests())
    sdk.projects.delete(oracle.project.id)
    for again in (lambda: oracle.answer(small.requests()), small.oracle):
        with pytest.raises(OracleError, match=f"project {oracle.project.id} does not exist .* remove .*{NOTED}"):
            again()
    Path(small.run.at(BATCHES), NOTED).unlink()
    anew = small.oracle()
    assert anew.project.id != oracle.project.id
    assert "Pushed again" not in anew.answer(small.requests()).note
    assert len(tasks_in(sdk, anew)) == 3


def test_a_project_is_found_by_number_and_title_and_must_fit(make: Any, sdk: Any, tmp_path: Path) -> None:
    xml = '<View><Image name="image" value="$image"/><Choices name="c" toName="image">{}</Choices></View>'
    choices = "".join(f'<Choice value="{name}"/>' for name in NAMES)
    fits = sdk.projects.create(title="somebody's own", label_config=xml.format(choices))
    for project in (str(fits.id), "somebody's own"):
        small = make(project=project)
        assert small.oracle().project.id == fits.id
        Path(small.run.at(BATCHES), NOTED).unlink()
    other = sdk.projects.create(title="cats", label_config=xml.format('<Choice value="cat"/><Choice value="dog"/>'))
    with pytest.raises(OracleError, match="'cats': its labeling interface does not fit .* no choice for 'red'"):
        make(project="cats").oracle()
    Path(small.run.at(BATCHES), NOTED).unlink()
    grown = make(project=str(other.id), new_classes="allow").oracle()
    assert {"cat", "dog", *NAMES} == set(grown._fit().classes)
    assert 'value="red"' in sdk.projects.get(other.id).label_config
    Path(small.run.at(BATCHES), NOTED).unlink()
    sdk.projects.create(title="cats", label_config=xml.format(choices))
    with pytest.raises(OracleError, match=f"2 projects have the title 'cats'.*{other.id}"):
        make(project="cats").oracle()
    with pytest.raises(OracleError, match="the project 98765 does not exist"):
        make(project="98765").oracle()


def test_people_who_disagree_are_asked_once_more(make: Any, sdk: Any) -> None:
    small = make(annotations=2)
    oracle = small.oracle()
    oracle.answer(small.requests())
    assert sdk.projects.get(oracle.project.id).maximum_annotations == 2
    people = [1, *(sdk.users.create(email=f"{name}@example.org", username=name).id for name in ("two", "three"))]
    tasks = tasks_in(sdk, oracle)

    def say(task: int, person: int, name: str) -> None:
        sdk.annotations.create(id=tasks[task].id, result=choose(name), completed_by=people[person])

    say(0, 0, "red"), say(0, 1, "red"), say(1, 0, "red"), say(1, 1, "blue"), say(2, 0, "green")
    answers = oracle.answer(small.requests())
    assert answers.status.tolist() == [Status.LABEL, Status.NOT_YET, Status.NOT_YET]
    assert "002.png: people disagree, red (annotator 1), blue" in answers.note
    say(1, 2, "blue")
    answers = oracle.answer(small.requests())
    assert answers.status.tolist() == [Status.LABEL, Status.LABEL, Status.NOT_YET]
    assert answers.names == ["red", "blue", ""]
    assert answers.by == [f"1, {people[1]}", f"1, {people[1]}, {people[2]}", ""]


def test_images_are_served_from_a_folder_of_the_server(make: Any, sdk: Any, server: studio.Studio) -> None:
    photos(server.files / "mine", 12)
    small = make(local_root=str(server.files))
    small.catalog = index(str(server.files / "mine"), str(Path(small.run.uri).parent / "other"), yes=True)
    oracle = small.oracle()
    for number in (0, 1):  # the second time the storage is there
        oracle.answer(small.requests(number))
    address = tasks_in(sdk, oracle)[0].data["image"]
    asked = urllib.request.Request(server.url + address, headers={"Authorization": f"Token {studio.LEGACY}"})
    with urllib.request.urlopen(asked) as answer:
        assert answer.read() == (server.files / "mine" / "005.png").read_bytes()
    assert len(sdk.import_storage.local.list(project=oracle.project.id)) == 1


def test_new_classes_are_read_and_become_choices(make: Any, sdk: Any) -> None:
    small = make(new_classes="allow")
    oracle = small.oracle()
    oracle.answer(small.requests())
    typed = {"from_name": "new_class", "to_name": "image", "type": "textarea", "value": {"text": ["pink"]}}
    task = tasks_in(sdk, oracle)[1]
    sdk.annotations.create(id=task.id, result=[*choose("red"), typed])
    answers = oracle.answer(small.requests())
    assert answers.names == ["", "pink", ""]
    assert "NEW CLASS 'pink'" in answers.note
    about = small.run.about()
    (Path(small.run.uri) / "run.json").unlink()
    small.run.write_about({**about, "classes": [*NAMES, "pink"]})
    assert oracle._fit().classes == (*NAMES, "pink")


def test_both_kinds_of_tokens_work_and_a_wrong_one_is_refused(
    make: Any, sdk: Any, server: studio.Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make()
    personal = sdk.tokens.create().token
    assert personal.count(".") == 2
    monkeypatch.setenv(TOKEN, personal)
    assert small.oracle().answer(small.requests()).status.tolist() == [Status.NOT_YET] * 3
    for wrong in ("f" * 40, personal[:-4] + "AAAA"):
        monkeypatch.setenv(TOKEN, wrong)
        with pytest.raises(OracleError, match=f"refused the token in {TOKEN}") as refused:
            small.oracle()
        assert wrong not in str(refused.value)
    monkeypatch.delenv(TOKEN)
    with pytest.raises(OracleError, match=f"{TOKEN}, got none"):
        small.oracle()


def test_a_server_that_is_away_or_somebody_else_is_told(make: Any, server: studio.Studio) -> None:
    small = make()
    small.config = LabelConfig(oracle="label_studio", url="http://127.0.0.1:9")
    with pytest.raises(OracleError, match="http://127.0.0.1:9: Label Studio does not answer .*labels.url"):
        small.oracle()
    with pytest.raises(OracleError, match="status 404|does not exist"):
        Server(f"{server.url}/nowhere").titled("mine")


CODE = "from alray.cli import main; main()"


class People:
    """Two annotators and a third for what they disagree on. What they say depends on the image and the person alone."""

    def __init__(self, sdk: Any, project: int) -> None:
        self.sdk, self.project = sdk, project
        have = {user.email: user.id for user in sdk.users.list()}
        emails = ["first@example.org", "second@example.org", "third@example.org"]
        self.ids = [have.get(email) or sdk.users.create(email=email, username=email[:5]).id for email in emails]

    @staticmethod
    def opinion(key: str, person: int) -> str:
        draw, name = random.Random(key).random(), NAMES[int(key[:3]) % 3]
        if draw < 0.08:
            return "skip"
        if draw < 0.16:
            return "unusable"
        wrong = NAMES[(NAMES.index(name) + 1) % 3]
        return wrong if draw < 0.35 and person == int(100 * draw) % 2 else name

    def truth(self, key: str) -> str:
        return self.opinion(key, 2)

    def work(self, most: int) -> int:
        """Give at most so many annotations; the number of those that were given."""
        given = 0
        for task in self.sdk.tasks.list(project=self.project, fields="all"):
            by = {annotation["completed_by"] for annotation in task.annotations or []}
            said = [self.opinion(task.data["key"], person) for person in (0, 1)]
            for person in range(3 if said[0] != said[1] else 2):
                if given < most and self.ids[person] not in by:
                    word = self.opinion(task.data["key"], person)
                    result = [] if word == "skip" else choose(word, "unusable" if word == "unusable" else "label")
                    self.sdk.annotations.create(
                        id=task.id, result=result, was_cancelled=word == "skip", completed_by=self.ids[person]
                    )
                    given += 1
        return given


def config_of(folder: Path, url: str) -> RunConfig:
    model = ModelConfig(backbone="resnet18", options={"channels": [16, 16, 16, 16]}, small_stem=True)
    torch.save(create(model, 3, seed=4).backbone.state_dict(), folder / "backbone.pt")
    return RunConfig(
        name="studio", root=str(folder / "runs"), rounds=3, budget=BUDGET, strategy="margin", top_k=(),
        data=DataConfig(root=photos(folder / "photos", 90), classes=NAMES, label_column="", yes=True),
        split=SplitConfig(seed_set_size=BUDGET), transform=TransformConfig(size=16, resize=0),
        model=model.model_copy(update={"checkpoint": str(folder / "backbone.pt")}),
        labels=LabelConfig(oracle="label_studio", url=url, wait="poll", poll_seconds=0.5, annotations=2),
        train=TrainConfig(mode="linear", epochs=3, lr=1.0, patience=0),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip


def until(true: Callable[[], Any], process: subprocess.Popen[bytes], log: Path, seconds: float = 400) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.5)
    return found


class Job:
    """A run as a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config, self.log = folder, config, folder / "run.log"
        (folder / "config.json").write_text(config.to_json())
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as out:
            command = [sys.executable, "-c", CODE, "run", str(self.folder / "config.json")]
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def until(self, true: Callable[[], Any]) -> Any:
        return until(true, self.process, self.log)

    def asks(self, batch: str) -> RunDir:
        """The run's directory, when the tasks of a batch are pushed."""

        def noted() -> RunDir | None:
            found = [
                path for path in Path(self.config.root).glob(f"{self.config.name}-*") if (path / "run.json").exists()
            ]
            run = RunDir(str(found[0])) if found else None
            return run if run and run.batch_files(batch).has(NOTED) else None

        found: RunDir = self.until(noted)
        return found


def project_of(run: RunDir) -> int:
    return int(json.loads(Path(run.at(BATCHES), NOTED).read_text())["project"])


def pushed_to(sdk: Any, project: int) -> Counter[tuple[str, str]]:
    return Counter((task.data["batch"], task.data["key"]) for task in sdk.tasks.list(project=project))


def test_three_rounds_with_partial_answers_a_killed_run_and_a_server_that_goes_away(
    tmp_path: Path, server: studio.Studio, sdk: Any
) -> None:
    job = Job(tmp_path, config_of(tmp_path, server.url))
    try:
        folder = job.asks("start")
        people = People(sdk, project_of(folder))
        people.work(7)
        job.until(lambda: Ledger(folder.deliveries).names())  # part of the answers
        job.kill()
        job.start()
        people.work(100)
        job.asks("round 0")
        people.work(8)
        server.stop()
        job.until(lambda: "Label Studio does not answer" in job.log.read_text())
        server.start()
        while job.process.poll() is None:
            people.work(6)
            time.sleep(0.5)
        assert job.process.returncode == 0, job.log.read_text()[-3000:]
    finally:
        job.kill()
    pushed = pushed_to(sdk, people.project)
    assert set(pushed.values()) == {1}
    assert len(pushed) == 3 * BUDGET
    again = [key for key, count in Counter(key for _, key in pushed).items() if count > 1]
    assert all(people.truth(key) == "skip" for key in again)
    given = {
        key: name if status == Status.LABEL else status.name.lower()
        for key, (status, name) in Ledger(folder.deliveries).answers().items()
    }
    assert given == {key: people.truth(key) for _, key in pushed}
    assert {"skip", "unusable", *NAMES} == set(given.values())
    labels = {key: name for key, (status, name) in state.given(folder).items() if status == Status.LABEL}
    assert labels == {key: name for key, name in given.items() if name in NAMES}
    assert folder.round(2).metrics()["labels"] == len(labels)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if studio.LEGACY.encode() in path.read_bytes()]
    ended = subprocess.run([sys.executable, "-c", CODE, "run", str(tmp_path / "config.json")], check=True)
    assert ended.returncode == 0  # a finished run asks nobody


def test_a_run_that_exits_says_where_to_label_and_takes_what_came(
    tmp_path: Path, server: studio.Studio, sdk: Any
) -> None:
    config = replace(config_of(tmp_path, server.url), {"labels.wait": "exit", "name": "exits", "rounds": 1})
    (tmp_path / "config.json").write_text(config.to_json())
    command = [sys.executable, "-c", CODE, "run", str(tmp_path / "config.json")]
    stopped = subprocess.run(command, capture_output=True, text=True)
    assert stopped.returncode == 75, stopped.stderr
    assert "Label the images in the project 'exits-" in stopped.stderr
    people = People(sdk, int(stopped.stderr.split("/projects/")[1].split("/")[0]))
    people.work(4)
    stopped = subprocess.run(command, capture_output=True, text=True)
    assert stopped.returncode == 75
    assert re.search(f"start: [12] of {BUDGET} answers are there", stopped.stderr)  # three people may see an image
    server.stop()
    stopped = subprocess.run(command, capture_output=True, text=True)
    server.start()
    assert stopped.returncode == 2
    assert "Label Studio does not answer" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    people.work(100)
    assert subprocess.run(command).returncode == 0


PIXELS = 32
MASKED = ("background", "red", "green")


def mask_of(key: str) -> np.ndarray:
    number = int(key[:3])
    mask = np.zeros((PIXELS, PIXELS), np.uint8)
    mask[2 + number % 7 : 18, 4 + number % 5 : 20] = 1 + number % 2
    return mask


def region(kind: str, name: str, side: int = PIXELS, **value: Any) -> dict[str, Any]:
    return {
        "from_name": kind.removesuffix("labels"), "to_name": "image", "type": kind, "original_width": PIXELS,
        "original_height": side, "image_rotation": 0, "value": {kind: [name], **value},
    }  # fmt: skip


def drawing(key: str, side: int = PIXELS) -> list[dict[str, Any]]:
    """The mask of an image, by a brush or, where the rest of a number by three is one, by a polygon of its corners."""
    from label_studio_sdk.converter.brush import mask2rle

    mask = mask_of(key)
    name = MASKED[mask.max()]
    if int(key[:3]) % 3 != 1:
        return [
            region("brushlabels", name, side, format="rle", rle=mask2rle(np.where(mask > 0, 255, 0).astype(np.uint8)))
        ]
    rows, columns = np.nonzero(mask)
    (top, bottom), (left, right) = (
        [100 * (each.min() + 0.5) / PIXELS, 100 * (each.max() + 0.5) / PIXELS] for each in (rows, columns)
    )
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return [region("polygonlabels", name, side, points=points, closed=True)]


def segmenting(folder: Path, url: str) -> RunConfig:
    (folder / "photos").mkdir()
    for number in range(24):
        key = f"{number:03d}.png"
        image = np.random.default_rng(number).integers(0, 60, (PIXELS, PIXELS, 3), dtype=np.uint8)
        image[mask_of(key) > 0, number % 2] = 230
        Image.fromarray(image).save(folder / "photos" / key)
    return RunConfig(
        name="drawn", root=str(folder / "runs"), task="segmentation", rounds=2, budget=4, strategy="entropy", top_k=(),
        data=DataConfig(root=str(folder / "photos"), classes=MASKED),
        split=SplitConfig(seed_set_size=4), transform=TransformConfig(size=PIXELS, resize=0),
        model=ModelConfig(backbone="test_resnet"), train=TrainConfig(epochs=1, batch_size=4, patience=0),
        labels=LabelConfig(oracle="label_studio", url=url, wait="poll", poll_seconds=0.5),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip


def test_people_draw_masks_in_two_rounds_of_a_run_that_is_killed_once(
    tmp_path: Path, server: studio.Studio, sdk: Any
) -> None:
    job = Job(tmp_path, segmenting(tmp_path, server.url))
    try:
        folder = job.asks("start")
        project = project_of(folder)
        first, wrong, *rest = sdk.tasks.list(project=project)
        sdk.annotations.create(id=first.id, result=drawing(first.data["key"]))
        slip = sdk.annotations.create(id=wrong.id, result=[*drawing("001.png", 20)])
        job.until(lambda: Ledger(folder.deliveries).names())  # part of the answers
        refused = f"task {wrong.id}: mask: expected the image's 32 x 32 pixels, got 32 x 20"
        job.until(lambda: refused in job.log.read_text())
        job.kill()
        sdk.annotations.update(id=slip.id, result=drawing(wrong.data["key"]))
        job.start()
        for task in rest:
            sdk.annotations.create(id=task.id, result=drawing(task.data["key"]))
        job.asks("round 0")
        skipped, unusable, *rest = [task for task in sdk.tasks.list(project=project) if "round 0" in task.data["batch"]]
        sdk.annotations.create(id=skipped.id, result=[], was_cancelled=True)
        sdk.annotations.create(id=unusable.id, result=choose("unusable", "unusable"))
        for task in rest:
            sdk.annotations.create(id=task.id, result=drawing(task.data["key"]))
        assert job.process.wait(400) == 0, job.log.read_text()[-3000:]
    finally:
        job.kill()
    assert len(pushed := pushed_to(sdk, project)) == 8 and set(pushed.values()) == {1}
    drawn = state.masks(folder)
    left = {skipped.data["key"]: Status.SKIP, unusable.data["key"]: Status.UNUSABLE}
    assert {key: status for key, (status, _) in state.given(folder).items() if key not in drawn} == left
    assert drawn.keys() | left.keys() == {key for _, key in pushed}
    for key, uri in drawn.items():
        np.testing.assert_array_equal(np.asarray(Image.open(uri)), mask_of(key))
    metrics = [folder.round(number).metrics() for number in range(2)]
    assert [one["labels"] for one in metrics] == [4, 6]
    counts = np.sum([np.bincount(mask_of(key).ravel(), minlength=3) for key in drawn], axis=0)
    assert metrics[1]["labeled_set"]["counts"] == counts.tolist()
    assert "train" in (folder.noted(PLAN) or {})["seconds"] and "plan: none was made" not in job.log.read_text()
