"""Two processes that share one mesh, as on a pod: texts travel, and each asks for its share of the captions."""

import json

import numpy as np

from mvgrpo_jax import enhancers
from mvgrpo_jax.enhancers import OnlineEnhancer
from mvgrpo_jax.nano import captioner as embedded
from mvgrpo_jax.nano.world import render, scene
from tests.processes import together

PROMPTS = ["a red circle", "a blue square", "a green cross"]
SCRIPT = """
import json, os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
import jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from tests.parallel.test_hosts import captioned
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import decide, exchange
texts = exchange("x" * (3 + 4 * jax.process_index()) + "\\u00e9")
decided = [decide(lambda: {"by": jax.process_index()})]
def refuse():
    raise UserError(f"refused by {jax.process_index()}")
try:
    decide(refuse)
except UserError as error:
    decided.append(str(error))
print(json.dumps([texts, *captioned(), decided]))
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
    out = enhancers.enhance(own, 0, PROMPTS, images)
    own.close()
    return out, len(asked)


def test_captions_of_two_processes():
    results = together(SCRIPT)
    said = [json.loads(out.splitlines()[-1]) for out, _ in results]
    whole, requests = captioned()
    assert said[0][0] == said[1][0] == ["xxx\u00e9", "xxxxxxx\u00e9"]
    assert said[0][1] == said[1][1] == whole
    assert [s[2] for s in said] == [4, 2] and requests == 6
    assert [s[3] for s in said] == [[{"by": 0}, "refused by 0"]] * 2
