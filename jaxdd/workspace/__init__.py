"""Everything that is kept on disk: teachers, latent models, resumable run folders, comparisons and grids."""

from jaxdd.workspace.comparison import Comparison, compare, compare_sets, makers_for, workspace_of
from jaxdd.workspace.distillation import DistillConfig, config_of, distill, distill_in
from jaxdd.workspace.latent_models import LatentConfig
from jaxdd.workspace.real_data import DataConfig, RealData, open_data
from jaxdd.workspace.teachers import TeacherConfig, load_teacher
from jaxdd.workspace.workspace import Workspace, open_workspace

__all__ = [
    "Comparison",
    "DataConfig",
    "DistillConfig",
    "LatentConfig",
    "RealData",
    "TeacherConfig",
    "Workspace",
    "compare",
    "compare_sets",
    "config_of",
    "distill",
    "distill_in",
    "load_teacher",
    "makers_for",
    "open_data",
    "open_workspace",
    "workspace_of",
]
