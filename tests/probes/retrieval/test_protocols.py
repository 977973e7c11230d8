from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nacgen.data.datasets import ImageDataset, load_dataset, load_splits
from nacgen.data.lazy import LazyImageDataset
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError
from nacgen.probes.retrieval.protocols import (
    RetrievalProtocol,
    build_protocol,
    load_protocol,
    open_protocol,
    pool,
    read_protocol,
)
from tests.data.files import write_photographs

CIFAR10 = torch.arange(10).repeat(6_000)
# 24,581 images with a label and 419 without, every 59th until they are used up
FLICKR25K = torch.zeros(25_000, 24, dtype=torch.bool)
FLICKR25K[torch.arange(25_000), torch.arange(25_000) % 24] = True
FLICKR25K[torch.arange(419) * 59] = False


def per_class(labels: Tensor, indices: Tensor) -> list[int]:
    return torch.bincount(labels[indices], minlength=10).tolist()


def check_parts(protocol: RetrievalProtocol, num_images: int) -> None:
    """Queries and gallery make up all images, and training images are part of the gallery."""
    both = torch.cat([protocol.query, protocol.gallery])
    assert len(both) == len(both.unique()) == num_images
    assert torch.isin(protocol.train, protocol.gallery).all()
    for part in (protocol.query, protocol.gallery, protocol.train):
        assert (part[1:] > part[:-1]).all()


@pytest.mark.parametrize(
    ("name", "queries", "top"), [("cifar10-10k", 1_000, None), ("cifar10-1k", 100, 1_000)]
)
def test_cifar10_takes_as_many_images_of_each_class(
    name: str, queries: int, top: int | None
) -> None:
    protocol = build_protocol(name, CIFAR10)
    check_parts(protocol, 60_000)
    assert per_class(CIFAR10, protocol.query) == [queries] * 10
    assert per_class(CIFAR10, protocol.gallery) == [6_000 - queries] * 10
    assert per_class(CIFAR10, protocol.train) == [500] * 10
    assert protocol.top == top


@pytest.mark.parametrize("num_images", [25_000, 24_581, 20_015])
def test_flickr25k_takes_2000_queries_of_its_variant(num_images: int) -> None:
    kept = None
    members = torch.arange(25_000)
    if num_images == 24_581:
        members = FLICKR25K.any(1).nonzero().squeeze(1)
    elif num_images == 20_015:
        kept = members = torch.arange(20_015) + 3
    protocol = build_protocol(f"flickr25k-{num_images}", FLICKR25K, kept=kept)
    check_parts(protocol, num_images)
    assert torch.isin(torch.cat([protocol.query, protocol.gallery]), members).all()
    assert [len(protocol.query), len(protocol.train)] == [2_000, 5_000]


def test_split_queries_the_gallery_of_training_images_with_the_test_images() -> None:
    protocol = build_protocol("split", torch.arange(7), num_train=5)
    assert protocol.query.tolist() == [5, 6]
    assert protocol.gallery.tolist() == protocol.train.tolist() == [0, 1, 2, 3, 4]
    multi_hot = build_protocol("split", torch.eye(7) > 0, num_train=5)
    assert multi_hot.query.tolist() == [5, 6]


def test_the_fingerprint_says_which_images_they_are() -> None:
    first = build_protocol("cifar10-1k", CIFAR10)
    assert first.fingerprint == build_protocol("cifar10-1k", CIFAR10).fingerprint
    others = [
        build_protocol("cifar10-1k", CIFAR10, seed=1),
        build_protocol("cifar10-10k", CIFAR10),
        build_protocol("cifar10-1k", CIFAR10.flip(0)),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert not torch.equal(first.query, others[0].query)
    splits = [build_protocol("split", CIFAR10, seed=seed, num_train=50_000) for seed in (0, 1)]
    assert splits[0].fingerprint != splits[1].fingerprint  # equal images under another seed


def test_images_are_drawn_from_the_seed_and_nothing_else() -> None:
    first = build_protocol("cifar10-1k", CIFAR10)
    torch.manual_seed(123)
    torch.rand(7)
    assert torch.equal(build_protocol("cifar10-1k", CIFAR10).query, first.query)


def test_an_index_file_gives_the_protocol_back(tmp_path: Path) -> None:
    protocol = build_protocol("cifar10-1k", CIFAR10, seed=5)
    protocol.save(tmp_path / "index.safetensors")
    again = read_protocol(tmp_path / "index.safetensors", CIFAR10)
    assert (again.name, again.seed, again.top) == ("cifar10-1k", 5, 1_000)
    assert again.fingerprint == protocol.fingerprint
    for part in ("query", "gallery", "train"):
        assert torch.equal(getattr(again, part), getattr(protocol, part))


def test_a_changed_index_file_is_refused(tmp_path: Path) -> None:
    labels, path = torch.arange(7), tmp_path / "index.safetensors"
    protocol = build_protocol("split", labels, num_train=5)
    protocol.save(path)
    tensors = load_file(path)
    tensors["query"] = tensors["query"].flip(0)
    header = {
        "name": "split",
        "seed": "0",
        "top": "None",
        "labels_fingerprint": protocol.labels_fingerprint,
        "fingerprint": protocol.fingerprint,
    }
    save_file(tensors, path, metadata=header)
    with pytest.raises(DataError, match=f"should hold .* {protocol.fingerprint}, got sha256:"):
        read_protocol(path, labels)


@pytest.mark.parametrize("end", [40, 500, -8])
def test_a_damaged_index_file_is_refused(tmp_path: Path, end: int) -> None:
    path = tmp_path / "index.safetensors"
    build_protocol("split", torch.arange(70), num_train=50).save(path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DataError, match=r"index\.safetensors is no index file"):
        read_protocol(path, torch.arange(70))


def test_other_files_and_other_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataNotFoundError, match=r"expected at .*absent\.safetensors, but there is none"
    ):
        read_protocol(tmp_path / "absent.safetensors", CIFAR10)
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.safetensors is no index file"):
        read_protocol(tmp_path / "model.safetensors", CIFAR10)
    build_protocol("split", torch.arange(7), num_train=5).save(tmp_path / "index.safetensors")
    with pytest.raises(
        DataError, match=r"made for labels sha256:\w+, got labels sha256:\w+\. Load"
    ):
        read_protocol(tmp_path / "index.safetensors", torch.arange(7).flip(0))


def test_both_splits_are_pooled_train_first() -> None:
    train, test = load_splits("digits")
    whole = pool(train, test)
    assert isinstance(whole, ImageDataset)
    assert isinstance(train, ImageDataset)
    assert isinstance(test, ImageDataset)
    assert (len(whole), whole.split) == (1_797, "all")
    assert whole.labels is not None
    assert test.labels is not None
    assert torch.equal(whole.images[: len(train)], train.images)
    assert torch.equal(whole.labels[len(train) :], test.labels)


def test_a_held_out_fifth_goes_back_to_its_place(tmp_path: Path) -> None:
    names = [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(7)]
    write_photographs(tmp_path, names)
    for max_bytes in (0, 2**31):
        original = load_dataset("folder", "train", tmp_path, 8, max_bytes)
        train, test = load_splits("folder", tmp_path, 8, max_bytes)
        whole = pool(train, test)
        rows = torch.arange(14)
        assert (len(whole), whole.split, whole.positions) == (14, "all", None)
        assert torch.equal(whole.read(rows), original.read(rows))
        assert whole.labels is not None
        assert original.labels is not None
        assert torch.equal(whole.labels, original.labels)
        own = RetrievalProtocol("own", 0, rows[4:5], rows[5:], rows[9:], _of(original.labels))
        own.save(tmp_path / "own.safetensors")  # its indices are those of the files
        images, queries = load_protocol(str(tmp_path / "own.safetensors"), train, test)
        assert torch.equal(queries.read(rows[:1]), original.read(rows[4:5]))
        assert torch.equal(images.read(rows[:5]), original.read(rows[9:]))


def test_the_protocol_split_asks_with_the_held_out_fifth(tmp_path: Path) -> None:
    write_photographs(tmp_path, [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(7)])
    train, test = load_splits("folder", tmp_path, 8)
    whole, protocol = open_protocol("split", train, test)
    assert torch.equal(whole.read(protocol.query), test.read(torch.arange(2)))
    assert torch.equal(whole.read(protocol.gallery), train.read(torch.arange(12)))
    images, queries = load_protocol("split", train, test)
    assert (len(images), len(queries)) == (12, 2)


def test_lazy_datasets_are_pooled_by_their_paths() -> None:
    train = LazyImageDataset("folder", "train", ("a", "b"), 8, torch.tensor([0, 1]))
    test = LazyImageDataset("folder", "test", ("c",), 8, torch.tensor([1]))
    whole = pool(train, test)
    assert isinstance(whole, LazyImageDataset)
    assert whole.paths == ("a", "b", "c")
    with pytest.raises(DataError, match="both splits of folder must have labels"):
        pool(train, LazyImageDataset("folder", "test", ("c",), 8, None))
    digits, _ = load_splits("digits")
    with pytest.raises(DataError, match="both splits of folder must be in memory"):
        pool(train, ImageDataset("folder", "test", digits.read(torch.arange(2)), torch.arange(2)))


def test_training_images_and_queries_are_taken_from_both_splits(tmp_path: Path) -> None:
    train, test = load_splits("digits")
    images, queries = load_protocol("split", train, test)
    assert (len(images), len(queries)) == (len(train), len(test))
    whole = pool(train, test)
    assert whole.labels is not None
    own = torch.arange(len(whole))
    crossing = RetrievalProtocol("own", 0, own[1400:1500], own[:1400], own[:9], _of(whole.labels))
    crossing.save(tmp_path / "own.safetensors")
    images, queries = load_protocol(str(tmp_path / "own.safetensors"), train, test)
    assert (len(images), len(queries)) == (9, 100)
    assert torch.equal(queries.read(torch.tensor([99])), whole.read(torch.tensor([1499])))


def _of(labels: Tensor) -> str:
    return build_protocol("split", labels, num_train=1).labels_fingerprint


def test_arguments_of_other_protocols_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"one of cifar10-10k, .*split, got 'cifar10'"):
        build_protocol("cifar10", CIFAR10)
    with pytest.raises(ConfigurationError, match=r"num_train belongs to the protocol split, .*1k"):
        build_protocol("cifar10-1k", CIFAR10, num_train=5)
    with pytest.raises(ConfigurationError, match=r"kept belongs to .*20015, but came with split"):
        build_protocol("split", CIFAR10, num_train=5, kept=CIFAR10)
    with pytest.raises(ConfigurationError, match="split needs num_train"):
        build_protocol("split", CIFAR10)
    with pytest.raises(ConfigurationError, match="both sides of 60000, got 60000"):
        build_protocol("split", CIFAR10, num_train=60_000)
    with pytest.raises(ConfigurationError, match=r"needs kept, .* chosen by their tags"):
        build_protocol("flickr25k-20015", FLICKR25K)


def test_a_class_with_too_few_images_is_named() -> None:
    short = CIFAR10.clone()
    short[(short == 3).nonzero()[1_400:]] = 4  # 1,400 images of class 3 are left
    with pytest.raises(DataError, match=r"1000 queries and 500 .* class 3 has 1400 images"):
        build_protocol("cifar10-10k", short)


@pytest.mark.usefixtures("as_users_run_it")
def test_labels_of_another_dataset_are_refused() -> None:
    with pytest.raises(DataError, match=r"60,000 images.*got labels \(50000,\)"):
        build_protocol("cifar10-10k", CIFAR10[:50_000])
    with pytest.raises(DataError, match=r"24 potential labels .*torch.bool \(25000, 38\)"):
        build_protocol("flickr25k-25000", torch.zeros(25_000, 38, dtype=torch.bool))
    with pytest.raises(DataError, match="flickr25k-24581 has 24581 images, got 24580"):
        build_protocol("flickr25k-24581", _without_one(FLICKR25K))
    with pytest.raises(DataError, match="flickr25k-20015 has 20015 images, got 7"):
        build_protocol("flickr25k-20015", FLICKR25K, kept=torch.arange(7))
    with pytest.raises(DataError, match="got 20015 indices, 1 of them different"):
        build_protocol("flickr25k-20015", FLICKR25K, kept=torch.zeros(20_015, dtype=torch.int64))
    with pytest.raises(DataError, match="different indices from 0 to 24999"):
        build_protocol("flickr25k-20015", FLICKR25K, kept=torch.arange(20_015) + 5_000)
    splits = (replace(split, labels=None) for split in load_splits("digits"))
    with pytest.raises(DataError, match="needs labels, but the dataset has none"):
        open_protocol("split", *splits)


def _without_one(labels: Tensor) -> Tensor:
    labels = labels.clone()
    labels[1] = False
    return labels
