"""DINOv2's vision transformer, written out from the paper's definition, one image and head at a time."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def class_token(state: dict[str, Tensor], image: Tensor, patch: int = 14) -> Tensor:
    """The normalised class token of one normalised image (3, h, w), position embeddings of its size."""
    dim = state["cls_token"].shape[-1]
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    tokens = [state["cls_token"].reshape(dim)]
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            square = image[:, top : top + patch, left : left + patch]
            tokens.append((weight * square).sum(dim=(1, 2, 3)) + bias)
    x = torch.stack(tokens) + state["pos_embed"][0]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for index in range(depth):
        p = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"blocks.{index}.")}
        normed = F.layer_norm(x, (dim,), p["norm1.weight"], p["norm1.bias"], eps=1e-6)
        query, key, value = (normed @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]).split(dim, dim=1)
        heads = []
        for head in range(dim // 64):
            part = slice(64 * head, 64 * (head + 1))
            scores = query[:, part] @ key[:, part].T / math.sqrt(64)
            heads.append(scores.softmax(dim=1) @ value[:, part])
        attended = torch.cat(heads, dim=1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
        x = x + p["ls1.gamma"] * attended
        normed = F.layer_norm(x, (dim,), p["norm2.weight"], p["norm2.bias"], eps=1e-6)
        hidden = normed @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + p["ls2.gamma"] * (hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"])
    return F.layer_norm(x, (dim,), state["norm.weight"], state["norm.bias"], eps=1e-6)[0]


def positions_at(embedding: Tensor, grid: int, y: int, x: int) -> Tensor:
    """One patch's embedding on a new grid: bicubic (a = -0.75), scale (grid + 0.1) / old, clamped edges."""
    old = math.isqrt(embedding.shape[1] - 1)
    maps = embedding[0, 1:].reshape(old, old, -1)

    def weights(position: int) -> list[tuple[int, float]]:
        source = (position + 0.5) * old / (grid + 0.1) - 0.5
        found = []
        for node in range(math.floor(source) - 1, math.floor(source) + 3):
            t, a = abs(source - node), -0.75
            weight = (
                (a + 2) * t**3 - (a + 3) * t**2 + 1
                if t <= 1
                else a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
            )
            found.append((min(max(node, 0), old - 1), weight))
        return found

    return sum(
        (a * b * maps[row, column] for row, a in weights(y) for column, b in weights(x)),
        start=torch.zeros(maps.shape[-1]),
    )
