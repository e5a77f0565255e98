"""The end of a training: models, pictures, tables, the true status."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedcore.cross_site import CrossSite
from fedcore.federation import Federation
from fedcore.initial import load_into
from fedcore.label_counts import label_counts
from fedcore.metrics import predictions
from fedcore.models import build
from fedcore.values import ServerState
from tasks import report, tracking
from tasks.record import Recorder, logger

__all__ = ["close"]


def close(
    run: Recorder, federation: Federation, state: ServerState, *, matrix: CrossSite | None
) -> None:
    """Tell MLflow and Prefect the rest. Trouble there is reported, and never fails the training:
    its checkpoints are complete."""
    logger.info("logging models and pictures", extra={"closing": True})
    trouble = run.tracker.settle(run.records)
    for doing, action in (
        ("take the models", lambda: _models(run, federation)),
        ("take the pictures", lambda: _pictures(run, federation, state)),
        ("take the cross-site evaluation", lambda: _cross_site(run, matrix)),
        ("close the run", lambda: tracking.finish(run.run, "FINISHED", records=run.records)),
    ):
        if trouble:
            logger.warning(trouble)
        # A server that was waited for once is not waited for again.
        patience = 0.0 if trouble else tracking.PATIENCE_S
        trouble = tracking.attempt(action, doing=doing, patience=patience)
    if trouble:
        logger.warning(trouble)
    report.progress(run.progress, done=state.round, rounds=run.rounds)
    run.tables()
    if matrix is not None:
        report.cross_site_table(matrix)


def _models(run: Recorder, federation: Federation) -> None:
    logged = tracking.log_models(
        run.run, run.records, blueprint=federation.terms.blueprint, folder=run.folder
    )
    if logged.warning:
        logger.warning(logged.warning)


def _cross_site(run: Recorder, matrix: CrossSite | None) -> None:
    if matrix is None:
        return
    from tasks.cross_site_picture import cross_site_picture

    tracking.log_cross_site(run.run, matrix)
    with tempfile.TemporaryDirectory() as folder:
        cross_site_picture(matrix, path=Path(folder, "cross_site.png"))
        tracking.log_picture(run.run, Path(folder, "cross_site.png"))


def _pictures(run: Recorder, federation: Federation, state: ServerState) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in _drawn(run, federation, state, folder=Path(folder)):
            tracking.log_picture(run.run, path)


def _drawn(
    run: Recorder, federation: Federation, state: ServerState, *, folder: Path
) -> Iterator[Path]:
    # Matplotlib takes a quarter of a second to import, which no first round should wait for.
    from tasks import label_picture, pictures

    loss, confusion, labels = (folder / f"{n}.png" for n in ("loss", "confusion", "label_counts"))
    pictures.loss_picture(run.records, path=loss)
    yield loss
    counts = label_counts(federation.descriptions)
    if counts is not None:
        label_picture.label_picture(counts, path=labels)
        yield labels
    test = federation.test
    if test is None or test.labels is None:
        return
    blueprint = federation.terms.blueprint
    module = build(blueprint)
    load_into(module, state.model)
    predicted = predictions(module, test, loss=blueprint.model.loss)
    pictures.confusion_picture(test.labels, predicted, test.classes, path=confusion)
    yield confusion
