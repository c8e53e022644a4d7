"""Keras's `ops` by name, over `jax.numpy`, `jax.nn` and `jax.lax`: what custom layers, losses and metrics are made of.

Arguments and defaults are Keras's. Every op also takes symbolic tensors, and is then a call of the graph; a model made
so can be saved, as long as no argument is a function.

Not here, of Keras 3: `adaptive_average_pool`, `adaptive_max_pool`, `ctc_decode`, `ctc_loss`, `fold`, `istft`,
`rearrange`, `stft` and `unfold`; of `dot_product_attention` the arguments `flash_attention` and
`attn_logits_soft_cap`; of `layer_normalization` the outdated `rms_scaling`; and of `ops.image` `affine_transform`,
`elastic_transform`, `extract_patches_3d`, `gaussian_blur`, `hsv_to_rgb`, `map_coordinates`, `perspective_transform`,
`rgb_to_hsv`, `sobel_edges` and `ssim`. Arrays are dense: `sparse=True` is an error.
"""

# ruff: noqa: F403  (some 300 names, each of which is in its module's `__all__`)

from epochal.ops import core, image, linalg, math, nn, numpy
from epochal.ops.core import *
from epochal.ops.linalg import *
from epochal.ops.math import *
from epochal.ops.nn import *
from epochal.ops.numpy import *

__all__ = ["image", "linalg", "nn", "numpy"]
__all__ += core.__all__
__all__ += linalg.__all__
__all__ += math.__all__
__all__ += nn.__all__
__all__ += numpy.__all__


def __dir__() -> list[str]:
    return list(__all__)
