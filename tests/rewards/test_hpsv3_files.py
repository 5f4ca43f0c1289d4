"""HPSv3's weights and settings as users have them: other models', cut short, not a number."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvgrpo_jax import rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import kinds, scoring
from mvgrpo_jax.rewards.kinds import hpsv3 as kind
from tests.rewards.hpsv3_peer import judge_of
from tests.rewards.test_rewards import judged


def test_weights_that_do_not_fit(hpsv3, tmp_path):
    whole = hpsv3().tensors()

    def load(tensors, **options):
        save_file(tensors, tmp_path / "x.safetensors")
        return judge_of(hpsv3(), folder=str(tmp_path / "x.safetensors"), **options).load()

    load(whole)
    load({f"model.{name}": tensor for name, tensor in whole.items()})
    with pytest.raises(UserError, match="missing: rm_head.0.bias"):
        load({n: t for n, t in whole.items() if not n.startswith("rm_head.0.bias")})
    with pytest.raises(UserError, match="unexpected: visual.blocks.0.attn.extra"):
        load(whole | {"visual.blocks.0.attn.extra": torch.zeros(2)})
    with pytest.raises(UserError, match=r"shape of model.norm.weight: expected \[32\], found \[24\]"):
        load(whole | {"model.norm.weight": torch.zeros(24)})
    with pytest.raises(UserError, match=r"weights do not fit the model that its config.json describes (.|\n)* and 50 more"):
        load(hpsv3("single").tensors())
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="x.safetensors: not a complete safetensors file"):
        judge_of(hpsv3(), folder=str(tmp_path / "x.safetensors")).load()
    with pytest.raises(UserError, match="nowhere: no such file or folder; expected HPSv3.safetensors"):
        judge_of(hpsv3(), folder=str(tmp_path / "nowhere")).load()
    save_file({"a": torch.zeros(1)}, tmp_path / "y.safetensors")
    with pytest.raises(UserError, match="several safetensors files, x.safetensors, y.safetensors; name the one"):
        judge_of(hpsv3(), folder=str(tmp_path)).load()


def test_a_score_that_is_no_number_is_invalid(hpsv3, tmp_path):
    """Of the words of one caption: the other is judged."""
    tensors = hpsv3().tensors()
    word = hpsv3().tokenizer.encode(" cat").ids[0]
    tensors["model.embed_tokens.weight"][word] = float("nan")
    save_file(tensors, tmp_path / "x.safetensors")
    judge = judge_of(hpsv3(), folder=str(tmp_path / "x.safetensors"))
    scores = judged(judge, np.zeros((1, 1, 28, 28, 3), np.uint8), [["a cat"], ["a red table"]])
    assert np.isnan(scores[:, 0, 0]).tolist() == [True, False]


def test_settings(hpsv3, tmp_path):
    assert kinds.place("hpsv3") == "folder" and set(kinds.defaults("hpsv3")) >= {"folder", "base", "positions", "chunk"}
    allowed = kinds.rules("hpsv3")
    assert allowed["positions"].accepts("mrope") and not allowed["positions"].accepts("spiral")
    assert allowed["chunk"].accepts(1) and not allowed["chunk"].accepts(0) and not allowed["dtype"].accepts("float16")
    words = [f"hpsv3={hpsv3().folder}"], [f"hpsv3.base={hpsv3().base}", "hpsv3.dtype=float32"]
    assert scoring.make_judges(*words)["hpsv3"].dtype == jnp.float32
    (tmp_path / "mine.txt").write_text("Rate it for {text_prompt}: <|Reward|>")
    mine = judge_of(hpsv3(), instruction=str(tmp_path / "mine.txt"))
    assert len(mine.after) < 30 and mine.dialogue.closing == 3  # colon, space, <|Reward|>
    with pytest.raises(UserError, match="instruction: .*gone.txt does not exist; give a text file with {text_prompt}"):
        judge_of(hpsv3(), instruction=str(tmp_path / "gone.txt"))
    assert isinstance(rewards.described("hpsv3", {"folder": "/nowhere", "base": "/nowhere"}), kind.HPSv3Reward)
