"""Answers by similarity to the support rows: no weights adapt, so the backbone's outputs can be computed once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.pooling import mean_of_rows


def prototype_logits(support: Tensor, query: Tensor, ways: int) -> Tensor:
    """Minus the squared distance of each query to the mean of each class [queries, ways] (Snell et al. 2017).

    Args:
        support: [ways * shots, features], class by class.
        query: [queries, features].
    """
    prototypes = support.unflatten(0, (ways, -1)).mean(dim=1)
    return -((query[:, None, :] - prototypes[None]) ** 2).sum(dim=-1)


def matching_logits(support: Tensor, query: Tensor, ways: int) -> Tensor:
    """Log-probabilities [queries, ways]: the attention of each query to the support rows of a class.

    Attention is a softmax over cosine similarities (Vinyals et al. 2016, equation 1 and section 2.1.1); their embedding
    of a row in the context of the whole support set is left out.
    """
    cosine = F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).mT
    return torch.logsumexp(cosine.log_softmax(dim=-1).unflatten(-1, (ways, -1)), dim=-1)


LOGITS = {"prototypes": prototype_logits, "matching": matching_logits}


def embed(model: Any, inputs: dict[str, Tensor], mask: Tensor | None) -> Tensor:
    """One vector a row [rows, features]: the mean of the backbone's last outputs, without padding.

    Args:
        mask: [rows, tokens], 0 at padding, whatever form `inputs` have it in.
    """
    hidden: Tensor = model.base_model(**inputs).last_hidden_state
    return mean_of_rows(hidden, mask)
