"""Encoded texts: what is kept, what is thrown out, and runs without encoders in memory."""

import json

import numpy as np
import pytest

from mvgrpo_jax import enhancers, pipelines
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.pipelines.store import Store, encoder_identity
from mvgrpo_jax.run import loop
from mvgrpo_jax.run.build import build
from tests.runs import small_config


def encoded(seed, tokens=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(tokens, 4)).astype(np.float32), rng.normal(size=2).astype(np.float32)


ONE = 3 * 4 * 4 + 2 * 4  # bytes of one encoding above


def test_the_least_recently_used_text_goes_first():
    store = Store("id", memory=2 * ONE)
    store.put("a", encoded(0))
    store.put("b", encoded(1))
    store.get("a")
    store.put("c", encoded(2))
    assert store.get("b") is None and store.size == 2 * ONE
    np.testing.assert_array_equal(store.get("a")[0], encoded(0)[0])
    store.put("long", encoded(3, tokens=100))
    assert store.get("long") is None and store.get("c") is not None


def test_the_folder_is_bounded_and_shared_by_runs_of_one_encoder(tmp_path):
    store = Store("id", 0, tmp_path, disk=10**6)
    for i, text in enumerate("abc"):
        store.put(text, encoded(i))
    other = Store("id", 0, tmp_path, disk=10**6)
    np.testing.assert_array_equal(other.get("c")[1], encoded(2)[1])
    assert Store("another encoder", 0, tmp_path, 10**6).get("c") is None
    size = next(tmp_path.glob("*")).stat().st_size
    small = Store("id", 0, tmp_path, disk=2 * size)
    small.put("d", encoded(3))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 and small.get("d") is not None and small.get("a") is None


def test_the_identity_follows_weights_length_and_precision(tmp_path):
    source = pipelines.EMBEDDED
    one = encoder_identity(source, 24, "float32")
    assert one == encoder_identity(source, 24, "float32")
    assert one != encoder_identity(source, 12, "float32") != encoder_identity(source, 12, "bfloat16")
    for part in ("text_encoder", "text_encoder_2"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.safetensors").write_bytes((source / part / "model.safetensors").read_bytes())
    assert encoder_identity(tmp_path, 24, "float32") == one
    with (tmp_path / "text_encoder" / "model.safetensors").open("r+b") as file:
        file.seek(2000)
        file.write(b"\x07\x07")
    assert encoder_identity(tmp_path, 24, "float32") != one


@pytest.fixture
def offline(tmp_path):
    """A run's config with offline captions from a file."""
    from mvgrpo_jax.prompts import load_prompts

    config = small_config(iterations=1)
    prompts = load_prompts(config.prompts.train, 4, held_out=False)
    lines = [{"prompt": p, "captions": [{"text": f"{p} large"}, {"text": f"{p} small"}]} for p in prompts]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config.prompts.train_count = 4
    config.views.update(enhancer="offline", file=str(tmp_path / "captions.jsonl"))
    return config


@pytest.mark.nightly
def test_a_run_without_encoders_is_the_run_with_them(offline, tmp_path):
    """Same metrics and pictures; the second run finds every text on disk; the exported pipeline is complete."""
    with_encoders = loop.train(offline, tmp_path / "a")
    offline.text.update(memory_mb=1.0, folder=str(tmp_path / "store"), drop_encoders=True)
    without = loop.train(offline, tmp_path / "b")
    files = list((tmp_path / "store").glob("*"))
    assert len(files) == 4 * 3 + 3  # prompts with two captions each, and held-out prompts
    a, b = (np.load(tmp_path / run / "eval" / "000001.npy").astype(int) for run in "ab")
    assert np.abs(a - b).max() <= 1
    one, two = (pipelines.load(f).params["text_encoder_2"]["shared"]["embedding"] for f in (with_encoders, without))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    times = {f: f.stat().st_mtime_ns for f in files}
    loop.train(offline, tmp_path / "c")
    assert times == {f: f.stat().st_mtime_ns for f in (tmp_path / "store").glob("*")}


def test_what_cannot_be_dropped(offline, tmp_path):
    offline.text.drop_encoders = True
    with pytest.raises(UserError, match="needs a store"):
        build(offline)
    offline.text.memory_mb = 0.01
    with pytest.raises(UserError, match=r"15 texts of .* bytes do not fit the store .* raise config.text.memory_mb"):
        build(offline)
    offline.text.memory_mb = 10.0
    run, _ = build(offline)
    with pytest.raises(UserError, match="'a text nobody knew' was not known when the text encoders were dropped"):
        run.text.encode_items(["a text nobody knew"])
    offline.views.enhancer = "embedded"
    with pytest.raises(UserError, match="an enhancer that looks at the pictures"):
        build(offline)
    assert enhancers.make(offline, []).known() is None
