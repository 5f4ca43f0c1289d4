"""Pictures and scores on a mesh of several devices are those of one."""

import jax
import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import pipelines, rewards
from mvgrpo_jax.evaluation import judging
from mvgrpo_jax.evaluation.job import Job, share
from mvgrpo_jax.evaluation.painter import Painter
from mvgrpo_jax.evaluation.prompt_set import PromptSet
from mvgrpo_jax.evaluation.side import Side
from mvgrpo_jax.evaluation.weights import Weights, local_mesh, networks
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.rewards.base import Judgement

PROMPTS = PromptSet("made up", range(7, 10), ("a cross", "a red circle", "two squares"), ("", "", ""))


def job(folder, **changed):
    given = dict(steps=2, guidance=3.5, height=16, width=8, dtype="float32", length=24) | changed
    return Job(Weights(str(folder)), PROMPTS, range(3, 5), **given)


def painted(folder, mesh, batch, **changed):
    wanted = job(folder, **changed)
    painter = Painter(pipelines.load(folder, mesh=mesh), mesh, wanted, batch)
    parts = [painter(wanted.items[i : i + painter.size]) for i in range(0, 6, painter.size)]
    assert all(finite.all() for _, finite in parts)
    return painter.size, np.concatenate([images for images, _ in parts])


@pytest.mark.parametrize(
    "variant, sizes", [("guided", dict(data=2, fsdp=2)), pytest.param("narrow", dict(data=4), marks=pytest.mark.nightly)]
)
def test_a_picture_does_not_depend_on_devices_or_batch(random_pipeline, variant, sizes):
    folder = random_pipeline(variant)
    one, few = painted(folder, make_mesh(), 6), painted(folder, make_mesh(**sizes, groups=[jax.devices()[:4]]), 3)
    assert (one[0], few[0]) == (6, 4) and one[1].shape == (6, 16, 8, 3)
    assert np.abs(one[1].astype(int) - few[1]).max() <= 1
    distinct = one[1].reshape(6, -1).astype(int)
    assert all(np.abs(a - b).max() > 8 for i, a in enumerate(distinct) for b in distinct[:i])


def test_what_is_not_finite_is_said(random_pipeline):
    folder = random_pipeline("narrow")
    mesh, wanted = make_mesh(), job(folder)
    pipeline = pipelines.load(folder, mesh=mesh)
    pipeline.params["transformer"] = jax.tree.map(lambda a: a * np.nan, pipeline.params["transformer"])
    images, finite = Painter(pipeline, mesh, wanted, 2)(wanted.items[:2])
    assert not finite.any() and (images == 128).all()


def test_items_are_all_prompts_under_a_seed_then_the_next_and_processes_share_them(monkeypatch):
    items = job("x").items
    assert [(i.number, i.seed) for i in items] == [(7, 3), (8, 3), (9, 3), (7, 4), (8, 4), (9, 4)]
    assert items[4].key == "00008_4" and items[4].text == "a red circle"
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    parts = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts += share(items)
    assert sorted(i.key for i in parts) == sorted(i.key for i in items)


@pytest.mark.parametrize("devices", [2, 8])
def test_a_judge_on_several_devices_gives_the_scores_and_vectors_of_one(devices):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    texts = ["a cross", "a red circle", "two squares", "a cross", "a star"]
    found = []
    for mesh in (make_mesh(), make_mesh(data=devices // 2, fsdp=2, groups=[jax.devices()[:devices]])):
        asker = judging.OnDevices("clip", rewards.make("clip"), 5, mesh)
        assert asker.size % mesh.size == 0
        vectors = [judging.unpacked(text) for text in asker.vectors(images, texts)()]
        found.append((asker.scores(images, texts)(), np.stack(vectors)))
        asker.close()
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found[0][1], axis=1), 1.0, atol=1e-3)


def test_a_judge_elsewhere_is_asked_ahead_and_answers_keep_their_order(tmp_path, monkeypatch):
    """Two batches are on their way while the third is read; what is not valid has no value."""
    asked, answered = [], []

    class Elsewhere:
        def begin(self, images, captions):
            asked.append([texts[0] for texts in captions])

            class Pending:
                def result(self, number=len(asked)):
                    answered.append((number, len(asked)))
                    scores = np.asarray([[len(texts[0])] for texts in captions], np.float32)
                    return Judgement(scores, scores != len("a red circle"))

            return Pending()

        def take_cut(self):
            return 4

    side = Side(tmp_path, job("x"))
    (tmp_path / "pictures").mkdir()
    for item in side.items:
        Image.fromarray(np.zeros((16, 8, 3), np.uint8)).save(tmp_path / item.file)
    side.looks.add({item.key: {"finite": item.seed == 3 or item.number > 7} for item in side.items})
    monkeypatch.setattr(rewards, "make", lambda name, settings: Elsewhere())
    assert judging.judge("far", {"kind": "http"}, [side], 1, False) == 4
    assert asked == [[item.text] for item in side.items if item.key != "00007_4"]
    assert answered == [(1, 3), (2, 4), (3, 5), (4, 5), (5, 5)]
    known = judging.ledger(side, "far").read()
    assert known == {"00007_3": 7, "00008_3": None, "00009_3": 11, "00008_4": None, "00009_4": 11}
    asked.clear()
    judging.judge("far", {"kind": "http"}, [side], 1, False)
    assert asked == [["a red circle"]] * 2  # what could not be had is asked for again


def test_on_accelerators_all_devices_are_used(random_pipeline, monkeypatch):
    """Weights that fit in half of a device are whole on each; larger ones are split."""
    from mvgrpo_jax.evaluation import weights

    class Device:
        platform, process_index, slice_index = "tpu", 0, 0

        def __init__(self, number):
            self.id = number

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(i) for i in range(4)])
    monkeypatch.setattr(weights.meshes, "make_mesh", lambda groups, **sizes: (sizes, len(groups[0])))
    nets = networks(Weights(str(random_pipeline("guided"))).described())
    for memory, expected in ((2**30, dict(data=4, fsdp=1, tensor=1)), (2**10, dict(data=1, fsdp=4, tensor=1))):
        monkeypatch.setattr(weights.hardware, "memory", lambda device, memory=memory: memory)
        assert local_mesh(nets, "float32") == (expected, 4)
