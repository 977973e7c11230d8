"""Runs of the recipes: from the return key to the prompt, with no flags in full size.

Each takes a minute or more and is run twice at most. The quick GAN is trained on an eighth of the images.
"""

import tempfile

import page
from startup import run
from timing import Row, Size, cost


def recipe(size: Size, name: str, quick: tuple[str, ...], at_most: float | None) -> list[Row]:
    """Seconds of one recipe in a new folder."""
    flags = size.of(("--preset", "smoke"), quick, ())
    seconds = []
    for _ in range(size.of(1, 1, 2)):
        with tempfile.TemporaryDirectory() as folder:
            command = (f"recipes/{name}.py", *flags, "--run-dir", f"{folder}/run")
            seconds.append(cost(lambda command=command: run(*command)).wall)
    what = " ".join(["python", f"recipes/{name}.py", *flags, "from start to end"])
    return [Row(what=what, ours=seconds, at_most=size.of(None, None, at_most))]


PARTS = {
    "train_gan": lambda size: recipe(size, "train_gan", ("--total-images", "3200"), None),
    "probe": lambda size: recipe(size, "probe_encoder", ("--evaluators", "linear", "knn"), 60),
}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("accelerate", "matplotlib"))
