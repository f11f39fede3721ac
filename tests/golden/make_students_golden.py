"""Reference values for tests/test_nn_students.py: `python make_students_golden.py`.

Needs torch 2.13, torchvision 0.28 (MobileNetV2, EfficientNet, Swin) and timm 1.0.31 (ViT). Everything is computed in
float64 and stored as float32. No inputs and no weights are stored: both sides draw each array from its name, weights
under the names and shapes of jaxdd, of which `fill` makes PyTorch's.
"""

from pathlib import Path

import numpy as np
import torch
from make_golden import uniform
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.swin_transformer import SwinTransformer

HERE = Path(__file__).parent
CLASSES = 5


def draw(name, shape):
    u = uniform(name, shape)
    if name.endswith("kernel"):
        return (2 * u - 1) * np.float32(np.sqrt(3 / np.prod(shape[:-1])))
    return u + np.float32(0.5) if name.endswith(("scale", "var")) else u - np.float32(0.5)


def fill(tag, model, names):
    """Evaluation mode, float64 and drawn weights; ``names``: PyTorch module or parameter -> its name in jaxdd."""
    kinds = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
    for name, value in model.state_dict().items():
        if name.endswith(("num_batches_tracked", "relative_position_index")):
            continue
        if name in names:  # a parameter of its own: tokens, positions, Swin's table
            value.copy_(torch.from_numpy(draw(f"{tag}/{names[name]}", tuple(value.shape))))
            continue
        module, _, kind = name.rpartition(".")
        place, shape = names[module], value.shape
        if kind != "weight":
            array = draw(f"{tag}/{place}/{kinds[kind]}", tuple(shape))
        elif value.ndim == 1:
            array = draw(f"{tag}/{place}/scale", tuple(shape))
        elif place == "embed":  # a convolution there, a matrix over rows, columns and channels of a patch here
            o, i, h, w = shape
            array = draw(f"{tag}/{place}/kernel", (h * w * i, o)).reshape(h, w, i, o).transpose(3, 2, 0, 1)
        elif place.startswith("merge"):
            array = merged(draw(f"{tag}/{place}/kernel", (shape[1], shape[0]))).T
        elif "conv" in place.rpartition("/")[2]:
            array = draw(f"{tag}/{place}/kernel", tuple(shape[i] for i in (2, 3, 1, 0))).transpose(3, 2, 0, 1)
        else:  # linear layers, some of them written as 1x1 convolutions there
            array = draw(f"{tag}/{place}/kernel", (shape[1], shape[0])).T.reshape(shape)
        if place.startswith("merge") and value.ndim == 1:
            array = merged(array)
        value.copy_(torch.from_numpy(array.copy()))
    return model.eval().double()


def merged(array):
    """Rows of a 2x2 patch from row by row, as here, to column by column, as there."""
    return array.reshape(2, 2, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def block_names(there, here, expansion, nested, gate):
    """Those of an inverted residual block; ``nested``: whether the last convolution and its norm share a module."""
    names, i = {}, 0
    for conv in (1, 2) if expansion != 1 else (2,):
        names |= {f"{there}.{i}.0": f"{here}/conv{conv}", f"{there}.{i}.1": f"{here}/norm{conv}/bn"}
        i += 1
    if gate:
        names |= {f"{there}.{i}.fc1": f"{here}/gate/squeeze", f"{there}.{i}.fc2": f"{here}/gate/excite"}
        i += 1
    last = (f"{there}.{i}.0", f"{there}.{i}.1") if nested else (f"{there}.{i}", f"{there}.{i + 1}")
    return names | dict(zip(last, (f"{here}/conv3", f"{here}/norm3/bn")))


def ends(last):
    first = {"features.0.0": "conv1", "features.0.1": "norm1/bn", "classifier.1": "head"}
    return first | {f"features.{last}.0": "conv2", f"features.{last}.1": "norm2/bn"}


def mobilenet(tag):
    """An eighth of the width, the small stem: neither the first convolution nor the first strided row has a stride."""
    rows = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 64, 1, 2]]
    model = MobileNetV2(CLASSES, 1 / 8, rows, round_nearest=1)
    model.features[0][0].stride = (1, 1)
    names, i = ends(5), 1
    for row, (expansion, _, count, _) in enumerate(rows):
        for j in range(count):
            names |= block_names(f"features.{i}.conv", f"layer{row + 1}_{j}", expansion, False, False)
            i += 1
    return fill(tag, model, names), model.classifier, 9, 9


def efficientnet(tag):
    """A quarter of the width, the published stem."""
    MBConvConfig.adjust_channels = staticmethod(lambda channels, width, _=None: round(channels * width))
    rows = [(1, 3, 1, 32, 16, 1), (6, 5, 2, 16, 24, 2)]
    settings = [MBConvConfig(*row, width_mult=1 / 4) for row in rows]
    model = EfficientNet(settings, 0.0, num_classes=CLASSES, last_channel=24)
    names = ends(3)
    for row, (expansion, *_, count) in enumerate(rows):
        for j in range(count):
            names |= block_names(f"features.{row + 1}.{j}.block", f"layer{row + 1}_{j}", expansion, True, True)
    return fill(tag, model, names), model.classifier, 23, 23


def vit(tag):
    """Images of 14 pixels, padded to 16 here, in patches of 4."""
    model = VisionTransformer(16, 4, num_classes=CLASSES, embed_dim=24, depth=2, num_heads=3)
    names = {"cls_token": "token", "pos_embed": "positions", "patch_embed.proj": "embed", "norm": "norm"}
    parts = {"norm1": "norm1", "attn.qkv": "attention/qkv", "attn.proj": "attention/out", "norm2": "norm2",
             "mlp.fc1": "mlp1", "mlp.fc2": "mlp2"}  # fmt: skip
    for i in range(2):
        names |= {f"blocks.{i}.{there}": f"layer{i + 1}/{here}" for there, here in parts.items()}
    return fill(tag, model, names | {"head": "head"}), model.head, 14, 16


def swin(tag):
    """13 pixels, padded to 14: grids of 7 (padded to 8 for windows of 4, shifted) and 4 (one window, not shifted)."""
    depths = [2, 2]
    model = SwinTransformer([2, 2], 12, depths, [2, 4], [4, 4], stochastic_depth_prob=0.0, num_classes=CLASSES)
    names = {"features.0.0": "embed", "features.0.2": "embed_norm", "norm": "norm", "head": "head"}
    parts = {"norm1": "norm1", "attn.qkv": "attention/qkv", "attn.proj": "attention/out", "norm2": "norm2",
             "mlp.0": "mlp1", "mlp.3": "mlp2", "attn.relative_position_bias_table": "relative"}  # fmt: skip
    for group, count in enumerate(depths):
        for i in range(count):
            place = f"features.{2 * group + 1}.{i}"
            names |= {f"{place}.{there}": f"layer{group + 1}_{i}/{here}" for there, here in parts.items()}
        if group:
            names |= {f"features.{2 * group}.norm": f"merge{group}_norm",
                      f"features.{2 * group}.reduction": f"merge{group}"}  # fmt: skip
    return fill(tag, model, names), model.head, 13, 14


def main():
    kept = {}
    for make in (mobilenet, efficientnet, vit, swin):
        tag = make.__name__
        model, head, side, padded = make(tag)
        images = uniform(f"{tag}/images", (3, side, side, 3)) * np.float32(3) - np.float32(1.5)
        x = F.pad(torch.from_numpy(images).double().permute(0, 3, 1, 2), (0, padded - side, 0, padded - side))
        seen = {}
        head.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(features=args[0]))
        logits = model(x)
        kept |= {f"{tag}/logits": logits, f"{tag}/features": seen["features"]}
    arrays = {name: value.detach().numpy().astype(np.float32) for name, value in kept.items()}
    np.savez_compressed(HERE / "students.npz", **arrays)


if __name__ == "__main__":
    with torch.no_grad():
        main()
