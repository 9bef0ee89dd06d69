"""Flags, environment and YAML file to one frozen Config, or every error at once.

A table of fields says what there is; `load` is the way in.
"""

from probe.config.load import load
from probe.config.problems import ConfigError
from probe.config.records import Config, ListenAddress, ResponseOptions

__all__ = ["Config", "ConfigError", "ListenAddress", "ResponseOptions", "load"]
