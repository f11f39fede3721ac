"""The stages of a method: encode, summarize, make images, label."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["context", "encode", "images", "relabel", "summarize", "usable"]
)
