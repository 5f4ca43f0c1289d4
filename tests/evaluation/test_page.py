"""index.html: what it holds, and in a real browser, where there is one, what it shows when it is searched and sorted."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax.evaluation import page, results, rows
from mvgrpo_jax.evaluation.job import Job
from mvgrpo_jax.evaluation.prompt_set import PromptSet
from mvgrpo_jax.evaluation.side import Side
from mvgrpo_jax.evaluation.weights import Weights
from tests.evaluation import browser

COUNT, SEEDS = 400, range(7, 8)
NOUNS, STYLES = ("owl", "harbour", "teapot", "fox"), ("anime", "photo")
NASTY = 'An </script><script>window.broken = 1</script> OWL & "quotes" \u2028 <!-- ünïcode'
JUDGES = {"clip": {"kind": "clip"}, "mine": {"kind": "function", "path": "m.py:f"}}


def prompt(i):
    return NASTY if i == 3 else f"{NOUNS[i % 4]} number {i}"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(ours, theirs) of 400 prompts without vectors; of prompt 5 theirs has no score of `mine`."""
    folder, rng = tmp_path_factory.mktemp("a page's #1 folder"), np.random.default_rng(0)
    prompts = PromptSet("all", range(COUNT), tuple(map(prompt, range(COUNT))), tuple(STYLES[i % 2] for i in range(COUNT)))
    sides = []
    for name, place in (("ours", folder), ("theirs", folder / "against")):
        job = Job(Weights(name), prompts, SEEDS, 2, 3.5, 8, 8, "float32", 10)
        (place / "pictures").mkdir(parents=True)
        for n in range(COUNT):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(place / "pictures" / f"{n:05d}_7.png")
        scores = {judge: rng.normal(size=(COUNT, 1)) for judge in JUDGES}
        scores["mine"][5] = np.nan if name == "theirs" else scores["mine"][5]
        flat = np.full((COUNT, 1), 0.5)
        sides.append(results.Results(Side(place, job), scores, flat, flat, np.zeros((COUNT, 1, 32, 32, 3)), 0, None))
    return sides


def written(ours, theirs):
    shown = rows.table(ours, theirs, JUDGES, with_published=True)
    path = ours.side.folder / ("both.html" if theirs else "alone.html")
    path.write_text(page.render(ours, theirs, results.summary(ours, theirs, {}), shown), encoding="utf-8")
    return path


def test_the_page_needs_nothing_from_elsewhere_and_no_text_ends_its_script(compared):
    text = written(*compared).read_text(encoding="utf-8")
    assert (
        not re.search(r"https?://(?!github\.com/Bujiazi)", text)
        and "<link" not in text
        and "src=" not in text.split("<script")[0]
    )
    inside = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1]
    data = json.loads(inside)
    assert data["items"][3][2] == NASTY and len(data["items"]) == COUNT and data["judges"] == ["clip", "mine"]
    theirs, ours = data["items"][5][4]
    assert theirs[1] is None and ours[1] == round(float(compared[0].scores["mine"][5, 0]), 4)
    assert [side["folder"] for side in data["sides"]] == ["against", "."]
    assert text.count("<script") == 2


@pytest.fixture
def opened(compared, tmp_path):
    if not browser.CHROMIUM:
        pytest.skip("there is no Chromium here")
    pages = []

    def open_page(ours, theirs, fragment=""):
        pages.append(browser.Page(written(ours, theirs).as_uri() + fragment, tmp_path / f"profile{len(pages)}"))
        return pages[-1]

    yield open_page
    for item in pages:
        item.close()


KEYS = "[...document.querySelectorAll('article')].map(a => a.dataset.key)"
PROMPTS = "[...document.querySelectorAll('article > p')].map(p => p.textContent)"
COUNTED = "document.getElementById('count').textContent"


def choose(shown, name, value):
    shown(
        f"(() => {{ const e = document.getElementById('{name}'); e.value = {json.dumps(value)}; "
        "e.dispatchEvent(new Event('input')); })()"
    )


def test_in_a_browser_it_is_searched_sorted_and_looked_at(compared, opened):
    ours, theirs = compared
    shown = opened(ours, theirs)
    assert shown(COUNTED) == "400 of 400" and shown("window.broken") is None
    assert shown(KEYS)[:3] == ["0_7", "1_7", "2_7"]
    # Pictures load as they come into view, and cards are made as the page is scrolled.
    assert 0 < len(shown(KEYS)) < 150
    shown.until("document.querySelector('article img').naturalWidth === 8")
    assert shown("[...document.querySelectorAll('article')][0].querySelectorAll('img').length") == 2
    before = len(shown(KEYS))
    shown("scrollTo(0, document.body.scrollHeight)")
    shown.until(f"document.querySelectorAll('article').length > {before}")
    pictures = {url for url in shown.asked if url.endswith(".png")}
    assert 2 <= len(pictures) < 2 * COUNT and any("/against/pictures/" in url for url in pictures)
    shown("scrollTo(0, 0)")

    shown.click("#search")
    shown.write("Owl quotes")
    shown.until("document.getElementById('count').textContent === '1 of 400'")
    assert shown(PROMPTS) == [NASTY]
    choose(shown, "search", "owl")
    expected = [i for i in range(COUNT) if "owl" in prompt(i).lower()]
    assert shown(COUNTED) == f"{len(expected)} of 400"

    difference = (ours.scores["mine"] - theirs.scores["mine"])[:, 0]
    choose(shown, "search", "")
    choose(shown, "order", "difference mine")
    best = sorted((i for i in range(COUNT) if i != 5), key=lambda i: -difference[i])
    assert shown(KEYS)[:20] == [f"{i}_7" for i in best[:20]]
    shown.click("#rising")
    assert shown(KEYS)[:20] == [f"{i}_7" for i in best[::-1][:20]]
    choose(shown, "order", "score clip")
    worst = np.argsort(ours.scores["clip"][:, 0])
    assert shown(KEYS)[:20] == [f"{i}_7" for i in worst[:20]]
    choose(shown, "style", "photo")
    assert shown(KEYS)[:10] == [f"{i}_7" for i in worst if i % 2][:10] and shown(COUNTED) == "200 of 400"

    shown.click("article img")
    assert shown("document.getElementById('large').open")
    shown.click("dialog img")
    assert not shown("document.getElementById('large').open")
    assert shown.errors == [] and all(url.startswith("file://") for url in shown.asked)


def test_in_a_browser_a_view_can_be_linked_to_and_what_has_no_score_comes_last(compared, opened):
    shown = opened(*compared, "#order=difference+mine&search=5+harbour")
    order = shown(KEYS)
    expected = {f"{i}_7" for i in range(COUNT) if i % 4 == 1 and "5" in str(i)}
    assert order[-1] == "5_7" and set(order) == expected and len(order) > 20
    shown.click("#rising")
    assert shown(KEYS)[-1] == "5_7" and shown(KEYS)[:-1] == order[:-1][::-1]
    cells = "[...[...document.querySelectorAll('article')].at(-1).querySelectorAll('tr')[1].cells].map(c => c.textContent)"
    assert shown(cells) == ["mine", "–", f"{compared[0].scores['mine'][5, 0]:.4f}", "–"]


def test_in_a_browser_one_pipeline_alone(compared, opened):
    shown = opened(compared[0], None)
    assert shown("document.querySelectorAll('article')[0].querySelectorAll('img').length") == 1
    options = "[...document.getElementById('order').options].map(o => o.value)"
    assert shown(options) == ["number", "score clip", "score mine"] and shown.errors == []
