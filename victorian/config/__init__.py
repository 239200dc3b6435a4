"""Frozen settings. Knows no hardware and no files.

The same types serve the command line (flags are derived from them), HTTP, `serve_config.yaml` and the JSON that is
stored beside every run and artifact.
"""

from victorian.config.environment import (
    DEFAULT_CACHE,
    DEFAULT_CACHE_BYTES,
    DEFAULT_URL,
    CacheSettings,
    cache_settings,
    client_key,
    make_private,
    service_keys,
    service_url,
)
from victorian.config.recipe import (
    GPT2_RANKS,
    CleaningConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    SelectionConfig,
    TokensConfig,
    TrainingConfig,
    read_recipe,
)
from victorian.config.section import Section, differences, first_problem
from victorian.config.serving import (
    AccessConfig,
    EngineConfig,
    ModelsConfig,
    ModelSource,
    ObservationConfig,
    Precision,
    SamplingParameters,
    ServiceConfig,
    SocketConfig,
    bounds,
    not_too_many,
)

__all__ = [
    "DEFAULT_CACHE",
    "DEFAULT_CACHE_BYTES",
    "DEFAULT_URL",
    "GPT2_RANKS",
    "AccessConfig",
    "CacheSettings",
    "CleaningConfig",
    "DataConfig",
    "EngineConfig",
    "ModelConfig",
    "ModelSource",
    "ModelsConfig",
    "ObservationConfig",
    "OptimizerConfig",
    "Precision",
    "Recipe",
    "SamplingParameters",
    "ScheduleConfig",
    "Section",
    "SelectionConfig",
    "ServiceConfig",
    "SocketConfig",
    "TokensConfig",
    "TrainingConfig",
    "bounds",
    "cache_settings",
    "client_key",
    "differences",
    "first_problem",
    "make_private",
    "not_too_many",
    "read_recipe",
    "service_keys",
    "service_url",
]
