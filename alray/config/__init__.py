"""The configuration of a run: a frozen, validated tree, the same in Python, on the command line and as JSON.

The job file *is* the config: ``CONFIG = RunConfig(...)``; a variant is ``replace(CONFIG, {"train.lr": 0.3})``.
"""

from alray.config.fields import ConfigError, explain, refuse_credentials
from alray.config.identity import changed, fingerprint, full_identity, identity
from alray.config.pairs import Pairs, Scalar
from alray.config.sections import (
    DataConfig,
    Dtype,
    FeatureConfig,
    ImbalanceConfig,
    IndexConfig,
    LabelConfig,
    ModelConfig,
    ResourceConfig,
    SplitConfig,
    StopConfig,
    TransformConfig,
)
from alray.config.sweeping import SweepConfig
from alray.config.train_sections import OptimisationConfig, PretextConfig, TrainConfig, VaalConfig
from alray.config.tree import LISTS, RunConfig, places, replace, value_at

__all__ = [
    "LISTS",
    "ConfigError",
    "DataConfig",
    "Dtype",
    "FeatureConfig",
    "ImbalanceConfig",
    "IndexConfig",
    "LabelConfig",
    "ModelConfig",
    "OptimisationConfig",
    "Pairs",
    "PretextConfig",
    "ResourceConfig",
    "RunConfig",
    "Scalar",
    "SplitConfig",
    "StopConfig",
    "SweepConfig",
    "TrainConfig",
    "TransformConfig",
    "VaalConfig",
    "changed",
    "explain",
    "fingerprint",
    "full_identity",
    "identity",
    "places",
    "refuse_credentials",
    "replace",
    "value_at",
]
