"""Two processes that share one mesh, as on a pod: texts travel, and each asks for its share of the captions."""

import json

import jax
import numpy as np
import pytest
from jax._src import distributed

from mvgrpo_jax import enhancers
from mvgrpo_jax.enhancers import OnlineEnhancer
from mvgrpo_jax.nano import captioner as embedded
from mvgrpo_jax.nano.world import render, scene
from mvgrpo_jax.parallel.hosts import agree, exchange, from_chief
from mvgrpo_jax.run.pictures import to_uint8
from tests.processes import succeed, together

PROMPTS = ["a red circle", "a blue square", "a green cross"]
SCRIPT = """
import json
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import decide, from_chief
from tests.parallel.test_hosts import captioned, compilations, made, told
decided = [decide(lambda: {"by": jax.process_index()})]
def refuse():
    raise UserError(f"refused by {jax.process_index()}")
try:
    decide(refuse)
except UserError as error:
    decided.append(str(error))
arrays = made()
try:
    from_chief(refuse, {})
except UserError as error:
    arrays.append(str(error))
print(json.dumps([compilations(told), *captioned(), decided, arrays]))
"""


def told():
    """Texts and flags of all processes: texts of another length in each of 20 calls, one of 3 MB, one of no letter."""
    me = jax.process_index()
    texts = [exchange("x" * (n + 4 * me) + "\u00e9") for n in range(20)]
    large = exchange(chr(65 + me) * 3_000_000)
    flags = [agree(flag) for flag in (False, me == 1, True)]
    left = distributed.global_state.client.key_value_dir_get("mvgrpo_jax/exchange") if jax.process_count() > 1 else []
    return texts[3], [(t[0], len(t)) for t in large], exchange(""), flags, len(left)


def made():
    """A tree of arrays that the first process makes, and how often this one made it."""
    calls = []

    def make():
        calls.append(1)
        return {
            "a": np.arange(6, dtype=np.float32).reshape(2, 3) + jax.process_index(),
            "b": {"c": np.array([-1.5], np.float16)},
        }

    tree = from_chief(make, {"a": np.ones((2, 3), np.float32), "b": {"c": np.ones(1, np.float16)}})
    return [tree["a"].tolist(), tree["b"]["c"].tolist(), str(tree["b"]["c"].dtype), len(calls)]


def compilations(function):
    """(what it returns, programs compiled meanwhile)."""
    count = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: count.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
    )
    return function(), len(count)


def captioned():
    """(captions, requests of this process)."""
    asked = []

    class Counting(embedded.EmbeddedCaptioner):
        async def caption(self, *arguments):
            asked.append(1)
            return await super().caption(*arguments)

    images = np.stack([[[render.draw(scene.sample(np.random.default_rng([p, g]))) for g in range(2)]] for p in range(3)])
    own = OnlineEnhancer(Counting(), 2, 0, embedded.PERSPECTIVES)
    session = own.begin(0, PROMPTS, 1, 2)
    # Of the second prompt each process has one picture.
    mine = {(p, g) for p in range(3) for g in range(2) if jax.process_count() == 1 or (2 * p + g > 2) == jax.process_index()}
    session.add(0, {(p, g): to_uint8(images[p, 0, g]) for p, g in mine})
    out = enhancers.collect(session, 1)
    own.close()
    return out, len(asked)


@pytest.fixture(scope="module")
def said():
    return [json.loads(out.splitlines()[-1]) for out in succeed(together(SCRIPT))]


def test_text_travels_without_a_compiled_program(said):
    for told, count in (process[0] for process in said):
        assert told[:3] == [["xxx\u00e9", "xxxxxxx\u00e9"], [["A", 3_000_000], ["B", 3_000_000]], ["", ""]]
        assert told[3] == [False, True, True] and count == 0
        assert told[4] <= 3  # texts of the last exchange, and of the one before what another process has not yet taken away


def test_a_compiled_program_is_counted():
    assert compilations(lambda: float(jax.jit(lambda x: x * 1.25 + 7)(jax.numpy.arange(3.0)).sum()))[1] > 0


def test_captions_of_two_processes(said):
    whole, requests = captioned()
    assert said[0][1] == said[1][1] == whole
    assert [s[2] for s in said] == [3, 3] and requests == 6


def test_the_first_process_decides(said):
    assert [s[3] for s in said] == [[{"by": 0}, "refused by 0"]] * 2


def test_arrays_of_the_first_process(said):
    """It alone makes them, all have them with their types, and its mistake is everybody's."""
    tree = [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], [-1.5], "float16"]
    assert [s[4] for s in said] == [[*tree, 1, "refused by 0"], [*tree, 0, "refused by 0"]]
    assert made() == [*tree, 1]
