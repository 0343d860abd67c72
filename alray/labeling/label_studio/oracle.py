"""The oracle `label_studio`: every batch becomes tasks of a project, and annotations become answers.

Tasks carry the key of their image and the name of their batch. Before tasks are pushed, those of the batch that are
there are looked up, so that a run that was killed pushes nothing twice. Tasks that exist twice all the same (a server
may finish a request whose sender was killed) are reduced to one, unless people labeled both: then all of their
annotations count. A task that somebody deleted is pushed again if its image has no answer yet, and this is told;
answers that the run has written down stay. Annotations that change later are not read again: `alray label --correct`
corrects an answer.

People choose classes or draw masks, as the run's task has it (`Task.answers`). Tasks for masks carry no prediction: a
mask that the model predicts is not shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alray.config import ConfigError, LabelConfig, refuse_credentials
from alray.data.catalog import Catalog
from alray.data.oracle import Answers, OracleError, Requests, Status
from alray.labeling import state
from alray.labeling.check import Asked, Rules, check
from alray.labeling.deliveries import Delivered
from alray.labeling.kinds import kind_of
from alray.labeling.label_studio import interface
from alray.labeling.label_studio.agreement import agreed
from alray.labeling.label_studio.images import Images, expires_soon
from alray.labeling.label_studio.interface import Interface
from alray.labeling.label_studio.server import ANNOTATED, CANCELLED, MODEL, AwayError, Project, Server, require
from alray.rundir import BATCHES, RunDir
from alray.store import Store

NOTED = "label_studio.json"  # beside the files of batches: which project is the run's; in a batch: it was pushed
_TITLE = 3, 50  # the shortest and the longest title that Label Studio takes
_SHOWN = 5

Task = Mapping[str, Any]


_INTERFACES = {  # how people give each kind of answer: an interface for it, and whether one that is there fits
    Status.LABEL: (interface.for_classes, interface.fitting),
    Status.MASK: (interface.for_masks, interface.fitting_masks),
}


def check_settings(config: LabelConfig, gives: Status) -> None:
    """Raise ConfigError or OracleError for settings with which nobody can be asked. gives: what people give."""
    if gives == Status.MASK and config.agreement != "majority":
        raise ConfigError(
            f"labels.agreement: expected majority, got {config.agreement}: a pixel of a mask has the class that "
            "most people gave it"
        )
    refuse_credentials({"labels.url": config.url})
    if not config.url.startswith(("http://", "https://")):
        raise ConfigError(f"labels.url: expected http://... or https://..., got {config.url!r}")
    require()


class LabelStudio:
    """Asks people through Label Studio. Raises OracleError if the server, its token or the project cannot be used."""

    def __init__(self, run: RunDir, catalog: Catalog, config: LabelConfig, gives: Status = Status.LABEL) -> None:
        if not catalog.source.decoded:
            raise ConfigError("labels.oracle label_studio shows images to people, but the source has only embeddings")
        self.run, self.catalog, self.config, self.gives = run, catalog, config, gives
        self._make, self._fitting = _INTERFACES[gives]
        self.images = Images(config, catalog, gives)
        self.server = Server(config.url)
        self._seen: dict[str, int] = {}  # tasks of a batch when they were looked up
        self._fit()

    @property
    def _new(self) -> bool:
        """Whether people may write the names of new classes."""
        return self.config.lets_come(self.run.listed_classes())

    def answer(self, requests: Requests) -> Answers:
        """Push the tasks that are missing, and read what people answered so far.

        A server that was there when the run started, and is not now, gives no answers: its error is the note. Raises
        OracleError for other errors.
        """
        nothing = Answers(np.full(len(requests), Status.NOT_YET, np.uint8), np.full(len(requests), -1, np.int32))
        try:
            interface = self._fit()
            pushed = self._push(requests, interface)
            batch = self._batch(requests)
            tasks = [*(self.server.tasks(self.project, batch, having) for having in (ANNOTATED, CANCELLED))]
        except AwayError as error:
            return replace(nothing, note=f"{error}\nWhat was pushed and answered so far is kept.")
        return self._answers(requests, {task["id"]: task for part in tasks for task in part}.values(), pushed, nothing)

    def _answers(self, requests: Requests, tasks: Iterable[Task], notes: list[str], nothing: Answers) -> Answers:
        kind, asked = kind_of(self.run, self.gives), set(requests.keys)
        tasks = [task for task in tasks if str(task["data"]["key"]) in asked]
        lines = [line for task in tasks for line in kind.of_task("Label Studio", task["id"], task)]
        wrong = {line: line.problem for line in lines if line.problem}
        wrong |= kind.problems([line for line in lines if line not in wrong])
        refused = [f"{line.where}: {problem}" for line, problem in wrong.items()]
        votes = defaultdict[str, list[Delivered]](list)
        for line in lines:
            if line not in wrong:
                votes[line.key].append(line)
        found = agreed(votes, self.config.annotations, self.config.agreement, kind.together)
        rules = Rules(state.classes(self.run), self._new, remedy=self.config.remedy(self.run.listed_classes()))
        checked = check(found.settled, Asked(requests.keys, requests.uris, {}), rules)
        said = {line.key: line for line in checked.taken}
        answers = [said.get(key) for key in requests.keys]
        told = [*notes, *kind.notes, *_few(found.open), *_few([*refused, *checked.refused]), *checked.notes]
        return replace(
            nothing,
            status=np.array([Status.NOT_YET if one is None else one.status for one in answers], np.uint8),
            names=["" if one is None else one.label for one in answers],
            by=["" if one is None else one.annotator for one in answers],
            masks=[None if one is None else kind.contents.get(one.label) for one in answers],
            note="\n".join([f"Label the images in the project {self.project.title!r}: {self._link}", *told]),
        )

    @property
    def _link(self) -> str:
        return self.server.link(self.project)

    def _find(self) -> Project:
        """The project of the run: the one that it used before, the configured one, or a new one."""
        noted = self._noted()
        if noted.get("url") == self.server.url and noted.get("asked") == self.config.project:
            try:
                return self.server.project(noted["project"])
            except AwayError:
                raise
            except OracleError as error:
                raise OracleError(
                    f"{error}: it was {noted['title']!r}, the project of this run. Answers that the run has are kept. "
                    f"To ask for the others in a new project, remove {self._notes.at(NOTED)} and start again"
                ) from None
        title = self.config.project or self._name
        if self.config.project.isdecimal():
            return self._note(self.server.project(int(self.config.project)))
        if not _TITLE[0] <= len(title) <= _TITLE[1]:
            raise ConfigError(
                f"labels.project: expected a title of {_TITLE[0]} to {_TITLE[1]} characters, got {title!r}"
            )
        found = self.server.titled(title)
        if found is None:
            xml = self._make(state.classes(self.run), self._new)
            found = self.server.create(title, xml, self.config.annotations)
        return self._note(found)

    @property
    def _name(self) -> str:
        about = self.run.about()
        return f"{about['name']}-{about['fingerprint']}"

    @property
    def _notes(self) -> Store:
        return Store(self.run.at(BATCHES), "")

    def _noted(self) -> dict[str, Any]:
        return dict(self._notes.read_json(NOTED)) if self._notes.has(NOTED) else {}

    def _note(self, project: Project) -> Project:
        about = {"url": self.server.url, "asked": self.config.project, "project": project.id, "title": project.title}
        self._notes.write_json(NOTED, about)
        return project

    def _fit(self) -> Interface:
        """The labeling interface of the project as it is now, with a choice for every class of the run."""
        self.project = self._find()
        where = f"{self.server.url}: the project {self.project.title!r}"
        new = self._new
        found = self._fitting(self.project.interface, state.classes(self.run), new, where)
        if found.xml != self.project.interface:
            self.project = self.server.change(self.project, label_config=found.xml)
        if self.project.annotations < self.config.annotations:
            self.project = self.server.change(self.project, maximum_annotations=self.config.annotations)
        return found

    def _batch(self, requests: Requests) -> str:
        return f"{self._name}, {requests.batch}"

    def _push(self, requests: Requests, interface: Interface) -> list[str]:
        """Push the tasks that are missing. Returns sentences on tasks that were deleted."""
        batch, place = self._batch(requests), self.run.batch_files(requests.batch)
        if self.server.count(self.project, batch) == self._seen.get(batch):
            return []
        there = self._look_up(batch)
        missing = [at for at, key in enumerate(requests.keys) if key not in there]
        noted = place.read_json(NOTED) if place.has(NOTED) else {}
        told = []
        if missing and noted.get("project") == self.project.id:
            keys = [requests.keys[at] for at in missing]
            told = [
                f"Pushed again, because somebody deleted them in Label Studio before they had an answer: "
                f"{', '.join(keys[:_SHOWN])}{f' and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''}. Skip an "
                "image, or call it unusable, if nobody should label it."
            ]
        if missing:
            self.server.push(self.project, self._tasks(requests.take(missing), batch, interface))
            there = self._look_up(batch)
            lost = [key for key in requests.keys if key not in there]
            if lost:
                raise OracleError(
                    f"{self._link}: {len(lost)} of {len(missing)} tasks that were pushed are not there, first "
                    f"{lost[0]}; start again when the server has taken them in"
                )
        place.write_json(NOTED, {"project": self.project.id})
        self._seen[batch] = len(there)
        return told

    def _look_up(self, batch: str) -> dict[str, Task]:
        """The tasks of a batch by key. Of tasks for the same image those without an answer are deleted but for one,
        and addresses of images that expire soon are renewed."""
        by_key: dict[str, list[Task]] = defaultdict(list)
        for task in self.server.tasks(self.project, batch):
            by_key[str(task["data"]["key"])].append(task)
        for same in by_key.values():
            same.sort(key=lambda task: (not task["answered"], task["id"]))
            for one in same[1:]:
                if not one["answered"]:
                    self.server.delete(one["id"])
        old = [tasks[0] for tasks in by_key.values() if expires_soon(str(tasks[0]["data"].get(interface.IMAGE, "")))]
        rows = self.catalog.rows_of([one["data"]["key"] for one in old])
        for one, address in zip(old, self.images.addresses(rows), strict=True):
            self.server.update(one["id"], {**one["data"], interface.IMAGE: address})
        return {key: tasks[0] for key, tasks in by_key.items()}

    def _tasks(self, requests: Requests, batch: str, shown: Interface) -> list[dict[str, Any]]:
        addresses = self.images.addresses(requests.rows)
        for folder in self.images.folders(addresses):
            self.server.serve(self.project, folder)
        return list(tasks_of(requests, addresses, batch, state.classes(self.run), shown))


def tasks_of(
    requests: Requests, addresses: Sequence[str], batch: str, classes: Sequence[str], shown: Interface
) -> Iterator[dict[str, Any]]:
    """The tasks of some requests: image, key and batch, and the class that the model predicts, with its probability."""
    columns = requests.keys, addresses, requests.predicted.tolist(), requests.probability.tolist()
    for key, address, number, probability in zip(*columns, strict=True):
        task: dict[str, Any] = {"data": {interface.IMAGE: address, "key": key, "batch": batch}}
        if number >= 0:
            score = {} if np.isnan(probability) else {"score": probability}
            task["predictions"] = [{"model_version": MODEL, "result": [shown.prediction(classes[number])], **score}]
        yield task


def _few(lines: Sequence[str]) -> list[str]:
    return [*lines[:_SHOWN], *([f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])]
