"""What kind of process this is: patched by gevent or not."""

from __future__ import annotations

from gevent import monkey


def is_patched() -> bool:
    """Whether threads are greenlets here, so that blocking code does not hold the hub."""
    return bool(monkey.is_module_patched("threading") and monkey.is_module_patched("socket"))
