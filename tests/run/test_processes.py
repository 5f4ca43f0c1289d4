"""A whole run on several processes is the run of one: the same numbers, the same weights."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

from mvgrpo_jax.pipelines.flux import EMBEDDED
from mvgrpo_jax.run import metrics
from tests.processes import succeed, together
from tests.run import layouts
from tests.services.faults import FaultServer, seeded

# Processes x devices of each. What one process does on four devices, they do.
LAYOUTS = {"2 x 2": (2, 2), "4 x 1": (4, 1)}
RUN = "from tests.run import layouts\nfor name in ARGUMENTS[3:]:\n    layouts.run(name, *ARGUMENTS[:3])\n"
DIE = "from tests.run import layouts\nlayouts.die(ARGUMENTS[3], *ARGUMENTS[:3])\n"
# Largest difference of a metric or a weight. The sums of four devices are added up in another order, nothing else differs.
# That is enough to round a byte of a picture the other way here and there (one of 73,728 was seen in a first iteration), where
# a judge that reads bytes jumps: BYTES holds from the first such byte on. Under bfloat16 there are many.
EXACT, BYTES, ROUNDED = 1e-5, 2e-4, 0.05
OFTEN = set()  # of every day; tests/run/test_owners.py runs two processes then
# Metrics that must be there, so that what both have lost is missed.
EVERYWHERE = {"loss", "grad_norm", "ratio/max", "reward/scene", "reward/clip", "advantage/abs", "views/active", "zero_std/clip"}
OWN = {
    "captions of a service": {"enhancer/asked", "enhancer/missing"},
    "branches": {"enhancer/asked", "ratio/max"},
    "adapters": {"kl"},
    "passes": {"ratio/min", "clip/low", "ratio/first_update_error"},
    "resumed": {"ratio/min", "clip/low", "ratio/first_update_error"},
}


def cases():
    for layout in LAYOUTS:
        for setting in layouts.SETTINGS:
            marks = [] if (layout, setting) in OFTEN else [pytest.mark.nightly]
            yield pytest.param(layout, setting, marks=marks, id=f"{layout}, {setting}")


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """found(layout or "one", setting) -> workdir. All settings that are asked of a layout run in one launch of its processes;
    one process runs them here."""
    folder, launched = tmp_path_factory.mktemp("layouts"), {}
    layouts.write_inputs(folder)
    asked = [item.callspec.params for item in request.session.items if item.fspath == request.fspath]

    def launch(script, layout, *settings):
        processes, devices = LAYOUTS[layout]
        arguments = (str(folder / layout), str(folder), server.url, *settings)
        return together(script, *arguments, processes=processes, devices=devices, seconds=3600)

    def found(layout, setting):
        workdir = folder / layout / setting
        if layout == "one":
            if not workdir.exists():
                layouts.run(setting, folder / layout, str(folder), server.url)
        elif setting == "resumed":
            killed = launch(DIE, layout, setting)
            assert any("kills itself" in out for _, out, _ in killed) and all(code for code, _, _ in killed), killed
            assert "going on from iteration 1" in succeed(launch(RUN, layout, setting))[0]
        else:
            if layout not in launched:
                own = [p["setting"] for p in asked if p["layout"] == layout and p["setting"] != "resumed"]
                launched[layout] = launch(RUN, layout, *own)
            if not (workdir / "report.html").exists():  # the processes failed in this setting, or in one before it
                succeed(launched[layout])
        return workdir

    with FaultServer(then=seeded()) as server:
        yield found


def weights(workdir):
    (file,) = [*workdir.glob("pipeline/transformer/*.safetensors"), *workdir.glob("lora/pytorch_lora_weights.safetensors")]
    return load_file(file)


def bytes_apart(one, several):
    """(in the first iteration, in the second): how many bytes of all pictures differ, and by how much at most."""
    found = [[], []]
    names = sorted(file.name for file in one.with_suffix(".pictures").iterdir())
    assert names == sorted(file.name for file in several.with_suffix(".pictures").iterdir()) and len(names) >= 24
    for name in names:
        a, b = (np.load(workdir.with_suffix(".pictures") / name).astype(int) for workdir in (one, several))
        found[int(name[0])].append(np.abs(a - b).ravel())
    return [(int((d > 0).sum()), int(d.max()), d.size) for d in map(np.concatenate, found)]


def measured(row):
    return {k: v for k, v in row.items() if not k.startswith(("time/", "memory/")) and not k.endswith("_s")}


@pytest.mark.parametrize("layout, setting", cases())
def test_several_processes_do_what_one_does(runs, layout, setting):
    one, several = runs("one", {"resumed": "passes"}.get(setting, setting)), runs(layout, setting)
    first, second = bytes_apart(one, several)
    tolerance, bound = ROUNDED, 3e-4
    if setting != "bfloat16":
        for (count, most, of), share in ((first, 1e-4), (second, 1e-3)):
            assert most <= 1 and count < share * of, (first, second)
        tolerance, bound = (BYTES, 5 * EXACT) if first[0] or second[0] else (EXACT, EXACT)
    rows = [[measured(row) for row in metrics.read(workdir)] for workdir in (one, several)]
    evaluated = setting == "captions of a service"
    assert [len(r) for r in rows] == [2 + evaluated] * 2  # two iterations, and the evaluation after the last
    for number, (want, got) in enumerate(zip(*rows)):
        assert want.keys() == got.keys()
        assert number == 2 or EVERYWHERE | OWN.get(setting, set()) <= want.keys()
        assert number == 1 or not evaluated or {"eval/scene", "eval/clip"} <= want.keys()
        here = EXACT if setting != "bfloat16" and number == 0 and not first[0] else tolerance
        wrong = {k: (v, got[k]) for k, v in want.items() if abs(v - got[k]) > here * max(1.0, abs(v))}
        assert not wrong, (number, wrong, first, second)
    want, got = weights(one), weights(several)
    assert want.keys() == got.keys()
    # Adam moves a weight whose gradient is near 0 by the learning rate, 1e-3, this way or that.
    difference = np.mean if setting == "bfloat16" else np.max
    apart = {name: difference(np.abs(want[name] - got[name])) for name in want}
    assert max(apart.values()) <= bound, (apart, first, second)


@pytest.mark.nightly
@pytest.mark.parametrize("layout, setting", [("one", "captions of a service")])
def test_the_compared_runs_train(runs, layout, setting):
    """What is compared to 1e-5 has moved by far more."""
    (file,) = (EMBEDDED / "transformer").glob("*.safetensors")
    start, end = load_torch(file), weights(runs(layout, setting))
    assert max(np.abs(start[name].float().numpy() - end[name]).max() for name in start) > 1e-3
