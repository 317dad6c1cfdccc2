import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from transfer.study.compare import compare
from transfer.study.figures import plot
from transfer.study.report import print_table, write_html


@pytest.fixture
def comparison(study):
    for seed in (0, 1):
        for arm in ("transfer", "direct", "scratch"):
            study.add(arm, seed, source="<script>alert(1)</script> & $x$ [red]")
    study.add("transfer", 2, source="<script>alert(1)</script> & $x$ [red]")
    return compare(study.records)


def printed(comparison) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    print_table(comparison, console)
    return console.file.getvalue()


def test_the_table_has_every_arm_floor_and_reading(study):
    for size in (20, 100):
        for arm in ("transfer", "direct", "scratch"):
            for seed in (0, 1):
                study.add(arm, seed, size)
    comparison = compare(study.records)
    text = printed(comparison)
    assert max(len(line) for line in text.splitlines() if not line.startswith("  transfer run")) <= 100
    for words in (
        "transfer from movies",
        "direct",
        "scratch, equal steps",
        "majority class floor",
        "TF-IDF floor",
        "100",
    ):
        assert words in text
    gain = comparison.rows[0].over_scratch[0].gain
    assert f"{100 * gain.estimate:+.1f} [{100 * gain.low:.1f} to {100 * gain.high:.1f}]" in text
    # One line a row of the table: nothing had to wrap.
    assert len(re.findall(r"^ +(?:20|100)?  transfer from movies +2 ", text, flags=re.M)) == 2


def test_the_terminal_shows_user_text_as_it_is_and_what_to_type(comparison):
    text = printed(comparison)
    assert "[red]" in text
    assert "Not compared" in text
    command = comparison.next_commands[0]
    assert f"  {command}\n" in text


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_complete_and_escaped_and_fetches_nothing(comparison, tmp_path):
    path = tmp_path / "report.html"
    write_html(comparison, path)
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert len(page.links) == 1
    assert page.links[0].startswith("data:image/png;base64,")
    assert "@import" not in text
    assert "url(" not in text
    for words in (comparison.question, *comparison.sentences, *comparison.refused, *comparison.next_commands):
        assert words in page.text
    assert all(command in page.text for row in comparison.rows for command in row.commands)
    assert len(text) < 400_000


@pytest.mark.parametrize("sizes", [(100,), (20, 100, None)])
def test_the_picture_is_1200_by_700_and_shows_the_arms_in_their_colours(study, tmp_path, sizes):
    from matplotlib.image import imread

    for size in sizes:
        for seed in (0, 1):
            study.add("transfer", seed, size)
            study.add("scratch", seed, size)
    path = tmp_path / "figure.png"
    plot(compare(study.records), path)
    image = imread(path)[..., :3]
    assert image.shape == (700, 1200, 3)
    for colour in ("0072B2", "D55E00"):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        assert (np.abs(image - rgb).max(axis=2) < 0.02).sum() > 100


def test_several_targets_get_a_panel_each(study, tmp_path):
    from matplotlib.image import imread

    for target in ("shops", "hotels"):
        study.add("transfer", target=target)
        study.add("scratch", target=target)
    plot(compare(study.records), tmp_path / "figure.png")
    assert imread(tmp_path / "figure.png").shape[1] == 1800


def test_reading_records_imports_nothing_heavy():
    code = (
        "import sys, transfer.study.report; "
        "print([m for m in ('torch', 'transformers', 'lightning', 'matplotlib', 'pyarrow', 'scipy', 'rich', 'sklearn')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
