"""Section f: the published CIFAR-10 protocols of PT4AL, BASE and Core-Set on the real images, by alray's own parts.

One process trains the rotation task. Then one process for each strategy of each protocol makes all its rounds, all of
them side by side on the one GPU, because a network for images of 32 pixels does not fill it. How many rounds and epochs
fit is decided from what these processes train together in a pilot. The images are in $ALRAY_TEST_DATA/cifar10.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import cifar
from protocol_plan import FULL, PROTOCOLS, PUBLISHED_EPOCHS, TINY, Size, epochs_of, fitting, jobs
from section import Section, python, write_json

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_BEFORE_THE_END = 8.0  # seconds that remain for the section after the last process
_EARLIER = 3.0  # seconds before the section's end of the processes at which they end by themselves
_USED = 0.85  # of the time that is left after the pilot: the plan is made for it
_PILOT = 0.4  # of the time that is left, after which the plan is made without the processes that have told nothing
_PRETEXT = 0.5  # of the time, after which the others begin without the pretext task


@dataclass
class Child:
    """A process, how far its lines were read, and the images a second that it told."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    read: int = 0
    rate: float = 0.0
    told: bool = False  # its end is part of the result


@dataclass
class Team:
    """All processes of the section."""

    section: Section
    size: Size
    data: Path | None  # None: the images are generated
    folder: Path
    end: float  # on the wall clock
    children: dict[str, Child] = field(default_factory=dict)

    def work(self) -> None:
        """Everything, until the last process has ended or the time is over."""
        setup = {"size": asdict(self.size), "deadline": self.end - _EARLIER}
        write_json(self.folder / "setup.json", setup)
        try:
            for job in ("pretext", *("/".join(names) for names in jobs(self.size))):
                self._start(job)  # they import and start CUDA while the images are decoded
            began = time.monotonic()
            cifar.write(self.data, self.folder, self.size.images, self.size.tests)
            self._say(f"the images were decoded in {time.monotonic() - began:.1f} s")
            write_json(self.folder / "data.json", {})
            self._until(lambda: self._ended("pretext"), _PRETEXT * (self.end - time.time()))
            self._begin()
            most = _PILOT * (self.end - time.time())
            self._until(lambda: all(child.rate or self._ended(job) for job, child in self._rounds()), most)
            self._plan()
            self._until(lambda: all(map(self._ended, self.children)), self.end - time.time())
        finally:
            self._stop()

    def _start(self, job: str) -> None:
        """One process of this process's group, so that it is ended with the section, too."""
        errors = (self.folder / f"{job.replace('/', '-')}.errors").open("wb")
        script = str(Path(__file__).with_name("protocol_work.py"))
        threads = {"OMP_NUM_THREADS": "2" if (os.cpu_count() or 1) > 8 else "1"}
        process = subprocess.Popen(python(script, str(self.folder), job), stderr=errors, env={**os.environ, **threads})
        self.children[job] = Child(process, errors)

    def _rounds(self) -> list[tuple[str, Child]]:
        return [(job, child) for job, child in self.children.items() if job != "pretext"]

    def _ended(self, job: str) -> bool:
        return self.children[job].process.poll() is not None

    def _until(self, happened: Callable[[], bool], seconds: float) -> None:
        """Read what the processes tell until something has happened, at most for so long, never beyond the end."""
        last = min(time.time() + seconds, self.end)
        while not happened() and time.time() < last:
            self._read()
            time.sleep(0.2)
        self._read()

    def _read(self) -> None:
        """Rows, notes and rates that are new; and processes that failed."""
        for job, child in self.children.items():
            ended = self._ended(job)  # before its last lines are read
            path = self.folder / f"{job.replace('/', '-')}.jsonl"
            text = path.read_text() if path.exists() else ""
            lines = text[child.read : text.rfind("\n") + 1]
            child.read += len(lines)
            for line in lines.splitlines():
                self._take(child, json.loads(line))
            if ended and not child.told:
                child.told = True
                self._tell_end(job, child)

    def _take(self, child: Child, line: dict[str, Any]) -> None:
        kind = line.pop("kind")
        if kind == "row":
            print(f"{self._now:.0f} s: ", end="")
            self.section.add(line.pop("table"), **line)
        elif kind == "note":
            self.section.note(line["text"])
        else:
            child.rate = line["images_per_second"]

    def _tell_end(self, job: str, child: Child) -> None:
        code = child.process.wait()
        self._say(f"{job} has ended with status {code}")
        if code:
            errors = (self.folder / f"{job.replace('/', '-')}.errors").read_text(errors="replace")
            self.section.failures.append(f"{job}: left with status {code}\n{errors[-1500:]}")
            self.section.note(f"{job}: left with status {code}: {errors.strip().splitlines()[-1:]}")

    def _begin(self) -> None:
        """Let the strategies begin, with the pretext task's network and losses or without."""
        pretext = self._ended("pretext") and self.children["pretext"].process.returncode == 0
        pretext = pretext and (self.folder / "losses.npy").exists()
        if not pretext:
            self._kill("pretext", "ended, because it took too long")
            self.section.note("Without a pretext task PT4AL is left out, and BASE starts from fresh weights at 0.1.")
        write_json(self.folder / "go.json", {"pretext": pretext})

    def _plan(self) -> None:
        """Rounds and epochs of every protocol, from the slowest of its processes."""
        plan = {}
        left = self.end - time.time()
        rates = {job: child.rate for job, child in self._rounds() if child.rate and not self._ended(job)}
        self.section.add(
            "Pilot",
            processes=len(rates),
            images_per_second_together=sum(rates.values()),
            slowest_process=min(rates.values(), default=0.0),
            seconds_left=round(left, 1),
        )
        for name, protocol in PROTOCOLS.items():
            found = [rate for job, rate in rates.items() if job.startswith(f"{name}/")]
            rounds, last = fitting(protocol, self.size, min(found, default=1.0), _USED * left)
            plan[name] = {"rounds": rounds, "epochs": last}
            if found:
                step = protocol.step(self.size)
                first = epochs_of(step, step * rounds, last, self.size)
                self.section.note(
                    f"{protocol.title}: {rounds} rounds of {step:,} labels, {first} epochs in the first to {last} in "
                    f"the last instead of {PUBLISHED_EPOCHS}; one seed. {protocol.published}"
                )
        write_json(self.folder / "plan.json", plan)

    def _stop(self) -> None:
        """End the processes that are still there; their rows stay."""
        for job in self.children:
            self._kill(job, "ended, because the time was over")
        self._read()
        for child in self.children.values():
            child.errors.close()

    @property
    def _now(self) -> float:
        """Seconds since the section began."""
        return self.section.seconds - self.section.left

    def _kill(self, job: str, why: str) -> None:
        child = self.children[job]
        if not self._ended(job):
            child.told = True
            child.process.kill()
            child.process.wait()
            self.section.note(f"{job}: {why}.")

    def _say(self, text: str) -> None:
        print(f"{self._now:.0f} s: {text}", flush=True)


def run(section: Section, size: Size | None = None) -> None:
    """The three protocols."""
    size = size or (TINY if section.tiny else FULL)
    data = Path(os.environ.get("ALRAY_TEST_DATA") or _DATA)
    if size.real and not all(cifar.files(data)):
        section.note(f"Left out: no CIFAR-10 in {data}/cifar10; set ALRAY_TEST_DATA to the folder that holds cifar10.")
        return
    if size.real:
        there = [cifar.count(paths) for paths in cifar.files(data)]
        if there[0] < size.images or there[1] < size.tests:
            size = replace(size, images=min(size.images, there[0]), tests=min(size.tests, there[1]))
            section.note(f"Only {size.images:,} images and {size.tests:,} test images are there.")
    with tempfile.TemporaryDirectory() as folder:
        end = time.time() + section.left - min(_BEFORE_THE_END, 0.1 * section.left)
        Team(section, size, data if size.real else None, Path(folder), end).work()
