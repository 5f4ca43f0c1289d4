"""MLflow: the server of MLFLOW_TRACKING_URI, or a database in the workdir, which `mlflow ui` shows."""

from __future__ import annotations

import os
import time

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run.trackers.base import TITLE, Job, Picture

SERVER = "MLFLOW_TRACKING_URI"
LONGEST, AT_ONCE = 6000, 100  # characters of a parameter, parameters of a request: the server's own bounds


def begin(job: Job) -> Run:
    """A continued run goes on under its id. UserError: a database in object storage."""
    import mlflow
    from mlflow.entities import Param

    server, files = os.environ.get(SERVER), None
    if not server:
        if job.folder.remote:
            raise UserError(
                f"config.log.trackers: mlflow keeps a database, which object storage cannot hold; set {SERVER} to a server, or "
                "give a workdir on a disk"
            )
        job.folder.local.mkdir(parents=True, exist_ok=True)
        server, files = f"sqlite:///{job.folder.local.resolve()}/mlflow.db", (job.folder.local / "files").resolve().as_uri()
    client = mlflow.MlflowClient(tracking_uri=server)

    def create() -> str:
        known = client.get_experiment_by_name(job.project)
        experiment = known.experiment_id if known else client.create_experiment(job.project, artifact_location=files)
        run = client.create_run(experiment, run_name=job.name).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in job.config.items()]
        for first in range(0, len(params), AT_ONCE):
            client.log_batch(run, params=params[first : first + AT_ONCE])
        return run

    run = job.identity.get("mlflow", create)
    client.update_run(run, status="RUNNING")
    return Run(client, run)


class Run:
    def __init__(self, client, run: str):
        self.client, self.run = client, run

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, iteration) for name, value in values.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def pictures(self, iteration: int, shown: list[Picture]) -> None:
        """Files eval_images/ITERATION/NUMBER.png, with captions.json beside them."""
        folder = f"{TITLE}/{iteration:06d}"
        for p in shown:
            self.client.log_image(self.run, p.image, f"{folder}/{p.number:03d}.png")
        self.client.log_dict(self.run, {f"{p.number:03d}.png": p.caption for p in shown}, f"{folder}/captions.json")

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.client.set_terminated(self.run)
