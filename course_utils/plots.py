"""Figures: one style for all of them, with Chinese glyphs that are really drawn."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from course_utils import runtime
from course_utils.messages import CourseError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

CHINESE_FONT = "Noto Sans CJK SC"
CHINESE_FONT_FILE = "fonts/NotoSansCJKsc-Regular-GB2312.otf"

# Okabe and Ito's colours, told apart with every common kind of colour vision; yellow, faint on white, comes last.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
# The same optimiser has the same colour in every figure.
OF_OPTIMISER = dict(zip(["momentum", "RMSProp", "AdaGrad", "Adam", "", "", "SGD"], COLOURS, strict=False))


def use_course_style() -> None:
    """Give all figures from here on the course's style and fonts; a glyph that no font has becomes an error."""
    import matplotlib
    from cycler import cycler

    _add_chinese_font()
    matplotlib.rcParams.update(
        {
            # DejaVu Sans, which comes with matplotlib, has the Greek letters, signs and indices.
            "font.family": ["DejaVu Sans", CHINESE_FONT],
            "figure.figsize": (7, 4),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.8,
            "legend.frameon": False,
            "lines.linewidth": 2,
        }
    )
    # matplotlib draws a box for a missing glyph and warns: easily overlooked, so let it stop the cell.
    warnings.filterwarnings("error", message=r"Glyph \d+ .* missing from", category=UserWarning)


def _add_chinese_font() -> None:
    from matplotlib.font_manager import fontManager

    path = str(runtime.DATA / CHINESE_FONT_FILE)
    if any(font.fname == path for font in fontManager.ttflist):
        return
    try:
        fontManager.addfont(path)
    except (OSError, RuntimeError) as error:
        raise CourseError(
            f"The font for Chinese in figures, data/{CHINESE_FONT_FILE}, is missing or damaged; "
            "restore it with `git checkout -- data/fonts`, or download the course again.",
            f"图中文字所需的中文字体 data/{CHINESE_FONT_FILE} 缺失或损坏；"
            "请用 `git checkout -- data/fonts` 恢复，或重新下载课程。",
        ) from error


def new_figure(panels: int = 1, width: float = 7.0, height: float = 3.6) -> tuple["Figure", list["Axes"]]:
    """A figure with `panels` side by side, closed for pyplot: a notebook shows it once, as the value of its cell."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(width, height), layout="constrained", squeeze=False)
    plt.close(figure)
    return figure, list(axes[0])


def curves(
    series: dict[str, Sequence[float]], xlabel: str, ylabel: str, *, log: bool = False, x: Sequence[float] | None = None
) -> "Figure":
    """One line per entry of `series`, against `x` or else against 0, 1, 2, …"""
    figure, [ax] = new_figure()
    for name, values in series.items():
        values = [float(value) for value in values]
        ax.plot(range(len(values)) if x is None else x, values, label=name, color=OF_OPTIMISER.get(name))
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    ax.legend()
    return figure


def steps_on_curve(
    f: Callable[[float], float], walks: dict[str, Sequence[float]], xlim: tuple[float, float], xlabel: str, ylabel: str
) -> "Figure":
    """One panel per walk: the curve of `f` and the points visited, joined in order. Points outside are cut off."""
    import numpy as np

    figure, axes = new_figure(len(walks), width=max(5.0, 2.9 * len(walks)))
    grid = np.linspace(*xlim, 200)
    heights = [f(x) for x in grid]
    for ax, (name, walk) in zip(axes, walks.items(), strict=True):
        ax.plot(grid, heights, color="0.6")
        ax.plot(walk, [f(x) for x in walk], "o-", color=COLOURS[0], markersize=5, linewidth=1)
        ax.plot(walk[0], f(walk[0]), "o", color="black", markersize=7)
        ax.annotate("start", (walk[0], f(walk[0])), xytext=(8, 0), textcoords="offset points")
        ax.set(xlabel=xlabel, title=name, xlim=xlim, ylim=(min(heights) - 4, max(heights) * 1.05))
    axes[0].set_ylabel(ylabel)
    return figure


def paths_on_contours(
    loss: Callable[["Tensor"], "Tensor"],
    paths: dict[str, "Tensor"],
    window: tuple[float, float, float, float],
    labels: tuple[str, str] = ("θ₁", "θ₂"),
    lowest: float | None = None,
) -> "Figure":
    """Left: contour lines of `loss` with each path on them. Right: the loss along each path, above its minimum.

    Args:
        loss: maps points of shape [..., 2] to [...].
        paths: name → points of shape [steps + 1, 2].
        window: left, right, bottom, top.
        labels: what the two coordinates mean.
        lowest: the loss at the minimum; without it, the lowest value seen.
    """
    import numpy as np
    import torch

    figure, (plane, curve) = new_figure(2, width=9.5, height=4.2)
    left, right, bottom, top = window
    x, y = torch.meshgrid(
        torch.linspace(left, right, 160, dtype=torch.float64),
        torch.linspace(bottom, top, 160, dtype=torch.float64),
        indexing="xy",
    )
    heights = loss(torch.stack([x, y], dim=-1))
    if lowest is None:
        lowest = min([heights.min().item()] + [loss(path).min().item() for path in paths.values()])
    above = (heights - lowest).numpy()
    bottom_row, bottom_column = np.unravel_index(above.argmin(), above.shape)
    levels = np.geomspace(max(above.max() * 1e-4, 1e-6), above.max(), 16)
    plane.contourf(x, y, above, levels=[0, *levels], norm="symlog", cmap="Greys_r", alpha=0.35)
    plane.contour(x, y, above, levels=levels, colors="0.6", linewidths=0.6)
    for name, path in paths.items():
        colour = OF_OPTIMISER.get(name)
        plane.plot(path[:, 0], path[:, 1], ".-", color=colour, markersize=4, linewidth=1.3, label=name)
        curve.plot((loss(path) - lowest).clamp_min(1e-6), color=colour, label=name)
    plane.plot(x[0, bottom_column], y[bottom_row, 0], "*", color="black", markersize=12, markerfacecolor="white")
    start = next(iter(paths.values()))[0]
    plane.plot(*start, "o", color="black", markersize=7)
    plane.annotate("start", tuple(start.tolist()), xytext=(8, 4), textcoords="offset points")
    plane.set(xlim=(left, right), ylim=(bottom, top), xlabel=labels[0], ylabel=labels[1])
    curve.set(xlabel="step", ylabel="loss above the minimum", yscale="log")
    curve.legend()
    return figure


# The same start of the weights has the same colour in every figure.
OF_SCHEME = dict(zip(["Xavier", "N(0, 1)", "Kaiming", "zeros", "Xavier × 5/3", "N(0, 0.01²)"], COLOURS, strict=False))


def lines_in_panels(
    rows: dict[str, dict[str, dict[str, Sequence[float]]]],
    xlabel: str,
    ylim: tuple[float, float],
    *,
    log: bool = False,
) -> "Figure":
    """Rows of panels that share their axes: label of the y axis → title of the panel → name of the line → values.

    Values are drawn against 0, 1, 2, …; what lies outside `ylim` is cut off.
    """
    import matplotlib.pyplot as plt

    width = max(len(panels) for panels in rows.values())
    figure, axes = plt.subplots(
        len(rows),
        width,
        figsize=(max(8.5, 1.6 + 2.4 * width), 0.4 + 2.5 * len(rows)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    plt.close(figure)
    for index, (ylabel, panels) in enumerate(rows.items()):
        axes[index, 0].set_ylabel(ylabel)
        for ax, (title, lines) in zip(axes[index], panels.items(), strict=True):
            for name, values in lines.items():
                ax.plot([float(value) for value in values], label=name, color=OF_SCHEME.get(name), linewidth=1.7)
            ax.set(ylim=ylim, yscale="log" if log else "linear", title="" if index else title)
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper")
    return figure


def histograms(rows: dict[str, dict[str, "Tensor"]]) -> "Figure":
    """Rows of histograms: label of the row → title of the panel → values.

    A row has one scale, four times the size of its first panel, so that a signal that dies becomes a spike. The root
    mean square stands in each title. Values outside, and exact zeros as ReLU makes them, are counted and not drawn.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    width = max(len(panels) for panels in rows.values())
    figure, axes = plt.subplots(
        len(rows),
        width,
        figsize=(2.1 * width, 0.4 + 1.9 * len(rows)),
        sharex="row",
        squeeze=False,
        layout="constrained",
    )
    plt.close(figure)
    for index, (label, panels) in enumerate(rows.items()):
        axes[index, 0].set_ylabel(label)
        sizes = {title: float((values**2).mean() ** 0.5) for title, values in panels.items()}
        reach = 4 * next(iter(sizes.values()))
        for ax, (title, values) in zip(axes[index], panels.items(), strict=True):
            numbers = values.flatten().double().numpy()
            ax.hist(numbers[numbers != 0], bins=np.linspace(-reach, reach, 51), color=OF_SCHEME.get(label, "0.35"))
            shares = {"zero": (numbers == 0).mean(), "outside": (np.abs(numbers) > reach).mean()}
            remark = "\n".join(f"{share:.0%} {what}" for what, share in shares.items() if share > 0.005)
            ax.text(0.02, 0.95, remark, transform=ax.transAxes, va="top", fontsize=8)
            ax.set_title(f"{title}\nsize {sizes[title]:.1g}", fontsize=9)
            ax.set(xlim=(-reach, reach), yticks=[])
            ax.tick_params(labelsize=8)
    return figure
