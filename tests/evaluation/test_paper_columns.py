"""The paper's row from the command: small random judges of every column, against torch's scores of the files."""

import json

import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import evaluate
from tests.rewards.judges import MAKERS
from tests.services.faults import FaultServer, says

PROMPTS = ["a cross", "a red circle on black", "two squares"]
ANSWER = "Alignment Score (1-5): 3.25\nCoherence Score (1-5): 3.5\nStyle Score (1-5): 4.125\nFinal Score: 2.75"
PATIENT = {"backoff_s": "0.05", "hedge": "0.0", "attempt_s": "20.0"}


@pytest.mark.nightly
def test_every_column_is_its_judges_mean(random_pipeline, hpsv3, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    cases = {}
    for name, maker in (("hpsv2", "hpsv2"), ("clip", "clip of open_clip"), ("imagereward", "imagereward")):
        (tmp_path / name).mkdir()
        cases[name] = MAKERS[maker](tmp_path / name, "exact")
    peer, words = hpsv3(), []
    settings = {name: case.options for name, case in cases.items()}
    factor = {name: settings[name].get("scale", 1.0) for name in cases}  # the paper's columns have none
    settings |= {name: settings[name] | {"scale": 1.0} for name in cases}
    settings["hpsv3"] = {"folder": str(peer.folder), "base": str(peer.base)}
    with FaultServer(then=says(ANSWER)) as server:
        remote = PATIENT | {"kind": "unifiedreward", "endpoints": repr((server.url,))}
        settings |= {axis: remote | {"use": axis} for axis in ("alignment", "coherence", "style")}
        settings["first"] = remote | {"version": "v1"}
        for name, options in settings.items():
            words += ["--judge", name]
            for key, value in options.items():
                words += ["--option", f"{name}.{key}={value}"]
        out, pipeline = tmp_path / "out", str(random_pipeline("narrow"))
        common = ["--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "--height", "36", "--width", "48", "--published"]
        evaluate.main(["--pipeline", pipeline, *common, *words, "--out", str(out)])
    paths = [out / "pictures" / f"{i:05d}_0.png" for i in range(3)]
    images = [Image.open(path).convert("RGB") for path in paths]
    wanted = {name: [case.peer([i], [p])[0, 0] / factor[name] for i, p in zip(images, PROMPTS)] for name, case in cases.items()}
    wanted["hpsv3"] = [peer.score(path, prompt)[0] for path, prompt in zip(paths, PROMPTS)]
    wanted |= {"alignment": [3.25] * 3, "coherence": [3.5] * 3, "style": [4.125] * 3, "first": [2.75] * 3}
    rows = [json.loads(line)["scores"] for line in (out / "scores.jsonl").read_text().splitlines()]
    for name, scores in wanted.items():
        assert [row[name] for row in rows] == pytest.approx(scores, abs=2e-4), name
    head, *_, own = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("|")]
    assert head == "| Trained on | Method | HPSv3 | UR-v2 A | UR-v2 C | UR-v2 S | HPSv2 | CLIP | IR | UR-v1 |"
    order = ("hpsv3", "alignment", "coherence", "style", "hpsv2", "clip", "imagereward", "first")
    means = [np.mean(wanted[name]) * (0.01 if name == "hpsv3" else 1) for name in order]
    assert [float(cell.split()[0]) for cell in own.split("|")[3:-1]] == pytest.approx(means, abs=6e-4)
