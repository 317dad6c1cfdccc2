"""What all tasks over whole texts share: rows -> model inputs, and inputs -> padded batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase


def encode(
    rows: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase | None, max_length: int
) -> dict[str, list[Any]]:
    """Token ids (and what else the model wants) of texts or pairs; numeric features stay as they are.

    Returns the inputs, `row`, and `length`: how many tokens each row has, the truncated ones counted as max_length.
    """
    if tokenizer is None:
        return {"features": rows["features"], "length": [1] * len(rows["features"]), "row": rows["row"]}
    pair = rows.get("text_pair")
    encoded = dict(tokenizer(rows["text"], pair, truncation=True, max_length=max_length))
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    encoded["row"] = rows["row"]
    return encoded


def collate(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
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


def inputs(rows: Dataset) -> Any:
    """What stands in the rows for a model without a tokenizer: numbers [rows, features], texts or pairs of texts."""
    if "features" in rows.column_names:
        return np.asarray(rows["features"][:], dtype=float)
    if "text_pair" in rows.column_names:
        return list(zip(rows["text"][:], rows["text_pair"][:], strict=True))
    return rows["text"][:]
