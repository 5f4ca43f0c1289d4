"""What comes off an answer, and what is no caption."""

import pytest

from mvgrpo_jax.enhancers import perspectives
from mvgrpo_jax.enhancers.cleaning import clean
from mvgrpo_jax.enhancers.rewriters import unfaithful
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.services import Rejected

SAME = ["a red circle top-left and a large square on a white background", "three shapes", "A cat: a story in blue, 3 of 4."]
SAME += [
    "First light over a harbour",
    "Okay, said with a hand sign",
    "Let us in, a door says",
    "The user of a loom, from above",
]
CLEANED = {
    "<think>The user wants a caption.\nFine.</think>\n\nA dog on a beach.": "A dog on a beach.",
    "some thoughts that began in the template </think> A cat.": "A cat.",
    "**Caption:** A dog runs.": "A dog runs.",
    'Caption: "A dog runs."': "A dog runs.",
    "\u201cA dog runs.\u201d": "A dog runs.",
    "Sure! Here is the caption:\n\nA dog runs.\n\nLet me know if you want another.": "A dog runs.",
    "Here's a rewritten prompt: A **bold** and _shy_ dog.": "A bold and _shy_ dog.",
    "Of course. The image shows a red ball on grass.": "A red ball on grass.",
    "In this photograph depicts a tree.": "A tree.",
    "# A title\n\nA dog runs.": "A dog runs.",
    "- A dog runs.\n- A cat sleeps.": "A dog runs.",
    "1. A dog runs.": "A dog runs.",
    "```text\nA dog runs.\n```": "A dog runs.",
    "A [dog](http://evil.example/x) runs ![now](data:...).": "A dog runs now.",
    "<b>A dog</b><script>runs</script>.": "A dogruns.",
    "A\tdog\u200b run\u202es.\x1b[31m\x00": "A dog runs.",
    "A dog's life, 'so to say'": "A dog's life, 'so to say'",
    "  A dog\n runs.": "A dog runs.",
}
REJECTED = {
    "": "empty",
    "...": "empty",
    "42": "empty",
    "<think>and so on": "unfinished thinking",
    "Okay, the user wants me to add a detail to a cat on a sofa.": "unfinished thinking",
    "Hmm. So let me think about what is left open here.": "unfinished thinking",
    "We need to write the prompt again.": "unfinished thinking",
    "I'm sorry, but I cannot help with that.": "refusal",
    "I can\u2019t see a picture.".replace("\u2019", "'"): "refusal",
    "As an AI language model, I have no eyes.": "refusal",
    "No image was provided.": "refusal",
    "Please provide the picture.": "refusal",
    "\u4e00\u53ea\u72d7\u5728\u6d77\u6ee9\u4e0a\u5954\u8dd1": "language",
    "\u0421\u043e\u0431\u0430\u043a\u0430 \u0431\u0435\u0436\u0438\u0442.": "language",
    "Ein Hund rennt schnell durch hohes Gras neben einem See.": "language",
    "red red red red red red red red red red red red red red red": "repetition",
}


@pytest.mark.parametrize("text", SAME)
def test_captions_stay_as_they_are(text):
    assert clean(text, language="en") == text


@pytest.mark.parametrize("answer, caption", CLEANED.items())
def test_what_comes_off(answer, caption):
    assert clean(answer, language="en") == caption
    assert clean(clean(answer)) == clean(answer)


@pytest.mark.parametrize("answer, reason", REJECTED.items())
def test_what_is_rejected(answer, reason):
    with pytest.raises(Rejected, match=reason):
        clean(answer, language="en")


def test_what_was_cut_off_ends_with_its_last_sentence():
    assert clean("A dog runs. Behind it a", "length") == "A dog runs."
    with pytest.raises(Rejected, match="cut off"):
        clean("A dog that runs and", "length")
    with pytest.raises(Rejected, match="no text within max_tokens"):
        clean(" ", "length")
    with pytest.raises(Rejected, match="finish reason tool_calls"):
        clean("A dog.", "tool_calls")


def test_other_languages_where_they_are_wanted():
    assert clean("\u4e00\u53ea\u72d7\u5728\u6d77\u6ee9\u4e0a", language="") == "\u4e00\u53ea\u72d7\u5728\u6d77\u6ee9\u4e0a"


PROMPT = "a red fox in a snowy forest"


@pytest.mark.parametrize(
    "operation, text, fault",
    [
        ("addition", "A red fox in a snowy forest at dusk, soft light", ""),
        ("addition", "A red fox in a snowy forest", "length"),
        ("addition", "A blue whale swims in a deep dark ocean", "meaning"),
        ("deletion", "A fox in a forest", ""),
        ("deletion", "A red fox in a snowy forest", "length"),
        ("deletion", "A whale", "meaning"),
        ("rewriting", "In a forest covered with snow, a fox with red fur", ""),
        ("rewriting", "A forest", "length"),
        ("rewriting", "A grey wolf under tall pines", "meaning"),
    ],
)
def test_a_caption_must_do_what_was_asked_for(operation, text, fault):
    assert unfaithful(PROMPT, text, operation) == fault


def test_perspectives_come_from_the_project_or_from_a_file(tmp_path):
    names = [p.name for p in perspectives.DEFAULT]
    assert len(set(names)) == len(names) >= 12
    assert {"lighting", "composition", "style", "colour", "texture", "subject", "background", "mood", "camera"} <= set(names)
    assert {"relations", "count", "action"} <= set(names) and all(len(p.instruction) > 30 for p in perspectives.DEFAULT)
    path = tmp_path / "own.txt"
    path.write_text("# mine\nsmell: Say what it smells of.\n\nsound: Say what it sounds like.\n")
    assert [p.name for p in perspectives.load(str(path))] == ["smell", "sound"]
    assert perspectives.load(str(path), ("sound",))[0].instruction == "Say what it sounds like."
    with pytest.raises(UserError, match="names 'sond'; Did you mean 'sound'"):
        perspectives.load(str(path), ("sond",))
    for text, message in (("no colon", "line 1"), ("a: x\na: y", "line 2: a name twice"), ("# none", "holds no perspective")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            perspectives.load(str(path))
    with pytest.raises(UserError, match="no such file"):
        perspectives.load(str(tmp_path / "missing"))


def test_a_file_of_perspectives_is_read_as_any_system_writes_it(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(
        "\ufeffsmell: What it smells of.\u2028And tastes.\r\nsound: What it\x85sounds\x0clike.\rtouch: Rough?".encode()
    )
    want = {"smell": "What it smells of.\u2028And tastes.", "sound": "What it\x85sounds\x0clike.", "touch": "Rough?"}
    assert {p.name: p.instruction for p in perspectives.load(str(path))} == want
    path.write_bytes(b"smell: caf\xe9\n")
    with pytest.raises(UserError, match="is not UTF-8 text.*save it as UTF-8"):
        perspectives.load(str(path))
