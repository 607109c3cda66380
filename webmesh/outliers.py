"""When an instance is left out because it fails, or fails more than the others do.

Pure; time is passed in. A breaker for all instances of a route is `breaker`; who has only too much to do rests, and is
no outlier.
"""

from __future__ import annotations

from collections.abc import Sequence

from webmesh.call_policy import CallPolicy
from webmesh.instances import Instance


def ejection(instance: Instance, instances: Sequence[Instance], policy: CallPolicy, now: float) -> str | None:
    """Why *instance*, whose call has just failed, is to be left out; `None`: it is not.

    Args:
        instances: All of its service, itself included.
    """
    if instance.ejected_until > now or not _may_miss_one(instance, instances, now):
        return None
    if instance.proving:
        return "failed again"
    if instance.failed_in_row >= policy.eject_failures:
        return "failures in a row"
    calls, failed = instance.recent()
    if calls < policy.eject_calls:
        return None
    others = [one.recent() for one in instances if one is not instance]
    total = sum(made for made, _ in others)
    if total < policy.eject_calls:
        return None
    common = sum(bad for _, bad in others) / total
    return "fails more than others" if failed / calls > common + policy.eject_above else None


def _may_miss_one(instance: Instance, instances: Sequence[Instance], now: float) -> bool:
    """Whether half of the service is left even so: when most fail, the fault is rather elsewhere."""
    out = sum(one.ejected_until > now for one in instances if one is not instance)
    return (out + 1) * 2 <= len(instances)


def ejection_time(instance: Instance, policy: CallPolicy, now: float) -> float:
    """Seconds for which it is left out now: longer each time, unless it was well for long."""
    if now - instance.ejected_until >= policy.eject_longest:
        instance.ejections = 0
    return min(policy.eject_longest, policy.eject_time * 2.0 ** min(instance.ejections, 60))
