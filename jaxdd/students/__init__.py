"""Students: their training, protocols, scores."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["evaluation", "lanes", "protocol", "rows", "scores", "train"]
)
