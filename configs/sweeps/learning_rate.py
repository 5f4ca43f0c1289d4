"""Learning rates of full training and of adapters on FLUX.1-dev: a run each, two seeds.

    python launch/sweep.py --sweep configs/sweeps/learning_rate.py --out /shared/lr --write tpu --tpu v5p-64 \
        -- --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

The paper's rate, 2e-6, is the middle of full training's; adapters want more. Not run here.
"""

from configs.sweeps import across, grid

CONFIG = "configs/mvgrpo_flux.py"


def get_sweep():
    full = grid(optimizer__learning_rate=(1e-6, 2e-6, 5e-6))
    adapters = grid(lora__rank=(64,), lora__alpha=(128.0,), optimizer__learning_rate=(5e-5, 1e-4, 3e-4))
    return across(full + adapters, grid(seed=(0, 1)))
