"""SwanLab. SWANLAB_API_KEY and its other variables count as they do elsewhere."""

from __future__ import annotations

from mvgrpo_jax.run.trackers.base import TITLE, Job, Picture


def begin(job: Job) -> Run:
    """A continued run goes on under its id online; offline it writes a further folder."""
    import swanlab

    how = {"mode": "offline"} if job.offline else {"id": job.identity.get("swanlab"), "resume": "allow"}
    run = swanlab.init(log_dir=str(job.folder.local), project=job.project, name=job.name, config=job.config, **how)
    return Run(run, swanlab.Image)


class Run:
    def __init__(self, run, image):
        self.run, self.image = run, image

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        self.run.log(values, step=iteration)

    def pictures(self, iteration: int, shown: list[Picture]) -> None:
        self.run.log({TITLE: [self.image(p.image, caption=p.caption) for p in shown]}, step=iteration)

    def flush(self) -> None:
        """Nothing is held back in this process."""

    def close(self) -> None:
        self.run.finish()
