"""Write images of a trained GAN, VAE or flow model: a sheet, or each as a file; image i always comes from seed i.

    nacgen sample                       # a sheet of the first 100, of the default run
    nacgen sample --run-dir runs/mine --num-images 5000 --columns 0 --output images

The run may still be training: the images are those of its generator, decoder or denoiser at the last evaluation.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nacgen.errors import ConfigurationError
from nacgen.system.own_parts import check_part
from nacgen.system.places import model_of_run
from nacgen.system.terminal import print_result
from nacgen.training.command import run_recipe
from nacgen.training.config import require_between


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Options of sampling."""

    is_one_process = True  # no field: launchers have nothing to do

    preset: str = "digits"
    """Named settings to start from."""
    config: str | None = None
    """YAML file whose values replace the preset's."""
    run_dir: str = "runs/train_gan-digits-nac-seed0"
    """Run folder of train-gan, train-vae or train-flow."""
    num_images: int = 100
    """Images to write."""
    first: int = 0
    """Number, and seed, of the first image; with classes, image i has class i modulo their count."""
    columns: int = 10
    """Images in a row of the sheet; 0 writes each image to a file of its own."""
    zoom: int = 1
    """Enlargement of a sheet: pixels along each side for one pixel of an image."""
    generator: str | None = None
    """Generator of your own that the run was trained with, package.module:function."""
    output: str | None = None
    """A .png file for a sheet, a new or empty folder for files. Default: in samples/ of run_dir."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_between(self, 0, float("inf"), "first", "columns")
        check_part("generator", self.generator, ())
        require_between(self, 1, 1_000_000, "num_images", "zoom")
        if self.columns and self.output and Path(self.output).suffix.lower() != ".png":
            raise ConfigurationError(f"output must end in .png for a sheet, got {self.output}.")
        if self.columns and self.num_images % self.columns:
            raise ConfigurationError(
                f"num_images must fill rows of {self.columns}, got {self.num_images}. Change --num-images or "
                "--columns; --columns 0 writes files."
            )

    def check_inputs(self) -> None:
        """Raise unless the run has a model."""
        model_of_run(self.run_dir)


PRESETS = {
    # Any machine; seconds; a sheet of 10 x 10 images.
    "digits": SampleConfig(),
}


def main(config: SampleConfig) -> None:
    """Load the model of the run, make the images, write them."""
    import torch

    from nacgen.data.pictures import write_grid, write_image
    from nacgen.models.folder import check_memory
    from nacgen.models.sampling import load_model, sample_images
    from nacgen.system.files import storage_errors
    from nacgen.system.own_parts import find_part

    device = "cuda" if torch.cuda.is_available() else "cpu"
    own = None if config.generator is None else find_part("generator", config.generator)
    model = load_model(config.run_dir, own).to(device)
    side = model.image_size * (config.zoom if config.columns else 1)
    check_memory(3 * side**2 * config.num_images, f"{config.num_images:,} images of {side:,} px")
    end = config.first + config.num_images
    numbers = torch.arange(config.first, end)
    images = torch.cat([sample_images(model, part, device).cpu() for part in numbers.split(500)])
    name = f"seeds_{config.first}-{end - 1}{'.png' if config.columns else ''}"
    output = Path(config.output or Path(config.run_dir) / "samples" / name)
    with storage_errors(f"the images {output}", "Choose another --output."):
        if config.columns:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_grid(images, output, config.columns, config.zoom)
        else:
            output.mkdir(parents=True, exist_ok=True)
            if any(output.iterdir()):
                raise ConfigurationError(
                    f"output must be a new or empty folder, but {output} holds files. Choose another --output."
                )
            for number, image in enumerate(images, start=config.first):
                write_image(image, output / f"{number:06d}.png")
    print(f"images {config.first} to {end - 1}: {output}", file=sys.stderr)
    print_result({"output": str(output), "first": config.first, "num_images": len(images)})


run = partial(run_recipe, main, SampleConfig, PRESETS)

if __name__ == "__main__":
    run()
