"""Who rewrites prompts for the offline enhancer: the protocol, and a language model behind a server."""

from __future__ import annotations

import re
from typing import Protocol

import numpy as np

from mvgrpo_jax.enhancers.cleaning import clean
from mvgrpo_jax.services import Rejected, Service

OPERATIONS = ("addition", "deletion", "rewriting")
REMEMBERED = 24  # newest captions that a request repeats, so that it stays within the model's length


class Rewriter(Protocol):
    """rewrite(prompt, operation, memory, rng) -> a new caption, or None where the operation cannot be applied.

    memory: the prompt and what was already written for it. Raises services.Failure: reason 'rejected' for an answer that is
    no good, 'bad request' and 'refused' for what the service will not do, others when it does not answer.
    """

    async def rewrite(self, prompt: str, operation: str, memory: list[str], rng: np.random.Generator) -> str | None: ...


SYSTEM = (
    "You edit prompts for a text-to-image generator. You answer with the new prompt alone: one line of plain English, without "
    "remarks, quotes, lists or explanations."
)
INSTRUCTIONS = {
    "addition": (
        "Write the prompt again with one or two details more, of a kind that it leaves open: light, colours, surroundings, "
        "materials, mood, style or point of view. Keep everything that it says. For example, 'a cat on a sofa' may become "
        "'a ginger cat on a green sofa in warm evening light'."
    ),
    "deletion": (
        "Write the prompt again without one or two of its details. Keep its main subject and add nothing. For example, "
        "'a ginger cat on a green sofa in warm evening light' may become 'a cat on a green sofa'."
    ),
    "rewriting": (
        "Say the prompt in other words: other verbs and adjectives, another order. Keep its meaning; add and drop nothing. "
        "For example, 'a ginger cat asleep on a green sofa' may become 'on a sofa of green cloth sleeps a cat with orange fur'."
    ),
}


class LlmRewriter:
    """Asks a language model, and takes only what does what was asked for. One answer is asked for: where it is no good, the
    caller draws another operation, because some models never do some operation as asked."""

    def __init__(self, service: Service, language: str = "en"):
        self.service, self.language = service, language

    def messages(self, prompt: str, operation: str, memory: list[str]) -> list[dict[str, str]]:
        text = f"{INSTRUCTIONS[operation]}\n\nPrompt: {prompt}"
        if len(memory) > 1:
            text += "\n\nThese exist already; yours must differ from each:\n" + "\n".join(
                f"- {m}" for m in memory[1:][-REMEMBERED:]
            )
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]

    async def rewrite(self, prompt: str, operation: str, memory: list[str], rng: np.random.Generator) -> str | None:
        if operation == "deletion" and len(content(prompt)) < 2:
            return None

        def accept(answer: str, finish: str) -> str:
            return self.accepted(prompt, answer, finish, operation)

        messages, seed = self.messages(prompt, operation, memory), int(rng.integers(2**31))
        return await self.service.ask(messages, accept, seed=seed, answers=1)

    def accepted(self, prompt: str, answer: str, finish: str, operation: str) -> str:
        """The caption in an answer; Rejected when it does not do what was asked for."""
        text = clean(answer, finish, self.language)
        if fault := unfaithful(prompt, text, operation):
            raise Rejected(fault)
        return text


_STOP = frozenset(
    "a an the of in on at by to with and or is are was were be it its this that from as for over under near into his".split()
)


def content(text: str) -> list[str]:
    """The words of a text that carry its meaning, in lower case."""
    return [w for w in re.findall(r"[^\W_]+", text.lower()) if w not in _STOP]


def unfaithful(prompt: str, text: str, operation: str) -> str:
    """Why a caption does not do what was asked for; empty when nothing speaks against it.

    Words count as kept when a word of the other text is equal or shares its first four letters. An addition is longer and
    keeps half of the prompt's words, a deletion is shorter and takes four fifths of its words from the prompt, a
    rewriting keeps three tenths and stays between half and double the length. Our values: crude, and better than nothing.
    """
    old, new = content(prompt), content(text)
    if not new:
        return "empty"
    kept = sum(_recurs(word, new) for word in old) / max(1, len(old))
    taken = sum(_recurs(word, old) for word in new) / len(new)
    if operation == "addition":
        return "length" if len(new) <= len(old) else "meaning" if kept < 0.5 else ""
    if operation == "deletion":
        return "length" if len(new) >= len(old) else "meaning" if taken < 0.8 else ""
    if not 0.5 * len(old) <= len(new) <= 2 * len(old) + 2:
        return "length"
    return "meaning" if kept < 0.3 else ""


def _recurs(word: str, others: list[str]) -> bool:
    return any(word == other or (len(word) > 3 and word[:4] == other[:4]) for other in others)
