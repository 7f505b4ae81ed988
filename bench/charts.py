"""The pictures of the bench that decides, one for each question that a picture answers better than a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from verdict import Case, spread

COLOURS = {
    "limit": "#8a8a8a",
    "river_fast": "#c8102e",
    "go": "#0081a7",
    "graphile": "#5b8e3e",
    "pgqueuer": "#e0a100",
    "procrastinate": "#7b4fa3",
    "threads": "#444444",
}
DPI = 72


def of(cases: Sequence[Case], question: str) -> list[Case]:
    return [case for case in cases if case["question"] == question and any(case["runs"])]


def colour(case: Case) -> str:
    return COLOURS[case["peer"]]


def style(name: str) -> str:
    """Async and default settings are drawn with broken lines, in their program's colour."""
    return "--" if "async" in name else ":" if "default" in name or "no local queue" in name else "-"


def whiskers(case: Case, key: str = "jobs_per_s") -> tuple[float, float, float]:
    """Median, and how far the range reaches below and above it."""
    figures = spread(case, key)
    middle = figures.median or 0.0
    return middle, middle - min(figures.values), max(figures.values) - middle


def rate_by_peer(cases: Sequence[Case]) -> Figure | None:
    asked = of(cases, "throughput")
    if not asked:
        return None
    groups = list(dict.fromkeys(case["group"] for case in asked))
    tallest = max(sum(case["group"] == group for case in asked) for group in groups)
    figure, axes = plt.subplots(1, len(groups), figsize=(7 * len(groups), 1 + 0.34 * tallest), squeeze=False)
    for ax, group in zip(axes[0], groups, strict=True):
        shown = [case for case in asked if case["group"] == group][::-1]
        marks = [whiskers(case) for case in shown]
        ax.barh(
            [case["name"] for case in shown],
            [middle for middle, _, _ in marks],
            xerr=[[below for _, below, _ in marks], [above for _, _, above in marks]],
            color=[colour(case) for case in shown],
            capsize=2,
        )
        ax.set_title(f"no-op jobs, {group}")
        ax.set_xlabel("jobs/s (median and range)")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.tick_params(axis="y", labelsize=8)
        ax.grid(axis="x", alpha=0.3)
    return figure


def rate_by(
    question: str, title: str, label: str, position: Callable[[str], float]
) -> Callable[[Sequence[Case]], Figure | None]:
    """Lines over what a group's name says, by contestant."""

    def drawn(cases: Sequence[Case]) -> Figure | None:
        asked = of(cases, question)
        if not asked:
            return None
        figure, ax = plt.subplots(figsize=(8, 4.6))
        for name in dict.fromkeys(case["name"] for case in asked):
            shown = [case for case in asked if case["name"] == name]
            marks = [whiskers(case) for case in shown]
            ax.errorbar(
                [position(case["group"]) for case in shown],
                [middle for middle, _, _ in marks],
                yerr=[[below for _, below, _ in marks], [above for _, _, above in marks]],
                color=colour(shown[0]),
                linestyle=style(name),
                marker="o",
                capsize=2,
                label=name,
            )
        finish(ax, title, label, "jobs/s (median and range)")
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:,.0f}")
        return figure

    return drawn


def number_in(group: str) -> float:
    """The number of `max_workers 2,000`, of `10 ms`."""
    return float(next(word for word in group.replace(",", "").split() if word.replace(".", "").isdigit()))


def workers_chart(cases: Sequence[Case]) -> Figure | None:
    figure = rate_by("workers", "no-op jobs by max_workers, one process", "max_workers", number_in)(cases)
    if figure is not None:
        figure.axes[0].set_xscale("log")
        figure.axes[0].xaxis.set_major_formatter("{x:,.0f}")
    return figure


def lengths_chart(cases: Sequence[Case]) -> Figure | None:
    figure = rate_by("lengths", "jobs that sleep, max_workers 100, one process", "ms a job", number_in)(cases)
    if figure is not None:
        figure.axes[0].set_xscale("symlog", linthresh=1)
        figure.axes[0].set_xlim(-0.2, 130)
        figure.axes[0].set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    return figure


def latency_chart(percentiles: Sequence[float]) -> Callable[[Sequence[Case]], Figure | None]:
    """How long what part of the jobs waited: the median round's curve, for each rate."""

    def drawn(cases: Sequence[Case]) -> Figure | None:
        asked = [case for case in of(cases, "latency") if case["group"].endswith("/s")]
        if not asked:
            return None
        groups = list(dict.fromkeys(case["group"] for case in asked))
        figure, axes = plt.subplots(1, len(groups), figsize=(6.5 * len(groups), 4.6), sharey=True, squeeze=False)
        for ax, group in zip(axes[0], groups, strict=True):
            for case in asked:
                if case["group"] == group:
                    # The tail is what matters: 90, 99 and 99.9 % are equally far apart. Below 0.02 ms nothing is shown.
                    curve = [max(value, 0.02) for value in median_shape(case)]
                    stretched = [1 / max(100 - percent, 0.05) for percent in percentiles]
                    ax.plot(stretched, curve, color=colour(case), linestyle=style(case["name"]), label=case["name"])
            finish(ax, f"inserts at {group}", "percentile", "insert returned to work entered, ms")
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xticks([1 / 50, 1 / 10, 1, 10], ["50", "90", "99", "99.9"])
            ax.yaxis.set_major_formatter("{x:g}")
        return figure

    return drawn


def median_shape(case: Case) -> list[float]:
    """At each percentile the median over the rounds."""
    rounds = [run["shape"] for run in case["runs"] if run is not None]
    return [sorted(column)[len(column) // 2] for column in zip(*rounds, strict=True)]


def finish(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7)


def draw_all(cases: Sequence[Case], percentiles: Sequence[float], folder: Path) -> list[str]:
    """Draws what the cases allow; the names of the files, without their ending."""
    charts: dict[str, Callable[[Sequence[Case]], Figure | None]] = {
        "rate_by_peer": rate_by_peer,
        "rate_by_max_workers": workers_chart,
        "rate_by_job_length": lengths_chart,
        "latency": latency_chart(percentiles),
    }
    drawn = []
    for name, chart in charts.items():
        figure = chart(cases)
        if figure is not None:
            figure.tight_layout()
            figure.savefig(folder / f"{name}.png", dpi=DPI)
            plt.close(figure)
            drawn.append(name)
    return drawn
