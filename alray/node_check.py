"""Whether every node of a cluster can work for a run: it has the same alray, Ray and Python, reads and writes where the
run does, and finds what the run reads.

Asked in the first seconds after the cluster is joined. Later a node that does not fit fails a stage, or, worse, writes
where nobody looks.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from alray import atomic
from alray.reasons import first_of, why
from alray.reservation import ClusterError, in_trial
from alray.store import Store

_SECONDS = 180.0  # for an answer: a busy machine needs long to start a process
_DRIVER = "driver"

Answer = tuple[dict[str, str], dict[str, str]]  # versions, and what is wrong with a place by its setting


def several() -> bool:
    """Whether the cluster that was joined has nodes to ask: more than one that is alive. A trial of a sweep has none,
    because the sweep has asked them."""
    return len(_alive()) > 1 and not in_trial()


def check(written: Mapping[str, str], read: Mapping[str, str]) -> None:
    """Raise ClusterError, naming nodes by their addresses, if nodes differ from this process or do not reach a place.

    written: directories, by the names of their settings. Every node must read what this process writes there, and this
    process what the node writes. read: files and directories that every node must find. Nodes without CPUs and GPUs
    are not asked, because no stage runs there, and nodes that join later are not, either. A process asks the same nodes
    only once.
    """
    asked = frozenset((id, node["NodeManagerAddress"]) for id, node in _alive().items() if _works(node))
    _check(asked, tuple(written.items()), tuple(read.items()))


@lru_cache(maxsize=32)
def _check(nodes: frozenset[tuple[str, str]], written: tuple[tuple[str, str], ...], read: Any) -> None:
    addresses = dict(nodes)
    name = f".alray-node-check-{uuid.uuid4().hex[:8]}"
    probes = {setting: Store(atomic.existing(place), sums="").child(name) for setting, place in written}
    try:
        for probe in probes.values():
            probe.write_bytes(_DRIVER, b"")
        answers = _answers(addresses, {setting: probe.uri for setting, probe in probes.items()}, dict(read))
        arrived = {setting: set(probe.names()) for setting, probe in probes.items()}
    finally:
        for probe in probes.values():
            atomic.delete(probe.uri)
    _refuse_versions([(addresses[id], versions) for id, (versions, _) in answers.items()])
    wrong: dict[tuple[str, str], list[str]] = {}
    for id, (_, problems) in answers.items():
        lost = {setting: "what it wrote there did not arrive here" for setting in probes if id not in arrived[setting]}
        for setting, problem in {**lost, **problems}.items():
            wrong.setdefault((setting, problem), []).append(addresses[id])
    if wrong:
        raise ClusterError("\n".join(_unreached(*key, dict([*written, *read]), at) for key, at in wrong.items()))


def _unreached(setting: str, problem: str, places: Mapping[str, str], addresses: list[str]) -> str:
    return (
        f"{setting}: expected a place that every node of the cluster reaches, on a shared file system or in an object "
        f"store, got {places[setting]}, which {_named(addresses)} not reach: {problem}"
    )


def _refuse_versions(found: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    ours, others = _versions(), dict[str, list[str]]()
    for address, versions in found:
        differing = [f"{name} {version}" for name, version in versions.items() if version != ours[name]]
        if differing:
            others.setdefault(" and ".join(differing), []).append(address)
    if others:
        have = "; ".join(f"{theirs} on {first_of(sorted(at))}" for theirs, at in others.items())
        raise ClusterError(
            "resources: expected the same alray, Ray and Python on every node, as here ("
            + ", ".join(f"{name} {version}" for name, version in ours.items())
            + f"), got {have}. The digits in brackets are a hash of alray's files; `ray job submit --working-dir .` "
            "takes them along"
        )


def _named(addresses: list[str]) -> str:
    many = len(addresses) > 1
    return f"node{'s' * many} {first_of(sorted(addresses))} {'do' if many else 'does'}"


def _alive() -> dict[str, dict[str, Any]]:
    import ray

    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _works(node: Mapping[str, Any]) -> bool:
    return any(node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU"))


def _answers(addresses: Mapping[str, str], probes: Mapping[str, str], read: Mapping[str, str]) -> dict[str, Answer]:
    """The answer of every node that is still alive in the end, by its id."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a node with another alray has no such function
    try:
        # One call per process: what the probe loads must not change how many threads a later worker has.
        look, ours = ray.remote(num_cpus=0, max_calls=1)(_look), _versions()
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)).remote(
                ours, id, probes, read
            ): id
            for id in addresses
        }
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
    failed = {asked[ref]: f"gave no answer within {_SECONDS:g} s" for ref in late}
    answers: dict[str, Answer] = {}
    for ref in done:
        try:
            answers[asked[ref]] = ray.get(ref)
        except ray.exceptions.RayError as error:
            failed[asked[ref]] = f"failed: {why(getattr(error, 'cause', None) or error)}"
    alive = _alive()
    if left := [f"node {addresses[id]} {text}" for id, text in failed.items() if id in alive]:
        raise ClusterError(
            "resources: the nodes of the cluster were asked what they have and reach; " + "; ".join(left)
        )
    return answers


def _look(expected: dict[str, str], id: str, probes: dict[str, str], read: dict[str, str]) -> Answer:
    """Run on a node, by value: what it has, and what is wrong with a place. Imports what a node may lack only if it has
    the same versions."""
    versions, problems = _versions(), dict[str, str]()
    if versions != expected:
        return versions, problems
    import pyarrow.fs as pafs

    from alray.patience import impatient
    from alray.reasons import why
    from alray.store import Store, filesystem

    with impatient():
        for setting, uri in probes.items():
            try:
                probe = Store(uri, sums="")
                probe.read_bytes("driver")
                probe.write_bytes(id, b"")
            except FileNotFoundError:
                problems[setting] = "what was written there for it is not there"
            except OSError as error:
                problems[setting] = why(error)
        for setting, place in read.items():
            try:
                fs, path = filesystem(place)
                if fs.get_file_info(path).type == pafs.FileType.NotFound:
                    problems[setting] = "there is no such file or directory"
            except OSError as error:
                problems[setting] = why(error)
    return versions, problems


def _versions() -> dict[str, str]:
    """The versions of alray, with a hash of its files, of Ray and of Python. Runs on nodes, too."""
    import hashlib
    import sys
    from pathlib import Path

    import ray

    try:
        import alray
    except ImportError:
        ours = "none"
    else:
        content, folder = hashlib.blake2b(digest_size=4), Path(alray.__file__).parent
        for path in sorted(folder.rglob("*.py")):
            content.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        ours = f"{alray.__version__} ({content.hexdigest()})"
    return {"alray": ours, "Ray": ray.__version__, "Python": ".".join(map(str, sys.version_info[:2]))}
