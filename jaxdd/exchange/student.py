"""Train a student on the images and soft labels of this folder, with PyTorch and NumPy alone.

    python student.py [test.npz]

test.npz holds real images to test on: x_test, uint8 [n, H, W, C] of the size of the distilled ones, and y_test [n], the
numbers of class_names in soft/stream.json. The student is a ConvNet-3; any module of [N, C, H, W] will do in its place.
Each step sees a batch of images as the teacher saw them (FKD). The weights are written to student.pt.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SOFT = Path(__file__).parent / "soft"
torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
about = json.loads((SOFT / "stream.json").read_text())
stream = {file.stem: np.load(file, mmap_mode="r") for file in SOFT.glob("*.npy")}
mean, std, T = torch.tensor(about["mean"]), torch.tensor(about["std"]), about["temperature"] or 20.0
at = lambda name, t: torch.tensor(np.array(stream[name][t], np.float32))
normalised = lambda pixels: ((torch.tensor(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)


def views(t):
    """The images of step t: cropped and resized, mirrored, mixed."""
    x = normalised(stream["images"][stream["rows"][t]])
    if "boxes" in stream:
        top, left, height, width = at("boxes", t).unbind(1)
        theta = torch.stack([width, 0 * width, 2 * left + width - 1, 0 * width, height, 2 * top + height - 1], 1)
        grid = F.affine_grid(theta.view(-1, 2, 3), x.shape, align_corners=False)
        x = F.grid_sample(x, grid, "bilinear", about["beyond_the_image"], align_corners=False)
    if "flips" in stream:
        x = torch.where(at("flips", t).bool()[:, None, None, None], x.flip(3), x)
    if "pastes" in stream:
        top, bottom, left, right = stream["pastes"][t]
        x[:, :, top:bottom, left:right] = x[at("partners", t).long(), :, top:bottom, left:right]
    elif "shares" in stream:
        x = at("shares", t) * x + (1 - at("shares", t)) * x[at("partners", t).long()]
    return x


def answers(t):
    """The teacher's logits of step t, up to a constant for each image."""
    if "codes" in stream:
        return at("codes", t) * at("scale", t)[:, None]
    if "classes" in stream:
        return torch.zeros(about["batch_size"], about["num_classes"]).scatter(
            1, at("classes", t).long(), at("above", t)
        )
    return at("logits", t)


if __name__ == "__main__":
    test = np.load(sys.argv[1]) if len(sys.argv) > 1 else None
    if test is not None and test["x_test"].shape[1:] != stream["images"].shape[1:]:
        sys.exit(f"x_test is {test['x_test'].shape}; give images of the distilled size, {stream['images'].shape[1:]}")
    blocks = [[nn.LazyConv2d(128, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AvgPool2d(2)] for _ in range(3)]
    student = nn.Sequential(*sum(blocks, []), nn.Flatten(), nn.LazyLinear(about["num_classes"]))
    student(views(0))  # gives the layers their sizes
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, about["steps"])
    for t in range(about["steps"]):
        log_q, log_p = (F.log_softmax(logits / T, 1) for logits in (student(views(t)), answers(t)))
        losses = T**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
        optimizer.zero_grad()
        (at("weights", stream["rows"][t]) * losses).mean().backward()
        optimizer.step()
        schedule.step()
        print(f"\rstep {t + 1} of {about['steps']}, loss {losses.mean():.3f} ", end="", flush=True)
    print("\nwritten: student.pt")
    torch.save(student.eval().state_dict(), "student.pt")
    if test is not None:
        right = 0
        for images, labels in zip(np.array_split(test["x_test"], 20), np.array_split(test["y_test"].ravel(), 20)):
            right += (student(normalised(images)).argmax(1).cpu().numpy() == labels).sum()
        print(f"test accuracy {100 * right / len(test['y_test']):.2f} %")
