"""Random training runs, done by Keras and by epochal from the same weights: do they come to the same?

    cd tests && python -m support.differential 300 [--seed 1] [--why]

runs so many cases and prints how many agreed word for word, how many under which rule of the contract, where Keras has
to be asked in other words (`differential_rules.BETTER`), and every disagreement with the `Case(...)` that shows it.
With `--why`, what Keras makes of such cases without the rule, which shows that the rule is needed.

A case agrees if history, epochs, evaluation, predictions, weights and the results of single batches do, to
`differential_play.TOLERANCE`, if labels come in the order of rule C.5, and if epochal warns where a rule says so and
nowhere else.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

# Nearly all of the time is compiling, and little of that is needed for batches of 16: unless told otherwise, XLA leaves
# out what makes code fast, which takes a third of the time.
if metadata.version("jaxlib") < "0.11":  # newer ones know these flags no more
    os.environ["XLA_FLAGS"] = os.environ.get(
        "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import numpy as np

from support.differential_cases import FAMILIES, Case, drawn
from support.differential_play import both, differences, labels_in_order
from support.differential_rules import BETTER, Rule, in_keras_words

COMPARED = (
    "epochs",
    "history",
    "evaluate",
    "predict",
    "weights",
    "test_on_batch",
    "train_on_batch",
    "predict_on_batch",
)


@dataclass
class Verdict:
    """How a case came out.

    Attributes:
        case: the case.
        rules: ids of the rules by which Keras was asked in other words; none is word for word.
        failures: what disagreed.
    """

    case: Case
    rules: list[str]
    failures: list[str]


def verdict(case: Case) -> Verdict:
    """Plays a case with both libraries and compares."""
    asked, rules = in_keras_words(case)
    found, expected = both(case, asked)
    failures = _disagreements(found, expected)
    ids = list(dict.fromkeys(rule.id for rule in rules))
    if not failures:
        failures.extend(_order(case, found, expected))
        if next(differences(found["list"], expected["list"]), None):  # each was compared by name already
            ids.append("C.5")
    warns = any(rule.warns(asked) for rule in rules)
    if bool(found["warnings"]) != warns:
        failures.append(f"warnings: {found['warnings']}, expected {'some' if warns else 'none'}")
    return Verdict(case, ids, failures)


def _disagreements(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [d for key in COMPARED if key in expected for d in differences(found[key], expected[key], key)]


def _order(case: Case, found: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    """Rule C.5: labels and lists in the order as compiled. Keras sorts the names in its history and in some lists."""
    labels = labels_in_order(expected["labels"], case.names)
    with_validation = [*labels, *(f"val_{label}" for label in labels)]
    wanted = {
        "metrics_names": (found["labels"], labels),
        "evaluate": (list(found["evaluate"]), labels),
        "history": (list(found["history"]), [k for k in with_validation if k in expected["history"]]),
        "the list of evaluate": (np.atleast_1d(found["list"]).tolist(), list(found["evaluate"].values())),
    }
    for what, (ours, right) in wanted.items():
        if ours != right:
            yield f"order of {what}: {ours}, expected {right}"


# -- many of them


# What a case may break off with, in either library; anything else ends the run.
BREAKS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def run(count: int, number: int) -> list[Verdict]:
    """So many cases, spread over all families."""
    verdicts = []
    for i, family in enumerate(FAMILIES):
        share = count // len(FAMILIES) + (i < count % len(FAMILIES))
        for case in drawn(family, share, number):
            try:
                verdicts.append(verdict(case))
            except BREAKS:
                ids = [rule.id for rule in in_keras_words(case)[1]]
                verdicts.append(Verdict(case, ids, [traceback.format_exc(limit=-4)]))
            _report(verdicts[-1])
    return verdicts


def _report(verdict: Verdict) -> None:
    if verdict.failures:
        print(verdict.case, *(f"    {failure}" for failure in verdict.failures), sep="\n", end="\n\n", flush=True)


def why(verdicts: list[Verdict], most: int = 3) -> dict[Rule, str | None]:
    """What Keras makes of cases that are asked by all their rules but one; None: what epochal does, in all it tried.

    The cases with the fewest rules are tried; rules that no case fell under are left out.
    """
    reasons: dict[Rule, str | None] = {}
    for rule in BETTER:
        found = [(v.case, in_keras_words(v.case)[1]) for v in verdicts if not v.failures]
        under = sorted((len(rules), i) for i, (_, rules) in enumerate(found) if rule in rules)
        for _, i in under[:most]:
            case = found[i][0]
            try:
                reasons[rule] = next(iter(_disagreements(*both(case, in_keras_words(case, without=rule)[0]))), None)
            except BREAKS as error:
                reasons[rule] = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
            if reasons[rule] is not None:
                break
    return reasons


def table(verdicts: list[Verdict]) -> str:
    """Counts per family, and per rule."""
    lines = [f"{'family':14}{'cases':>7}{'agree':>7}{'word for word':>15}"]
    for family in (*FAMILIES, "all"):
        own = [v for v in verdicts if family in (v.case.family, "all")]
        agree = [v for v in own if not v.failures]
        lines.append(f"{family:14}{len(own):7}{len(agree):7}{sum(not v.rules for v in agree):15}")
    rules = Counter(rule for v in verdicts if not v.failures for rule in v.rules)
    alone = Counter(v.rules[0] for v in verdicts if not v.failures and len(v.rules) == 1)
    lines += ["", f"{'rule':14}{'cases':>7}{'alone':>7}"]
    lines += [f"{rule:14}{n:7}{alone[rule]:7}" for rule, n in sorted(rules.items())]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random training runs, done by Keras and by epochal.")
    parser.add_argument("count", type=int, nargs="?", default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--why", action="store_true")
    given = parser.parse_args()
    started = time.perf_counter()
    verdicts = run(given.count, given.seed)
    print(table(verdicts))
    reasons = why(verdicts) if given.why else {}
    for rule, reason in reasons.items():
        print(f"\n{rule.id}: {rule.says}.\n    {reason or 'NOT NEEDED: Keras gives the same without it.'}")
    failed = sum(bool(v.failures) for v in verdicts)
    print(f"\n{failed} of {len(verdicts)} cases disagree; {time.perf_counter() - started:.0f} s.")
    return 1 if failed or None in reasons.values() else 0


if __name__ == "__main__":
    sys.exit(main())
