"""Weights & Biases. WANDB_MODE, WANDB_API_KEY, WANDB_ENTITY and its other variables count as they do elsewhere."""

from __future__ import annotations

from mvgrpo_jax.run.trackers.base import TITLE, Job, Picture

STEP = "iteration"  # its own counter goes up by each call, whatever the iteration


def begin(job: Job) -> Run:
    """A continued run goes on under its id; offline it writes a further folder, which `wandb sync` joins to the first."""
    import wandb

    job.folder.local.parent.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        dir=str(job.folder.local.parent),
        project=job.project,
        name=job.name,
        id=job.identity.get("wandb"),
        resume="allow",
        mode="offline" if job.offline else None,
        config=job.config,
        settings=wandb.Settings(console="off"),
    )
    run.define_metric("*", step_metric=STEP)
    return Run(run, wandb.Image)


class Run:
    def __init__(self, run, image):
        self.run, self.image = run, image

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        self.run.log(values | {STEP: iteration})

    def pictures(self, iteration: int, shown: list[Picture]) -> None:
        self.run.log({TITLE: [self.image(p.image, caption=p.caption) for p in shown], STEP: iteration})

    def flush(self) -> None:
        """Nothing is held back in this process."""

    def close(self) -> None:
        self.run.finish()
