"""Lines and tables of values in a terminal."""

from __future__ import annotations


def say(label: str, text: str) -> None:
    """A line with a bold word before it; a long text goes on under itself on a terminal, and is one line in a file."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        print(f"{label:<11} {text}")
        return
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=10, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(label, style="bold"), Text(text))
    console.print(grid)


def say_values(values: dict[str, float]) -> None:
    """Names and values; training and validation side by side."""
    from rich.console import Console
    from rich.table import Table as Grid

    names = [name for name in values if not name.startswith("val_")]
    held_out = any(name.startswith("val_") for name in values)
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_header=held_out)
    for title in ["", "", "training", "validation"][: 4 if held_out else 3]:
        grid.add_column(title, justify="right" if title else "left", min_width=10 if not title else None)
    for name in names:
        cells = [values[key] for key in (name, f"val_{name}") if key in values]
        grid.add_row("", name, *(f"{value:.4f}" if abs(value) < 1e4 else f"{value:.6g}" for value in cells))
    Console(highlight=False).print(grid)
