"""How does a configuration made of others get the parts that were left out, whichever version of transformers is here?

From version 5.20 on the library makes them itself, by `sub_configs_defaults`; before, each model's configuration did.
vLLM's releases hold the library to earlier versions, so both must do.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

try:
    from transformers.configuration_utils import SubConfigSpec

    LIBRARY_MAKES_THEM = True
except ImportError:
    LIBRARY_MAKES_THEM = False

    class SubConfigSpec:  # type: ignore[no-redef]
        """What a part is when nothing is said of it; the fields are the library's own (version 5.20)."""

        def __init__(
            self,
            config_class: Any,
            model_type: str | None = None,
            init_kwargs: dict[str, Any] | None = None,
            optional: bool = False,
        ) -> None:
            self.config_class, self.model_type = config_class, model_type
            self.init_kwargs, self.optional = init_kwargs or {}, optional


__all__ = ["SubConfigSpec", "make_sub_configs", "name_sub_configs"]


def make_sub_configs(config: PreTrainedConfig) -> None:
    """Turn the parts that are dicts or left out into configurations, where the library does not."""
    if LIBRARY_MAKES_THEM:
        return
    for name, spec in type(config).sub_configs_defaults.items():
        given = getattr(config, name)
        if isinstance(given, PreTrainedConfig) or (given is None and spec.optional):
            continue
        settings = dict(spec.init_kwargs if given is None else given)
        settings.setdefault("model_type", spec.model_type)
        setattr(config, name, AutoConfig.for_model(**settings))


def name_sub_configs(config_class: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """Tell an earlier version of the library which fields are configurations; a class decorator."""
    if not LIBRARY_MAKES_THEM:
        setattr(config_class, "sub_configs", dict.fromkeys(config_class.sub_configs_defaults, AutoConfig))  # noqa: B010
    return config_class
