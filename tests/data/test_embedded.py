from __future__ import annotations

import gzip
import json
import runpy

import numpy as np
import pytest

from transfer.data.files import EMBEDDED

# name -> rows, negative, positive, documents
COUNTS = {
    "movies": (10605, 5326, 5242, None),
    "products": (3708, 1482, 2128, 300),
    "tweets": (4200, 1299, 2897, None),
    "editorials": (5190, 2742, 2204, 498),
}


@pytest.mark.parametrize("name", COUNTS)
def test_sentiment(name: str) -> None:
    content = (EMBEDDED / f"{name}.jsonl.gz").read_bytes()
    assert content[4:8] == bytes(4), "the gzip header has a time in it"
    rows = [json.loads(line) for line in gzip.decompress(content).decode().splitlines()]
    total, negative, positive, documents = COUNTS[name]
    assert len(rows) == len({row["id"] for row in rows}) == total
    assert {tuple(row) for row in rows} == {("id", "text", "valence", "label", "document")}
    labels = [row["label"] for row in rows]
    assert (labels.count("negative"), labels.count("positive")) == (negative, positive)
    for row in rows:
        assert -4 <= row["valence"] <= 4
        assert row["label"] == {-1: "negative", 0: None, 1: "positive"}[int(np.sign(row["valence"]))]
        assert row["text"] == row["text"].strip() != ""
    if documents is None:
        assert {row["document"] for row in rows} == {None}
    else:
        assert len({row["document"] for row in rows}) == documents
        assert all(row["id"].startswith(row["document"] + "_") for row in rows)


@pytest.mark.parametrize(("name", "size", "weight", "bias"), [("source", 500, 2.0, 1.0), ("target", 400, 2.3, 0.6)])
def test_linear(name: str, size: int, weight: float, bias: float) -> None:
    x, y = np.loadtxt(EMBEDDED / f"linear_{name}.csv", delimiter=",", skiprows=1, unpack=True)
    assert len(x) == size
    # standard errors: 0.5 / sqrt(n) / sd(x) = 0.015 for the weight, 0.5 / sqrt(n) = 0.025 for the bias
    fitted = np.polyfit(x, y, 1)
    assert fitted == pytest.approx([weight, bias], abs=0.075)
    assert np.std(y - np.polyval(fitted, x)) == pytest.approx(0.5, abs=0.05)


def test_sinusoids() -> None:
    content = (EMBEDDED / "sinusoids.csv.gz").read_bytes()
    assert content[4:8] == bytes(4), "the gzip header has a time in it"
    built = runpy.run_path(str(EMBEDDED / "build.py"))["sinusoids"](1500, 40, seed=3)
    assert gzip.decompress(content) == built
    x, y, wave = np.loadtxt(built.decode().splitlines(), delimiter=",", skiprows=1, unpack=True)
    assert np.bincount(wave.astype(int)).tolist() == [40] * 1500
    amplitudes = []
    for number in range(100):  # y = a sin(x - b) is linear in sin x and cos x
        mine = wave == number
        waves = np.stack([np.sin(x[mine]), np.cos(x[mine])], axis=1)
        (sine, cosine), *_ = np.linalg.lstsq(waves, y[mine])
        assert y[mine] == pytest.approx(waves @ [sine, cosine], abs=0.01)
        amplitudes.append(np.hypot(sine, cosine))
        assert -0.01 <= np.arctan2(-cosine, sine) <= np.pi + 0.01
    assert 0.1 <= min(amplitudes) < 0.6 < 4.5 < max(amplitudes) <= 5.0


def test_the_builder_makes_the_rows_that_are_here() -> None:
    build = runpy.run_path(str(EMBEDDED / "build.py"))
    made = build["sentiment"]("1_1\t-0.5\t bad \r\n1_2\t0\tso so &amp; so\r\n2_1\t2.5\ttrès bon", True).decode()
    assert [json.loads(line) for line in made.splitlines()] == [
        {"id": "1_1", "text": "bad", "valence": -0.5, "label": "negative", "document": "1"},
        {"id": "1_2", "text": "so so &amp; so", "valence": 0.0, "label": None, "document": "1"},
        {"id": "2_1", "text": "très bon", "valence": 2.5, "label": "positive", "document": "2"},
    ]
    built = build["linear"](500, weight=2.0, bias=1.0, low=-3.0, high=3.0, seed=1)
    rows = np.loadtxt(built.decode().splitlines(), delimiter=",", skiprows=1)
    assert np.allclose(rows, np.loadtxt(EMBEDDED / "linear_source.csv", delimiter=",", skiprows=1), atol=1e-6)
