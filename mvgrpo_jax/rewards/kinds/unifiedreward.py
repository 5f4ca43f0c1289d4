"""UnifiedReward: a vision-language model trained to grade pictures from 1 to 5, behind a server of the OpenAI protocol.

Version 2 grades alignment, coherence and style; version 1 gives one score (Wang et al., arXiv 2503.05236, and
github.com/CodeGoat24/UnifiedReward, whose questions are in rewards/texts under their MIT licence). launch/sidecars/compose.yaml
has the server.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from mvgrpo_jax.configuration.rules import Choice, Text
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import answers, asking, texts
from mvgrpo_jax.services import Settings, Shared
from mvgrpo_jax.services.pictures import Encoding

# Version -> its question, and the labels of its scores in the order of the answer.
VERSIONS = {
    "v2": ("unifiedreward_v2", {axis: f"{axis.capitalize()} Score" for axis in ("alignment", "coherence", "style")}),
    "v1": ("unifiedreward_v1", {"final": "Final Score"}),
    "v1-elements": ("unifiedreward_v1_elements", {"final": "Final Score"}),
}
# (offset, divisor) of a score from 1 to 5: as it is; x / 5, as with version 1 in Flow-GRPO; in [0, 1].
SCALES = {"points": (0.0, 1.0), "fifths": (0.0, 5.0), "unit": (1.0, 4.0)}

# One answer of version 2 holds three scores, each of which may be a judge of its own.
ANSWERS = Shared()


@asking.takes_options(Settings, model="UnifiedReward", max_tokens=512)
class UnifiedReward(asking.Pairs):
    """version: which question is asked, 'v1-elements' after its elements are listed. use: which score of version 2, or their
    mean; a score that is not used need not be there. scale: 'points' 1 to 5, 'fifths' 0.2 to 1, 'unit' 0 to 1. instruction:
    a file with another question, {caption} in it. The rest: of the service.

    Version 2 gets the picture in its own size as JPEG of quality 95, before the question, so that a server's prefix cache
    holds it for all captions; version 1 gets 512 x 512 as PNG. UserError for values that are none of these.
    """

    def __init__(self, version: str = "v2", use: str = "mean", scale: str = "points", instruction: str = "", **service: Any):
        super().__init__(service)
        for name, value, known in (("version", version, VERSIONS), ("use", use, USES), ("scale", scale, SCALES)):
            if value not in known:
                raise UserError(f"{name} of the judge unifiedreward must be one of {', '.join(known)}, got {value!r}")
        shipped, self.labels = VERSIONS[version]
        self.version, self.question = version, texts.read(instruction, shipped)
        self.used = tuple(self.labels) if use == "mean" or version != "v2" else (use,)
        self.offset, self.divisor = SCALES[scale]
        s = self.settings
        self.said = s.endpoints, s.model, s.max_tokens, s.extra, version, self.question  # what decides about an answer

    def prepare(self, image: np.ndarray) -> str:
        """The picture as a URL."""
        if self.version == "v2":
            return Encoding("jpeg", 95, 0).data_url(image)
        buffer = io.BytesIO()
        Image.fromarray(image).resize((512, 512), Image.Resampling.BICUBIC).save(buffer, "PNG")
        return f"data:image;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def read(self, answer: str, finish: str) -> float:
        """The score that is used, of an answer. Raises services.Rejected."""
        scores = {axis: answers.labelled(answer, self.labels[axis], finish) for axis in self.used}
        for axis, score in scores.items():
            self.note(axis, score)
        return (sum(scores.values()) / len(scores) - self.offset) / self.divisor

    async def judge(self, prepared: str, text: str, home: bytes, deadline: float) -> float:
        messages = asking.about(prepared, texts.fill(self.question, text))

        async def send(client, seed: int) -> tuple[str, str]:
            ask = lambda: self.service.answer(client, messages, seed)
            return await ANSWERS.get((*self.said, home, text, seed), self, ask)

        # The same question would get the same answer: an answer without a score is not asked for again.
        accept = lambda answer: self.read(*answer)
        return await self.service.request(send, accept, deadline=deadline, answers=1, home=home)


USES = ("mean", *VERSIONS["v2"][1])
JUDGE, PLACE = UnifiedReward, "endpoints"
RULES = asking.rules(Settings) | {
    "version": Choice.of(VERSIONS),
    "use": Choice.of(USES),
    "scale": Choice.of(SCALES),
    "instruction": Text(),
}
