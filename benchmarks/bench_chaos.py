#!/usr/bin/env python
"""A run whose cluster, storage and own process are broken at seeded, random moments equals the undisturbed run.

    make chaos                                            # 50 rounds; some twenty minutes on two cores
    python benchmarks/bench_chaos.py --rounds 8 --seed 3

A linear run on generated embeddings, with its directory in an object store (a real S3 server on loopback) and its
selection on actors of a Ray cluster of three nodes and a head. At most one fault comes in a round, in every fifth round
none. At the end the picks, scores, labels and metrics of all rounds must be those of an undisturbed run in one process,
no image may be labeled twice, and `alray verify` must find nothing. What a fault costs: the seconds of its round beside
the median of the rounds without a fault, which lie between them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from chaos_faults import KINDS, Faults
from chaos_machines import BUCKET, Driver, Machines, Server, prepare, storage

ROWS, WIDTH, CLASSES = 4_000, 16, 8
PATIENCE = 600.0  # seconds without a new line of the run before it counts as hanging
SHORT = (
    "selection actor killed",
    "node killed, another one comes",
    "driver killed, same command again",
    "storage away",
)


def settings(folder: Path, place: str, workers: str, args: argparse.Namespace) -> Path:
    """The configuration of one of the two runs, as a file. place: of the run; workers: where it selects."""
    from alray import RunConfig
    from alray.config import DataConfig, ResourceConfig, SplitConfig, TrainConfig

    config = RunConfig(
        name="chaos", run_dir=place, root=str(folder), rounds=args.rounds, budget=20,
        strategy=args.strategy, top_k=(2,), data=DataConfig(root=str(folder / "data.npz")),
        split=SplitConfig(val_size=100, seed_set_size=40), train=TrainConfig(mode="linear", epochs=5, patience=2),
        resources=ResourceConfig(select_workers=workers, select_shards=2, cpus_per_shard=0.5, wait_minutes=5),
    )  # fmt: skip
    path = folder / f"{workers}.json"
    path.write_text(config.to_json())
    return path


def write_embeddings(path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % CLASSES
    features = rng.normal(size=(ROWS, WIDTH)) + 0.6 * rng.normal(size=(CLASSES, WIDTH))[labels]
    np.savez(path, features=features.astype(np.float16), label=labels, is_test=np.arange(ROWS) % 10 == 0)


def work(driver: Driver, machines: Machines, storage: Server, faults: Faults) -> None:
    """Run the command until it has ended well, and start it again after each fault that ends it."""
    driver.start(machines.address)
    while driver.process.poll() != 0:
        code = driver.process.returncode
        if code is not None:
            last = faults.injected[-1].kind if faults.injected else ""
            assert (code, last[:4]) in {(-9, "driv"), (1, "head")}, f"ended with {code} after {last}\n{driver.tail()}"
            if last.startswith("head"):
                machines.stop()
                machines.start()
            driver.start(machines.address)
        faults.mend()
        faults.look(driver, machines, storage)
        assert time.monotonic() - driver.since < PATIENCE, f"no news for {PATIENCE:g} s\n{driver.tail()}"
        time.sleep(0.05)
    faults.mend(all_=True)


def seconds(driver: Driver, end: float) -> list[float]:
    """The seconds of each round."""
    began = [*(driver.began[number] for number in sorted(driver.began)), end]
    return [late - early for early, late in itertools.pairwise(began)]


def facts(place: str, rounds: int) -> dict[str, Any]:
    """What must not depend on faults."""
    from alray.rundir import RunDir

    run = RunDir(place)
    found: dict[str, Any] = {}
    for number in range(rounds):
        out = run.round(number)
        metrics = out.metrics()
        del metrics["seconds"]
        found[f"metrics {number}"] = metrics
        if number < rounds - 1:
            found[f"picks {number}"] = out.picks().to_pydict()
            found[f"labels {number}"] = {key: list(map(str, column)) for key, column in enumerate(out.labels())}
            found[f"rows {number}"] = out.labels()[0].tolist()
    return found


def checked(undisturbed: str, disturbed: str, rounds: int) -> dict[str, Any]:
    """Compare both runs. Raises AssertionError where they differ."""
    from alray.verify import verify

    calm, broken = facts(undisturbed, rounds), facts(disturbed, rounds)
    different = [name for name in {**calm, **broken} if calm.get(name) != broken.get(name)]
    assert not different, f"different: {different}"
    rows = [row for name, found in broken.items() if name.startswith("rows") for row in found]
    assert len(rows) == len(set(rows)) == 20 * (rounds - 1), "an image was labeled twice, or not at all"
    problems = verify(disturbed).problems
    assert not problems, problems
    return {"labels": len(rows), "compared": len(calm)}


def table(faults: Faults, took: list[float]) -> list[dict[str, Any]]:
    """One line for each kind of fault, and one for the rounds without any. took: the seconds of each round."""
    hit = {fault.round for fault in faults.injected}
    calm = [number for number in range(len(took) - 1) if number not in hit]  # the last round has no selection
    usual = statistics.median(took[number] for number in calm)
    lines = []
    for kind in (*faults.kinds, "none"):
        here = [fault for fault in faults.injected if fault.kind == kind]
        seconds = [took[number] for number in ([fault.round for fault in here] if kind != "none" else calm)]
        line: dict[str, Any] = {"fault": kind, "times": len(seconds), "lost": "nothing"}
        line["rounds"] = [fault.round for fault in here] if kind != "none" else calm
        if seconds:
            line |= {
                "median_ratio": round(statistics.median(seconds) / usual, 2),
                "worst_ratio": round(max(seconds) / usual, 2),
                "median_more_s": round(statistics.median(seconds) - usual, 1),
                "worst_more_s": round(max(seconds) - usual, 1),
                "stages": sorted({fault.stage for fault in here}),
                "away_s": [fault.away for fault in here if fault.away],
            }
        lines.append(line)
    return lines


def spoken(lines: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    head = (
        "| fault | times | lost | its round beside the undisturbed one: median, worst | more seconds: median, worst |"
    )
    text = [head, "|---|---|---|---|---|"]
    for line in lines:
        ratio = f"{line['median_ratio']}, {line['worst_ratio']}" if line["times"] else ""
        more = f"{line['median_more_s']}, {line['worst_more_s']}" if line["times"] else ""
        text.append(f"| {line['fault']} | {line['times']} | {line['lost']} | {ratio} | {more} |")
    return "\n".join(text)


def chaos(args: argparse.Namespace, folder: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    write_embeddings(folder / "data.npz")
    faults = Faults(args.seed, args.rounds, kinds, args.longest)
    undisturbed, disturbed = str(folder / "calm"), f"s3://{BUCKET}/broken"
    with storage() as server:
        calm = Driver(settings(folder, undisturbed, "process", args), folder / "calm.log")
        calm.start("")
        machines = Machines(3)
        try:
            broken = Driver(settings(folder, disturbed, "ray", args), folder / "broken.log")
            work(broken, machines, server, faults)
            took = seconds(broken, time.monotonic())
        finally:
            machines.stop()
        assert calm.process.wait() == 0, calm.tail()
        compared = checked(undisturbed, disturbed, args.rounds)
        return {
            "rounds": args.rounds, "seed": args.seed, "strategy": args.strategy, **compared,
            "faults": len(faults.injected), "not_injected": faults.waiting, "starts": broken.starts,
            "seconds": round(sum(took), 1), "table": table(faults, took),
            "injected": [vars(fault) for fault in faults.injected], "seconds_of_rounds": [round(s, 2) for s in took],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", default="k_center")
    parser.add_argument("--longest", type=float, default=8.0, help="seconds for which something may be away")
    parser.add_argument("--short", action="store_true", help="only the four kinds that matter most, each once")
    parser.add_argument("--out", type=Path, help="write the result here, and not to benchmarks/results")
    args = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        found = chaos(args, Path(folder), SHORT if args.short else tuple(KINDS))
    print(spoken(found["table"]))
    print(
        f"{found['faults']} faults in {found['rounds']} rounds, {found['starts']} starts of the command: nothing lost"
    )
    if args.out:
        args.out.write_text(json.dumps(found))
        return
    from results import record

    record("chaos", found)


if __name__ == "__main__":
    main()
