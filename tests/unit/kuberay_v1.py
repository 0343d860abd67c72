"""The fields of KubeRay's resources RayCluster and RayJob, ray.io/v1, that the recipes may use.

Names and types are those of KubeRay 1.7.0, in words of our own. An unknown field is refused, as `kubectl apply` refuses
it. Pod templates are checked elsewhere, against the schema of Kubernetes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
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


class Group(Strict):
    ray_start_params: dict[str, str]
    template: dict[str, Any]


class HeadGroup(Group):
    service_type: Literal["ClusterIP"]


class WorkerGroup(Group):
    group_name: str = Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$")
    min_replicas: int = Field(ge=0)
    max_replicas: int = Field(gt=0)


class RayClusterSpec(Strict):
    ray_version: str
    auth_options: AuthOptions
    gcs_fault_tolerance_options: GcsFaultToleranceOptions | None = None
    enable_in_tree_autoscaling: bool
    autoscaler_options: AutoscalerOptions
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]


class RayJobSpec(Strict):
    entrypoint: str
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
