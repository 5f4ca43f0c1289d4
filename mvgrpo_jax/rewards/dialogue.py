"""A chat model's turn about one picture under a caption, as tokens up to the one that is read.

The picture and the instruction stand before the caption, so all captions share these tokens; what follows the token that is
read cannot change it and is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.errors import UserError

CAPTION = "{text_prompt}"  # where an instruction has the caption
# Captions that begin and end in as many ways as a tokenizer tells apart: what all of them share, every caption shares.
_PROBES = ("", "a", "Z z", "7", " x ", "\nb\n", "!", "'s", "\u0301e", "\u732b", "<|", "-\n\n", "\t")


class Dialogue:
    """folder: a tokenizer with a chat template. instruction: the text behind the picture, with CAPTION in it. image, read: the
    tokens that stand for a picture, and that is read (added where the tokenizer has none).

    before, after: int32 ids that all captions share, before the picture's token and between it and the caption. closing: how
    many ids all captions end with. UserError when the folder has no template or token, or the instruction no caption.
    """

    def __init__(self, folder: str | Path, instruction: str, image: str, read: str):
        from transformers import AddedToken, AutoTokenizer

        self.where, self.instruction = str(folder), instruction
        for word in (CAPTION, read):
            if instruction.count(word) != 1:
                raise UserError(f"expected {word} once in the instruction, found it {instruction.count(word)} times")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: no tokenizer can be read ({error}); copy the files of Qwen2-VL-7B-Instruct") from None
        self.template = self.tokenizer.chat_template or _template(Path(folder))
        if image not in self.tokenizer.get_vocab():
            raise UserError(f"{folder}: the tokenizer has no token {image}; give the folder of Qwen2-VL-7B-Instruct")
        self.tokenizer.add_tokens([AddedToken(read, special=True, normalized=False)], special_tokens=True)
        self.image_id, self.read_id = self.tokenizer.convert_tokens_to_ids([image, read])
        probes = [self._ids(text) for text in _PROBES]
        shared = _common(probes)
        if shared.count(self.image_id) != 1:
            raise UserError(
                f"{folder}: expected a chat template with one {image} before a text, found {shared.count(self.image_id)}"
            )
        place = shared.index(self.image_id)
        self.before, self.after = (np.asarray(part, np.int32) for part in (shared[:place], shared[place + 1 :]))
        self.closing = len(_common([ids[len(shared) :][::-1] for ids in probes]))

    def __len__(self) -> int:
        """Ids of the vocabulary."""
        return len(self.tokenizer)

    def _ids(self, caption: str) -> list[int]:
        content = [{"type": "image"}, {"type": "text", "text": self.instruction.replace(CAPTION, caption)}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=self.template, tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if self.read_id not in ids:
            raise UserError(f"{self.where}: the chat template leaves out the text; copy the one of Qwen2-VL-7B-Instruct")
        return ids[: len(ids) - ids[::-1].index(self.read_id)]

    def own(self, caption: str, longest: int) -> tuple[list[int], bool]:
        """The ids that a caption does not share, and whether its end was cut so that there are at most `longest`."""
        shared = len(self.before) + 1 + len(self.after)
        ids = self._ids(caption)
        assert ids[: len(self.before)] == self.before.tolist() and ids[shared - len(self.after) : shared] == self.after.tolist()
        ids = ids[shared:]
        if len(ids) <= longest:
            return ids, False
        return ids[: longest - self.closing] + ids[-self.closing :], True


def _common(many: list[list[int]]) -> list[int]:
    """What they all begin with."""
    length = 0
    for ids in zip(*many):
        if len(set(ids)) > 1:
            break
        length += 1
    return many[0][:length]


def _template(folder: Path) -> str:
    """A chat template that stands in a file of its own, as processors of transformers 4 wrote it."""
    if (folder / "chat_template.json").exists():
        return read_json(folder / "chat_template.json")["chat_template"]
    raise UserError(f"{folder}: the tokenizer has no chat template; copy tokenizer_config.json or chat_template.json there")
