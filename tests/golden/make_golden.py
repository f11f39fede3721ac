"""Reference values in PyTorch for tests/test_golden.py: `python make_golden.py`, with torch 2.13 and numpy.

Everything is computed in float64 from the plain formulas and stored as float32. No inputs are stored: both
sides draw each array from its own name (`uniform`), by the raw PCG64 stream, which NumPy keeps unchanged.
"""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
LABELS = (3, 7)
MEAN, STD = (0.45, 0.5, 0.4), (0.25, 0.2, 0.3)


def uniform(name, shape):
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape).astype(np.float32)


def parameter(name, shape):
    u = uniform(name, shape)
    if len(shape) > 1:  # weights of convolutions and of the head
        return (2 * u - 1) * np.float32(np.sqrt(3 / np.prod(shape[1:])))
    return u + np.float32(0.5) if name.endswith(("weight", "running_var")) else u - np.float32(0.5)


class Block(nn.Module):
    """Residual block; ``kernels`` (3, 3): basic, (1, 3, 1): bottleneck. The first 3x3 carries the stride."""

    def __init__(self, inputs, width, stride, kernels):
        super().__init__()
        outputs = width * 4 if len(kernels) == 3 else width
        widths = [inputs] + [width] * (len(kernels) - 1) + [outputs]
        self.depth = len(kernels)
        for i, k in enumerate(kernels):
            step = stride if i == kernels.index(3) else 1
            conv = nn.Conv2d(widths[i], widths[i + 1], k, step, padding=k // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.depth else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, blocks, kernels, stem, width, num_classes=10):
        super().__init__()
        self.stem = stem
        size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(3, width, size, stride, padding=size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for group, count in enumerate(blocks):
            layer = nn.Sequential()
            for i in range(count):
                layer.append(Block(inputs, width * 2**group, 2 if group and not i else 1, kernels))
                inputs = width * 2**group * (4 if len(kernels) == 3 else 1)
            self.add_module(f"layer{group + 1}", layer)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features = x.mean((2, 3))
        return self.fc(features), features


class ConvNet(nn.Module):
    def __init__(self, depth, width, image_size, num_classes=10):
        super().__init__()
        self.depth = depth
        for i in range(1, depth + 1):
            self.add_module(f"conv{i}", nn.Conv2d(3 if i == 1 else width, width, 3, padding=1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
        self.fc = nn.Linear(width * (image_size // 2**depth) ** 2, num_classes)

    def forward(self, x):
        for i in range(1, self.depth + 1):
            x = F.avg_pool2d(F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))), 2)
        features = x.flatten(1)
        return self.fc(features), features


def prepare(tag, model):
    """Evaluation mode, float64, parameters and buffers drawn; a pass fills the dict with BatchNorm inputs."""
    model.eval()
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            value.copy_(torch.from_numpy(parameter(f"{tag}/{name}", tuple(value.shape))))
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    return model.double(), inputs


def moments(x, weights):
    """Mean and E[x^2] - E[x]^2 over images and space of x [N, ch, H, W], images weighted by weights [N]."""
    w = (weights / weights.sum())[:, None]
    mean = (w * x.mean((2, 3))).sum(0)
    return mean, (w * (x**2).mean((2, 3))).sum(0) - mean**2


def nchw(images):
    return torch.from_numpy(images).double().permute(0, 3, 1, 2)


def normalised(pixels):
    scaled = torch.from_numpy(pixels).double() / 255
    mean, std = (torch.tensor(np.float32(v)).double() for v in (MEAN, STD))
    return ((scaled - mean) / std).permute(0, 3, 1, 2)


def real_pixels(tag, n, size):
    """[C, n, size, size, 3] uint8; the second class is darker."""
    u = uniform(f"{tag}/real", (len(LABELS), n, size, size, 3))
    bright = np.array([256, 160], np.float32)[:, None, None, None, None]
    return (u * bright).astype(np.uint8)


def stack(pairs):
    """[(mean, var) of each layer], each [..., ch] -> [2, ..., sum of ch]."""
    return torch.stack([torch.cat(parts, -1) for parts in zip(*pairs)]).detach()


def per_class(x, weights):
    pairs = [moments(xc, wc) for xc, wc in zip(x, weights)]
    return tuple(torch.stack(part) for part in zip(*pairs))


def real_side(tag, model, inputs, n, size):
    """Moments and features of the real images: of each class, and of all together."""
    c = len(LABELS)
    _, features = model(normalised(real_pixels(tag, n, size).reshape(c * n, size, size, 3)))
    layers = {k: x.detach() for k, x in inputs.items()}
    ones = torch.ones(c, n)
    of_class = {k: per_class(x.reshape(c, n, *x.shape[1:]), ones) for k, x in layers.items()}
    of_all = {k: moments(x, torch.ones(c * n)) for k, x in layers.items()}
    features = features.detach()
    variance = ((features - features.mean(0)) ** 2).sum(1).mean()
    return of_class, of_all, features, variance


def recover(tag, model, inputs, size, m, settings):
    """Forward pass, moments, and the recover loss with its gradient, for each (name, moments, weighted)."""
    c = len(LABELS)
    of_class, of_all, _, variance = real_side(tag, model, inputs, 4, size)
    images = uniform(f"{tag}/synthetic", (c, m, size, size, 3)) * np.float32(3) - np.float32(1.5)
    w = torch.from_numpy(uniform(f"{tag}/weights", (c, m)) + np.float32(0.2)).double()
    w = w / w.sum(1, keepdim=True)
    d = model.fc.in_features
    atoms = torch.from_numpy(uniform(f"{tag}/atoms", (c, m, d))).double() * 2
    a, b, g = 0.3, 3.0, 0.3  # that the three terms be about as large
    out = {
        "layers": np.array(list(of_class)),
        "channels": np.array([v[0].shape[-1] for v in of_class.values()]),
        "real_class": stack(of_class.values()),
        "real_global": stack(of_all.values()),
        "feature_variance": variance,
    }
    for name, which, weighted in settings:
        x = nchw(images.reshape(c * m, size, size, 3)).requires_grad_()
        logits, features = model(x)
        weights = w if weighted else torch.ones_like(w)
        if which == "class":
            ours = {k: per_class(v.reshape(c, m, *v.shape[1:]), weights) for k, v in inputs.items()}
            real = of_class
        else:
            ours = {k: moments(v, weights.flatten()) for k, v in inputs.items()}
            real = of_all
        # The papers' plain sums: sum_j ||f - z||^2 of each class, and both norms of each layer (and class).
        plain_feature = ((features.reshape(c, m, d) - atoms) ** 2).sum((1, 2))
        plain_mean = torch.stack([torch.sqrt(((ours[k][0] - real[k][0]) ** 2).sum(-1)) for k in ours])
        plain_var = torch.stack([torch.sqrt(((ours[k][1] - real[k][1]) ** 2).sum(-1)) for k in ours])
        mean_scale = torch.stack([torch.sqrt(real[k][1].sum(-1)) for k in ours])
        var_scale = torch.stack([torch.sqrt((real[k][1] ** 2).sum(-1)) for k in ours])
        moment = (plain_mean / mean_scale + plain_var / var_scale).mean(0).expand(c)
        targets = torch.tensor(LABELS).repeat_interleave(m)
        log_p = logits - torch.logsumexp(logits, 1, keepdim=True)
        entropy = -log_p[torch.arange(c * m), targets].reshape(c, m).mean(1)
        feature = torch.sqrt(plain_feature / m / variance)
        loss = a * feature + b * moment + g * entropy
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        out |= {
            "logits": logits,
            "features": features,
            f"{name}/moments": stack(ours.values()),
            f"{name}/plain_feature": plain_feature,
            f"{name}/plain_moment": torch.stack([plain_mean, plain_var]),  # [2, layers, C] or [2, layers]
            f"{name}/terms": torch.stack([feature, moment, entropy]),
            f"{name}/loss": loss,
            f"{name}/gradient": gradient.permute(0, 2, 3, 1).reshape(c, m, size, size, 3),
        }
    return out


def encode(tag, model, inputs, n, size):
    of_class, of_all, features, variance = real_side(tag, model, inputs, n, size)
    logits, _ = model(normalised(real_pixels(tag, n, size).reshape(-1, size, size, 3)))
    return {
        "layers": np.array(list(of_class)),
        "channels": np.array([v[0].shape[-1] for v in of_class.values()]),
        "real_class": stack(of_class.values()),
        "real_global": stack(of_all.values()),
        "feature_variance": variance,
        "features": features,
        "logits": logits,
    }


def crop_resize(image, origin, size):
    """The box read bilinearly at the centres of an H x W grid, beyond the border the border's pixel."""
    h, w = image.shape[:2]
    y, x = ((o + s * (torch.arange(n) + 0.5) / n) * 2 - 1 for o, s, n in zip(origin, size, (h, w)))
    grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)[None].double()
    seen = F.grid_sample(nchw(image[None]), grid, padding_mode="border", align_corners=False)
    return seen[0].permute(1, 2, 0)


def save(name, arrays):
    kept = {}
    for key, value in arrays.items():
        value = value.detach().numpy() if torch.is_tensor(value) else value
        kept[key] = value.astype(np.float32) if value.dtype.kind == "f" else value
    np.savez_compressed(HERE / f"{name}.npz", **kept)


def main():
    weighted = ("weighted", "class", True)
    variants = (weighted, ("unweighted", "class", False), ("global", "global", True))
    tag = "resnet18_imagenet"
    model, inputs = prepare(tag, ResNet((2, 2, 2, 2), (3, 3), "imagenet", 8))
    save(tag, recover(tag, model, inputs, 48, 3, (weighted,)))
    tag = "resnet18_small"
    model, inputs = prepare(tag, ResNet((2, 2, 2, 2), (3, 3), "small", 8))
    save(tag, recover(tag, model, inputs, 16, 3, variants))
    tag = "resnet50"
    model, inputs = prepare(tag, ResNet((3, 4, 6, 3), (1, 3, 1), "imagenet", 4))
    save(tag, encode(tag, model, inputs, 2, 48))
    tag = "convnet3"
    model, inputs = prepare(tag, ConvNet(3, 8, 16))
    save(tag, encode(tag, model, inputs, 5, 16))
    image = uniform("crop_resize/image", (12, 10, 3))
    boxes = (((0.21, 0.33), (0.43, 0.37)), ((0.0, 0.45), (0.8, 0.55)))
    seen = torch.stack([crop_resize(image, *box) for box in boxes])
    save("crop_resize", {"boxes": np.array(boxes), "seen": seen})


if __name__ == "__main__":
    main()
