"""Images as rows, batches and answers; a run on them, from the source to a pipeline of transformers."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from PIL import Image

from tests.running import cli, run
from transfer import models, tasks
from transfer.config import Task
from transfer.data.encoding import encode
from transfer.errors import UserError
from transfer.models import image_processors
from transfer.models.image_processors import Wanted
from transfer.tasks.image_classification import augment

models.register()
RANDOM = np.random.default_rng(0)


def image_task(labels=("a", "b"), **options):
    settings = {"multi_label": options.pop("multi_label", False)}
    return tasks.make(Task("image_classification", options=options, **settings), list(labels), key="target.task")


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(number=6, shape=(9, 7)):
    return [RANDOM.integers(0, 256, shape) for _ in range(number)]


def rows_of(arrays, labels="ab"):
    encoded = [png(array) for array in arrays]
    names = [labels[i % len(labels)] for i in range(len(encoded))]
    types = {"id": [f"cat/{i}.png" for i in range(len(encoded))], "image": encoded, "label": names}
    return Dataset.from_dict(types)


def collated(task, rows, processor, **more):
    encoded = encode(rows, task, processor, 128, None)
    return task.collate([{**row, "index": i, **more} for i, row in enumerate(encoded)], processor)


@pytest.mark.parametrize(("shape", "channels"), [((9, 7), None), ((9, 7), 3), ((9, 7, 3), None), ((9, 7, 3), 1)])
@pytest.mark.parametrize("size", [None, (5, 6)])
def test_a_batch_is_what_the_processor_makes_of_the_images(shape, channels, size):
    arrays = pictures(shape=shape)
    rows, task = rows_of(arrays), image_task()
    processor = image_processors.make(Wanted(channels, size), rows["image"][:])
    batch = collated(task, rows, processor)
    number = channels or (1 if len(shape) == 2 else 3)
    assert batch["inputs"]["pixel_values"].shape == (6, number, *(size or (9, 7)))
    opened = [Image.open(io.BytesIO(content)) for content in rows["image"][:]]
    whole = np.stack(processor(images=opened)["pixel_values"])
    assert np.allclose(batch["inputs"]["pixel_values"], whole, atol=1e-5)
    assert batch["labels"].tolist() == [0, 1] * 3
    if size is None:
        values = batch["inputs"]["pixel_values"]
        assert torch.allclose(values.mean((0, 2, 3)), torch.zeros(number), atol=1e-3)
        assert torch.allclose(values.std((0, 2, 3), correction=0), torch.ones(number), atol=1e-3)


def test_images_of_several_sizes_are_brought_to_one(caplog):
    caplog.set_level("INFO")
    rows = rows_of([*pictures(4), *pictures(2, (30, 20))])
    processor = image_processors.make(Wanted(), rows["image"][:])
    batch = collated(image_task(), rows, processor)
    assert batch["inputs"]["pixel_values"].shape == (6, 1, 9, 7)
    assert "2 of 6 images were brought to 9 x 7 pixels" in caplog.text


def test_a_cached_set_is_read_again(cache):
    rows, task = rows_of(pictures()), image_task()
    processor = image_processors.make(Wanted(), rows["image"][:])
    encode(rows, task, processor, 128, None)
    before = {*cache.rglob("*.arrow")}
    same = [np.asarray(Image.open(io.BytesIO(content))) for content in rows["image"][:]]
    again = encode(rows_of(same), task, processor, 128, None)
    assert {*cache.rglob("*.arrow")} == before
    assert again["label"][:] == [0, 1] * 3
    encode(rows_of(pictures()), task, processor, 128, None)
    assert len({*cache.rglob("*.arrow")}) == 2 * len(before)


def test_what_cannot_be_opened_is_named():
    rows = rows_of(pictures())
    content = [*rows["image"][:4], b"hello", b""]
    damaged = Dataset.from_dict({"id": rows["id"][:], "image": content, "label": rows["label"][:]})
    processor = image_processors.make(Wanted(), content)
    with pytest.raises(UserError, match=r"cat/4.png \(no image\), cat/5.png") as raised:
        encode(damaged, image_task(), processor, 128, None)
    assert raised.value.problems[0].key == "target.data.columns.image"


AUGMENT = {"flip": True, "shift": 2, "rotate": 20}


def test_augmentation_depends_on_seed_epoch_and_row_alone():
    rows, task = rows_of(pictures(1) * 6), image_task(augment=AUGMENT)
    processor = image_processors.make(Wanted(), rows["image"][:])

    def of(*draw):
        return collated(task, rows, processor, draw=list(draw))["inputs"]["pixel_values"]

    assert torch.equal(of(0, 1, 2), of(0, 1, 2))
    assert not torch.equal(of(0, 1, 2), of(0, 2, 2))
    assert not torch.equal(of(0, 1, 2), of(0, 1, 3))
    plain = collated(task, rows, processor)["inputs"]["pixel_values"]
    assert torch.equal(plain, collated(image_task(), rows, processor, draw=[0, 1, 2])["inputs"]["pixel_values"])


def test_each_augmentation_does_what_it_says():
    image = RANDOM.integers(0, 256, (1, 8, 8)).astype(np.uint8)
    draws = [[0, 0, i] for i in range(40)]
    flipped = [augment(image, {"flip": True}, draw) for draw in draws]
    mirrored = sum(np.array_equal(made, image[:, :, ::-1]) for made in flipped)
    assert 8 < mirrored < 32
    assert mirrored + sum(np.array_equal(made, image) for made in flipped) == len(flipped)
    middle = np.zeros((1, 9, 9), np.uint8)
    middle[0, 4, 4] = 255
    places = {tuple(np.argwhere(augment(middle, {"shift": 2}, draw)[0] == 255)[0]) for draw in draws}
    assert {place for pair in places for place in pair} == {2, 3, 4, 5, 6}
    turned = augment(np.tile(np.arange(8, dtype=np.uint8) * 30, (1, 8, 1)), {"rotate": 30}, draws[0])
    assert turned.shape == (1, 8, 8)
    assert turned.std(axis=1).max() > 0, "columns of one value are no longer so"
    plain = np.full((3, 8, 8), 9, np.uint8)
    assert np.array_equal(augment(plain, {"rotate": 90, "shift": 3}, [0, 0, 1]), plain)


def test_the_processor_of_the_weights_keeps_what_is_not_asked_otherwise():
    made = image_processors.make(Wanted(3, (8, 8), [0.1, 0.2, 0.3], [0.5]), [])
    same = image_processors.changed(made, Wanted())
    assert same.to_dict() == made.to_dict()
    larger = image_processors.changed(made, Wanted(size=(16, 12)))
    assert (image_processors.size_of(larger), list(larger.image_mean)) == ((16, 12), [0.1, 0.2, 0.3])
    grey = image_processors.changed(made, Wanted(channels=1))
    assert (image_processors.channels_of(grey), list(grey.image_std)) == (1, [0.5])
    assert grey.image_mean == pytest.approx([0.2])


WRONG = {
    "size": 0,
    "channels": 2,
    "std": [0.5, 0],
    "mean": "dark",
    "augment": {"mirror": True},
    "augment.shift": {"shift": 1.5},
    "augment.rotate": {"rotate": 400},
    "augment.flip": {"flip": 3},
    "sizes": 28,
}


@pytest.mark.parametrize("name", WRONG)
def test_an_option_that_cannot_be(name):
    with pytest.raises(UserError, match=r"target\.task\.options"):
        image_task(**{name.partition(".")[0]: WRONG[name]})


def test_several_classes_an_image():
    task = image_task(multi_label=True)
    assert tasks.problem_type(task.task) == "multi_label"
    assert task.encode_labels([["a"], ["a", "b"]]) == [[1, 0], [1, 1]]


def test_floors_learn_from_pixels(monkeypatch):
    arrays = [np.full((6, 6), 220 if i % 2 else 30) + RANDOM.integers(0, 9, (6, 6)) for i in range(24)]
    rows = rows_of(arrays)
    found = image_task().floors(rows, rows)
    assert found["linear"] == rows["label"][:]
    assert len({*found["majority"]}) == 1
    monkeypatch.setattr("transfer.tasks.image_classification.FLOOR_ROWS", 10)
    assert image_task().floors(rows, rows) == {"majority": found["majority"]}


def write(folder, classes, number=30, size=12):
    """A bright bar, in a place of its own for each class, on noise."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            pixels = RANDOM.integers(0, 60, (size, size))
            pixels[:, 3 * place : 3 * place + 3] += 180
            (folder / name / f"{i}.png").write_bytes(png(pixels))
    return folder


CNN = ["model=cnn", "model.config.hidden_sizes=[8,8]", "model.config.dropout=0", "model.lr=1e-2"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    source = write(folder / "source", ["left", "middle", "right"])
    target = write(folder / "target", ["first", "second"])
    return [
        *CNN,
        *(f"task@{leg}.task=image_classification" for leg in ("source", "target")),
        *(f"data@{leg}.data=csv" for leg in ("source", "target")),
        *(f"{leg}.data.columns.image=image" for leg in ("source", "target")),
        f"source.data.path={source}",
        f"target.data.path={target}",
        "target.data.train_size=20",
        "source.budget={max_epochs: 4, batch_size: 16}",
        "target.budget={max_epochs: 4, batch_size: 8}",
        "+target.task.options.augment={shift: 1}",
        f"output_dir={folder / 'runs'}",
    ]


@pytest.fixture(scope="module")
def record(arguments, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run(*arguments, "arm=transfer", "freezing=first_k", "freezing.k=1", "floors=true")


def answers(record):
    return pd.read_parquet(f"{record['_folder']}/predictions.parquet")


def test_a_source_helps_a_target(record):
    assert record["weights"]["fraction_loaded"] == 1
    assert record["weights"]["reinitialised"] == ["classifier.weight", "classifier.bias"]
    assert record["metrics"]["test/accuracy"] > 0.8
    assert record["metrics"]["floor_linear/accuracy"] > 0.8
    assert record["parameters"]["trainable"] < record["parameters"]["total"]
    assert all(name.startswith(("first/", "second/")) for name in answers(record)["id"])


def test_predict_reads_paths_and_bytes(record, tmp_path):
    tested = answers(record)
    folder = Path(record["config"]["target"]["data"]["path"])
    paths = tmp_path / "rows.jsonl"
    paths.write_text("".join(json.dumps({"image": str(folder / name)}) + "\n" for name in tested["id"]))
    content = [(folder / name).read_bytes() for name in tested["id"]]
    pd.DataFrame({"image": content, "n": range(len(content))}).to_parquet(tmp_path / "rows.parquet")
    for name, kept in (("rows.jsonl", "image"), ("rows.parquet", "n")):
        out = tmp_path / f"{name}.out.jsonl"
        outcome = cli("predict", record["_folder"], "--input", tmp_path / name, "--output", out)
        assert outcome.code == 0, outcome.err
        found = pd.read_json(out, lines=True)
        assert found["prediction"].tolist() == tested["prediction"].tolist()
        assert found["score"].tolist() == pytest.approx(tested["score"].tolist(), abs=1e-4)
        assert list(found) == [kept, "prediction", "score"]
    paths.write_text('{"image": "nowhere.png"}\n')
    outcome = cli("predict", record["_folder"], "--input", paths)
    assert outcome.code == 2
    assert "nowhere.png" in outcome.err


def test_scratch_sees_the_images_as_transfer_does(record, arguments):
    made = run(*arguments, "arm=scratch", "scratch.max_epochs=1", "scratch.min_steps=1")
    files = [Path(each["_folder"]) / "model" / "preprocessor_config.json" for each in (record, made)]
    assert files[0].read_text() == files[1].read_text()
    assert made["parameters"]["total"] == record["parameters"]["total"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("task@target.task=sequence_classification", "target.task.name"),
        ("model=tiny_bert", "model.config.model_type"),
        ("target.data.columns.image=null", "target.data.columns.text"),
    ],
)
def test_what_does_not_fit_together_is_said(arguments, change, key):
    given = [argument for argument in arguments if not (change.startswith("model=") and argument.startswith("model"))]
    given = [argument for argument in given if not argument.startswith("+")]
    outcome = cli("run", *given, "arm=scratch", "logger=none", "trainer=cpu", change)
    assert outcome.code == 2
    assert f"\n{key}\n" in outcome.err
    assert "Traceback" not in outcome.err
