"""Objects that know the arguments they were made with, and can be written down and made again.

Every layer, loss, metric, optimizer, initializer and regularizer is `Configurable`. What is written is data only (JSON)
and reading it makes objects of registered classes only, so a file from a stranger runs none of its own code.
"""

from epochal.mixed_precision import dtype_policy as dtype_policy
from epochal.mixed_precision import set_dtype_policy as set_dtype_policy
from epochal.registry.configurable import (
    Configurable,
    custom_object_scope,
    get_custom_objects,
    register,
    register_functions,
    registered_name,
)
from epochal.registry.serialize import deserialize, serialize

__all__ = [
    "Configurable",
    "custom_object_scope",
    "deserialize",
    "dtype_policy",
    "get_custom_objects",
    "register",
    "register_functions",
    "registered_name",
    "serialize",
    "set_dtype_policy",
]


def __dir__() -> list[str]:
    return list(__all__)
