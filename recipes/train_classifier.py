"""Train the small classifier whose features score generated images.

    nacgen train-classifier

With no flags it trains on the embedded digits and leaves the classifier in
runs/train_classifier-digits-seed0/classifier; `checkpoints/digits-classifier` was made so.
Options and presets stand in nacgen/pretraining/classifier_options.py.
"""

from functools import partial
from typing import TYPE_CHECKING

from nacgen.pretraining.classifier_options import PRESETS, ClassifierConfig
from nacgen.training.command import run_recipe
from nacgen.training.parts import NO_PARTS, Parts, load_train_and_test

if TYPE_CHECKING:
    from nacgen.training.run import Run


def main(config: ClassifierConfig, parts: Parts = NO_PARTS) -> "Run":
    """Build data, classifier and update; train; save the classifier."""
    import torch

    from nacgen.data.augment import ViewPolicy
    from nacgen.data.pixels import to_float
    from nacgen.data.provenance import data_note, no_labels
    from nacgen.errors import DataError
    from nacgen.models.classifier import ImageClassifier
    from nacgen.pretraining.supervised import ClassifierUpdate
    from nacgen.reporting.classifier_report import record_mistakes, report_classifier
    from nacgen.system.randomness import seeded
    from nacgen.training.data_record import record_data
    from nacgen.training.loop import Goal, train
    from nacgen.training.run import open_run
    from nacgen.training.update import warmup_cosine

    with open_run(config.run_name, config) as run:
        if run.is_complete:
            run.finish(report=report_classifier)
            return run
        # Images with labels to train on, and held-out ones.
        train_set, test_set = load_train_and_test(config, parts)
        record_data(run, train_set, test_set, parts=parts)
        if train_set.labels is None or test_set.labels is None:
            raise DataError(
                f"a classifier needs labels, but {config.dataset} has {no_labels(train_set)}. Put the "
                "images of each class into a subfolder of its own."
            )
        stream = run.stream(train_set)

        # The classifier and its update.
        with seeded(config.seed, "classifier"):
            classifier = ImageClassifier(
                num_classes=len(train_set.class_names),
                channels=config.channels,
                image_size=train_set.image_size,
                dataset=train_set.name,
            ).to(run.device)
        optimizer = torch.optim.AdamW(
            classifier.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        views = ViewPolicy(
            crop_scale=(config.smallest_crop, 1.0), flip=config.flip, grayscale_probability=0.0
        )
        update = ClassifierUpdate(run.accelerator, classifier, optimizer, views)

        # Training, with the accuracy on held-out images.
        labels, chunks = test_set.labels, torch.arange(len(test_set)).split(500)

        def classify() -> torch.Tensor:
            classifier.eval()
            with torch.no_grad():
                return torch.cat(
                    [classifier(to_float(test_set.read(p).to(run.device))).cpu() for p in chunks]
                )

        def evaluate(images_seen: int) -> dict[str, float]:
            return {"test_accuracy": float((classify().argmax(1) == labels).float().mean())}

        result = train(
            update,
            stream,
            run,
            schedule=warmup_cosine(config.total_images, config.total_images // 20),
            evaluate=evaluate,
            evaluate_every=max(1, config.total_images // 4),
            goal=Goal("test_accuracy", "higher"),
        )

        # The classifier with its accuracy, and a report with its mistakes.
        accuracy = result.evaluation["test_accuracy"]
        classifier.card_notes = (
            f"Trained on {train_set.name}/{train_set.split}, {result.images_seen:,} images seen, "
            f"seed {config.seed}. Accuracy on {test_set.name}/{test_set.split}: {accuracy:.4f}. "
            f"{data_note(train_set)}"
        )
        run.export(classifier, "classifier")
        record_mistakes(run, test_set, classify())
        run.finish(result, report_classifier, classifier=str(run.path / "classifier"))
        return run


run = partial(run_recipe, main, ClassifierConfig, PRESETS)

if __name__ == "__main__":
    run()
