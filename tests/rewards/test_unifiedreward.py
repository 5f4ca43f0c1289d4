"""UnifiedReward behind a server: what it is asked, word by word and pixel by pixel, and what becomes of its answers."""

import base64
import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.preprocess import as_uint8
from tests.services.faults import FaultServer, completion, http, says

ANSWER = (
    "Alignment Score (1-5): 2.694700002670288\nCoherence Score (1-5): 2.371500015258789\nStyle Score (1-5): 2.802500009536743"
)
QUICK = {"attempt_s": 5.0, "request_s": 10.0, "batch_s": 20.0, "backoff_s": 0.05, "retries": 1, "hedge": 0.0}
# Of the files as their authors wrote them, braces for the caption (github.com/CodeGoat24/UnifiedReward, ff6f520).
TRAINED = {
    "v2": "1c8688821810d9cf",
    "v1": "f3512fc9094021a5",
    "v1-elements": "c49d7e9905e814ed",
}


def pictures(n=2, side=24):
    return np.random.default_rng(side).integers(0, 256, (n, side, side, 3), np.uint8)


def asked(*answers, images=None, captions=(("a cat", "a {red} dog"), ("a hat", None)), **options):
    """(Judgement, log, bodies of requests) of a server that gives these answers, the last one for good."""
    images = pictures() if images is None else images
    with FaultServer(*map(says, answers[:-1]), then=says(answers[-1])) as server:
        judge = rewards.make("unifiedreward", QUICK | {"endpoints": (server.url,)} | options)
        try:
            return judge.score(images, [list(t) for t in captions]), judge.take_log(), [b for _, b in server.requests]
        finally:
            judge.close()


def parts(body):
    (message,) = body["messages"]
    picture, text = message["content"]
    head, _, data = picture["image_url"]["url"].partition(",")
    return message["role"], head, base64.b64decode(data), text["text"]


@pytest.mark.parametrize("version", TRAINED)
def test_the_question_is_the_trained_one(version):
    *_, bodies = asked("Final Score: 3" if version != "v2" else ANSWER, version=version)
    texts = [parts(body)[3] for body in bodies]
    ends = sorted(text[text.index("Text Caption: ") :] for text in texts)
    assert ends == ["Text Caption: [a cat]", "Text Caption: [a hat]", "Text Caption: [a {red} dog]"]
    begins = {text[: text.index("Text Caption: ")] + "Text Caption: [{caption}]" for text in texts}
    assert [hashlib.sha256(text.encode()).hexdigest()[:16] for text in begins] == [TRAINED[version]]


def test_version_2_gets_a_jpeg_of_the_pictures_own_size():
    images = pictures(2, 40)
    *_, bodies = asked(ANSWER, images=images)
    assert {(b["temperature"], b["max_tokens"], b["model"]) for b in bodies} == {(0.0, 512, "UnifiedReward")}
    for role, head, data, text in map(parts, bodies):
        buffer = io.BytesIO()
        Image.fromarray(images[int(text.endswith("[a hat]"))]).save(buffer, "JPEG", quality=95)
        assert (role, head) == ("user", "data:image/jpeg;base64") and data == buffer.getvalue()


def test_version_1_gets_a_png_of_512():
    images = pictures(2, 40)
    *_, bodies = asked("Final Score: 3.3", images=images, version="v1")
    for _, head, data, text in map(parts, bodies):
        assert head == "data:image;base64" and text.startswith("<image>\nYou are given a text caption")
        want = Image.fromarray(images[int(text.endswith("[a hat]"))]).resize((512, 512))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(want))


@pytest.mark.parametrize(
    "options, want",
    [
        ({}, (2.694700002670288 + 2.371500015258789 + 2.802500009536743) / 3),
        ({"use": "alignment"}, 2.694700002670288),
        ({"use": "style", "scale": "fifths"}, 2.802500009536743 / 5),
        ({"use": "coherence", "scale": "unit"}, 1.371500015258789 / 4),
    ],
)
def test_scores_and_scales(options, want):
    (scores, valid), log, _ = asked(ANSWER, **options)
    np.testing.assert_allclose(scores, [[want, want], [want, 0]], rtol=1e-6)
    np.testing.assert_array_equal(valid, [[True, True], [True, False]])
    assert log["asked"] == 3 and log["missing"] == 0
    assert log[options.get("use", "style")] == pytest.approx(
        {"alignment": 2.6947, "coherence": 2.3715}.get(options.get("use"), 2.8025)
    )


def test_version_1_scores():
    (scores, valid), log, _ = asked("cat (animal): 1\nFinal Score: 3.7", version="v1-elements", scale="fifths", use="style")
    np.testing.assert_allclose(scores[0], 0.74)
    assert valid.sum() == 3 and log["final"] == pytest.approx(3.7)


def test_an_answer_without_a_score_is_not_valid_and_counted():
    without = ANSWER.replace("Style Score (1-5): 2.802500009536743", "")
    with pytest.warns(UserWarning, match=r"2 of 3 scores did not come \(1 no score, 1 out of range\)"):
        (scores, valid), log, bodies = asked(ANSWER, without, ANSWER.replace(": 2.3", ": 12.3"), concurrency=1)
    assert valid.sum() == 1 and len(bodies) == 3  # the same question is not asked again
    assert log["missing"] == 2 and log["missing/no_score"] == log["missing/out_of_range"] == 1
    (_, valid), *_ = asked(without, use="alignment")  # what is not used need not be there
    assert valid.sum() == 3


def test_a_text_that_is_there_twice_is_asked_about_once():
    (scores, valid), log, bodies = asked(ANSWER, captions=(("a", "a", "b"), ("a", None, None)))
    assert len(bodies) == 3 and valid.sum() == 4 and log["asked"] == 4 and len(np.unique(scores[valid])) == 1


def test_scores_belong_to_their_pictures_and_texts():
    """A server that grades by what it was shown."""

    async def grade(writer, request):
        _, _, data, text = parts(request)
        level = np.asarray(Image.open(io.BytesIO(data))).mean() / 255
        answer = ANSWER.replace("2.694700002670288", f"{1 + level + len(text.rpartition('[')[2]) / 10:.4f}")
        writer.write(http(completion(answer)))

    images = np.stack([np.full((8, 12, 3), v, np.uint8) for v in (0, 102, 255)])
    texts = [["x", "xxxx"], ["xx", None], [None, "xxxxx"]]
    with FaultServer(then=grade) as server:
        judge = rewards.make("unifiedreward", QUICK | {"endpoints": (server.url,), "use": "alignment"})
        got = [judge.score(x, texts) for x in (images, np.float32(images) / 255)]
        judge.close()
    want = [[1.2, 1.5], [1.7, 0], [0, 2.6]]
    for scores, valid in got:
        np.testing.assert_allclose(scores, want, atol=1e-3)
        np.testing.assert_array_equal(valid, np.asarray(want) > 0)
    np.testing.assert_array_equal(as_uint8(np.float32([-1, 0.1, 0.5, 2.0])), [0, 26, 128, 255])


def test_another_question_and_what_cannot_be(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("Grade [{caption}].\nStyle Score:\n")
    *_, bodies = asked(ANSWER, instruction=str(path), use="style")
    assert parts(bodies[0])[3].startswith("Grade [a") and parts(bodies[0])[3].endswith("Style Score:")
    path.write_text("Grade it.")
    for options, said in (
        ({"instruction": str(path)}, "has {caption} 0 times"),
        ({"instruction": str(tmp_path / "none")}, "no such file"),
        ({"version": "v3"}, "one of v2, v1"),
        ({"use": "beauty"}, "one of mean, alignment"),
        ({"endpoints": ()}, "at least one endpoint"),
        ({"key_env": "NOT_THERE_KEY"}, "is not set"),
    ):
        with pytest.raises(UserError, match=said):
            rewards.make("unifiedreward", options)
    with pytest.raises(UserError, match="a judge was given pictures"):
        asked(ANSWER, images=np.zeros((2, 8, 8, 4), np.uint8))


def test_three_columns_ask_for_one_answer():
    """Alignment, coherence and style as judges of their own: a request for each picture and text, not three."""
    images, captions = pictures(3, 32), [["a cat", "a dog"]] * 3
    with FaultServer(then=says(ANSWER)) as server:
        options = QUICK | {"endpoints": (server.url,)}
        judges = [rewards.make("unifiedreward", options | {"use": axis}) for axis in ("alignment", "coherence", "style")]
        pending = [judge.begin(images, captions) for judge in judges]
        scores = [p.result().scores for p in pending]
        for judge, score, want in zip(judges, scores, (2.694700002670288, 2.371500015258789, 2.802500009536743)):
            np.testing.assert_allclose(score, np.full((3, 2), want), rtol=1e-6)
            assert judge.take_log()["asked"] == 6
            judge.close()
        assert len(server.requests) == 6
