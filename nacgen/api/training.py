"""Pretraining and training from Python: each function is its command, with images and networks in hand."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from nacgen.api.calling import as_function
from nacgen.api.options import (
    configure,
    encoder_option,
    images_options,
    options_of,
    part_option,
    recipe_of,
    start_of,
)
from nacgen.api.results import TrainedRun
from nacgen.api.spelling import as_arguments
from nacgen.errors import ArgumentError, ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.system.calls import public
from nacgen.system.documents import flatten
from nacgen.system.own_parts import is_own
from nacgen.training.config import to_dict
from nacgen.training.environment import read_environment
from nacgen.training.parts import Parts


@public
def pretrain(
    images: Any = None,
    *,
    preset: str | None = None,
    held_out: Any = None,
    backbone: Any = None,
    augment: Any = None,
    **options: Any,
) -> NACEncoder:
    """Pretrain an encoder, as `nacgen pretrain` does, in a run folder; the same call again returns it at once.

    Args:
        images: Images to train on: the name of a data set, the path of a folder, a uint8 tensor or array
            `(n, 3, h, w)`, a list of images, a map-style torch Dataset, or a Hugging Face dataset with a column
            `image` or `img`, see `nacgen.data.given.given_dataset`. None: those of the preset.
        preset: Named settings to start from, see `nacgen presets pretrain`. None: the preset of the data set's
            name, `"folder"` for images of your own, `"digits"` without images.
        held_out: Images in hand to measure the encoder on. None: every fifth image of `images`.
        backbone: Trunk of your own: a module that gives features `(b, d)` or a mapping of feature maps
            `(b, c, h, w)`, a function or class that makes one, or `"package.module:function"`; or a built-in
            name. Give it to `NACEncoder.from_pretrained`, too.
        augment: Function that makes views, from images `(b, 3, h, w)` in [-1, 1] to images, in place of `views`.
        options: Options of the command by dotted name, `**{"nac.relaxation": "closed_form"}`, or as a mapping
            for a topic, `nac={"relaxation": "closed_form"}`.

    Returns:
        The encoder, on the CPU and in evaluation mode; its `run` has the folder, the scores and the report.

    Raises:
        ConfigurationError: An option cannot be used, or the run folder holds another run.
        DataError: The images cannot be used.
        KeyboardInterrupt: It was interrupted, and saved; the same call goes on.
        SystemExit: 143, after SIGTERM, and saved, too.

    Example:
        >>> encoder = nacgen.pretrain(preset="smoke")
        >>> encoder.features(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 64])
    """
    parts: dict[str, Any] = {}
    _add_part("backbone", "model.backbone", backbone, parts, options)
    _add_part("augment", "augment", augment, parts, options)
    run = _train(pretrain, images, held_out, preset, parts, options)
    assert isinstance(run.model, NACEncoder)
    run.model.run = run
    return run.model


@public
def train_gan(
    images: Any = None,
    *,
    preset: str | None = None,
    held_out: Any = None,
    encoder: Any = None,
    generator: Any = None,
    discriminator: Any = None,
    augment: Any = None,
    extractor: Any = None,
    **options: Any,
) -> TrainedRun:
    """Train a GAN, as `nacgen train-gan` does, in a run folder; the same call again returns the run at once.

    Args:
        images: Images to train on, as in `pretrain`.
        preset: Named settings to start from, as in `pretrain`; see `nacgen presets train-gan`.
        held_out: Images in hand that overfitting is measured on.
        encoder: Encoder that the discriminator starts from: a `NACEncoder`, a folder or a Hub id. Its random
            control needs it, too. None: the released one for the embedded digits, which other images lack.
        generator: Network of your own: a module, which is copied and not changed, a function or class that makes
            one with the seed of the run, or `"package.module:function"`. It takes latents `(b, z)` or
            `(b, z, 1, 1)` and gives images `(b, 3, h, w)` in [-1, 1]. Or a mapping of the generator's options.
        discriminator: Network of your own, from images to one logit or several each, in the same forms; a
            function may take `encoder`, whose weights are those of `init`. Or a mapping of options.
        augment: Function that augments real and generated images `(b, 3, h, w)` in [-1, 1] for the discriminator,
            with gradients, or a mapping of options.
        extractor: Features that scores compare: a name, a `nacgen.metrics.FeatureExtractor` or
            `"package.module:function"`.
        options: Options of the command, as in `pretrain`.

    Returns:
        The run: folder, scores, samples, report.

    Raises:
        ConfigurationError: An option cannot be used, or the run folder holds another run.
        DataError: The images cannot be used.
        KeyboardInterrupt: It was interrupted, and saved; the same call goes on.
        SystemExit: 143, after SIGTERM, and saved, too.

    Example:
        >>> run = nacgen.train_gan(preset="smoke")
        >>> list(run.scores), run.samples(4).shape
        (['fd_digits_classifier'], torch.Size([4, 3, 16, 16]))
    """
    parts: dict[str, Any] = {}
    own = {"generator": generator, "discriminator": discriminator, "augment": augment}
    for name, part in own.items():
        if isinstance(part, Mapping):
            options[name] = part
        else:
            option = "function" if name == "augment" else "network"
            _add_part(name, f"{name}.{option}", part, parts, options)
    if "discriminator" in parts and encoder is None:
        options.setdefault("init", "random")
    return _train(
        train_gan, images, held_out, preset, parts, options, encoder=encoder, extractor=extractor
    )


@public
def train_vae(
    images: Any = None,
    *,
    preset: str | None = None,
    held_out: Any = None,
    encoder: Any = None,
    extractor: Any = None,
    **options: Any,
) -> TrainedRun:
    """Train a VAE, as `nacgen train-vae` does; arguments, result and errors are those of `train_gan`.

    Example:
        >>> run = nacgen.train_vae(preset="smoke")
        >>> run.samples(4).shape
        torch.Size([4, 3, 16, 16])
    """
    return _train(
        train_vae, images, held_out, preset, {}, options, encoder=encoder, extractor=extractor
    )


@public
def train_flow(
    images: Any = None,
    *,
    preset: str | None = None,
    encoder: Any = None,
    extractor: Any = None,
    **options: Any,
) -> TrainedRun:
    """Train a flow model, as `nacgen train-flow` does; arguments, result and errors are those of `train_gan`.

    Example:
        >>> run = nacgen.train_flow(preset="smoke")
        >>> run.samples(4).shape
        torch.Size([4, 3, 16, 16])
    """
    return _train(
        train_flow, images, None, preset, {}, options, encoder=encoder, extractor=extractor
    )


@public
def train_classifier(
    images: Any = None, *, preset: str | None = None, held_out: Any = None, **options: Any
) -> TrainedRun:
    """Train a classifier to score by, as `nacgen train-classifier` does; the run's `model` is the classifier.

    Example:
        >>> run = nacgen.train_classifier(preset="smoke")
        >>> run.model(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """
    return _train(train_classifier, images, held_out, preset, {}, options)


def _add_part(
    kind: str, option: str, part: object, parts: dict[str, Any], options: dict[str, Any]
) -> None:
    """Name a part in an option, and keep it among the parts unless its name says where it is found."""
    if part is not None:
        if option in options:
            raise ArgumentError(
                f"{option} is given twice, by its name and by {kind}={part!r:.50}. Leave one out."
            )
        options[option] = part_option(part)
        parts |= {} if isinstance(part, str) else {kind: part}


def _train(
    function: Callable[..., Any],
    images: object,
    held_out: object,
    preset: str | None,
    parts: dict[str, Any],
    options: dict[str, Any],
    *,
    encoder: object = None,
    extractor: object = None,
) -> TrainedRun:
    """Run a function's recipe on images and parts in hand, in this process, and leave nothing of it behind."""
    dotted = {name.partition(".")[0] for name in options if "." in name}
    recipe = {"pretrain": "pretrain_nac"}.get(function.__name__, function.__name__)
    known = options_of(recipe)
    with as_function(lambda text: as_arguments(text, known, dotted)):
        if held_out is not None and (images is None or isinstance(images, str | os.PathLike)):
            raise ConfigurationError(
                "held_out belongs to images that are in hand, got it with the name of a data set or a folder. Put "
                "the images into a folder test beside train."
            )
        options = flatten(options)
        preset, data = images_options(images, held_out, preset, recipe, options)
        if encoder is not None:
            options["encoder"] = encoder_option(encoder, options.get("run_dir"))
            parts |= encoder.given_arguments() if isinstance(encoder, NACEncoder) else {}
        _add_part("extractor", "score.extractor", extractor, parts, options)
        config = configure(recipe, preset, options, function)
        start = start_of({k: part for k, part in parts.items() if k != "extractor"})
        run = recipe_of(recipe).main(config, Parts(**data, **parts, start=start))
    began = (read_environment(run.path) or {}).get("own_parts", {})
    if run.is_complete and began != start:
        changed = ", ".join(sorted(k for k in {*began, *start} if began.get(k) != start.get(k)))
        raise ConfigurationError(
            f"{run.path} holds this run, complete, but it began with other weights of {changed}. Choose another "
            "run_dir, or fresh=True; a function or class in place of a module gives each seed its own weights."
        )
    # Parts that are named in place of being handed over are needed to load the model, too.
    named, own = flatten(to_dict(config)), {}
    for name, option in (("generator", "generator.network"), ("backbone", "model.backbone")):
        own[name] = parts.get(name, named.get(option) if is_own(named.get(option)) else None)
    return TrainedRun(run.path, **own)
