"""Masks that travel with arrays: which positions of a sequence are real, told by one layer to the next.

JAX's arrays take no attributes, so the mask of an array is kept in a table beside it, for as long as the array lives.
"""

from __future__ import annotations

import weakref
from typing import Any

import jax

# id of an array -> (the array, weakly, so that a new array with an old id is not taken for it; its mask).
_masks: dict[int, tuple[weakref.ref, Any]] = {}


def get_mask(array: Any) -> Any:
    """The mask of `array`, bool of shape (n, t) say; None when it has none."""
    found = _masks.get(id(array))
    return found[1] if found is not None and found[0]() is array else None


def set_mask(array: Any, mask: Any) -> None:
    """Gives `array` a mask; None takes its mask away."""
    key = id(array)
    if mask is None:
        _masks.pop(key, None)
        return
    _masks[key] = (weakref.ref(array, lambda _: _masks.pop(key, None)), mask)


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
