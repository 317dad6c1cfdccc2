"""Images from idx files, class folders and parquet; what cannot be read is named."""

import gzip
import io
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image

from transfer import config
from transfer.data import images
from transfer.data.files import fingerprint
from transfer.data.sources import load
from transfer.errors import UserError
from transfer.paths import shipped

COLUMNS = config.Columns(image="image")


def png(value, size=(4, 3), mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, "PNG")
    return buffer.getvalue()


def write_idx(folder, prefix, pixels, labels, ending=".gz"):
    folder.mkdir(exist_ok=True)
    opened = gzip.open if ending else open
    for name, values in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", labels)):
        with opened(folder / f"{prefix}{name}{ending}", "wb") as file:
            head = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            file.write(head + values.astype(np.uint8).tobytes())
    return folder


def write_classes(folder, number=6):
    for i in range(number):
        for name, value in (("cat", 10 * i), ("dog", 255 - 10 * i)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{i}.png").write_bytes(png(value))
    return folder


def read(path, **settings):
    data = config.Data(path=str(path), columns=COLUMNS, **settings)
    return load(data, key="target.data", data_seed=0, problem_type="single_label")


def pixels(rows):
    return [np.asarray(image) for image in images.decode(rows["image"][:])]


RANDOM = np.random.default_rng(0)
GREY, LABELS = RANDOM.integers(0, 256, (40, 5, 4)), np.arange(40) % 3


@pytest.mark.parametrize("prefix", ["", "train-", "t10k-", "my-"])
def test_two_idx_files_are_all_the_rows(tmp_path, prefix):
    splits = read(write_idx(tmp_path / "data", prefix, GREY, LABELS))
    assert splits.labels == ["0", "1", "2"]
    everything = [row for part in (splits.train, splits.validation, splits.test) for row in part]
    assert len(everything) == 40
    for row in everything:
        place = int(row["id"].partition("-")[2]) - 1
        assert np.array_equal(images.decode([row["image"]])[0], GREY[place])
        assert row["label"] == str(LABELS[place])


def test_idx_files_of_two_splits_and_colours(tmp_path):
    colour = RANDOM.integers(0, 256, (12, 5, 4, 3))
    write_idx(tmp_path, "train-", colour, LABELS[:12], ending="")
    write_idx(tmp_path, "t10k-", colour[:6], LABELS[:6], ending="")
    splits = read(tmp_path)
    assert len(splits.test) == 6
    assert all(np.array_equal(*pair) for pair in zip(pixels(splits.test), colour[:6], strict=True))
    alone = read(tmp_path / "train-images-idx3-ubyte")
    assert len(alone.train) + len(alone.validation) + len(alone.test) == 12


@pytest.mark.parametrize("layout", ["whole", "val", "validation"])
def test_folders_by_class(tmp_path, layout):
    if layout == "whole":
        write_classes(tmp_path)
    else:
        for split in ("train", layout, "test"):
            write_classes(tmp_path / split, number=3)
    splits = read(tmp_path)
    assert splits.labels == ["cat", "dog"]
    ids = {row["id"]: row for part in (splits.train, splits.validation, splits.test) for row in part}
    assert len(ids) == (12 if layout == "whole" else 18)
    assert all(f"{row['label']}/" in name for name, row in ids.items()), "rows are called as their files"
    if layout != "whole":
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 6, 6)


def test_parquet_with_bytes_as_the_hub_has_them(tmp_path):
    rows = [{"image": {"bytes": png(i), "path": None}, "label": "ab"[i % 2]} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    plain = [row | {"image": row["image"]["bytes"]} for row in rows]
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "b.parquet")
    first, second = read(tmp_path / "a.parquet"), read(tmp_path / "b.parquet")
    assert first.train[:] == second.train[:]


def test_a_hub_image_column_stays_encoded():
    import datasets

    from transfer.data.formats import table_of

    rows = {"image": [{"bytes": png(7), "path": None}], "label": [1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    table = table_of(datasets.Dataset.from_dict(rows, features=features))
    assert (table["image"][0]["bytes"], table["label"]) == (png(7), ["b"])


def test_the_fingerprint_is_of_the_content(tmp_path):
    def found(path):
        return fingerprint(config.Data(path=str(path), columns=COLUMNS), key="x")

    one, two = write_classes(tmp_path / "one"), write_classes(tmp_path / "two")
    assert found(one) == found(two)
    (two / "cat" / "0.png").write_bytes(png(99))
    assert found(one) != found(two)
    write_idx(tmp_path / "three", "", GREY, LABELS)
    write_idx(tmp_path / "four", "", GREY, (LABELS + 1) % 3)
    assert found(tmp_path / "three") != found(tmp_path / "four")


def broken(tmp_path, kind):
    folder = write_idx(tmp_path / "idx", "", GREY, LABELS, ending="")
    labels = folder / "labels-idx1-ubyte"
    if kind == "no labels":
        labels.unlink()
    elif kind == "fewer labels":
        write_idx(folder, "", GREY, LABELS[:30], ending="")
    elif kind == "cut":
        labels.write_bytes(labels.read_bytes()[:-5])
    elif kind == "no idx":
        labels.write_bytes(b"hello")
    elif kind == "paths":
        file = tmp_path / "data.csv"
        file.write_text("image,label\n" + "a.png,x\nb.png,y\n" * 5)
        return file
    elif kind == "no bytes":
        pq.write_table(pa.table({"image": [png(1), None] * 5, "label": ["a", "b"] * 5}), tmp_path / "data.parquet")
        return tmp_path / "data.parquet"
    elif kind == "no images":
        (tmp_path / "empty" / "cat").mkdir(parents=True)
        return tmp_path / "empty"
    return folder


MISTAKES = {
    "no labels": "no labels-idx1-ubyte beside it",
    "fewer labels": "40 images",
    "cut": "35 values",
    "no idx": "does not begin as an idx file",
    "paths": "FOLDER/CLASS",
    "no bytes": "rows 2, 4, 6",
    "no images": "a subfolder for every class",
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_said(tmp_path, kind):
    with pytest.raises(UserError, match=MISTAKES[kind]):
        read(broken(tmp_path, kind))


def test_without_the_column_the_message_names_it(tmp_path):
    data = config.Data(path=str(write_classes(tmp_path)))
    with pytest.raises(UserError, match="image, label, file"):
        load(replace(data), key="target.data", data_seed=0, problem_type="single_label")


def test_what_is_no_image_is_counted_and_named():
    sixteen = io.BytesIO()
    Image.fromarray(np.full((3, 3), 60000, dtype=np.uint16)).save(sixteen, "PNG")
    with pytest.raises(images.UnreadableImagesError) as raised:
        images.decode([png(1), b"hello", png(2)[:40], sixteen.getvalue()])
    assert raised.value.reasons[1] == "no image"
    assert "8 bits" in raised.value.reasons[3]
    assert {*raised.value.reasons} == {1, 2, 3}


def test_images_are_upright():
    buffer = io.BytesIO()
    image = Image.new("RGB", (6, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(buffer, "JPEG", exif=exif)
    assert images.decode([buffer.getvalue()])[0].size == (2, 6)


@pytest.mark.parametrize(("name", "first"), [("mnist", "zero"), ("fashion_mnist", "0")])
def test_local_copies(name, first):
    data = OmegaConf.merge(OmegaConf.structured(config.Data), OmegaConf.load(shipped("conf") / "data" / f"{name}.yaml"))
    root = os.environ.get("TRANSFER_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"needs the folder $TRANSFER_DATA/{name}")
    splits = load(OmegaConf.to_object(data), key="target.data", data_seed=0, problem_type="single_label")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (7000, 1000, 2000)
    assert (len(splits.labels), splits.labels[0]) == (10, first)
    assert images.decode(splits.test["image"][:2])[1].size == (28, 28)
