#!/usr/bin/env python
"""Everything that alray does on a GPU, checked and timed by one command within eight minutes.

    python benchmarks/device/check.py --seconds 480 --out device-check      # on a machine with a GPU
    python benchmarks/device/check.py --tiny --only a,b,c                   # the same code, small, on any CPU

a: every strategy picks the same rows on the GPU and on the CPU. b: k-center, margin, BASE and BADGE at ImageNet's size.
c: networks give the CPU's losses, and fine-tuning against a bare PyTorch loop. d: extraction from JPEG files against a
DataLoader. e: a whole run on handwritten digits. Writes device.json and device.md into $OUT or --out, again after every
row, so that an interrupted check leaves what it has measured. Each section is a process of its own with a share of the
time; it measures less, and says so, when its share is short.

f, only with --only: the published CIFAR-10 protocols of three papers, on the images in $ALRAY_TEST_DATA/cifar10.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # alray need not be installed
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # nor for Ray

from machine import about
from section import Section, python, write_json
from table import markdown


@dataclass(frozen=True)
class Part:
    """A section: its module, its title, and its weight when the time is shared."""

    module: str
    title: str
    weight: float


PARTS = {
    "a": Part("picks", "The same picks on GPU and CPU", 4),
    "b": Part("scale", "Selection at ImageNet's size", 8),
    "c": Part("training", "Networks, and fine-tuning against a bare PyTorch loop", 5),
    "d": Part("extraction", "Extraction from JPEG files against a DataLoader", 3.5),
    "e": Part("whole_run", "A whole run on handwritten digits", 3.5),
    "f": Part("protocols", "The published CIFAR-10 protocols of PT4AL, BASE and Core-Set", 15),
}
_GRACE = 40.0  # seconds beyond its share after which a section is ended


def main() -> int:
    """Run the sections one after the other; the exit status is the number of sections that failed."""
    args = arguments()
    if args.section:
        return inside(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running section is ended, too
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in PARTS if name in args.only]
    started, sections = time.monotonic(), dict[str, Any]()
    result = {"about": {**about(args.commit), "tiny": args.tiny, "seconds": args.seconds}, "sections": sections}
    for name in names:
        left = args.seconds - (time.monotonic() - started)
        weights = [PARTS[other].weight for other in names[names.index(name) :]]
        share = max(10.0, left * weights[0] / sum(weights))
        print(f"--- {name}: {PARTS[name].title}, {share:.0f} s", flush=True)

        def save(found: dict[str, Any], name: str = name) -> None:
            sections[name] = {"title": PARTS[name].title, **found}
            write_json(out / "device.json", result)
            (out / "device.md").write_text(markdown(result))

        outside(name, share, args, save)
    print((out / "device.md").read_text())
    return sum(bool(section["error"]) for section in sections.values())


def arguments() -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c,d,e", help="sections, separated by commas")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all sections together")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to test this program itself")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "device-check"))
    parser.add_argument("--commit", default="", help="alray's commit, where this is no git checkout")
    parser.add_argument("--section", choices=list(PARTS), help=argparse.SUPPRESS)  # this process is that section
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := set(args.only) - PARTS.keys():
        parser.error(f"--only: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return args


def inside(args: argparse.Namespace) -> int:
    """Run one section in this process; what goes wrong is part of its result."""
    section = Section(args.tiny, args.seconds, args.out)
    try:
        importlib.import_module(PARTS[args.section].module).run(section)
        section.error = "\n".join(section.failures) or None
    except Exception:
        section.error = traceback.format_exc()
        print(section.error, file=sys.stderr, flush=True)
    section.finished = section.error is None
    section.write()
    return int(section.error is not None)


def outside(name: str, share: float, args: argparse.Namespace, save: Any) -> None:
    """Run one section in a process of its own and save its result as it grows. A crash of CUDA or of the interpreter
    ends that process alone."""
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "section.json", Path(folder) / "errors.txt"
        command = python(__file__, "--section", name, "--seconds", f"{share:.1f}", "--out", str(path))
        with log.open("w") as errors:
            child = subprocess.Popen(
                [*command, *(["--tiny"] if args.tiny else [])], stderr=errors, start_new_session=True
            )
            began, found = time.monotonic(), dict[str, Any](error=None, rows=[], notes=[], finished=False)
            save(found)
            try:
                while child.poll() is None and time.monotonic() - began < share + _GRACE:
                    time.sleep(0.5)
                    if path.exists() and (newer := json.loads(path.read_text())) != found:
                        save(found := newer)
            finally:  # the time is over, or this program is stopped: nothing of the section stays behind
                if late := child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        found = json.loads(path.read_text()) if path.exists() else found
        if late or (code and not found["error"]):
            what = f"ended after {share + _GRACE:.0f} s" if late else f"its process left with status {code}"
            found["error"] = f"{what}\n{log.read_text()[-4000:]}"
        save(found)


if __name__ == "__main__":
    sys.exit(main())
