import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from nacgen.data.pixels import to_uint8
from nacgen.errors import CheckpointNotFoundError, ConfigurationError, StorageError
from nacgen.models.gan import Generator
from nacgen.models.sampling import sample_images
from nacgen.models.vae import Decoder
from nacgen.system.randomness import normal_rows
from recipes.sample import SampleConfig, main


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "run"
    Generator(8, 5, (16, 8)).eval().save_pretrained(folder / "generator")
    return folder


def test_files_and_sheets_hold_the_images_of_their_numbers(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = SampleConfig(run_dir=str(run_dir), num_images=4, first=3, columns=0)
    main(files)
    folder = run_dir / "samples" / "seeds_3-6"
    assert json.loads(capsys.readouterr().out) == {
        "output": str(folder),
        "first": 3,
        "num_images": 4,
    }
    expected = sample_images(Generator.from_pretrained(run_dir / "generator"), torch.arange(3, 7))
    assert sorted(path.name for path in folder.iterdir()) == [f"00000{i}.png" for i in range(3, 7)]
    for number, image in enumerate(expected, start=3):
        with Image.open(folder / f"00000{number}.png") as picture:
            assert (np.asarray(picture) == rearrange(image.numpy(), "c h w -> h w c")).all()
    main(replace(files, columns=2, output=str(run_dir / "new" / "sheet.png")))
    with Image.open(run_dir / "new" / "sheet.png") as picture:
        pixels = torch.from_numpy(np.asarray(picture).copy())
    assert pixels.shape == (20, 20, 3)
    assert torch.equal(rearrange(pixels[11:19, 1:9], "h w c -> c h w"), expected[2])
    with pytest.raises(ConfigurationError, match=f"new or empty folder, but {folder} holds files"):
        main(files)


def test_a_vaes_images_are_those_of_its_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    decoder = Decoder(8, 5, (16, 8)).eval()
    decoder.save_pretrained(tmp_path / "decoder")
    main(SampleConfig(run_dir=str(tmp_path), num_images=2, first=1, columns=0))
    with torch.no_grad():
        z = normal_rows(0, "sample", torch.tensor([1, 2]), 5)
        expected = to_uint8(decoder.images(z))
    for number, image in enumerate(expected, start=1):
        with Image.open(tmp_path / "samples" / "seeds_1-2" / f"00000{number}.png") as picture:
            assert (np.asarray(picture) == rearrange(image.numpy(), "c h w -> h w c")).all()


def test_what_cannot_be_sampled_is_refused_before_it_is_tried(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="fill rows of 10, got 7"):
        SampleConfig(num_images=7)
    with pytest.raises(ConfigurationError, match="first must be 0 or more, got -1"):
        SampleConfig(first=-1)
    with pytest.raises(
        ConfigurationError, match="num_images must be between 1 and 1000000, got 10"
    ):
        SampleConfig(num_images=10**9)
    with pytest.raises(CheckpointNotFoundError, match=f"but {tmp_path} has none. .*train-gan"):
        main(SampleConfig(run_dir=str(tmp_path)))


def test_a_sheet_beyond_memory_is_refused(run_dir: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"16 GiB.*, but 1,000 images of 8,000 px make more"
    ):
        main(SampleConfig(run_dir=str(run_dir), num_images=1_000, zoom=1_000))


def test_an_output_that_cannot_be_written_is_named(run_dir: Path) -> None:
    (run_dir / "file").write_text("")
    output = run_dir / "file" / "sheet.png"
    with pytest.raises(StorageError, match=f"the images {output} cannot be written"):
        main(SampleConfig(run_dir=str(run_dir), output=str(output)))
