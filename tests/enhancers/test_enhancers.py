"""Both enhancers of the embedded world: true captions, reproducible draws, memory, files."""

import json

import ml_collections
import numpy as np
import pytest

from mvgrpo_jax import enhance, enhancers
from mvgrpo_jax.enhancers import FileEnhancer, PerspectiveEnhancer, WorldRewriter, enhance_prompts
from mvgrpo_jax.enhancers.offline import canonical
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.world import captions, render, scene, truth

SCENES = [[scene.sample(np.random.default_rng([p, g])) for g in range(4)] for p in range(2)]
IMAGES = np.stack([[render.draw(s) for s in row] for row in SCENES])[:, None]  # [P=2, R=1, G=4]
PROMPTS = ["a red circle and a blue square", "a small green cross top on a white background"]


def test_caption_k_describes_sample_k():
    out = PerspectiveEnhancer(4, seed=0).enhance(0, PROMPTS, IMAGES)
    assert len(out) == 4 and len(out[0]) == 2 and len(out[0][0]) == 1
    for k in range(4):
        for p in range(2):
            assert truth.holds([SCENES[p][k]], [captions.read(out[k][p][0])])[0, 0], out[k][p][0]


def test_draws_depend_on_seed_and_iteration_alone():
    a = PerspectiveEnhancer(4, seed=0)
    assert a.enhance(3, PROMPTS, IMAGES) == PerspectiveEnhancer(4, seed=0).enhance(3, PROMPTS, IMAGES)
    assert a.enhance(3, PROMPTS, IMAGES) != a.enhance(4, PROMPTS, IMAGES)


def test_perspectives_can_be_chosen():
    out = PerspectiveEnhancer(6, 0, ("count",)).enhance(0, PROMPTS, IMAGES)
    assert len(out) == 6 and all("shape" in t for view in out for row in view for t in row)
    with pytest.raises(UserError, match="names mood; there are"):
        PerspectiveEnhancer(4, 0, ("mood",))


def test_operations_keep_their_word():
    rng, rewriter = np.random.default_rng(0), WorldRewriter()
    for prompt in (PROMPTS[0], "a small green cross on a white background"):
        meaning = captions.read(prompt)
        for _ in range(40):
            more = rewriter.rewrite(prompt, "addition", [], rng)
            assert captions.read(more).stated() > meaning.stated()
            less = rewriter.rewrite(prompt, "deletion", [], rng)
            assert 0 < captions.read(less).stated() < meaning.stated()
            other = captions.read(rewriter.rewrite(prompt, "rewriting", [], rng))
            assert set(other.things) == set(meaning.things) and other.background == meaning.background
    assert rewriter.rewrite(PROMPTS[1], "addition", [], rng) is None  # it leaves nothing open
    assert rewriter.rewrite("a circle", "deletion", [], rng) is None
    assert rewriter.rewrite("no words of this world", "addition", [], rng) is None


def test_memory_prevents_repeats():
    refusals = 0
    for prompt, found, refused in enhance_prompts([*PROMPTS, "a circle"], WorldRewriter(), 12, seed=0):
        refusals += refused
        texts = [canonical(c["text"]) for c in found]
        assert len(set(texts)) == len(texts) and canonical(prompt) not in texts
        assert len(texts) == 12
        assert {c["operation"] for c in found} <= {"addition", "deletion", "rewriting"}
    assert refusals > 0


def test_the_command_writes_continues_and_refuses(tmp_path, capsys):
    prompts, out, whole = tmp_path / "p.txt", tmp_path / "c.jsonl", tmp_path / "whole.jsonl"
    prompts.write_text("\n".join(PROMPTS * 3 + ["a pink square"]) + "\n\n")
    enhance.main(["--prompts", str(prompts), "--out", str(whole), "--k", "5"])
    text = whole.read_text()
    out.write_text(text[: len(text) // 2])  # killed in the middle of a line
    enhance.main(["--prompts", str(prompts), "--out", str(out), "--k", "5"])
    assert out.read_text() == text
    assert "repeats refused" in capsys.readouterr().out
    other = tmp_path / "other.txt"
    other.write_text("a pink square\n")
    with pytest.raises(SystemExit) as stop:
        enhance.main(["--prompts", str(other), "--out", str(out)])
    assert stop.value.code == 2 and "captions of other prompts" in capsys.readouterr().err


def test_file_enhancer(tmp_path):
    path = tmp_path / "c.jsonl"
    lines = [
        {"prompt": p, "captions": [{"text": f"{p} {i}", "operation": "addition"} for i in range(n)]}
        for p, n in zip(PROMPTS, (5, 2))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = FileEnhancer.load(str(path), 3, 0, PROMPTS).enhance(0, PROMPTS, IMAGES)
    assert len({out[k][0][0] for k in range(3)}) == 3
    assert out[2][1] == [None] and {out[0][1][0], out[1][1][0]} == {f"{PROMPTS[1]} 0", f"{PROMPTS[1]} 1"}
    with pytest.raises(UserError, match="no captions for 1 of 1"):
        FileEnhancer.load(str(path), 3, 0, ["a cross"])
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(UserError, match="line 3"):
        FileEnhancer.load(str(path), 3, 0, PROMPTS)


def test_a_config_names_its_enhancer():
    views = {"count": 2, "enhancer": "embeded", "perspectives": (), "file": ""}
    config = ml_collections.ConfigDict({"seed": 0, "views": views})
    with pytest.raises(UserError, match="unknown enhancer 'embeded'; Did you mean 'embedded'"):
        enhancers.make(config, PROMPTS)
    config.views.enhancer = "offline"
    with pytest.raises(UserError, match="mvgrpo_jax.enhance"):
        enhancers.make(config, PROMPTS)
    config.views.count = 0
    assert enhancers.make(config, PROMPTS) is None
