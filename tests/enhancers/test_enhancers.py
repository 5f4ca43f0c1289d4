"""Enhancers on the embedded world: true captions, reproducible draws, memory, files."""

import asyncio
import json

import ml_collections
import numpy as np
import pytest

from mvgrpo_jax import enhance, enhancers
from mvgrpo_jax.enhancers import FileEnhancer, OnlineEnhancer, perspectives
from mvgrpo_jax.enhancers.drafting import canonical, enhance_prompts
from mvgrpo_jax.enhancers.watch import Watch
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano import captioner as embedded
from mvgrpo_jax.nano.rewriter import WorldRewriter
from mvgrpo_jax.nano.world import captions, render, scene, truth
from mvgrpo_jax.run.pictures import to_uint8

SCENES = [[scene.sample(np.random.default_rng([p, g])) for g in range(4)] for p in range(2)]
IMAGES = to_uint8(np.stack([[render.draw(s) for s in row] for row in SCENES]))[:, None]  # [P=2, R=1, G=4]
PROMPTS = ["a red circle and a blue square", "a small green cross top on a white background"]


def captioned(count: int, iteration: int = 0, only: tuple[str, ...] = (), images=IMAGES):
    chosen = perspectives.load("", only, embedded.PERSPECTIVES)
    own = OnlineEnhancer(embedded.EmbeddedCaptioner(), count, 0, chosen)
    try:
        return enhancers.enhance(own, iteration, PROMPTS, images)
    finally:
        own.close()


def test_caption_k_describes_sample_k():
    out = captioned(4)
    assert len(out) == 4 and len(out[0]) == 2 and len(out[0][0]) == 1
    for k in range(4):
        for p in range(2):
            assert truth.holds([SCENES[p][k]], [captions.read(out[k][p][0])])[0, 0], out[k][p][0]


def test_draws_depend_on_seed_and_iteration_alone():
    assert captioned(4, 3) == captioned(4, 3)
    assert captioned(4, 3) != captioned(4, 4)
    # A branch's captions do not depend on what other branches there are, nor on the order in which they come.
    both = captioned(4, 3, images=np.concatenate([IMAGES, IMAGES[:, :, ::-1]], 1))
    assert [[row[0] for row in view] for view in both] == [[row[0] for row in view] for view in captioned(4, 3)]


def test_fewer_and_more_captions_than_samples():
    own = OnlineEnhancer(embedded.EmbeddedCaptioner(), 3, 0, embedded.PERSPECTIVES)
    drawn = [[sample for sample, _, _ in own.draw(i, 0, 0, 10)] for i in range(20)]
    assert all(len(set(d)) == 3 and d == sorted(d) for d in drawn) and len(set(map(tuple, drawn))) > 10
    own.count = 7
    assert [sample for sample, _, _ in own.draw(0, 0, 0, 3)] == [0, 1, 2, 0, 1, 2, 0]
    assert len({seed for i in range(50) for _, _, seed in own.draw(i, 0, 0, 3)}) == 350
    own.close()


def test_perspectives_can_be_chosen():
    out = captioned(6, only=("count",))
    assert len(out) == 6 and all("shape" in t for view in out for row in view for t in row)
    with pytest.raises(UserError, match="names 'mood'; there are"):
        captioned(4, only=("mood",))


def test_operations_keep_their_word():
    rng = np.random.default_rng(0)
    rewrite = lambda *arguments: asyncio.run(WorldRewriter().rewrite(*arguments))
    for prompt in (PROMPTS[0], "a small green cross on a white background"):
        meaning = captions.read(prompt)
        for _ in range(40):
            more = rewrite(prompt, "addition", [], rng)
            assert captions.read(more).stated() > meaning.stated()
            less = rewrite(prompt, "deletion", [], rng)
            assert 0 < captions.read(less).stated() < meaning.stated()
            other = captions.read(rewrite(prompt, "rewriting", [], rng))
            assert set(other.things) == set(meaning.things) and other.background == meaning.background
    assert rewrite(PROMPTS[1], "addition", [], rng) is None  # it leaves nothing open
    assert rewrite("a circle", "deletion", [], rng) is None
    assert rewrite("no words of this world", "addition", [], rng) is None


def all_of(stream) -> list:
    async def fetch():
        return [item async for item in stream]

    return asyncio.run(fetch())


def test_memory_prevents_repeats():
    refusals = 0
    for item in all_of(enhance_prompts([*PROMPTS, "a circle"], Watch(WorldRewriter()), 12, seed=0)):
        refusals += item.refused
        texts = [canonical(c["text"]) for c in item.captions]
        assert len(set(texts)) == len(texts) and canonical(item.prompt) not in texts
        assert len(texts) == 12
        assert {c["operation"] for c in item.captions} <= {"addition", "deletion", "rewriting"}
    assert refusals > 0


def test_a_caption_file_that_a_windows_editor_saved_is_read_and_goes_on(tmp_path):
    prompts, out = tmp_path / "p.txt", tmp_path / "c.jsonl"
    prompts.write_text("\n".join(PROMPTS))
    enhance.main(["--prompts", str(prompts), "--out", str(out), "--k", "2", "--count", "1"])
    out.write_bytes(("\ufeff" + out.read_text().replace("\n", "\r\n")).encode())
    enhance.main(["--prompts", str(prompts), "--out", str(out), "--k", "2"])
    assert list(FileEnhancer.load(str(out), 2, 0, PROMPTS).table) == list(PROMPTS)


def test_the_command_writes_continues_and_refuses(tmp_path, capsys):
    prompts, out, whole = tmp_path / "p.txt", tmp_path / "c.jsonl", tmp_path / "whole.jsonl"
    prompts.write_text("\n".join([*PROMPTS, PROMPTS[0], "a pink square"]) + "\n\n")
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
    out = enhancers.enhance(FileEnhancer.load(str(path), 3, 0, PROMPTS), 0, PROMPTS, IMAGES)
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
