"""The fields of KubeRay's resources RayCluster and RayJob, ray.io/v1, that the recipes may use.

Names and types are those of KubeRay 1.7.0, in words of our own: no package of PyPI, Debian or npm has the schema itself
(helm-chart/kuberay-operator/crds/ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of ray-project/kuberay, which are made
from ray-operator/apis/ray/v1/raycluster_types.go and rayjob_types.go). The rules beside the fields are those that the
operator applies after `kubectl apply` has accepted a resource (ray-operator/controllers/ray/utils/validation.go and
common/pod.go). An unknown field is refused, as `kubectl apply` refuses it. Pod templates are also checked against the
schema of Kubernetes, where that is installed.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class AuthOptions(Strict):
    mode: Literal["token"]
    secret_name: str | None = None  # since KubeRay 1.6


class KeyRef(Strict):
    name: str
    key: str


class ValueFrom(Strict):
    secret_key_ref: KeyRef


class Credential(Strict):
    """Of Redis. KubeRay would take a `value` as well, which would be a password in a file."""

    value_from: ValueFrom


class GcsFaultToleranceOptions(Strict):
    redis_address: str
    redis_password: Credential


class AutoscalerOptions(Strict):
    version: Literal["v2"]
    idle_timeout_seconds: int = Field(gt=0)


# Names that KubeRay gives: to the volume that its autoscaler shares with the head, and to its own containers.
LOGS, LOGS_PATH, TAKEN = "ray-logs", "/tmp/ray", {"autoscaler", "wait-gcs-ready"}
# KubeRay sets these itself, from authOptions, gcsFaultToleranceOptions and autoscalerOptions.
ITS_OWN = {
    "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME",
    "RAY_enable_autoscaler_v2",
}  # fmt: skip


class Group(Strict):
    ray_start_params: dict[str, str]
    template: dict[str, Any]

    @model_validator(mode="after")
    def _as_the_operator_wants_it(self) -> Group:
        assert not {"labels", "redis-password", "redis-username", "address"} & self.ray_start_params.keys()
        pod = self.template["spec"]
        assert pod["containers"], "a group has a container: the first one is Ray's"
        assert pod["restartPolicy"] == "Never", "autoscaler v2 refuses other policies"
        for container in pod["containers"]:
            assert not ITS_OWN & {variable["name"] for variable in container.get("env", ())}
            assert container["name"] not in TAKEN
        return self


class HeadGroup(Group):
    service_type: Literal["ClusterIP"]

    @model_validator(mode="after")
    def _the_autoscaler_reads_the_head_s_logs(self) -> HeadGroup:
        """KubeRay mounts a volume of this name into its autoscaler's container. A volume of another name at the same
        place would hide the autoscaler's events from Ray, and Ray's logs from the autoscaler."""
        mounted = {
            mount["mountPath"]: mount["name"] for mount in self.template["spec"]["containers"][0]["volumeMounts"]
        }
        assert mounted.get(LOGS_PATH, LOGS) == LOGS
        return self


class WorkerGroup(Group):
    group_name: str = Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$")
    min_replicas: int = Field(ge=0)
    max_replicas: int = Field(gt=0)


class RayClusterSpec(Strict):
    ray_version: str = Field(pattern=r"^2\.(5[2-9]|[6-9]\d)\.\d+$")  # a token needs 2.52
    auth_options: AuthOptions
    gcs_fault_tolerance_options: GcsFaultToleranceOptions | None = None
    enable_in_tree_autoscaling: bool
    autoscaler_options: AutoscalerOptions
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]


class RayJobSpec(Strict):
    entrypoint: str = Field(min_length=1, pattern=r"^[^\n]*$")  # goes into one line of a shell
    backoff_limit: int = Field(ge=0)
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: int = Field(ge=0)
    submitter_pod_template: dict[str, Any]
    ray_cluster_spec: RayClusterSpec


class Metadata(Strict):
    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,45}[a-z0-9])?$")


class RayCluster(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJob(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec
