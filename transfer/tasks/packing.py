"""Several texts in one block, of which each is read as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from transfer.errors import Problem, UserError

# Added to the attention scores where nothing may be read: the lowest number that float32 and bfloat16 both have.
HIDDEN = torch.finfo(torch.bfloat16).min


def positions(owners: Sequence[int]) -> list[int]:
    """The place of each token of a block in its text, as far as that is in the block.

    Args:
        owners: the number of the text that each token is of.
    """
    found: list[int] = []
    for place, owner in enumerate(owners):
        found.append(found[-1] + 1 if place and owner == owners[place - 1] else 0)
    return found


def inputs(place: Tensor, *, one_way: bool, first: int) -> dict[str, Tensor]:
    """What a model is told beside the tokens of these blocks.

    Args:
        place: `positions` of each block [blocks, tokens], 0 in what fills it up.
        one_way: whether a token may only read those before it.
        first: the number of the first position.

    Returns:
        `position_ids` [blocks, tokens] and `attention_mask` [blocks, 1, tokens, tokens], which is added to the scores.
        What fills a block up is a text of one token each.
    """
    text = (place == 0).cumsum(1)
    seen = text[:, :, None] == text[:, None, :]
    if one_way:
        seen = seen.tril()
    mask = torch.zeros(seen.shape, device=place.device).masked_fill(~seen, HIDDEN)
    return {"position_ids": place + first, "attention_mask": mask[:, None]}


@torch.no_grad()
def first_position(model: PreTrainedModel, pad_id: int, size: int, *, one_way: bool, key: str) -> int:
    """The number of the model's first position, found by trying: two texts in a block, beside each of them alone.

    Args:
        pad_id: of the padding token.
        size: tokens of a block; a model that reads no farther than a window differs in a long one only.
        key: of the setting that asks for texts to be kept apart.

    Raises:
        UserError: this model does not read texts in a block as it reads them alone.
    """
    lengths = [size // 4 + 1, size - size // 4 - 1] if size > 3 else [1, size - 1]
    device, embeddings = model.device, model.get_input_embeddings().weight
    assert isinstance(embeddings, Tensor)
    ids = torch.randint(len(embeddings) - 1, (1, size), generator=torch.Generator().manual_seed(0))
    ids = (ids + (ids >= pad_id)).to(device)
    place = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
    training = model.training
    model.eval()
    try:
        # RoBERTa and its kind begin after the number of their padding token.
        for first in (0, pad_id + 1):
            packed = model(input_ids=ids, **inputs(place, one_way=one_way, first=first)).logits
            alone = [model(input_ids=part).logits for part in ids.split(lengths, dim=1)]
            if torch.allclose(packed, torch.cat(alone, dim=1), rtol=1e-3, atol=1e-4):
                return first
        reason = "it does not read texts in one block as it reads them alone"
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    finally:
        model.train(training)
    allowed = f"false with {type(model).__name__}: {reason}"
    raise UserError(Problem(key, True, allowed, "leave it out: a text is then read with those before it in its block"))
