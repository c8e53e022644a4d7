"""Masks that travel with arrays: which positions of a sequence are real, told by one layer to the next.

JAX's arrays take no attributes, so the mask of an array is kept in a table beside it, for as long as the array lives.
"""

from __future__ import annotations

from typing import Any

import jax

from epochal.tracing.attachments import Beside

_masks = Beside()


def get_mask(array: Any) -> Any:
    """The mask of `array`, bool of shape (n, t) say; None when it has none."""
    return _masks.get(array)


def set_mask(array: Any, mask: Any) -> None:
    """Gives `array` a mask; None takes its mask away."""
    _masks.put(array, mask)


def masks_of(tree: Any) -> Any:
    """The masks of all arrays in a structure, in the same structure; None when none of them has one."""
    if not _masks:
        return None
    masks = jax.tree.map(get_mask, tree)
    return masks if jax.tree.leaves(masks) else None


def set_masks(tree: Any, masks: Any) -> None:
    """Gives each array of a structure its mask: one for all, or a structure of masks (None where there is none)."""
    leaves, structure = jax.tree.flatten(tree)
    one_for_all = masks is None or hasattr(masks, "shape")
    found = [masks] * len(leaves) if one_for_all else structure.flatten_up_to(masks)
    for leaf, mask in zip(leaves, found, strict=True):
        set_mask(leaf, mask)
