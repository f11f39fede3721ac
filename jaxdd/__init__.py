"""Dataset distillation by optimal transport, as pure functions in JAX.

A distilled dataset is the pushforward of a small weighted measure. Data flows through the stages in one direction, and
a method chooses one function for each stage:

    images --encode--> class measures --summarize--> atoms and weights --recover | decode--> --relabel--> --train-->

All names of `__init__.pyi` are there. Each is imported when it is first used, so that `import jaxdd` takes no time.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
