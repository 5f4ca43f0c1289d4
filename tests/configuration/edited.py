"""Configs with wrong values."""

import functools

from ml_collections import ConfigDict

from configs import flux_nano


def edited(changes):
    """The small config with values put in whatever their type, as a config file may."""
    config = flux_nano.get_config().to_dict()
    for key, value in changes.items():
        *sections, last = key.split(".")
        functools.reduce(dict.__getitem__, sections, config)[last] = value
    return ConfigDict(config, type_safe=False)
