"""Arguments that a public function does not take or lacks are named, with the one that was meant."""

from typing import Any

import pytest

import nacgen
from nacgen.errors import ArgumentError, ConfigurationError
from nacgen.system.calls import public


@public
def train(images: Any, *, preset: str = "digits", size: int, **options: Any) -> int:
    return size


@public
def embed(images: Any, *, size: int = 3) -> int:
    return size


@pytest.mark.parametrize(
    ("function", "arguments", "keywords", "message"),
    [
        (train, (1,), {}, r"nacgen\.train needs images, size, got no size\. Give size=\.\.\., too"),
        (
            train,
            (),
            {"six": 6},
            r"got no images and no size\. Give images=\.\.\., size=\.\.\., too",
        ),
        (train, (1, 2), {"size": 3}, "takes only images without a name, got 2 arguments"),
        (train, (1,), {"images": 2, "size": 3}, r"takes images once, got it twice\. Leave one out"),
        (embed, (1,), {"sise": 2}, r"embed takes images, size, got 'sise'\. Did you mean size\?"),
        (embed, (1,), {"color": 2}, r"got 'color'\. Leave it out\."),
    ],
)
def test_arguments_that_do_not_fit_are_told_in_three_parts(
    function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        function(*arguments, **keywords)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ConfigurationError)
    assert (train(1, size=3, other=4), embed(1)) == (3, 3)


def test_a_keyword_that_is_given_twice_is_told_by_the_public_name() -> None:
    options = {"encoder": 2}
    for name in ("pretrain", "train_gan", "train_vae", "train_flow", "compare", "transplant"):
        with pytest.raises(TypeError, match=rf"^nacgen\.{name}\(\) got multiple .* 'encoder'"):
            getattr(nacgen, name)(encoder=1, **options)
