import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from tests.study.conftest import Study
from transfer import pictures
from transfer.study import details, metric_figures
from transfer.study.compare import compare
from transfer.study.report import print_table, write_all

HOSTILE = "<script>alert(1)</script> & $x$ [red] | `*a*`"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("report") / "outputs")
    for seed in (0, 1):
        for arm in ("transfer", "direct", "scratch"):
            study.add(arm, seed, source=HOSTILE, texts=True, validation=[0.6, 0.7])
    study.add("transfer", 2, source=HOSTILE)
    return compare(study.records)


@pytest.fixture(scope="module")
def folder(comparison, tmp_path_factory):
    """Where everything was written."""
    folder = tmp_path_factory.mktemp("report") / "new"
    paths = write_all(comparison, folder)
    assert {path.name for path in paths} == {path.name for path in folder.iterdir()}
    assert [path.name for path in paths[:2]] == ["report.html", "report.md"]
    return folder


def printed(comparison) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    print_table(comparison, console)
    return console.file.getvalue()


def lines_of(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_arm_floor_and_reading(study):
    for size in (20, 100):
        for arm in ("transfer", "direct", "scratch"):
            for seed in (0, 1):
                study.add(arm, seed, size)
    comparison = compare(study.records)
    text = printed(comparison)
    assert max(len(line) for line in text.splitlines() if not line.startswith("  transfer run")) <= 100
    for words in (
        comparison.headline,
        "transfer from movies",
        "direct",
        "scratch, equal steps",
        "majority class floor",
        "TF-IDF floor",
        "100",
    ):
        assert words in text.replace("\n", " ")
    gain = comparison.rows[0].over_scratch[0].gain
    assert f"{100 * gain.estimate:+.1f} [{100 * gain.low:.1f} to {100 * gain.high:.1f}]" in text
    # One line a row of the table: nothing had to wrap.
    assert len(re.findall(r"^ +(?:20|100)?  transfer from movies +2 ", text, flags=re.M)) == 2


def test_the_terminal_shows_user_text_as_it_is_and_what_to_type(comparison):
    text = printed(comparison)
    assert "[red]" in text
    assert "Not compared" in text
    assert f"  {comparison.next_commands[0]}\n" in text


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "srcset", "href", "xlink:href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_complete_and_escaped_and_fetches_nothing(comparison, folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    shown = page.text.replace("\u00a0", " ")
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == 8  # four pictures, wide and narrow
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    for words in (comparison.question, comparison.headline, *comparison.sentences, *comparison.refused):
        assert words in shown
    for command in (*comparison.next_commands, *(command for row in comparison.rows for command in row.commands)):
        assert command in page.text
    for title in (
        "The numbers",
        "The gains",
        "Speed of learning",
        "Class by class",
        "Which classes are mixed up",
        "What transfer fixed and broke",
        "What it cost",
        "The command behind each number",
    ):
        assert title in page.text
    assert "“<b>text</b> of example-" in page.text
    assert len(text) < 500_000


def test_the_markdown_says_the_same_and_keeps_user_text_from_being_marks(comparison, folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "![The numbers](curves.png)" in text
    assert "\\<script>" in text
    assert "\\`\\*a\\*\\`" in text
    widths = {
        line.count("|") - line.count("\\|") for line in text.split("## The gains")[0].splitlines() if line[:1] == "|"
    }
    assert len(widths) == 1
    for command in comparison.rows[0].commands:
        assert command in text


@pytest.mark.parametrize("name", ["curves", "gains", "learning", "confusion"])
def test_every_picture_is_there_as_png_and_svg(folder, name):
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    root = ElementTree.parse(folder / f"{name}.svg").getroot()
    assert root.tag.endswith("svg")
    assert any(element.tag.endswith("text") for element in root.iter())


def test_the_data_are_the_numbers_of_the_comparison(comparison, folder):
    pairs = lines_of(folder / "pairs.csv")
    assert len(pairs) == len(comparison.gains) + sum(len(row.over_direct) for row in comparison.rows)
    for line, (row, contrast) in zip(pairs, comparison.gains, strict=False):
        assert (line["strategy"], line["verdict"]) == (row.label, contrast.verdict)
        assert float(line["gain"]) == contrast.gain.estimate
        assert float(line["p_holm"]) == contrast.p_holm
        assert float(line["bootstrap_low"]) < contrast.gain.estimate < float(line["bootstrap_high"])
        assert 0 < float(line["p_permutation"]) <= 1
        assert "nan" not in line.values()
    runs = lines_of(folder / "runs.csv")
    assert [float(line["value"]) for line in runs if line["strategy"] == "direct"] == next(
        row.values for row in comparison.rows if row.label == "direct"
    )
    assert all(line["command"].startswith("transfer run ") for line in runs if "equal steps" not in line["strategy"])
    arms = {line["strategy"]: line for line in lines_of(folder / "comparison.csv")}
    assert float(arms["direct"]["mean"]) == pytest.approx(np.mean(comparison.rows[1].values))
    assert {"majority", "tfidf", "scratch"} <= set(arms)
    confusion = [line for line in lines_of(folder / "confusion.csv") if line["strategy"] == "direct"]
    assert sum(int(line["count"]) for line in confusion) == 600
    assert {line["class"] for line in lines_of(folder / "classes.csv")} == {"neg", "pos"}


def picture(study):
    """The pixels of the first picture."""
    from matplotlib.image import imread

    comparison = compare(study.records)
    figure = metric_figures.curves(comparison, details.Details(), False)
    return imread(io.BytesIO(pictures.as_png(figure)))[..., :3]


@pytest.mark.parametrize("sizes", [(100,), (20, 100, None)])
def test_the_picture_is_1200_by_700_and_shows_the_arms_in_their_colours(study, sizes):
    for size in sizes:
        for seed in (0, 1):
            study.add("transfer", seed, size)
            study.add("scratch", seed, size)
    image = picture(study)
    assert image.shape == (700, 1200, 3)
    for colour in ("0072B2", "D55E00"):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        assert (np.abs(image - rgb).max(axis=2) < 0.02).sum() > 100


def test_several_targets_get_a_panel_each(study):
    for target in ("shops", "hotels"):
        study.add("transfer", target=target)
        study.add("scratch", target=target)
    assert picture(study).shape[1] == 1800


def test_without_predictions_and_logs_the_page_leaves_those_parts_out(study, tmp_path):
    for seed in (0, 1):
        study.add("transfer", seed, write=False)
        study.add("scratch", seed, write=False)
    page = Page()
    page.feed(write_all(compare(study.records), tmp_path)[0].read_text(encoding="utf-8"))
    assert "Which classes are mixed up" not in page.text
    assert "Speed of learning" not in page.text
    assert not (tmp_path / "confusion.csv").exists()


def test_reading_records_imports_nothing_heavy():
    code = (
        "import sys, transfer.study.report; "
        "print([m for m in ('torch', 'transformers', 'lightning', 'matplotlib', 'pyarrow', 'scipy', 'rich', 'sklearn')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
