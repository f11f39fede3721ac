"""The named recipes: each method with this library's defaults, and with exactly the settings of its paper.

A recipe called NAME-paper has its authors' settings at every stage. The grid of the same name in jaxdd/programs/configs
says which results it reproduces, with which protocol and at what cost.
"""

from dataclasses import replace

from jaxdd.methods import RECIPES, Recipe
from jaxdd.stages.images import Crops, Diffusion, Nearest, Recover
from jaxdd.stages.summarize import Barycenter, Clvq, Herding, KCenter, NoAtoms, Quantization, Random, Sinkhorn

_CROSS_ENTROPY = Recover(feature_weight=0.0, cross_entropy_weight=1.0)
_SRE2L = replace(_CROSS_ENTROPY, moments="global", weighted_moments=False, start="noise", steps=2000)
_MEANS = Recover(feature_weight=0.0, mean_weight=1.0)
_PLUS = Recover(cross_entropy_weight=1.0, sides=(1.0, 1.0, 1.0, 1.0), mixing=0.5, steps=200)
_LATENT_QUANTIZATION = Quantization(space="latents", weights="sqrt")

# What the recover stages of SRe2L and WMDD share in their authors' code: plain norms, one view (crop, flip, roll) per
# step, Adam with rate 0.25. They roll by 0 to 32 pixels of 224. Starting from noise, this equals a roll of up to 16
# pixels in either direction.
_PAPER = Recover(
    scale="absolute", cross_entropy_weight=1.0, weighted_moments=False, start="noise", learning_rate=0.25,
    min_scale=0.08, roll=16 / 224,
)  # fmt: skip
_SRE2L_PAPER = replace(
    _PAPER, feature_weight=0.0, moment_weight=0.01, first_layer_weight=10.0, moments="global", steps=4000
)
_LATENT_CLVQ = Clvq(space="latents", weights="sqrt")

_NAMED = {
    # Liu et al. 2025 (arXiv 2311.18531): Wasserstein barycenter of features, per-class BatchNorm moments.
    "wmdd": Recipe(Barycenter(), Recover()),
    # WMDD with what lifted the field since, chosen on held-out train images of CIFAR-10: the atoms are real images with
    # the mean of their class, cross-entropy joins the Wasserstein term, and the images are mixed with those that they
    # started from after each quarter of the steps (FADRM, arXiv 2506.24125).
    "wmdd-plus": Recipe(Herding(weights="uniform"), _PLUS),
    # Yin et al. 2023 (arXiv 2306.13092): cross-entropy and global moments, from noise.
    "sre2l": Recipe(NoAtoms(), _SRE2L),
    # Tan and Slade 2025 (arXiv 2501.07681): optimal quantization of latents, decoded by diffusion, tempered masses.
    "ddoq": Recipe(_LATENT_QUANTIZATION, Diffusion()),
    # Su et al. 2024 (arXiv 2407.15138): the same with equal weights.
    "d4m": Recipe(replace(_LATENT_QUANTIZATION, weights="uniform"), Diffusion()),
    # The ablation of Liu et al. 2025, with wmdd: {Wasserstein, cross-entropy} x {moments of the class, of all classes}.
    # All four share atoms, weights, start and steps; only the terms of the loss differ.
    "ce-class": Recipe(Barycenter(), _CROSS_ENTROPY),
    "wmdd-global": Recipe(Barycenter(), Recover(moments="global")),
    "ce-global": Recipe(Barycenter(), replace(_CROSS_ENTROPY, moments="global")),
    # Zhao and Bilen 2023 (arXiv 2110.04181): mean features alone, here of the teacher instead of many random networks.
    "dm": Recipe(Random(weights="uniform"), replace(_MEANS, moment_weight=0.0)),
    # The comparison in Figure 4 of Liu et al. 2025: mean features instead of the barycenter, with per-class moments.
    "mmd": Recipe(Random(weights="uniform"), _MEANS),
    # Sun et al. 2024 (arXiv 2312.03526): the crops of real images that the teacher classifies best; no optimisation.
    "rded": Recipe(NoAtoms(weights="uniform"), Crops()),
    # Coresets: the real images nearest to the atoms, or random ones.
    "medoid": Recipe(Barycenter(), Nearest()),
    "random": Recipe(Random(), Nearest()),
    # Herding matches the class mean (Welling 2009, ICML). K-center leaves no image of the class far from a chosen one
    # (Sener and Savarese 2018, arXiv 1708.00489).
    "herding": Recipe(Herding(weights="uniform"), Nearest()),
    "kcenter": Recipe(KCenter(weights="uniform"), Nearest()),
    # WMDD's published run on ImageNette: lambda 10, uniform weights, barycenters from N(0, I). Its Frobenius norm over
    # a batch of 100 images has the gradient of 10 root-mean-square distances of each class.
    "wmdd-paper": Recipe(
        Sinkhorn(weights="uniform", init="normal"),
        replace(_PAPER, feature_weight=10.0, moment_weight=10.0, steps=2000),
    ),
    # SRe2L's script for ImageNet-1K.
    "sre2l-paper": Recipe(NoAtoms(weights="uniform"), _SRE2L_PAPER),
    # SRe2L's script for CIFAR: no crops or flips, a roll of 0 to 4 pixels of 32, 1,000 steps.
    "sre2l-paper-cifar": Recipe(
        NoAtoms(weights="uniform"), replace(_SRE2L_PAPER, min_scale=1.0, flip=False, roll=2 / 32, steps=1000)
    ),
    # D4M's scripts: mini-batch k-means, strength 0.7, guidance 8. The negative prompt is a setting of the latent model.
    "d4m-paper": Recipe(replace(_LATENT_CLVQ, weights="uniform"), Diffusion(strength=0.7, guidance=8.0)),
    # DDOQ uses D4M's scripts and adds tempered masses.
    "ddoq-paper": Recipe(_LATENT_CLVQ, Diffusion(strength=0.7, guidance=8.0)),
    # RDED's scripts: 300 images per class, 5 crops of each; one crop per image up to 64 pixels, four above.
    "rded-paper": Recipe(NoAtoms(weights="uniform"), Crops(pool=300, crops=5)),
}
for _name, _recipe in _NAMED.items():
    RECIPES.register(_name, _recipe)

PAPERS = {
    "wmdd": "2311.18531", "ddoq": "2501.07681", "d4m": "2407.15138", "sre2l": "2306.13092", "dm": "2110.04181",
    "mmd": "2311.18531", "ce-class": "2311.18531", "wmdd-global": "2311.18531", "ce-global": "2311.18531",
    "rded": "2312.03526", "kcenter": "1708.00489", "wmdd-plus": "2311.18531",
}  # fmt: skip
"""The paper of each method on arXiv, or of the one that it extends, for those that have one."""
