"""The stages in PyTorch, as the authors of SRe2L and WMDD go about them: hooks on the BatchNorms, a loop, autograd.

What they cost has been kept down where PyTorch lets it: NHWC memory, one sampled grid for the views of all classes,
moments from one `var_mean` of each layer, fused Adam, and bfloat16 autocast on a GPU, in which `var_mean` also returns
bfloat16 (ours is float32). "torch compiled" is the same through `torch.compile`. Float32 is what either library makes
of it by default, TF32 in the convolutions of a GPU included. Importing this file needs torch.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.harness import Case, Mode

torch.backends.cudnn.benchmark = True
_BLOCKS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}


def has_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> str:
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def wait() -> None:
    if device() == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def memory() -> Iterator[Callable[[], int | None]]:
    """A function for the most bytes allocated within, above what was before; None on CPU, where torch counts none."""
    if device() == "cpu":
        yield lambda: None
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield lambda: torch.cuda.max_memory_allocated() - before


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and products in true float32 on both sides."""
    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with jax.default_matmul_precision("highest"):
        yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed


class Autocast(NamedTuple):
    """bfloat16 where that is wanted; it holds plain values, which `torch.compile` sees through."""

    device: str
    enabled: bool

    def __call__(self):
        return torch.autocast(self.device, torch.bfloat16, enabled=self.enabled)


def autocast(mode: Mode) -> Autocast:
    return Autocast(device(), mode.dtype == "bfloat16")


def images(array: Any) -> torch.Tensor:
    """[..., H, W, C] -> [N, C, H, W] in NHWC memory, on the device."""
    array = np.array(array)
    return torch.from_numpy(array.reshape(-1, *array.shape[-3:])).to(device()).permute(0, 3, 1, 2)


def tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device())


def seconds(advance: Callable[[], Any]) -> Callable[[int], float]:
    """`Side.run` of a step."""

    def run(steps):
        started = time.perf_counter()
        for _ in range(steps):
            advance()
        wait()
        return time.perf_counter() - started

    return run


class Block(nn.Module):
    """A residual block: convolutions of some sizes and strides, each with a BatchNorm, and the identity."""

    def __init__(self, kind: str, inside: int, width: int, stride: int):
        super().__init__()
        self.out = width if kind == "basic" else 4 * width
        shapes = [(width, 3, stride), (width, 3, 1)]
        if kind == "bottleneck":
            shapes = [(width, 1, 1), (width, 3, stride), (self.out, 1, 1)]
        self.depth, last = len(shapes), inside
        for i, (channels, kernel, step) in enumerate(shapes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(last, channels, kernel, step, kernel // 2, bias=False))
            setattr(self, f"norm{i}", nn.BatchNorm2d(channels))
            last = channels
        self.changes = stride > 1 or inside != self.out
        if self.changes:
            self.shortcut_conv = nn.Conv2d(inside, self.out, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(self.out)

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.depth else y
        return F.relu(y + (self.shortcut_norm(self.shortcut_conv(x)) if self.changes else x))


class ResNet(nn.Module):
    def __init__(self, name: str, classes: int, image_size: int, width: int = 64):
        super().__init__()
        kind, counts = _BLOCKS[name]
        self.small = image_size <= 64
        self.conv1 = nn.Conv2d(3, width, *((3, 1, 1) if self.small else (7, 2, 3)), bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.names, channels = [], width
        for group, count in enumerate(counts):
            for i in range(count):
                block = Block(kind, channels, width * 2**group, 2 if group and not i else 1)
                self.names.append(f"layer{group + 1}_{i}")
                self.add_module(self.names[-1], block)
                channels = block.out
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = x if self.small else F.max_pool2d(x, 3, 2, 1)
        for name in self.names:
            x = getattr(self, name)(x)
        features = x.mean((2, 3))
        return self.head(features), features


class ConvNet(nn.Module):
    def __init__(self, depth: int, classes: int, image_size: int, width: int = 128):
        super().__init__()
        self.depth = depth
        for i in range(1, depth + 1):
            setattr(self, f"conv{i}", nn.Conv2d(3 if i == 1 else width, width, 3, padding=1))
            setattr(self, f"norm{i}", nn.BatchNorm2d(width))
        self.head = nn.Linear(width * (image_size // 2**depth) ** 2, classes)

    def forward(self, x):
        for i in range(1, self.depth + 1):
            x = F.avg_pool2d(F.relu(getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x))), 2)
        # In the order of ours; in NHWC memory a view.
        features = x.permute(0, 2, 3, 1).flatten(1)
        return self.head(features), features


def network(case: Case, variables: Any) -> nn.Module:
    """The transcription of a case's model with our Flax variables in it, in evaluation mode."""
    if case.model in _BLOCKS:
        net = ResNet(case.model, case.classes, case.image_size)
    else:
        net = ConvNet(int(case.model.removeprefix("convnet")), case.classes, case.image_size)
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    state = {}
    for (_, *path, name), value in flax.traverse_util.flatten_dict(variables).items():
        value = np.array(value)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        state[".".join([part for part in path if part != "bn"] + [names[name]])] = torch.from_numpy(value.copy())
    missing, unexpected = net.load_state_dict(state, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise ValueError(f"our variables do not fit the rival's {case.model}: {missing} {unexpected}")
    return net.to(device(), memory_format=torch.channels_last).eval()


class MomentHook:
    """Keeps the spatial mean and variance of each image in the input of a BatchNorm, [N, ch]."""

    def __init__(self, norm: nn.BatchNorm2d):
        self.mean = self.var = None
        norm.register_forward_hook(self.hook)

    def hook(self, module, inputs, output):
        self.var, self.mean = torch.var_mean(inputs[0], dim=(2, 3), unbiased=False)


def hooks(net: nn.Module) -> dict[str, MomentHook]:
    """Layer by the name that it has in ours -> its hook."""
    norms = {name.replace(".", "/"): layer for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    return {name: MomentHook(layer) for name, layer in norms.items()}


def boxes(count: int, min_scale: float) -> torch.Tensor:
    """Grid transforms [count, 2, 3] of random-resized-crops, half of them mirrored."""
    area = torch.empty(count).uniform_(min_scale, 1)
    ratio = torch.exp(0.5 * math.log(4 / 3) * torch.empty(count).uniform_(-1, 1))
    theta = torch.zeros(count, 2, 3)
    for axis, size in enumerate((area.sqrt() * ratio, area.sqrt() / ratio)):
        size = size.clamp(max=1)
        theta[:, axis, axis] = size
        theta[:, axis, 2] = (1 - size) * torch.empty(count).uniform_(-1, 1)
    theta[:, 0, 0] *= torch.randint(0, 2, (count,)) * 2 - 1
    return theta.pin_memory().to("cuda", non_blocking=True) if device() == "cuda" else theta


def resample(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def compiled(function: Callable, mode: Mode) -> Callable:
    return torch.compile(function) if mode.compiled else function


class Recovery:
    """Stage 3a: the images of all classes at once, [C m, ch, H, W].

    problem: variables, goal and start, as `benchmarks.recover` has them.
    """

    def __init__(self, case: Case, problem: Any, norm: Any, settings: Any, mode: Mode):
        goal = problem.goal
        self.net = network(case, problem.variables).requires_grad_(False)
        self.hooks = hooks(self.net)
        self.shape, self.settings, self.autocast = (case.classes, case.ipc), settings, autocast(mode)
        self.atoms, self.weights = tensor(goal.atoms.points).flatten(0, 1), tensor(goal.atoms.weights)[..., None]
        self.variance = float(goal.feature_variance)
        self.real = {name: (tensor(layer.mean), tensor(layer.var)) for name, layer in goal.moments.items()}
        low, high = ((bound - norm.mean) / norm.std for bound in (0.0, 1.0))
        self.low, self.high = (tensor(np.float32(bound))[:, None, None] for bound in (low, high))
        self.images = images(problem.start).requires_grad_()
        self.optimizer = torch.optim.Adam([self.images], settings.learning_rate, (0.5, 0.9), fused=device() == "cuda")
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, settings.steps)
        self.forward = compiled(self.loss, mode)

    def loss(self, seen: torch.Tensor) -> torch.Tensor:
        """The sum of the classes' losses."""
        with self.autocast():
            _, features = self.net(seen)
        distance = (features.float() - self.atoms).square().sum(1).view(self.shape).mean(1)
        total = (distance / self.variance).sqrt()
        for name, hook in self.hooks.items():
            mean, var = (value.float().view(*self.shape, -1) for value in (hook.mean, hook.var))
            pooled = (self.weights * mean).sum(1)
            variance = (self.weights * (var + (mean - pooled[:, None]).square())).sum(1)
            real_mean, real_var = self.real[name]
            norm = torch.linalg.vector_norm
            apart = norm(pooled - real_mean, dim=1) / norm(real_var.sqrt(), dim=1)
            apart = apart + norm(variance - real_var, dim=1) / norm(real_var, dim=1)
            total = total + apart / len(self.hooks)
        return total.sum()

    def step(self) -> None:
        theta = boxes(self.shape[0], self.settings.min_scale).repeat_interleave(self.shape[1], 0)
        loss = self.forward(resample(self.images, theta))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            self.images.clamp_(self.low, self.high)


class Encoder:
    """Stage 1: one pass over (uint8 images, labels); sums of the moments in float64, features to the host."""

    def __init__(self, case: Case, variables: Any, norm: Any, mode: Mode):
        self.net, self.classes, self.autocast = network(case, variables), case.classes, autocast(mode)
        self.hooks = hooks(self.net)
        self.mean, self.std = (tensor(np.float32(v))[:, None, None] for v in (norm.mean, norm.std))
        self.forward = compiled(self.net, mode)

    @torch.inference_mode()
    def encode(self, batches: Any) -> tuple[np.ndarray, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Features [n, d], and of each layer mean and total variance, [C, ch]."""
        counts = torch.zeros(self.classes, dtype=torch.float64, device=device())
        sums, features = {}, []
        for pixels, labels in batches:
            pixels, labels = torch.from_numpy(pixels), torch.from_numpy(labels).long()
            if device() == "cuda":
                pixels, labels = (t.pin_memory().to("cuda", non_blocking=True) for t in (pixels, labels))
            x = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
            with self.autocast():
                _, out = self.forward(x)
            counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
            for name, hook in self.hooks.items():
                mean, var = hook.mean.double(), hook.var.double()
                both = torch.cat([mean, var + mean.square()], 1)
                sums.setdefault(name, both.new_zeros(self.classes, both.shape[1])).index_add_(0, labels, both)
            features.append(out.float().cpu().numpy())
        moments = {}
        for name, both in sums.items():
            mean, square = (both / counts[:, None]).chunk(2, 1)
            moments[name] = (mean, square - mean.square())
        return np.concatenate(features), moments


class Pair(NamedTuple):
    """The variables, in Flax, of a student at its first step and of its teacher."""

    student: Any
    teacher: Any


class Student:
    """Stages 4 and 5: one student, distilled from the teacher on the images as it sees them."""

    def __init__(self, case: Case, pair: Pair, dataset: Any, protocol: Any, steps: int, mode: Mode):
        self.net, self.teacher = network(case, pair.student), network(case, pair.teacher).requires_grad_(False)
        self.net.train()
        # Flax: running = 0.9 running + 0.1 batch, as here; epsilon is 1e-5 on both sides.
        self.images, self.weights = images(dataset.images), tensor(dataset.loss_weights(protocol.weights))
        self.protocol, self.autocast = protocol, autocast(mode)
        settings = protocol.train
        self.batch = min(settings.batch_size, len(self.images))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), settings.learning_rate, fused=device() == "cuda",
                                           weight_decay=settings.weight_decay)  # fmt: skip
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.student_forward, self.teacher_forward = compiled(self.net, mode), compiled(self.teacher, mode)

    def cutmix(self, x: torch.Tensor) -> torch.Tensor:
        """One box for the batch; the teacher labels the result, so its share of the area does not matter."""
        h, w = x.shape[2:]
        side = math.sqrt(1 - np.random.default_rng().beta(1.0, 1.0))
        edges = []
        for n in (h, w):
            centre = np.random.default_rng().random()
            edges.append([round(n * min(max(centre + d * side / 2, 0), 1)) for d in (-1, 1)])
        (top, bottom), (left, right) = edges
        x[:, :, top:bottom, left:right] = x[torch.randperm(len(x), device=x.device)][:, :, top:bottom, left:right]
        return x

    def loss(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        t = self.protocol.labels.temperature
        with self.autocast():
            with torch.no_grad():
                wanted = self.teacher_forward(x)[0]
            answer = self.student_forward(x)[0]
        log_p, log_q = (F.log_softmax(logits.float() / t, 1) for logits in (wanted, answer))
        return t * t * (weights * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)).mean()

    def step(self) -> None:
        rows = torch.randperm(len(self.images), device=self.images.device)[: self.batch]
        x = resample(self.images[rows], boxes(self.batch, self.protocol.train.augment.min_scale))
        loss = self.loss(self.cutmix(x), self.weights[rows])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
