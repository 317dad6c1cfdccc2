"""Every file of conf/data fits the schema, and loads where its data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from transfer import config
from transfer.data.files import fingerprint
from transfer.data.sources import load
from transfer.errors import UserError

FOLDER = Path(__file__).parents[2] / "conf" / "data"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
EMBEDDED = [
    *(f"{name}{end}" for name in ("movies", "products", "tweets", "editorials") for end in ("", "_valence")),
    "linear_source",
    "linear_target",
]
# name -> sizes with validation drawn where there is none, number of classes
LOCAL = {
    "imdb": ((22500, 2500, 25000), 2),
    "ohsumed": ((3021, 336, 4043), 23),
    "sst2": ((6920, 872, 1821), 2),
    "clinc150": ((15000, 3000, 4500), 150),
    "chn_hotel": ((6212, 776, 777), 2),
    "waimai": ((9589, 1199, 1199), 2),
    "pubmedqa": ((450, 50, 500), 3),
}
# name -> sizes
WRITTEN = {
    "multi30k": (29000, 1014, 1000),
    "tatoeba_en_zh": (18133, 1000, 1000),
    "scitldr": (1992, 619, 618),
}
# name -> sizes, number of tags: O, and B- and I- of each type
TAGGED = {
    "wnut17": ((3394, 1009, 1287), 13),
    "wikigold": ((1187, 170, 339), 9),
    "ncbi_disease": ((5424, 923, 940), 3),
}


def read(name: str) -> config.Data:
    merged = OmegaConf.merge(OmegaConf.structured(config.Data), OmegaConf.load(FOLDER / f"{name}.yaml"))
    data = OmegaConf.to_object(merged)
    assert isinstance(data, config.Data)
    return data


def kind(name: str) -> str:
    return "regression" if "valence" in name or "linear" in name else "single_label"


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_the_schema(name: str) -> None:
    data = read(name)
    assert data.name == (None if name in ("csv", "none") else name)


def test_the_template_has_every_field_with_its_default() -> None:
    assert read("csv") == config.Data()
    assert set(OmegaConf.load(FOLDER / "csv.yaml")) == set(vars(config.Data()))


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded(name: str) -> None:
    data = read(name)
    splits = load(data, key="source.data", data_seed=0, problem_type=kind(name))
    assert len(splits.train) > len(splits.test) > len(splits.validation) > 0
    assert splits.labels == ([] if kind(name) == "regression" else ["negative", "positive"])
    if data.columns.group:
        documents = [
            {row.split("_")[0] for row in part["id"]} for part in (splits.train, splits.validation, splits.test)
        ]
        assert len(set.union(*documents)) == sum(map(len, documents))


def test_the_kinds_of_one_domain_have_different_fingerprints() -> None:
    assert len({fingerprint(read(name), key="x") for name in EMBEDDED}) == len(EMBEDDED)


@pytest.mark.parametrize("name", LOCAL)
def test_local(name: str) -> None:
    data = read(name)
    root = os.environ.get("TRANSFER_DATA")
    if not root or not (Path(root) / str(data.local)).is_dir():
        pytest.skip(f"needs the folder $TRANSFER_DATA/{data.local}")
    splits = load(data, key="target.data", data_seed=0, problem_type="single_label")
    sizes, classes = LOCAL[name]
    assert (len(splits.train), len(splits.validation), len(splits.test)) == sizes
    assert len(splits.labels) == classes
    assert ("text_pair" in splits.train.column_names) == (name == "pubmedqa")


@pytest.mark.parametrize("name", TAGGED)
def test_local_tags(name: str) -> None:
    data = read(name)
    root = os.environ.get("TRANSFER_DATA")
    if not root or not (Path(root) / str(data.local)).exists():
        pytest.skip(f"needs $TRANSFER_DATA/{data.local}")
    splits = load(data, key="target.data", data_seed=0, problem_type="tags")
    sizes, tags = TAGGED[name]
    assert (len(splits.train), len(splits.validation), len(splits.test)) == sizes
    assert len(splits.labels) == tags
    assert set(splits.train.column_names) == {"id", "tokens", "label"}


@pytest.mark.parametrize("name", WRITTEN)
def test_local_pairs_of_texts(name: str) -> None:
    data = read(name)
    root = os.environ.get("TRANSFER_DATA")
    if not root or not (Path(root) / str(data.local)).exists():
        pytest.skip(f"needs $TRANSFER_DATA/{data.local}")
    splits = load(data, key="target.data", data_seed=0, problem_type="text")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == WRITTEN[name]
    assert set(splits.train.column_names) == {"id", "text", "label"}


@pytest.mark.parametrize("name", [name for name in [*LOCAL, *TAGGED, *WRITTEN] if read(name).path is None])
def test_without_the_local_copy_the_message_explains_the_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFER_DATA", raising=False)
    with pytest.raises(UserError) as caught:
        load(read(name), key="target.data", data_seed=0, problem_type="single_label")
    (problem,) = caught.value.problems
    assert problem.key == "target.data.local"
    assert f"$TRANSFER_DATA/{name}" in problem.allowed
    assert "export TRANSFER_DATA=FOLDER" in problem.action
