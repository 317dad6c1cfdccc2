"""One vector a row, of the hidden states of its tokens or places."""

from __future__ import annotations

from torch import Tensor


def mean_of_rows(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over a row's tokens, without padding, or over an image's places [rows, width].

    Args:
        hidden: [rows, tokens, width], or an image's maps [rows, width, height, width of the map].
        mask: [rows, tokens], 0 at padding; of another shape (a shortened sequence) it does not count.
    """
    if hidden.dim() == 4:
        return hidden.mean(dim=(2, 3))
    if mask is None or mask.shape != hidden.shape[:2]:
        return hidden.mean(dim=1)
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
