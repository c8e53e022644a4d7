"""The study as one HTML page: no scripts, nothing to load, readable in light and dark, on a telephone and on paper."""

from __future__ import annotations

from html import escape
from typing import Any

from epochal.study import sentences
from epochal.study.figures import svg
from epochal.study.panels import panels

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6168; --line: #d5d9de; --paper: #fff; --lift: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e9; --soft: #a2a8af; --line: #3a3f45; --paper: #17191c; --lift: #202327; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1.2rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p, ul { max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.says { background: var(--lift); border-left: 4px solid #2f6fb2; padding: .6rem 1rem; margin: 1rem 0;
  max-width: 50rem; }
.says p { margin: .45rem 0; } .says p:first-child { font-weight: 600; }
.wide { overflow-x: auto; margin: 0 0 .4rem; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .45rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { vertical-align: bottom; font-weight: 600; white-space: normal; min-width: 3.6rem; }
thead .group th { text-align: center; color: var(--soft); font-weight: 400; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--paper); }
tr.best th, tr.best td { background: var(--lift); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.6rem 1.4rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; }
svg text { font-family: system-ui, sans-serif !important; }
"""


def page(study: Any) -> str:
    """The page's text."""
    protocol, key = study.protocol, study.judge.key
    title = f"Batch size study: {key} of {protocol.n:,} training examples"
    said = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in [*sentences.summary(study), sentences.BOTH_TRUE])
    shown = "\n".join(_figure(panel, study, number) for number, panel in enumerate(panels(study)))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="soft">{escape(_setting(study))}</p>
<section class="says" aria-label="What this says">
{said}
</section>
<h2>What each batch size came to</h2>
{_results(study)}
<h2>What each batch size costs</h2>
{_costs(study)}
<h2>Pictures</h2>
<div class="figures">
{shown}
</div>
<h2>How it was measured</h2>
{_method(study)}
</main>
</body>
</html>
"""


def _setting(study: Any) -> str:
    protocol = study.protocol
    target = "" if study.target is None else f" Target: {study.judge.key} {study.target:g}."
    return (
        f"{study.optimizer}; {protocol.n:,} training and {study.n_validation:,} validation examples; "
        f"{len(protocol.seeds)} seed{'s' if len(protocol.seeds) > 1 else ''}; learning rates: "
        f"{sentences.rates_in_words(study)}.{target}"
    )


def _results(study: Any) -> str:
    """The two readings side by side, and the way to the target."""
    key, protocol = study.judge.key, study.protocol
    rate, value, best = "learning rate", escape(key), "best until then"
    groups = [
        ("", 1),
        (f"after {protocol.epochs} epochs", 3),
        (f"after {protocol.updates:,} updates", 3),
        ("to the target" + ("" if study.target is None else f" {study.target:g}"), 5),
    ]
    heads = [
        "batch size",
        rate,
        value,
        best,
        rate,
        value,
        best,
        rate,
        "updates",
        "epochs",
        "time",
        "plateau from",
    ]
    fastest = min(
        (row["seconds_to_target"] for row in study.table if row["all_at_target"] and row["seconds_to_target"]),
        default=None,
    )
    rows = []
    for row in study.table:
        cells = []
        for reading in ("equal_epochs", "equal_updates"):
            cells += [
                sentences.number(row[f"{reading}_learning_rate"]),
                sentences.outcome(row, reading, key),
                sentences.spread(row[f"{reading}_best_{key}"], row[f"{reading}_best_{key}_std"]),
            ]
        there = row["all_at_target"]
        cells += [
            sentences.number(row["target_learning_rate"]) if there else "—",
            sentences.spread(row["updates_to_target"], row["updates_to_target_std"], 3)
            if there
            else f"{row['target_seeds']} seeds",
            sentences.number(row["epochs_to_target"]) if there else "—",
            sentences.duration(row["seconds_to_target"]) if there else "—",
            sentences.number(row["plateau_epoch"]) if row["plateau_epoch"] is not None else "none",
        ]
        rows.append((row["label"], cells, there and row["seconds_to_target"] == fastest))
    note = "± is the standard deviation over seeds. The shaded row came to the target in the least time."
    return _table("Two budgets and the way to the target", groups, heads, rows) + f'<p class="soft">{note}</p>'


def _costs(study: Any) -> str:
    heads = [
        "batch size",
        "updates per epoch",
        "time per update",
        "time per epoch",
        "examples per second",
        "memory of a step",
        "gradient's distance, measured",
        "by S²/m (1 - m/n)",
        "cosine of updates",
        "adaptive sharpness",
        "Keskar's φ",
        "outcome",
    ]
    rows = []
    for row in study.table:
        cells = [
            f"{row['updates_per_epoch']:,}",
            sentences.duration(row["seconds_per_step"]),
            sentences.duration(row["seconds_per_epoch"]),
            sentences.number(row["examples_per_second"]),
            sentences.size_of_memory(row["memory_bytes"]),
            sentences.number(row["gradient_std"]),
            sentences.number(row["gradient_std_predicted"]),
            sentences.number(row["path_cosine"]),
            sentences.number(row["sharpness_adaptive"]),
            sentences.number(row["sharpness_keskar"]),
            row["status"],
        ]
        rows.append((row["label"], cells, False))
    return _table("Time, memory, noise and sharpness", [], heads, rows)


def _table(
    caption: str, groups: list[tuple[str, int]], heads: list[str], rows: list[tuple[str, list[str], bool]]
) -> str:
    top = "".join(f'<th colspan="{span}" scope="colgroup">{escape(text)}</th>' for text, span in groups)
    lines = [
        f'<tr{" class=best" if marked else ""}><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells, marked in rows
    ]
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table><thead>'
        + (f'<tr class="group">{top}</tr>' if top else "")
        + f"<tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _figure(panel: Any, study: Any, number: int) -> str:
    drawn = svg(panel, study, number).replace("<svg", f'<svg role="img" aria-label="{escape(panel.alt)}"', 1)
    return f"<figure><h3>{escape(panel.title)}</h3>{drawn}<figcaption>{escape(panel.note)}</figcaption></figure>"


def _method(study: Any) -> str:
    fits = study.fits
    count = sum(len(found) for found in fits.every.values())
    said = [
        f"{count} fits. Each goes on to the larger of both budgets and is read at both, so the two readings are of the "
        "same training. It was evaluated 8 times per doubling of the updates, and after the epochs within the budget.",
        "The learning rate is chosen on the validation examples that the value is of: it flatters every size alike.",
        "Time is that of training steps alone, on this machine, in the later part of each fit, the least of the fits. "
        "Memory is what the compiled step needs for its arguments, its results and what it computes in between.",
        "Updates to the target: the first time the validation value is there, taken straight between evaluations on a "
        "logarithmic scale of updates; mean over seeds.",
    ]
    if fits.noise is not None:
        said.append(
            f"Gradients and sharpness are of {fits.noise['examples']:,} training examples, with layers as in "
            f"evaluation, where fits first came to a training loss of {fits.noise['loss']:g}; the noise of the "
            f"gradient is at the weights of batch {fits.noise['at_size']}."
        )
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in said) + "</ul>"
