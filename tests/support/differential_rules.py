"""Where Keras has to be asked in other words: the rules of the contract by which epochal is to do better, or otherwise.

A rule says when it applies to a case and how Keras is asked for the same thing. Whatever it then answers, epochal has
to have given, in the case's own words. So a crash of Keras's counts for nothing: no case is let off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from support.differential_cases import STEPS, Case

FLAT = ("number", "binary")  # heads whose targets have no last dimension of 1
FINITE = ("arrays", "dataset", "iterable")  # data that can be gone over again


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        id: of contract.md.
        says: what epochal does, and what Keras does instead.
        applies: to which cases, as far as the rules before have put them in other words.
        asked: the other words.
        warns: whether epochal has to warn, in cases that it applies to.
    """

    id: str
    says: str
    applies: Callable[[Case], bool]
    asked: Callable[[Case], Case]
    warns: Callable[[Case], bool] = lambda case: False


def _measured(case: Case) -> set[str]:
    return {key for group in (*case.metrics, *case.weighted_metrics) for key in group}


def _in_full(case: Case, *keys: str) -> Case:
    """Metrics by these keys, asked for as objects that mean the same."""

    def full(groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(f"{key} in full" if key in keys else key for key in group) for group in groups)

    return replace(case, metrics=full(case.metrics), weighted_metrics=full(case.weighted_metrics))


def _with_columns(case: Case) -> Case:
    """Targets (n,) as (n, 1)."""
    return replace(case, heads=tuple(f"{h}_column" if h in FLAT else h for h in case.heads))


# Metrics that Keras hands targets (n,) beside predictions (n, 1): what they broadcast to is no error of an example.
BROADCAST = {
    "number": {"own", "own of a batch in full"},
    "binary": {"name", "ce in full"},
}


def _broadcasts(case: Case) -> bool:
    groups = zip(case.heads, case.metrics, case.weighted_metrics, strict=True)
    return any(BROADCAST.get(head, set()) & {*plain, *weighted} for head, plain, weighted in groups)


def _with_weights_in_form(case: Case) -> Case:
    """Weights, and the targets beside them, written as the model's outputs are."""
    if not case.several:
        return case
    alike = case.alike or case.weight_form == "one"
    return replace(case, targets=case.structure, weight_form=case.structure, alike=alike)


def _weights_named(case: Case) -> bool:
    """Whether Keras takes loss weights in this form: floats, one for each of the losses, written as they are."""
    weights = case.loss_weights
    if weights is None:
        return True
    if case.loss_weights_form == "number":
        return isinstance(weights[0], float) and (not case.several or case.loss_form == "bare")
    return not case.several or (case.loss_weights_form != "partial" and case.loss_form != "bare")


def _listed_weights(case: Case) -> Case:
    weights = tuple(float(w) for w in case.loss_weights or ())
    losses = case.loss_form if case.loss_form != "bare" else "list"
    return replace(case, loss_weights=weights, loss_weights_form="list", loss_form=losses)


def _one_loss_of_several(case: Case) -> bool:
    return case.several and sum(loss is not None for loss in case.losses) == 1


def _leaves_out(case: Case) -> bool:
    left_out = case.several and case.loss_form == "partial" and None in case.losses
    return left_out and not _one_loss_of_several(case) and (case.structure == "list" or case.loss_weights is not None)


def _with_silent_losses(case: Case) -> Case:
    weights = case.loss_weights or (1.0,) * len(case.heads)
    return replace(
        case,
        losses=tuple(loss or "name" for loss in case.losses),
        loss_form="list",
        loss_weights=tuple(0.0 if loss is None else w for loss, w in zip(case.losses, weights, strict=True)),
        loss_weights_form="list",
        silent=tuple(name for name, loss in zip(case.names, case.losses, strict=True) if loss is None),
    )


def _folds(case: Case) -> bool:
    """Keras: class weights of one output, of arrays and PyDatasets, without sample weights, for one class a row."""
    stays = case.source in ("arrays", "dataset") and not _streams(case)
    simple = case.weight is None and stays and case.structure == "one"
    return case.class_weight and not (simple and not case.several and case.family not in STEPS)


def _weighted(case: Case) -> bool:
    return case.weight is not None or case.folded


def _flat(case: Case) -> bool:
    return any(head in FLAT for head in case.heads)


def _weighs_steps(case: Case) -> bool:
    """Whether the steps of a sequence get weights, if only 0 and 1."""
    return _weighted(case) or case.family == "masked_steps"


def _one_in_a_form(case: Case) -> bool:
    if case.several or case.targets == "one" or not _weighted(case):
        return False
    per_step = case.folded or case.per_step or case.weight in ("steps", "steps_column")
    return (case.family in STEPS and per_step) or (case.targets == "list" and case.weight in ("column", "steps_column"))


def _starts(case: Case) -> int:
    """The batch that the first epoch begins with."""
    can_skip = case.source in ("arrays", "dataset")  # an iterable is gone over from its beginning
    return case.initial_epoch * case.per_epoch % case.batches if can_skip else 0


def _streams(case: Case) -> bool:
    if case.source not in FINITE or case.steps_per_epoch is None:
        return False
    return case.batches % case.steps_per_epoch != 0 or _starts(case) != 0


def _as_stream(case: Case) -> Case:
    size = case.validation_batch_size
    if case.source == "arrays" and case.validation in ("split", "arrays", "weighted"):
        size = size or case.batch_size
    return replace(case, source="generator", start=_starts(case), validation_batch_size=size)


def _dries(case: Case) -> bool:
    return case.source == "dry" and case.per_epoch * (case.epochs - case.initial_epoch) > case.batches


def _until_dry(case: Case) -> Case:
    return replace(case, epochs=case.initial_epoch + -(-case.batches // case.per_epoch))


BETTER = (
    Rule(
        "B.2",
        '"ce" is a metric as well as a loss; Keras knows no such metric',
        lambda case: "ce" in _measured(case),
        lambda case: _in_full(case, "ce"),
    ),
    Rule(
        "C.6",
        "a metric that is one number for a batch, such as a Loss, counts by examples; in Keras all batches count alike",
        lambda case: bool({"own of a batch", "loss"} & _measured(case)),
        lambda case: _in_full(case, "own of a batch", "loss"),
    ),
    Rule(
        "B.4",
        "loss weights are any numbers, one for all, or a dict of some; Keras wants floats in the form of the losses",
        lambda case: not _weights_named(case),
        _listed_weights,
    ),
    Rule(
        "B.3",
        "a dict of losses may leave outputs out; Keras wants all of a list of outputs, and one for each loss weight",
        _leaves_out,
        lambda case: replace(case, loss_form="list"),
    ),
    Rule(
        "C.3",
        "losses of outputs are reported wherever there are several outputs; Keras leaves them out where one has a loss",
        _one_loss_of_several,
        _with_silent_losses,
    ),
    Rule(
        "D.3",
        "class weights go with sample weights, any data, several outputs and sequences; Keras refuses most of these",
        _folds,
        lambda case: _with_weights_in_form(replace(case, folded=True)),
    ),
    Rule(
        "D.2",
        "sequences take weights (n,), and targets (n, t) beside predictions (n, t, 1); Keras cannot broadcast these",
        lambda case: case.family in STEPS and (case.weight == "rows" or (_weighs_steps(case) and _flat(case))),
        lambda case: _with_columns(replace(case, per_step=True)),
    ),
    Rule(
        "B.7",
        "targets (n,) are (n, 1) beside predictions (n, 1) for all metrics; in Keras some broadcast, some crash",
        _broadcasts,
        _with_columns,
    ),
    Rule(
        "B.9",
        "masks count in all metrics; Keras loses them in training and where no weights are",
        lambda case: case.family == "masked_steps" and bool(_measured(case)),
        lambda case: replace(case, masks=True),
    ),
    Rule(
        "D.4",
        "targets and weights per output are a list or a dict, each as it likes; Keras wants all in the outputs' form",
        lambda case: case.several and _weighted(case) and {case.targets, case.weight_form} != {case.structure},
        _with_weights_in_form,
    ),
    Rule(
        "D.4",
        "so may be those of one output; Keras refuses (n, t) there, and takes a list of one (n, 1) for one (1, n, 1)",
        _one_in_a_form,
        lambda case: replace(case, targets="one"),
    ),
    Rule(
        "F.3",
        "every epoch has all its steps, and epoch k the batches of epoch k; Keras cuts the last epoch of a pass short",
        _streams,
        _as_stream,
    ),
    Rule(
        "E.1",
        "anything with __iter__ is a dataset; Keras knows a few",
        lambda case: "iterable" in (case.source, case.validation),
        lambda case: replace(
            case,
            source="dataset" if case.source == "iterable" else case.source,
            validation="dataset" if case.validation == "iterable" else case.validation,
        ),
    ),
    Rule(
        "F.5",
        "a generator that has ended ends training; Keras breaks, or goes on with batches it remembers",
        _dries,
        _until_dry,
        warns=lambda case: True,
    ),
    Rule(
        "G.3",
        "validation_freq is any container; Keras wants a list",
        lambda case: case.validation != "none" and isinstance(case.validation_freq, tuple),
        lambda case: replace(case, validation_freq=list(case.validation_freq)),
    ),
    Rule(
        "G.4",
        "validation on a generator takes the next batches, as long as there are any; Keras remembers the first "
        "two, and begins with them every time",
        lambda case: case.validation in ("generator", "dry"),
        lambda case: replace(case, by_hand=True),
        warns=lambda case: None in case.validations().values(),
    ),
)


def in_keras_words(case: Case, without: Rule | None = None) -> tuple[Case, list[Rule]]:
    """What Keras is asked for a case, and by which rules; none is word for word. One rule may be left out."""
    used = []
    for rule in BETTER:
        if rule is not without and rule.applies(case):
            case = rule.asked(case)
            used.append(rule)
    return case, used
