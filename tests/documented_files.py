"""The files that the documentation shows or speaks of, and what its commands have from a network; all of it small.

A block whose first line is a comment with a path is such a file.
"""

import csv
import json
import random
import re
from pathlib import Path

from tests.documented import PAGES, blocks
from tests.running import BAD, FILLER, GOOD, reviews, write_csv

# An experiment whose runs W&B tracks.
TRACKED = """\
# @package _global_
# Is it tracked?
defaults:
  - override /data@target.data: csv
  - override /logger: wandb
target: {data: {path: labelled.csv}}
"""


def prepare(folder: Path) -> None:
    """Write all of them."""
    with open(reviews(folder / "labelled.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [row["text"] for row in rows]
    pairs = [(text, text.upper()) for text in texts]
    write_csv(folder / "reviews.csv", [{"comment": row["text"], "verdict": row["label"]} for row in rows])
    write_csv(folder / "abstracts.csv", [{"text": text} for text in texts])
    (folder / "large.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    write_csv(folder / "pairs.csv", [{"en": english, "de": german} for english, german in pairs])
    local = {
        "ohsumed": [{"text": text} for text in texts],
        "imdb": [{"text": row["text"], "label": row["label"]} for row in rows],
        "tatoeba_en_zh": [{"source": english, "target": chinese} for english, chinese in pairs],
    }
    local["clinc150"] = [
        {"text": f"{words} key{number}", "label": f"intent {number}"} for number in range(26) for words in texts[:8]
    ]
    for name, these in local.items():
        (folder / "local" / name).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            write_csv(folder / "local" / name / f"{split}.csv", these)
    (folder / "experiments").mkdir()
    (folder / "experiments" / "tracked.yaml").write_text(TRACKED)
    hotels(folder / "hotels.csv")
    shown(folder)
    _pictures(folder / "images")
    (folder / "files.txt").write_text("images/dark/0.png\nimages/light/0.png\n")
    _bert(folder / "tiny", " ".join(texts))
    _resnet(folder / "hub" / "models--microsoft--resnet-18")


def shown(folder: Path) -> list[str]:
    """The files that the pages show whole, written where they say; their paths."""
    found = []
    for block in (block for page in PAGES for block in blocks(page)):
        path = re.match(r"# (\S+\.(?:yaml|py))\n", block.text)
        if path:
            found.append(path[1])
            (folder / path[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / path[1]).write_text(block.text)
    return found


def hotels(path: Path) -> Path:
    """Reviews with as many stars as they have good words in five."""
    chance, rows = random.Random(0), []
    for number in range(100):
        good = number % 5
        words = [*chance.choices(GOOD, k=good), *chance.choices(BAD, k=4 - good), *chance.choices(FILLER, k=3)]
        chance.shuffle(words)
        rows.append({"review": " ".join(words), "stars": good + 1, "hotel": number // 5 % 10})
    return write_csv(path, rows)


def _pictures(folder: Path) -> None:
    """Twelve of each of two classes, which are easily told apart."""
    import numpy as np
    from PIL import Image

    for value, name in ((40, "dark"), (210, "light")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(np.full((8, 8, 3), value + number, dtype=np.uint8)).save(folder / name / f"{number}.png")


def _bert(folder: Path, words: str) -> None:
    """In place of the default model."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from transfer.models.word_vectors import build_tokenizer

    tokenizer = build_tokenizer(
        [words], max_size=300, min_count=1, lowercase=True, max_length=64, special_tokens={"mask_token": "[MASK]"}
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _resnet(cached: Path) -> None:
    """In the cache of the hub, as a download leaves it there."""
    from transformers import ResNetConfig, ResNetForImageClassification

    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123abcd")
    snapshot = cached / "snapshots" / "0123abcd"
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(snapshot)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (snapshot / "preprocessor_config.json").write_text(json.dumps(processor))
