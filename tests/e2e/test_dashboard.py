"""The dashboard's queries, asked of a real Prometheus that scraped a cluster on which two runs were; and `alray status`
of a run that is under way, from another machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from shells import REPOSITORY, Machine, free_ports, started

DASHBOARD = json.loads((REPOSITORY / "cluster/grafana.json").read_text())
QUERIES = {
    f"{panel['title']}, {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
ALRAY = "from alray.cli import main; main()"
ELSEWHERE = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "bash", "-c", 'hostname elsewhere; exec "$@"', "_"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Prometheus:
    """Debian's Prometheus with the configuration that Ray writes for it."""

    def __init__(self, config: Path, folder: Path) -> None:
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}/api/v1"
        self.log = (folder / "prometheus.log").open("w")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def ask(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.address}/{path}?{urlencode(parameters)}", timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def series(self, expression: str, began: float) -> list[tuple[dict[str, str], list[float]]]:
        """What a panel shows of the time since then: labels and values of each line."""
        asked = {"query": expression, "start": str(began), "end": str(time.time()), "step": "5"}
        return [
            (line["metric"], [float(value) for _, value in line["values"]])
            for line in self.ask("query_range", **asked)["result"]
        ]


class Watched:
    """The cluster on which the runs were, what Prometheus has of it, and what was seen of the runs from elsewhere."""

    def __init__(self, prometheus: Prometheus, root: Path, began: float, seen: list[str]) -> None:
        self.prometheus, self.root, self.began, self.seen = prometheus, root, began, seen

    def lines(self, name: str) -> list[tuple[dict[str, str], list[float]]]:
        found = self.prometheus.series(QUERIES[name].replace("$run", ".+"), self.began)
        return [(labels, [value for value in values if np.isfinite(value)]) for labels, values in found]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    if not shutil.which("prometheus"):
        pytest.skip("no program prometheus (Debian: apt-get install prometheus)")
    (port,) = free_ports(1)
    folder, began = tmp_path_factory.mktemp("watched"), time.time()
    for machine in started("token", **{"metrics-export-port": port}):
        config = Path(machine.environment["RAY_TMPDIR"]) / "ray/session_latest/metrics/prometheus/prometheus.yml"
        prometheus = Prometheus(config, folder)
        try:
            seen = runs(machine, folder)
            time.sleep(25)  # Ray and Prometheus each look every ten seconds
            yield Watched(prometheus, folder, began, seen)
        finally:
            prometheus.process.terminate()
            prometheus.process.wait(30)
            prometheus.log.close()


def runs(machine: Machine, root: Path) -> list[str]:
    """A linear run and a fine-tuning; what `alray status` said of the second meanwhile, on another machine."""
    rng, labels = np.random.default_rng(0), np.arange(20_000) % 5
    features = (rng.normal(size=(20_000, 32)) + rng.normal(size=(5, 32))[labels]).astype(np.float32)
    np.savez(root / "features.npz", features=features, label=labels, is_test=np.arange(20_000) % 6 == 0)
    linear = machine.submit(
        f"python jobs/imagenet_base.py --name linear --data.root '{root}/features.npz' --train.mode linear "
        f"--root '{root}' --rounds 3 --budget 500 --strategy k_center --split.val-size 25 --split.seed-set-size 200 "
        "--train.epochs 20 --top-k 2 --resources.select-shards 2"
    )
    assert linear.returncode == 0, linear.stdout
    seen, over = list[str](), threading.Event()

    def look() -> None:
        while not over.wait(3):
            for run in root.glob("images-*"):
                command = [*ELSEWHERE, sys.executable, "-c", ALRAY, "status", str(run)]
                seen.append(subprocess.run(command, capture_output=True, text=True, check=False).stdout)

    looking = threading.Thread(target=look)
    looking.start()
    images = machine.submit(
        f"python jobs/digits.py --name images --root '{root}' --strategy random --rounds 2 --budget 20 "
        "--train.epochs 40 --resources.train-workers 1"
    )
    over.set()
    looking.join()
    assert images.returncode == 0, images.stdout
    return seen


@pytest.mark.parametrize("name", QUERIES)
def test_every_panel_shows_data(name: str, watched: Watched) -> None:
    found = watched.lines(name)
    if not found and name.startswith("GPU") and not shutil.which("nvidia-smi"):
        pytest.skip("this machine has no GPU")
    assert any(values for _, values in found), watched.prometheus.ask("label/__name__/values")


def test_the_runs_can_be_chosen(watched: Watched) -> None:
    (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "run"]
    assert variable["query"] == "label_values(ray_alray_round, run)"
    assert watched.prometheus.ask("label/run/values", **{"match[]": "ray_alray_round"}) == ["images", "linear"]


def test_the_panels_show_what_the_runs_did(watched: Watched) -> None:
    rounds = {labels["run"]: values for labels, values in watched.lines("Round, A")}
    assert set(rounds["linear"]) <= {0, 1, 2} and max(rounds["images"]) == 1
    assert {labels["run"]: set(values) for labels, values in watched.lines("Round, B")} == {
        "linear": {2},
        "images": {1},
    }
    stages = {labels["stage"] for labels, _ in watched.lines("Seconds in the stage, A") if labels["run"] == "images"}
    assert "train" in stages
    done = watched.lines("Progress of the stage, A")
    assert all(0 <= value <= 1 for _, values in done for value in values)
    rates = watched.lines("Images, epochs or picks per second, A")
    assert {"epochs", "images"} & {labels["unit"] for labels, _ in rates}
    given = {labels["run"]: set(values) for labels, values in watched.lines("Labeled images, A")}
    assert given["images"] <= {40, 60} and given["linear"] <= {200, 700, 1200}


def test_status_tells_from_another_machine_what_the_run_does(watched: Watched) -> None:
    now = [line for said in watched.seen for line in said.splitlines() if line.startswith("now: round ")]
    assert any("train" in line and "epochs" in line and "to go" in line for line in now), watched.seen
    assert any("labels by class" in said for said in watched.seen)
    assert not any("nobody works" in said for said in watched.seen)
