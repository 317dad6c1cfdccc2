"""The folds of a cross-validation: every row tested once, classes shared out, groups whole."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfer import config
from transfer.data.files import fingerprint, split_fingerprint
from transfer.data.sources import Splits, load
from transfer.errors import UserError

KEY = "target.data"
NAMES = ["a"] * 60 + ["b"] * 30 + ["c"] * 7
RANDOM = np.random.default_rng(0)
LABELS: dict[str, list[Any]] = {
    "single_label": NAMES,
    "multi_label": [*[["x"], ["x", "y"], [], ["y"]] * 20, *[["x", "rare"]] * 7],
    "regression": RANDOM.normal(size=43).tolist(),
}


def jsonl(path: Path, labels: list[Any], groups: list[str | None] | None = None) -> str:
    order = np.random.default_rng(1).permutation(len(labels))
    rows = [{"text": f"text {i}", "label": labels[i]} | ({"group": groups[i]} if groups else {}) for i in order]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def folded(path: str, folds: int, problem_type: str = "single_label", data_seed: int = 0, **more: Any) -> list[Splits]:
    return [
        load(
            config.Data(path=path, folds=folds, fold=fold, **more),
            key=KEY,
            data_seed=data_seed,
            problem_type=problem_type,
        )
        for fold in range(folds)
    ]


def problem(path: str, folds: int, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        folded(path, folds, **more)
    (found,) = caught.value.problems
    assert found.key.startswith(KEY)
    return str(found)


@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize("problem_type", LABELS)
def test_every_row_is_tested_once_and_trained_on_in_no_fold_that_tests_it(tmp_path, problem_type, folds):
    path = jsonl(tmp_path / "rows.jsonl", LABELS[problem_type])
    found = folded(path, folds, problem_type)
    tested = Counter(row for splits in found for row in splits.test["id"])
    assert len(tested) == len(LABELS[problem_type])
    assert set(tested.values()) == {1}
    for splits in found:
        parts = [set(part["id"]) for part in (splits.train, splits.validation, splits.test)]
        assert all(parts)
        assert len(set.union(*parts)) == sum(map(len, parts)) == len(tested)
    assert max(len(s.test) for s in found) - min(len(s.test) for s in found) <= 1


def test_each_fold_has_its_share_of_every_class(tmp_path):
    found = folded(jsonl(tmp_path / "rows.jsonl", NAMES), 5)
    for name, count in Counter(NAMES).items():
        shares = [splits.test["label"][:].count(name) for splits in found]
        assert max(shares) - min(shares) <= 1
        assert sum(shares) == count
    assert all(set(splits.validation["label"]) <= set(splits.train["label"]) == set(NAMES) for splits in found)


def test_each_fold_has_its_share_of_every_decile(tmp_path):
    values = np.random.default_rng(3).normal(size=200)
    found = folded(jsonl(tmp_path / "rows.jsonl", values.tolist()), 5, "regression")
    edges = np.quantile(values, np.linspace(0, 1, 11)[1:-1])
    for splits in found:
        assert set(np.bincount(np.searchsorted(edges, splits.test["label"][:]))) <= {3, 4, 5}


def test_groups_are_never_split_and_classes_still_shared_out(tmp_path):
    sizes = np.random.default_rng(4).integers(1, 9, size=60)
    groups: list[str | None] = [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]
    labels = ["pos" if int(str(group)[1:]) % 3 else "neg" for group in groups] + ["pos", "neg"]
    groups += [None, None]
    path = jsonl(tmp_path / "rows.jsonl", labels, groups)
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    group_of = {f"train-{number}": line["group"] for number, line in enumerate(lines, start=1)}
    found = folded(path, 5, columns=config.Columns(group="group"))
    share = labels.count("pos") / len(labels)
    for splits in found:
        parts = [{group_of[row] for row in p["id"]} - {None} for p in (splits.train, splits.validation, splits.test)]
        assert all(parts)
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert splits.test["label"][:].count("pos") / len(splits.test) == pytest.approx(share, abs=0.1)
        assert len(splits.test) == pytest.approx(len(labels) / 5, abs=9)


def test_the_splits_of_a_folder_are_pooled_and_this_is_said(tmp_path):
    for split, size in (("train", 60), ("valid", 20), ("test", 20)):
        jsonl(tmp_path / f"{split}.jsonl", ["a", "b"] * (size // 2))
    found = folded(str(tmp_path), 4)
    assert sum(len(splits.test) for splits in found) == 100
    assert len({row for splits in found for row in splits.test["id"]}) == 100
    note = next(note for note in found[2].notes if "fold=2 of folds=4" in note)
    assert "25 of 100 rows of train, validation, test together" in note


def test_the_data_seed_alone_decides_the_folds(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", NAMES)
    first, again, other = folded(path, 3), folded(path, 3), folded(path, 3, data_seed=1)
    assert [s.test["id"][:] for s in first] == [s.test["id"][:] for s in again]
    assert [set(s.test["id"]) for s in first] != [set(s.test["id"]) for s in other]


def test_the_fold_is_in_the_identity_of_a_run_and_not_in_that_of_its_data(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", NAMES)
    whole = config.Data(path=path)
    folds = [config.Data(path=path, folds=5, fold=fold) for fold in (0, 1)]
    assert split_fingerprint(whole, key=KEY) == fingerprint(whole, key=KEY)
    assert fingerprint(folds[0], key=KEY) == fingerprint(folds[1], key=KEY) != fingerprint(whole, key=KEY)
    assert split_fingerprint(folds[0], key=KEY) != split_fingerprint(folds[1], key=KEY)


def test_more_folds_than_the_rarest_class_has_rows(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", NAMES)
    assert len(folded(path, 7)) == 7
    assert "at most 7, the rows with c" in problem(path, 8)


def test_more_folds_than_rows_or_groups(tmp_path):
    path = jsonl(tmp_path / "numbers.jsonl", [1.0, 2.0, 3.0, 4.0])
    assert "2 to 4, the rows" in problem(path, 5, problem_type="regression")
    labels = ["a", "b"] * 20
    path = jsonl(tmp_path / "groups.jsonl", labels, [f"g{i // 10}" for i in range(40)])
    assert "2 to 4, the groups" in problem(path, 5, columns=config.Columns(group="group"))
    rare = jsonl(tmp_path / "rare.jsonl", ["a"] * 36 + ["b"] * 4, [f"g{i // 4}" for i in range(40)])
    assert "at most 1, the groups with b" in problem(rare, 3, columns=config.Columns(group="group"))


def test_groups_in_some_splits_only(tmp_path):
    jsonl(tmp_path / "train.jsonl", ["a", "b"] * 20, [f"g{i}" for i in range(40)])
    jsonl(tmp_path / "test.jsonl", ["a", "b"] * 5)
    assert "none in test.jsonl" in problem(str(tmp_path), 3, columns=config.Columns(group="group"))


def test_rows_that_are_trained_on_and_tested_are_noticed_in_their_fold(tmp_path):
    rows = [{"text": f"text {i % 38}", "label": "ab"[i % 2]} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for splits in folded(str(tmp_path / "rows.jsonl"), 4):
        shared = set(splits.test["text"]) & set(splits.train["text"])
        noted = [note for note in splits.notes if "rows of test" in note and "also in train" in note]
        assert len(noted) == bool(shared)
