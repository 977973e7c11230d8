# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps
#
# Pretrain an encoder, look at its codes, put it into a GAN, and compare. About three minutes on two CPU cores, no
# network needed.

# %%
import matplotlib.pyplot as plt
import torch

import nacgen
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float

test = load_dataset("digits", "test")
digits = test.read(torch.arange(len(test)))  # uint8 (355, 3, 16, 16)


def show(images, title):
    """Draw uint8 images in a row."""
    figure, axes = plt.subplots(1, len(images), figsize=(len(images), 1.3))
    for ax, image in zip(axes, images, strict=True):
        ax.imshow(image.permute(1, 2, 0))
        ax.axis("off")
    figure.suptitle(title, fontsize=9)
    plt.show()


show(digits[:10], "held-out digits, 16 x 16 pixels")

# %% [markdown]
# ## 1. Pretrain
#
# The encoder sees the training digits without their labels. This is a third of the preset's length.

# %%
encoder = nacgen.pretrain(total_images=12_800, run_dir="runs/encoder")
print(encoder.run.path, sum(p.numel() for p in encoder.parameters()), "parameters")

# %% [markdown]
# ## 2. Codes
#
# Every image gets a code of 128 bits. The codes of an image and of the same image, moved by one pixel, differ in
# few bits; those of different images in about half.

# %%
with torch.no_grad():
    codes = encoder.codes(to_float(digits))  # bool (355, 128)
    moved = encoder.codes(to_float(digits.roll(1, dims=3)))
print(f"moved by a pixel: {(codes != moved).float().mean():.0%} of bits differ")
print(f"another image:    {(codes != codes.roll(1, 0)).float().mean():.0%} of bits differ")

plt.figure(figsize=(8, 2))
plt.imshow(codes[:10], cmap="gray", aspect="auto", interpolation="nearest")
plt.ylabel("image")
plt.xlabel("bit")
plt.show()

# %% [markdown]
# ## 3. Neighbors
#
# Nearest neighbors by Hamming distance: the first column is the query.

# %%
from nacgen.functional.hamming import nearest_codes

neighbors = nearest_codes(codes, codes, 6).indices  # (355, 6), each image itself first
for query in (0, 1, 2):
    show(digits[neighbors[query]], f"image {query} and its nearest codes")
same = test.labels[neighbors[:, 1]] == test.labels
print(f"the nearest neighbor is the same digit for {same.float().mean():.0%} of images")

# %% [markdown]
# ## 4. Transplant
#
# The encoder becomes the trunk of a GAN's discriminator. The report says what was loaded.

# %%
part = nacgen.transplant(encoder, into="discriminator", image_size=16)
print(part.report)

# %% [markdown]
# ## 5. Train and compare
#
# Two GANs that differ in one thing: the weights from which the discriminator starts. This is a quarter of the
# preset's length, with two seeds each. The score is a Fréchet distance in the features of a small classifier of
# digits; lower is better.

# %%
settings = {"total_images": 6_400, "score": {"num_samples": 1_000, "every": 1_600}}
runs = {"random": [], "nac": []}
for seed in (0, 1):
    for init, found in runs.items():
        folder = f"runs/{init}-{seed}"
        run = nacgen.train_gan(encoder=encoder, init=init, seed=seed, run_dir=folder, **settings)
        found.append(run)

for (init, found), color in zip(runs.items(), ("gray", "tab:blue"), strict=True):
    for run in found:
        curve = run.curve("fd_digits_classifier")
        plt.plot(
            list(curve),
            list(curve.values()),
            color=color,
            label=f"{init}, seed {run.config['seed']}",
        )
plt.xlabel("images seen")
plt.ylabel("fd_digits_classifier")
plt.legend()
plt.show()

# %%
show(runs["random"][0].samples(10), "from random weights")
show(runs["nac"][0].samples(10), "from the NAC encoder")

# %% [markdown]
# Two pairs are too few for a claim, and the comparison says so.

# %%
comparison = nacgen.compare(runs)
print(*comparison.verdicts, sep="\n")
print(comparison.to_markdown())

# %% [markdown]
# `nacgen compare --seeds 0 1 2 3 4 5 6 7` is the whole comparison, and
# [Generative models compared](../generative.md) has its result. How to go on: [your own photos](../photos.md),
# [your own networks](../networks.md).
