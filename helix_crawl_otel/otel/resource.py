"""Who exports: the attributes that every metric, log record and span of this process carries, by whichever route.

What the operator says (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, detectors that the SDK is told to ask) stands
above what is found here.
"""

from __future__ import annotations

import platform

from opentelemetry.sdk.resources import (
    HOST_NAME,
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
    ServiceInstanceIdResourceDetector,
)

from helix_crawl_otel._version import __version__
from helix_crawl_otel.otel.instruments import label

__all__ = ["instance_id", "run_resource"]

NAME = "helix-crawl-otel"
UNNAMED = "unknown_service"
"""What the SDK calls a service that nobody has named; the name of the interpreter follows."""


def run_resource() -> Resource:
    """The resource of this process."""
    ours = {SERVICE_NAME: NAME, SERVICE_VERSION: __version__, HOST_NAME: platform.node()}
    said = dict(Resource.create().attributes)
    if str(said[SERVICE_NAME]).startswith(UNNAMED):
        del said[SERVICE_NAME]
    given = {**ours, **said, SERVICE_INSTANCE_ID: instance_id()}
    merged = {key: value for key, value in given.items() if value != ""}
    # What the environment adds may hold bytes that are no text.
    return Resource({key: label(value) if isinstance(value, str) else value for key, value in merged.items()})


def instance_id() -> str:
    """What tells this start of a process from every other one: `service.instance.id`, a UUID where nobody says else.

    Not from `Resource.create`, which asks its detectors in threads: an app's watch asks for it in a forked child, and
    before one, where the import of what makes those threads comes after the SDK's own step in the child, and hangs it.
    """
    said = OTELResourceDetector().detect().attributes.get(SERVICE_INSTANCE_ID)
    return label(str(said or ServiceInstanceIdResourceDetector().detect().attributes[SERVICE_INSTANCE_ID]))
