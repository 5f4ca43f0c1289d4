"""Two processes that share one mesh, as on a pod: texts travel, and each asks for its share of the captions."""

import json

import jax
import numpy as np

from mvgrpo_jax.enhancers import OnlineEnhancer
from mvgrpo_jax.nano import captioner as embedded
from mvgrpo_jax.nano.world import render, scene
from mvgrpo_jax.run.pictures import to_uint8
from tests.processes import together

PROMPTS = ["a red circle", "a blue square", "a green cross"]
SCRIPT = """
import json, os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
import jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from tests.parallel.test_hosts import captioned
from mvgrpo_jax.parallel.hosts import exchange
texts = exchange("x" * (3 + 4 * jax.process_index()) + "\\u00e9")
print(json.dumps([texts, *captioned()]))
"""


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
    out = session.collect()
    own.close()
    return out, len(asked)


def test_captions_of_two_processes():
    results = together(SCRIPT)
    said = [json.loads(out.splitlines()[-1]) for out, _ in results]
    whole, requests = captioned()
    assert said[0][0] == said[1][0] == ["xxx\u00e9", "xxxxxxx\u00e9"]
    assert said[0][1] == said[1][1] == whole
    assert [s[2] for s in said] == [3, 3] and requests == 6
