"""What students are told of an image."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["forms", "labelling", "stored", "storing"])
