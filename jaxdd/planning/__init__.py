"""Plans of runs before anything is computed: stages, images, launches, memory, operations, time and what decides it."""

from jaxdd.planning.following import followed
from jaxdd.planning.plan import Plan, made, text
from jaxdd.planning.requests import comparison, comparisons, distillation, grid, relabelling, summaries, table
from jaxdd.planning.trained import training

__all__ = [
    "Plan",
    "comparison",
    "comparisons",
    "distillation",
    "followed",
    "grid",
    "made",
    "relabelling",
    "summaries",
    "table",
    "text",
    "training",
]
