"""How the learning rate follows the batch size: named rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from epochal.optimizers.optimizer import Optimizer
from epochal.optimizers.rules import Adam, Nadam
from epochal.registry.lookup import find

RULES: dict[str, Callable[[float], float]] = {
    "linear": lambda k: k,
    "sqrt": math.sqrt,
    "adam": math.sqrt,
    "fixed": lambda k: 1.0,
    "none": lambda k: 1.0,
}


def scale_learning_rate(rule: Any, from_: Any, to: Any, learning_rate: Any = 1.0) -> float:
    """The learning rate for batches of `to` examples, where `learning_rate` is right for batches of `from_`.

    None of the rules is a law: each says for which noise in the gradient it was derived, and all of them end near the
    critical batch size (`gradient_noise_scale`). Epochal applies one where it is asked to only.

    Args:
        rule: with k = to / from_,
            "linear": rate * k, for SGD (Goyal et al. 2017, arXiv:1706.02677);
            "sqrt": rate * √k, keeps the variance of an SGD step (Krizhevsky 2014, arXiv:1404.5997), common for Adam;
            "adam": rate * √k, and 1 - beta_1, 1 - beta_2 times k, epsilon / √k (Malladi et al. 2022, arXiv:2205.10287);
            the optimizer's settings are changed by `scaled`;
            "fixed" or "none": the rate as it is.
        from_, to: batch sizes.
        learning_rate: of batches of `from_`; without it the result is the factor.

    Raises:
        ValueError: an unknown rule, or sizes that are not finite and > 0.

    Example:
        >>> scale_learning_rate("sqrt", 32, 128, 0.001)
        0.002
    """
    if not isinstance(rule, str):
        raise ValueError(f"Expected a rule of {sorted(RULES)}, got {rule!r}.")
    factor = find("rule", rule, RULES)
    for name, size in (("from_", from_), ("to", to)):
        if isinstance(size, bool | str) or not 0 < size < math.inf:
            raise ValueError(f"Expected {name} to be a batch size > 0, got {size!r}.")
    return learning_rate * factor(to / from_)


def check_scalable(optimizer: Optimizer, rule: str, sizes: tuple[float, float] = (1, 1)) -> None:
    """Raises ValueError where a rule cannot be applied to an optimizer, from one batch size to another."""
    scale_learning_rate(rule, *sizes)
    if rule in ("fixed", "none"):
        return
    try:
        scheduled = optimizer.scheduled or not float(optimizer.learning_rate) >= 0
    except AttributeError as error:
        raise ValueError(f"The learning rate cannot be scaled: {error}") from error
    if scheduled:
        raise ValueError(
            "The learning rate follows a schedule, which cannot be scaled: make the schedule with rates times "
            f"epochal.scale_learning_rate({rule!r}, from_, to)."
        )
    if rule == "adam":
        _check_adam(optimizer, sizes[1] / sizes[0])


def _check_adam(optimizer: Optimizer, k: float) -> None:
    if not isinstance(optimizer, Adam | Nadam):
        raise ValueError(f'The rule "adam" is for Adam, AdamW and Nadam; this optimizer is {type(optimizer).__name__}.')
    most = 1 / (1 - min(optimizer.beta_1, optimizer.beta_2))
    if k >= most:
        raise ValueError(
            f'The rule "adam" multiplies 1 - beta_1 and 1 - beta_2, so with these betas batches can grow less than '
            f'{most:.3g} times, got {k:.3g} times: take a smaller size, or the rule "sqrt".'
        )


@contextmanager
def scaled(optimizer: Optimizer, rule: str, from_: float, to: float) -> Iterator[float]:
    """The optimizer with its settings for batches of `to` examples; behind it they are what they were before.

    A learning rate that something else has changed in between keeps that change.

    Args:
        optimizer: its settings are right for batches of `from_` examples.
        rule, from_, to: see `scale_learning_rate`.

    Raises:
        ValueError: the rule cannot be applied to this optimizer.
    """
    check_scalable(optimizer, rule, (from_, to))
    factor = scale_learning_rate(rule, from_, to)
    if factor == 1:
        yield factor
        return
    before = float(optimizer.learning_rate)
    during = before * factor
    settings = _adam_settings(optimizer, to / from_) if rule == "adam" else {}
    kept = {name: getattr(optimizer, name) for name in settings}
    optimizer.learning_rate = during
    for name, value in settings.items():
        setattr(optimizer, name, value)
    try:
        yield factor
    finally:
        now = float(optimizer.learning_rate)
        optimizer.learning_rate = before if now == during else now / factor
        for name, value in kept.items():
            setattr(optimizer, name, value)


def _adam_settings(optimizer: Any, k: float) -> dict[str, float]:
    return {
        "beta_1": 1 - k * (1 - optimizer.beta_1),
        "beta_2": 1 - k * (1 - optimizer.beta_2),
        "epsilon": optimizer.epsilon / math.sqrt(k),
    }
