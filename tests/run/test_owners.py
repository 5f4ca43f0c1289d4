"""Two processes of two devices: pictures stay with their owner, and text stores that differ do not hang."""

import json
import os

import numpy as np
import pytest

from tests.hlo import shapes_sent
from tests.processes import succeed, together

pytestmark = pytest.mark.slow

# Of each process: the events of an overlapped iteration, encodings under text stores that differ, and how many of these texts
# the encoders were run for.
SCRIPT = """
import json
folder, = ARGUMENTS
import numpy as np
from mvgrpo_jax.enhancers.online import OnlineSession
from mvgrpo_jax.nano.captioner import EmbeddedCaptioner
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.run import drawing
from mvgrpo_jax.run import iteration as stages
from mvgrpo_jax.run.build import build
from mvgrpo_jax.run.metrics import Clock
from tests.runs import small_config

me, events = jax.process_index(), []
EmbeddedCaptioner.remote = True  # as a service: its captions are asked for branch by branch
add, mine = OnlineSession.add, Owned.mine.func

def adding(self, branch, images):
    events.append(("asked", branch, sorted(images)))
    add(self, branch, images)

def reading(self):
    out = mine(self)
    events.append(("read",))
    return out

OnlineSession.add = adding
Owned.mine.func = reading

config = small_config(iterations=1)
config.eval.update(every=1, steps=1)
config.mesh.fsdp = 4
config.text.update(memory_mb=1.0, folder=f"{folder}/store{me}", disk_gb=0.1)
run, initial = build(config)
clock, texts = Clock(), ["a green cross", "a pink star"]
with jax.set_mesh(run.mesh):
    state = run.programs.init(initial)
    run.evaluation.run(state.params, run.pipeline.params["vae"])
    events.clear()
    samples = drawing.sample(run, 0, state.params, run.prompts[:2], None, clock)
    views, scores = stages.judge(run, 0, samples, clock)
    order = list(events)

    batch, _ = stages.make_batch(run, 0, samples, views, scores, clock)
    stages.update(run, state, batch, 0)

    if me == 0:  # its store has them, the other's has not
        one = run.text.store.get(run.prompts[0])
        for text in texts:
            run.text.store.put(text, one)
    encode, called = run.programs.encode, []
    run.programs.__dict__["encode"] = lambda *a: called.append(1) or encode(*a)
    encoded = run.text.encode_prompts(texts)
    held = [len(s.data) for s in encoded.txt.addressable_shards]
known = run.text.store.get(texts[me])
own = encoded.txt.addressable_shards[0].data
same = bool(np.array_equal(np.asarray(own)[0], known[0]))
print(json.dumps([order, len(called), held, same, scores.by_judge["scene"].tolist()]))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("owners")
    dump = f" --xla_dump_to={folder}/hlo --xla_dump_hlo_as_text --xla_dump_hlo_pass_re=^$"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + dump)
        patch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")  # a program from the cache is not written down
        outputs = succeed(together(SCRIPT, str(folder), devices=2))
    return folder, [json.loads(out.splitlines()[-1]) for out in outputs]


def test_captions_of_a_branch_are_asked_for_before_the_next_is_read(said):
    for process, (events, *_) in enumerate(said[1]):
        assert [e[0] for e in events] == ["read", "asked", "read", "asked"]
        assert [e[1] for e in events[1::2]] == [1, 0]  # the shorter tail first
        assert all(p == process for e in events[1::2] for p, _ in e[2])  # a process asks about its own prompt's pictures


def test_text_stores_that_differ_agree_on_what_is_encoded(said):
    """The first process has both texts, the second one none: both run the encoders as often, and nobody waits for ever."""
    for _, called, held, own, _ in said[1]:
        assert called == 1 and held == [1, 1] and own


def test_every_process_has_the_scores_of_all(said):
    (*_, a), (*_, b) = said[1]
    np.testing.assert_array_equal(a, b)
    assert (np.asarray(a).std() > 0) and np.isfinite(a).all()


def test_no_collective_carries_a_picture(said):
    """In all programs that were compiled, of the run and between them: none sends bytes, or numbers shaped as pictures."""
    programs = list((said[0] / "hlo").glob("*after_optimizations.txt"))
    names = {p.name.split(".")[1] for p in programs}
    assert len(programs) > 15 and any("update" in n for n in names), names
    sent = {(p.name, kind, shape) for p in programs for kind, shape in shapes_sent(p.read_text())}
    assert any(kind == "f32" for _, kind, _ in sent)  # parameters are gathered
    assert not {s for s in sent if s[1] in ("u8", "s8") or s[2][-3:] in ((32, 32, 3), (3, 32, 32))}
