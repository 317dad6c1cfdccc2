"""What all tasks over whole texts share: rows -> model inputs, and inputs -> padded batches."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

Batch = dict[str, Any]


def encode(
    rows: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase | None, max_length: int
) -> dict[str, list[Any]]:
    """Token ids (and what else the model wants) of texts or pairs; numeric features stay as they are.

    Returns the inputs, and `length`: how many tokens each row has, the truncated ones counted as max_length.
    """
    if tokenizer is None:
        return {"features": rows["features"], "length": [1] * len(rows["features"])}
    pair = rows.get("text_pair")
    encoded = dict(tokenizer(rows["text"], pair, truncation=True, max_length=max_length))
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded


def collate(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase | None) -> Batch:
    """`inputs` padded to the longest row ([batch, length]) or features ([batch, features]), and `index` [batch]."""
    index = torch.tensor([row["index"] for row in rows])
    if tokenizer is None:
        return {
            "inputs": {"features": torch.tensor([row["features"] for row in rows], dtype=torch.float32)},
            "index": index,
        }
    names = [name for name in rows[0] if name in tokenizer.model_input_names]
    inputs = tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")
    return {"inputs": dict(inputs), "index": index}
