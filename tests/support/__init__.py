"""What tests share: data, models, and runs."""

from . import typechecker  # jaxtyping imports this package alone, and asks it for `typechecker.check`

__all__ = ["typechecker"]
