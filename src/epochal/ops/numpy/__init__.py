"""The ops that NumPy has too: `jax.numpy`'s functions under Keras's names, with Keras's arguments."""

# ruff: noqa: F403  (each of the names is in its file's `__all__`)

from epochal.ops.numpy import creation, elementwise, products, reductions, shaping, sorting
from epochal.ops.numpy.creation import *
from epochal.ops.numpy.elementwise import *
from epochal.ops.numpy.products import *
from epochal.ops.numpy.reductions import *
from epochal.ops.numpy.shaping import *
from epochal.ops.numpy.sorting import *

__all__ = []
__all__ += creation.__all__
__all__ += elementwise.__all__
__all__ += products.__all__
__all__ += reductions.__all__
__all__ += shaping.__all__
__all__ += sorting.__all__
