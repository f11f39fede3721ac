"""What everything stands on: measures, files, devices, settings, errors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [
        "arrays",
        "checkpoint",
        "course",
        "differences",
        "dry",
        "errors",
        "extras",
        "files",
        "health",
        "hosts",
        "keys",
        "launching",
        "locks",
        "losses",
        "machines",
        "manifest",
        "measure",
        "memory",
        "normalise",
        "parallel",
        "programs",
        "progress",
        "promotion",
        "reading",
        "registry",
        "settings",
        "stop",
        "tracing",
        "version",
        "watch",
    ],
)
