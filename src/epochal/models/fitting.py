"""What the methods of `Model` do once their arguments are checked."""

from __future__ import annotations

import inspect
from typing import Any

from epochal.data.feeds.block import Batch
from epochal.models.planning import plan_for_fit
from epochal.plans.plan import BatchPlan
from epochal.runs.keeper import Keeping
from epochal.support.types import Logs


def _planned(
    model: Any, batch_size: Any, keeping: Keeping, given: tuple, class_weight: Any, span: range, held: tuple
) -> tuple[BatchPlan | None, Any]:
    """The plan of `fit(batch_size="auto")`, and the batch size; a run that goes on keeps the one that it had."""
    if not isinstance(batch_size, str) or batch_size != "auto":
        return None, batch_size
    if keeping.batch_size is not None:
        return None, keeping.batch_size
    fraction, validation_data, due = held
    looked_at = [bool(due(epoch + 1)) for epoch in span[:1000]]
    passes = sum(looked_at) / max(len(looked_at), 1)
    plan = plan_for_fit(model, given, class_weight, fraction, len(span), validation_data, passes)
    return plan, batch_size if plan is None else plan.batch_size


def _overridden_loss(model: Any, batch: Batch, y_pred: Any, training: bool) -> Any:
    """Calls `compute_loss` of a user's class; one from the days before `training` does without it."""

    def in_form(values: Any) -> Any:
        return values[0] if values is not None and len(values) == 1 else values

    given = {"x": batch.x, "y": in_form(batch.y), "y_pred": y_pred, "sample_weight": in_form(batch.weight)}
    known = inspect.signature(model.compute_loss).parameters
    if "training" in known or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        given["training"] = training
    return model.compute_loss(**given)


def _reported(logs: Logs, as_dict: bool) -> Any:
    """Values as a dict; else a list in their order, or the loss when nothing else is reported."""
    if as_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values
