"""Qwen2-VL (arXiv 2409.12191): a vision tower with 2-D rotary positions, a merger, and a Qwen2 decoder; for scores."""

from mvgrpo_jax.models.qwen2_vl.config import Qwen2VLConfig, VisionConfig, config_from
from mvgrpo_jax.models.qwen2_vl.model import Qwen2VL, RewardModel, qwen2_vl, reward_model
from mvgrpo_jax.models.qwen2_vl.rotary import image_positions, sequential

__all__ = [
    "Qwen2VL",
    "Qwen2VLConfig",
    "RewardModel",
    "VisionConfig",
    "config_from",
    "image_positions",
    "qwen2_vl",
    "reward_model",
    "sequential",
]
