"""Made-up files in the forms of the published sets: their fields and counts, none of their prompts."""

import csv
import io
import json

STYLES = ("anime", "concept-art", "paintings", "photo")
GENEVAL = {"single_object": 320, "two_object": 396, "counting": 320, "colors": 376, "position": 400, "color_attr": 400}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def hpdv2_train(folder, prompts=50):
    """Prompt i stands in 1 + i % 4 pairs, which are not beside each other."""
    pairs = [(j, i) for i in range(prompts) for j in range(1 + i % 4)]
    rows = [
        {"human_preference": [j % 2, 1 - j % 2], "prompt": f"a made-up scene, {i}", "file_path": [f"{i}_{j}.jpg", f"{i}_x.jpg"]}
        for j, i in sorted(pairs)
    ]
    return write(folder / "train.json", json.dumps(rows)), len(pairs)


def hpdv2_test(folder, count=400):
    rows = [
        {
            "prompt": f"a made-up test scene, {i}",
            "image_path": [f"{i}_{j}.jpg" for j in range(3)],
            "rank": [2, 0, 1],
            "raw_annotations": [{"rank": [2, 0, 1], "user_hash": "h"}],
        }
        for i in range(count)
    ]
    return write(folder / "test.json", json.dumps(rows))


def benchmark(folder, style, count=800, prefix=""):
    return write(folder / f"{prefix}{style}.json", json.dumps([f"a {style} of number {i}" for i in range(count)]))


def lines(path, count):
    return write(path, "\n".join(f"a made-up line, {i}" for i in range(count)))


def geneval_rows():
    """553 prompts, each four times, by tag as published."""
    rows = []
    for tag, count in GENEVAL.items():
        for i in range(count // 4):
            row = {"tag": tag, "include": [{"class": "cup", "count": 1}], "prompt": f"a photo of {tag} number {i}"}
            if tag == "counting":
                row["include"][0]["count"] = 3
                row["exclude"] = [{"class": "cup", "count": 4}]
            if tag in ("colors", "color_attr"):
                row["include"][0]["color"] = "red"
            if tag == "position":
                row["include"].append({"class": "dog", "count": 1, "position": ["right of", 0]})
            rows += [row] * 4
    return rows


def geneval(path, rows=None):
    """Its last line has no newline, as the published file's."""
    return write(path, "\n".join(json.dumps(row) for row in rows or geneval_rows()))


def ocr(path, count=1018):
    """The second prompt has no quotes."""
    texts = [f'A shop window with a sign that says "Open {i}" and "shut"' for i in range(count)]
    texts[1] = "A shop window without a sign"
    return write(path, "\n".join(texts) + "\n")


def table(path, names, rows, separator=","):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerows([names, *rows])
    return write(path, text.getvalue())


def drawbench(path, count=200):
    rows = [[f"a drawn thing, {i}", ("Colors", "Counting")[i % 2]] for i in range(count)]
    return table(path, ["Prompts", "Category"], rows, "\t" if path.suffix == ".tsv" else ",")


UNIGENBENCH = {
    "en": [
        "Primary Categories",
        "Secondary Categories",
        "Subjects",
        "Sentence Structure",
        "Testpoints",
        "Testpoint Description",
    ],
    "zh": ["一级垂类", "二级垂类", "主体", "句式", "考点", "考点对应描述"],
}


def unigenbench(path, language="en", count=600):
    rows = []
    for i in range(count):
        values = [("Art", "Design")[i % 2], "Graphic", "Animal", "Descriptive", ["Style", "Color"], [f"oil, {i}", '"red"']]
        dims = json.dumps(dict(zip(UNIGENBENCH[language], values)), ensure_ascii=False)
        rows.append([i, f'a picture, with "quotes", of {i}' if language == "en" else f"一幅画，第{i}幅。", dims])
    return table(path, ["index", f"prompt_{language}", f"sub_dims_{language}"], rows)
