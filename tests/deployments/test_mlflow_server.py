"""The MLflow server shares its files with trainings that use none."""

from pathlib import Path

from mlflow import MlflowClient

from deployments.mlflow_server import start_mlflow_server


def test_runs_appear_with_and_without_the_server(tmp_path: Path) -> None:
    direct = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    here = direct.create_experiment("direct", str(tmp_path / "mlartifacts" / "direct"))
    first = direct.create_run(here).info.run_id
    direct.log_text(first, "one", "note.txt")

    server = start_mlflow_server(folder=tmp_path, log=tmp_path / "mlflow.log")
    try:
        server.wait_ready()
        served = MlflowClient(server.url)
        assert [run.info.run_id for run in served.search_runs([here])] == [first]
        assert Path(served.download_artifacts(first, "note.txt")).read_text() == "one"
        there = served.create_experiment("served")
        second = served.create_run(there).info.run_id
        served.log_metric(second, "train_loss", 0.5, step=1)
        served.log_text(second, "two", "note.txt")
    finally:
        server.stop()

    assert server.child.process.returncode == 0
    assert direct.get_run(second).data.metrics == {"train_loss": 0.5}
    assert Path(direct.download_artifacts(second, "note.txt")).read_text() == "two"
