"""Tables, plots, pictures and pages of results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [
        "events",
        "film",
        "gallery",
        "grid_page",
        "grid_tables",
        "html",
        "names",
        "ot_rates",
        "plots",
        "preview",
        "projection",
        "run_page",
        "tables",
        "watching",
    ],
)
