"""Figures: one style for all of them, with Chinese glyphs that are really drawn."""

import functools
import itertools
import logging
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from course_utils import runtime
from course_utils.messages import CourseError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
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
    # The Chinese font has one weight. Where the system has no bold one, matplotlib takes it for bold text and says so
    # in the cell, which is no news; a glyph that is really missing is still an error, below.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
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
        ax.plot(
            range(len(values)) if x is None else x, values, label=name, color=(OF_OPTIMISER | OF_ACTIVATION).get(name)
        )
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
    above_what = "the minimum"
    if lowest is None:
        above_what = "the lowest seen"
        lowest = min([heights.min().item()] + [loss(path).min().item() for path in paths.values()])
    above = (heights - lowest).numpy()
    bottom_row, bottom_column = np.unravel_index(above.argmin(), above.shape)
    levels = np.geomspace(max(above.max() * 1e-4, 1e-6), above.max(), 16)
    plane.contourf(x, y, above, levels=[0, *levels], norm="symlog", cmap="Greys_r", alpha=0.35)
    plane.contour(x, y, above, levels=levels, colors="0.6", linewidths=0.6)
    for name, path in paths.items():
        colour = OF_OPTIMISER.get(name)
        plane.plot(path[:, 0], path[:, 1], ".-", color=colour, markersize=3, linewidth=1, label=name)
        plane.plot(*path[-1], "s", color=colour, markersize=6, markeredgecolor="white")
        curve.plot((loss(path) - lowest).clamp_min(1e-6), color=colour, label=name)
    plane.plot(x[0, bottom_column], y[bottom_row, 0], "*", color="black", markersize=12, markerfacecolor="white")
    start = next(iter(paths.values()))[0]
    plane.plot(*start, "o", color="black", markersize=7)
    plane.annotate("start", tuple(start.tolist()), xytext=(8, 4), textcoords="offset points")
    plane.set(xlim=(left, right), ylim=(bottom, top), xlabel=labels[0], ylabel=labels[1])
    curve.set(xlabel="step", ylabel=f"loss above {above_what}", yscale="log")
    curve.legend()
    return figure


def graph_nodes(output: object) -> list:
    """Every node that `output` was made from, each after its inputs, `output` last.

    Nodes are those of notebook 02's engine: `data`, `grad`, `name`, `inputs`, and an `operation` with `symbol` and
    `backward`.
    """
    order, seen = [], set()

    def visit(node: object) -> None:
        if id(node) not in seen:
            seen.add(id(node))
            for source in node.inputs:
                visit(source)
            order.append(node)

    visit(output)
    return order


def graph(
    output: object,
    *,
    values: Collection | None = None,
    gradients: Mapping | None = None,
    active: object = None,
    title: str = "",
) -> "Figure":
    """The computational graph of `output`, from left to right: values, gradients and, on its edges, local derivatives.

    Args:
        output: a node as `graph_nodes` describes it.
        values: the nodes whose value is shown; all by default.
        gradients: node → gradient, where one is shown; by default each node's own `grad`.
        active: the node at work; it and the edges from its inputs are marked.
        title: what is happening.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path

    nodes = graph_nodes(output)
    values = nodes if values is None else values
    gradients = {node: node.grad for node in nodes} if gradients is None else gradients
    place, route = _layers(nodes)
    xs, ys = zip(*place.values(), strict=True)
    columns = max(max(xs) + 1, 4)  # below four, the legend would be wider than the graph
    figure, [ax] = new_figure(width=1.45 * columns, height=1.05 * (max(ys) - min(ys) + 1) + 0.5)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(max(ys) + 0.45, min(ys) - 0.45), title=title)
    ax.axis("off")
    half_width, half_height = 0.3, 0.36
    for node in nodes:
        local = node.operation.backward(1.0) if node in values else ()
        for index, source in enumerate(node.inputs):
            points = [place[key] for key in route[node, index]]
            points[0] = (points[0][0] + half_width, points[0][1])
            points[-1] = (points[-1][0] - half_width, points[-1][1])
            if node.inputs.count(source) > 1:  # a node times itself: two edges, side by side
                points = [(x, y + 0.15 * (2 * index - 1)) for x, y in points]
            backward = node is active and node in gradients
            colour = COLOURS[1] if backward else COLOURS[0] if node is active else "0.6"
            ax.add_patch(
                FancyArrowPatch(
                    path=Path(points),
                    arrowstyle="<|-" if backward else "-|>",
                    mutation_scale=11,
                    color=colour,
                    shrinkA=0,
                    shrinkB=0,
                )
            )
            if index < len(local):
                (x, y), (to_x, to_y) = points[:2]
                ax.text(
                    (x + to_x) / 2,
                    (y + to_y) / 2,
                    _number(local[index]),
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color="0.25",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )
    for node in nodes:
        x, y = place[node]
        ax.add_patch(
            FancyBboxPatch(
                (x - half_width, y - half_height),
                2 * half_width,
                2 * half_height,
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor="#FFF7C2" if node is active else "white" if node.inputs else "#F2F2F2",
                edgecolor="black" if node is active else "0.5",
            )
        )
        label = f"{node.name} : {node.operation.symbol}" if node.name and node.inputs else node.name
        rows = [(label or node.operation.symbol, "black")]
        rows += [(_number(node.data), COLOURS[0])] if node in values else []
        rows += [(_number(gradients[node]), COLOURS[1])] if node in gradients else []
        for row, (text, colour) in enumerate(rows):
            ax.text(x, y + 0.21 * (row - 1), text, ha="center", va="center", color=colour, fontsize=10)
    legend = {"value": COLOURS[0], "gradient of L": COLOURS[1], "local derivative, on the edge": "0.25"}
    ax.legend(
        handles=[Line2D([], [], linestyle="none", label=name) for name in legend],
        labelcolor=list(legend.values()),
        handlelength=0,
        ncols=3,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        fontsize=9,
    )
    return figure


def _number(value: float) -> str:
    return f"{value + 0.0:.3g}".replace("-", "−")


def _layers(nodes: list) -> tuple[dict, dict]:
    """Where each node stands, (column, row), and by which places each edge (node, index of its input) goes.

    Columns: a node stands right of its inputs, an input next to the first node that uses it. An edge that passes a
    column gets a place of its own there, so that it runs around the boxes. Rows: each stands near its neighbours.
    """
    column: dict = {}
    for node in nodes:
        column[node] = 1 + max((column[source] for source in node.inputs), default=-1)
    for node in nodes:
        if not node.inputs:
            column[node] = min((column[user] - 1 for user in nodes if node in user.inputs), default=0)
    neighbours: dict = {node: [] for node in nodes}
    route = {}
    for node in nodes:
        for index, source in enumerate(node.inputs):
            passed = [(node, index, between) for between in range(column[source] + 1, column[node])]
            column.update({key: key[2] for key in passed})
            neighbours.update({key: [] for key in passed})
            route[node, index] = places = [source, *passed, node]
            for left, right in itertools.pairwise(places):
                neighbours[left].append(right)
                neighbours[right].append(left)
    columns = [[key for key in column if column[key] == number] for number in range(max(column.values()) + 1)]
    row = {key: index - len(keys) / 2 for keys in columns for index, key in enumerate(keys)}
    for _ in range(20):
        for keys in columns:
            wanted = {key: sum(row[other] for other in neighbours[key]) / max(len(neighbours[key]), 1) for key in keys}
            keys.sort(key=wanted.get)
            for above, key in zip([None, *keys], keys, strict=False):
                row[key] = wanted[key] if above is None else max(wanted[key], row[above] + 1)
            shift = sum(wanted[key] - row[key] for key in keys) / len(keys)
            row.update({key: row[key] + shift for key in keys})
    return {key: (column[key], row[key]) for key in column}, route


def decision(
    score: Callable[[float, float], float],
    points: "Tensor",
    labels: "Tensor",
    losses: dict[str, Sequence[float]],
) -> "Figure":
    """Left: labelled points and where `score` changes its sign. Right: the first of `losses` as a line, others as dots.

    Args:
        score: of the point (x₁, x₂); positive where it speaks for the label +1.
        points: shape [n, 2].
        labels: +1 or −1 for each point.
        losses: name → loss after each step; dots lie on the line where two agree.
    """
    import numpy as np

    figure, (plane, curve) = new_figure(2, width=9.5, height=4.0)
    points, labels = points.numpy(), labels.numpy()
    x, y = (np.linspace(values.min() - 0.4, values.max() + 0.4, 40) for values in points.T)
    heights = [[score(float(across), float(up)) for across in x] for up in y]
    plane.contourf(x, y, heights, levels=[-np.inf, 0, np.inf], colors=[COLOURS[1], COLOURS[0]], alpha=0.15)
    plane.contour(x, y, heights, levels=[0], colors="black", linewidths=1.2)
    for label, marker, colour in [(1, "o", COLOURS[0]), (-1, "s", COLOURS[1])]:
        plane.plot(*points[labels == label].T, marker, color=colour, markersize=5, label=f"{label:+}".replace("-", "−"))
    plane.set(xlabel="x₁", ylabel="x₂")
    plane.legend(loc="upper left")
    for number, (name, values) in enumerate(losses.items()):
        style = {"color": COLOURS[2]} if number == 0 else {"color": "black", "linestyle": "none", "marker": "."}
        curve.plot(values, label=name, markevery=1 if number == 0 else 10, **style)
    curve.set(xlabel="step", ylabel="loss", ylim=(0, None))
    curve.legend()
    return figure


# The same activation function has the same colour in every figure.
OF_ACTIVATION = {
    **dict(zip(["tanh", "sigmoid", "ReLU", "GELU", "SiLU", "leaky ReLU", "sine"], COLOURS, strict=False)),
    "identity": "#777777",
}


def decision_regions(
    networks: dict[str, Callable[["Tensor"], "Tensor"]],
    points: "Tensor",
    positive: "Tensor",
    xlabel: str,
    ylabel: str,
) -> "Figure":
    """One panel per network: the points, and shaded where the network's output is positive.

    Args:
        networks: name → maps points of shape [n, 2] to outputs of shape [n, 1].
        points: shape [n, 2].
        positive: shape [n], which of the points should have a positive output.
    """
    import torch

    figure, axes = new_figure(len(networks), width=3.2 * len(networks), height=3.4)
    (left, bottom), (right, top) = points.amin(dim=0).tolist(), points.amax(dim=0).tolist()
    x, y = torch.meshgrid(
        torch.linspace(left, right, 160, dtype=points.dtype),
        torch.linspace(bottom, top, 160, dtype=points.dtype),
        indexing="xy",
    )
    for ax, (name, network) in zip(axes, networks.items(), strict=True):
        with torch.no_grad():
            output = network(torch.stack([x.flatten(), y.flatten()], dim=1)).reshape(x.shape)
        ax.contourf(x, y, output > 0, levels=[-0.5, 0.5, 1.5], colors=["white", COLOURS[0]], alpha=0.25)
        for group, marker, colour in ((positive, "o", COLOURS[0]), (~positive, "x", COLOURS[1])):
            ax.plot(*points[group].T, marker, color=colour, markersize=3.5)
        ax.set(title=name, xlabel=xlabel, xlim=(left, right), ylim=(bottom, top))
        ax.grid(False)
    axes[0].set_ylabel(ylabel)
    return figure


def paths_side_by_side(
    walks: dict[str, tuple[Callable[["Tensor"], "Tensor"], "Tensor"]],
    window: tuple[float, float, float, float],
    goal: "Tensor",
    labels: tuple[str, str],
) -> "Figure":
    """One panel per walk: contour lines of its own loss and its path; the star is the goal that they share.

    Args:
        walks: name → (loss of points [..., 2] → [...], path of shape [steps + 1, 2]).
        window: left, right, bottom, top.
        goal: shape [2].
        labels: what the two coordinates mean.
    """
    import torch

    figure, axes = new_figure(len(walks), width=4.4 * len(walks), height=4.2)
    left, right, bottom, top = window
    x, y = torch.meshgrid(
        torch.linspace(left, right, 120, dtype=goal.dtype),
        torch.linspace(bottom, top, 120, dtype=goal.dtype),
        indexing="xy",
    )
    for ax, (name, (loss, path)) in zip(axes, walks.items(), strict=True):
        ax.contour(x, y, loss(torch.stack([x, y], dim=-1)) ** 0.5, levels=12, colors="0.75", linewidths=0.7)
        ax.plot(*path.T, ".-", color=OF_ACTIVATION.get(name), markersize=5, linewidth=1.3)
        ax.plot(*path[0], "o", color="black", markersize=7)
        ax.annotate("start", tuple(path[0].tolist()), xytext=(8, 4), textcoords="offset points")
        ax.plot(*goal, "*", color="black", markersize=14, markerfacecolor="white", zorder=3)
        ax.set(title=name, xlim=(left, right), ylim=(bottom, top), xlabel=labels[0], ylabel=labels[1], aspect="equal")
    return figure


def functions_and_slopes(functions: dict[str, Callable[["Tensor"], "Tensor"]], reach: float = 5.0) -> "Figure":
    """Left the functions over [−reach, reach], right their derivatives as autograd finds them."""
    figure, axes = new_figure(2, width=9.0, height=3.4)
    for name, function in functions.items():
        draw_function_and_slope(*axes, name, function, reach)
    axes[0].legend()
    return figure


def draw_function_and_slope(
    left: "Axes", right: "Axes", name: str, function: Callable[["Tensor"], "Tensor"], reach: float
) -> None:
    """Add one function and its derivative to a pair of panels."""
    import torch

    x = torch.linspace(-reach, reach, 1000, dtype=torch.float64, requires_grad=True)  # even: 0, the kink, is left out
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    for ax, values, title in ((left, y, "function"), (right, slope, "derivative")):
        ax.plot(x.detach(), values.detach(), label=name, color=OF_ACTIVATION.get(name))
        ax.set(title=title, xlabel="x")


def gradient_by_layer(norms: dict[str, "Tensor"], titles: Sequence[str] = ("",)) -> "Figure":
    """The size of a gradient on its way back, on a logarithmic scale.

    Args:
        norms: name → shape [panels, layers + 1] or [layers + 1]: the size at the input (0), after layer 1, 2, …
        titles: one for each panel.
    """
    figure, axes = new_figure(len(titles), width=max(7.5, 3.6 * len(titles)), height=3.8)
    for panel, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        ax.sharey(axes[0])
        for name, values in norms.items():
            values = values.reshape(len(titles), -1)[panel]
            # Leaky ReLU lies upon ReLU: dashes let both be seen.
            line = "--" if name == "leaky ReLU" else "-"
            ax.plot(values, line, label=name, color=OF_ACTIVATION.get(name))
        last = len(values) - 1
        ax.set(title=title, yscale="log", xlim=(0, last), xticks=range(0, last + 1, 5))
        ax.set_xlabel("layer    ← the gradient travels this way")
    axes[0].set_ylabel("gradient, last layer = 1")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
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
            ax.locator_params(axis="x", integer=True)
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


# The same search has the same colour in every figure.
OF_SEARCH = {
    "by meaning": COLOURS[0],
    "by letters (BM25)": COLOURS[1],
    "both fused": COLOURS[2],
    "vectors shuffled": "0.6",
    "exact": COLOURS[0],
    "ivf": COLOURS[1],
    "hnsw": COLOURS[2],
}


def recall_curves(
    curves: dict[str, Sequence[float]], shares: dict[str, dict[str, tuple[int, int]]], k: int = 5
) -> "Figure":
    """Left recall against k = 1, 2, … for every search; right how many questions have all at `k`, see `draw_shares`."""
    figure, (left, right) = new_figure(2, width=11.0, height=3.8)
    for name, values in curves.items():
        left.plot(range(1, len(values) + 1), [float(value) for value in values], label=name, color=OF_SEARCH.get(name))
    left.axvline(k, color="0.7", linewidth=1, linestyle=":")
    left.set(xlabel="k, passages taken", ylabel="recall at k", ylim=(-0.02, 1.02), xlim=(1, None))
    left.set_xticks([1, *range(k, len(next(iter(curves.values()))) + 1, k)])
    left.legend(loc="center right")
    draw_shares(right, shares)
    right.set(ylabel=f"all needs met by the first {k}")
    return figure


def shares(groups: dict[str, dict[str, tuple[int, int]]], ylabel: str) -> "Figure":
    """One panel of `draw_shares`."""
    figure, [ax] = new_figure(width=8.0)
    draw_shares(ax, groups)
    ax.set(ylabel=ylabel)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(groups))
    return figure


def draw_shares(ax: "Axes", groups: dict[str, dict[str, tuple[int, int]]]) -> None:
    """Name → kind → (how many are right, of how many): a dot for each share, with its interval of 95 %."""
    from course_utils.metrics import wilson_interval

    kinds = list(next(iter(groups.values())))
    for number, (name, counts) in enumerate(groups.items()):
        places = [place + (number - (len(groups) - 1) / 2) * 0.15 for place in range(len(kinds))]
        middles = [right / total for right, total in counts.values()]
        ends = [wilson_interval(right, total) for right, total in counts.values()]
        errors = [
            [middle - low for middle, (low, _) in zip(middles, ends, strict=True)],
            [high - middle for middle, (_, high) in zip(middles, ends, strict=True)],
        ]
        ax.errorbar(places, middles, yerr=errors, fmt="o", capsize=3, label=name, color=OF_SEARCH.get(name))
    ax.set_xticks(range(len(kinds)), [f"{kind}\n({groups[next(iter(groups))][kind][1]})" for kind in kinds])
    ax.set(ylim=(-0.02, 1.02))


def retrieved(
    question: str,
    found: Sequence[tuple[float, str, str]],
    prompt: str,
    answer: str,
    terms: Callable[[str], Collection[str]],
) -> "Figure":
    """A question on its way to an answer: passages (score, file, text) with what they share with it, prompt, answer.

    Args:
        terms: cuts a text into the terms that are compared; what both have is drawn in colour.
    """
    asked = set(terms(question))
    rows: list[tuple[str, list[tuple[str, bool]]]] = [("question", [(question, False)])]
    for score, file, text in found:
        rows.append((f"{score:.2f}  {file}", _marked(text, asked)))
    rows += [
        ("prompt", [(line, False)]) if not n else ("", [(line, False)]) for n, line in enumerate(prompt.split("\n"))
    ]
    rows.append(("answer", [(answer or "—", True)]))
    lines = []
    for label, parts in rows:
        for n, wrapped in enumerate(_lines_of_parts(parts, width=92)):
            lines.append(("" if n else label, wrapped))
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

    figure, [ax] = new_figure(width=9.5, height=0.21 * len(lines))
    ax.set_axis_off()
    for number, (label, parts) in enumerate(lines):
        y = 1 - (number + 0.5) / len(lines)
        ax.text(0, y, drawable(label), color="0.4", fontsize=9, va="center", transform=ax.transAxes)
        pieces = [
            TextArea(drawable(text), textprops={"fontsize": 9, "color": COLOURS[1] if shared else "black"})
            for text, shared in parts
        ]
        line = HPacker(children=pieces, align="baseline", pad=0, sep=0)
        at = {"xycoords": "axes fraction", "box_alignment": (0, 0.5), "frameon": False, "pad": 0}
        ax.add_artist(AnnotationBbox(line, (0.24, y), **at))
    return figure


def _marked(text: str, asked: Collection[str]) -> list[tuple[str, bool]]:
    """The text in parts, each with whether it is among the terms asked for."""
    import re

    shared = [False] * len(text)
    for term in asked:
        for hit in re.finditer(rf"(?<![a-z0-9]){re.escape(term)}(?![a-z0-9])", text.lower()):
            shared[hit.start() : hit.end()] = [True] * len(term)
    return [
        ("".join(letter for letter, _ in part), mark)
        for mark, part in itertools.groupby(zip(text, shared, strict=True), key=lambda pair: pair[1])
    ]


def _lines_of_parts(parts: list[tuple[str, bool]], width: int) -> list[list[tuple[str, bool]]]:
    """The parts in lines of at most `width` columns; a Chinese character takes two."""
    import unicodedata

    lines: list[list[tuple[str, bool]]] = [[]]
    room = width
    for text, mark in parts:
        piece = ""
        for letter in text:
            needs = 2 if unicodedata.east_asian_width(letter) in "WF" else 1
            if needs > room:
                lines[-1].append((piece, mark))
                lines.append([])
                piece, room = "", width
            piece, room = piece + letter, room - needs
        lines[-1].append((piece, mark))
    return [[part for part in line if part[0]] or [(" ", False)] for line in lines]


def drawable(text: str) -> str:
    """The text with a box for every character that the course's fonts lack; a dollar is just a dollar."""
    from matplotlib import font_manager

    fonts = [
        font_manager.get_font(str(runtime.DATA / CHINESE_FONT_FILE)),
        font_manager.get_font(font_manager.findfont("DejaVu Sans")),
    ]
    known = [letter if any(font.get_char_index(ord(letter)) for font in fonts) else "□" for letter in text]
    return "".join(known).replace("$", r"\$")


# The same tensor of a transformer has the same colour in every figure.
OF_TENSOR = {
    **dict(zip(["token", "query", "position", "key", "weights", "value"], COLOURS, strict=False)),
    "stream": "#777777",
    "feed-forward": "#8C6D31",
}


def text_to_logits(
    until: str,
    tokens: Sequence[str],
    ids: Sequence[int],
    vocab_size: int,
    *,
    hidden_size: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    next_token: str = "?",
) -> "Figure":
    """The way of a text through a GPT, tensor by tensor with their shapes; it grows from notebook 05 to 08.

    Each tensor has one strip per token and, except for the logits, its true width; the last token's strip is darker.

    Args:
        until: the last stage shown: "embeddings" (05), "attention" (06), "block" (07), "logits" or "token" (08).
        tokens, ids: of the text; at most a dozen are readable.
        vocab_size, hidden_size, num_layers, num_heads: of the model, as in `course_utils.gpt.GPTConfig`.
        next_token: what comes out at the end of stage "token".
    """
    stages = ["embeddings", "attention", "block", "logits", "token"]
    if until not in stages:
        raise CourseError(
            f"until is {until!r}, but must be one of {', '.join(stages)}.",
            f"until 为 {until!r}，应为以下之一：{', '.join(stages)}。",
        )
    if len(tokens) != len(ids):
        raise CourseError(
            f"{len(tokens)} tokens and {len(ids)} ids were given: each token has one id.",
            f"给出了 {len(tokens)} 个词元和 {len(ids)} 个 id：每个词元应有一个 id。",
        )
    last = stages.index(until)
    n, d = len(tokens), hidden_size
    row, unit = 0.15, 0.62  # inches: height of a strip, width of a tensor with hidden_size columns
    tall, vocabulary = n * row, 2.0
    titles = [
        "05 · text to vectors",
        "06 · attention",
        f"07 · a block, {num_layers} of them",
        "08 · scores for a token",
    ]
    lane = tall + 1.1
    lanes = min(last, 3) + 1
    figure, [ax] = new_figure(width=9.6, height=lanes * lane)
    ax.set(xlim=(0, 9.6), ylim=(-lanes * lane, 0), aspect="equal")
    ax.axis("off")
    x = top = 0.0

    def start(number: int) -> None:
        nonlocal x, top
        x, top = 0.1, -number * lane - 0.6
        ax.text(0, top + 0.5, titles[number], weight="bold", color="black" if number == lanes - 1 else "0.5")

    def label(name: str, shape: str, width: float, lift: float = 0.07) -> None:
        ax.text(x + width / 2, top + lift, name, ha="center", va="bottom", fontsize=8.5)
        ax.text(x + width / 2, top - tall - 0.07, shape, ha="center", va="top", fontsize=8.5, color="0.35")

    def tensor(
        name: str, shape: str, of: str, width: float = unit, *, slices: int = 1, rows: Sequence[int] = range(n)
    ) -> None:
        nonlocal x
        for r in rows:
            alpha = 0.85 if r == n - 1 else 0.4
            ax.add_patch(_box(x, top - (r + 1) * row, width, row, OF_TENSOR[of], alpha=alpha, edgecolor="white"))
        for edge in range(1, slices):
            ax.plot([x + edge * width / slices] * 2, [top, top - tall], color="white", linewidth=2)
        label(name, shape, width)
        x += width

    def column(name: str, shape: str, texts: Sequence[object], width: float) -> None:
        nonlocal x
        for r, text in enumerate(texts):
            weight = {"color": "black"} if r == n - 1 else {"color": "0.35"}
            ax.text(x + width / 2, top - (r + 0.5) * row, text, ha="center", va="center", fontsize=8.5, **weight)
        label(name, shape, width)
        x += width

    def attention_weights() -> None:
        nonlocal x
        shift = 0.06
        for card in reversed(range(num_heads)):
            left, high = x + card * shift, top + card * shift
            ax.add_patch(_box(left, high - tall, tall, tall, "white", edgecolor="0.6"))
        for r, c in itertools.product(range(n), range(n)):
            alpha = 0 if c > r else 0.85 if r == n - 1 else 0.4
            cell = (x + c * row, top - (r + 1) * row, row, row)
            ax.add_patch(_box(*cell, OF_TENSOR["weights"], alpha=alpha, edgecolor="white"))
        label("weights", f"[{num_heads}, {n}, {n}]", tall, lift=num_heads * shift)
        x += tall + (num_heads - 1) * shift

    def arrow(*what: str, width: float = 0.95, rows_above: float = n / 2) -> None:
        nonlocal x
        middle = top - rows_above * row
        ax.annotate(
            "", (x + width - 0.05, middle), (x + 0.05, middle), arrowprops={"arrowstyle": "-|>", "color": "0.3"}
        )
        ax.text(x + width / 2, middle + 0.06, "\n".join(what), ha="center", va="bottom", fontsize=8)
        x += width

    def sign(text: str, width: float = 0.36) -> None:
        nonlocal x
        ax.text(x + width / 2, top - tall / 2, text, ha="center", va="center", fontsize=13)
        x += width

    def add_from(source: float) -> None:
        """A plus sign, and the line that brings the tensor at `source` past everything in between."""
        goal, low = x + 0.18, top - tall - 0.32
        sign("+")
        ax.plot([source, source, goal], [top - tall - 0.22, low, low], color="0.3", linewidth=1.2)
        ax.annotate("", (goal, top - tall / 2 - 0.1), (goal, low), arrowprops={"arrowstyle": "-|>", "color": "0.3"})

    start(0)
    column("tokens", "", tokens, 0.6)
    arrow("vocabulary", width=1.4)
    column("ids", f"[{n}]", ids, 0.6)
    arrow("rows of", f"$E$ [{vocab_size}, {d}]", width=1.7)
    tensor("token vectors", f"[{n}, {d}]", "token")
    sign("+", 1.0)
    tensor("positions", f"[{n}, {d}]", "position")
    sign("=", 1.0)
    tensor("x", f"[{n}, {d}]", "stream")
    if last >= 1:
        start(1)
        tensor("x", f"[{n}, {d}]", "stream")
        arrow("× $W_Q$", "× $W_K$", "× $W_V$", width=0.75)
        for name in ["query", "key", "value"]:
            tensor(name, f"[{num_heads}, {n}, {d // num_heads}]", name, unit, slices=num_heads)
            x += 0.3
        arrow("query · key", r"÷ $\sqrt{d_k}$, mask,", "softmax", width=1.0)
        attention_weights()
        arrow("× value", width=0.75)
        tensor("mixed", f"[{n}, {d}]", "value", slices=num_heads)
        arrow("× $W_O$", width=0.75)
        tensor("to be added", f"[{n}, {d}]", "value")
    if last >= 2:
        start(2)
        tensor("x", f"[{n}, {d}]", "stream")
        source = x - unit / 2
        arrow("norm,", "attention", width=0.9)
        tensor("", f"[{n}, {d}]", "value")
        add_from(source)
        tensor("x", f"[{n}, {d}]", "stream")
        source = x - unit / 2
        arrow("norm,", "× $W_{up}$,", "GELU", width=0.75)
        tensor("feed-forward", f"[{n}, {4 * d}]", "feed-forward", 4 * unit)
        arrow("× $W_{down}$", width=0.85)
        tensor("", f"[{n}, {d}]", "feed-forward")
        add_from(source)
        tensor("x", f"[{n}, {d}]", "stream")
    if last >= 3:
        start(3)
        tensor("x", f"[{n}, {d}]", "stream")
        arrow("final", "norm", width=0.75)
        tensor("", f"[{n}, {d}]", "stream")
        arrow("× $E^T$", width=0.7)
        tensor("logits", f"[{n}, {vocab_size}], not to scale", "token", vocabulary)
    if last >= 4:
        arrow("last row,", "softmax", width=0.85, rows_above=n - 0.5)
        tensor("", f"[{vocab_size}], sums to 1", "token", vocabulary, rows=[n - 1])
        arrow("choose", width=0.8, rows_above=n - 0.5)
        ax.text(x + 0.1, top - (n - 0.5) * row, next_token, ha="left", va="center", fontsize=13)
    return figure


def _box(x: float, y: float, width: float, height: float, colour: str, **style: object) -> "Patch":
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=colour, **style)


def token_boxes(rows: Mapping[str, Sequence[bytes]]) -> "Figure":
    """Texts cut into tokens, one box each. A token that is only a part of a character is shown by its bytes, `E7 8C`.

    Args:
        rows: name → the tokens of a text, as UTF-8 bytes.
    """
    lines_of = {name: _wrapped(tokens, most=64) for name, tokens in rows.items()}
    height = sum(0.34 * len(lines) + 0.36 for lines in lines_of.values())
    figure, [ax] = new_figure(width=9.0, height=height)
    ax.set(xlim=(0, 9), ylim=(-height, 0))
    ax.axis("off")
    y = 0.0
    for name, tokens in rows.items():
        characters = len(b"".join(tokens).decode("utf-8", errors="replace"))
        a_character = f", {len(tokens) / characters:.2f} per character" if characters else ""
        ax.text(0, y - 0.16, name, weight="bold", va="center", fontsize=9.5)
        ax.text(9, y - 0.16, f"{len(tokens)} tokens{a_character}", ha="right", va="center", fontsize=9.5)
        y -= 0.3
        for line in lines_of[name]:
            x = 0.0
            for number, text, units, whole in line:
                width = units * 9 / 65
                box = _box(x + 0.01, y - 0.29, width - 0.02, 0.26, COLOURS[number % 5], alpha=0.3, edgecolor="none")
                ax.add_patch(box)
                size = 9 if whole else 7.5
                ax.text(x + width / 2, y - 0.165, text, ha="center", va="center", fontsize=size, parse_math=False)
                x += width
            y -= 0.34
        y -= 0.06
    return figure


def _wrapped(tokens: Sequence[bytes], most: float) -> list[list[tuple[int, str, float, bool]]]:
    """Lines of (number of the token, what is shown, its width, whether it is whole characters), at most `most` wide."""
    import unicodedata

    lines, used = [[]], 0.0
    for number, token in enumerate(tokens):
        try:
            shown, whole = "".join(_visible(character) for character in token.decode("utf-8")), True
            units = 0.7 + sum(1.6 if unicodedata.east_asian_width(c) in "WF" else 0.85 for c in shown)
        except UnicodeDecodeError:
            shown, whole = token.hex(" ").upper(), False
            units = 0.5 + 0.65 * len(shown)
        if used + units > most and lines[-1]:
            lines.append([])
            used = 0.0
        lines[-1].append((number, shown, units, whole))
        used += units
    return lines


def _visible(character: str) -> str:
    """The character itself, a sign for a space, or its number where the course's fonts cannot draw it."""
    if character.isspace():
        return "␣" if character == " " else "⏎"
    return character if any(font.get_char_index(ord(character)) for font in _fonts()) else f"U+{ord(character):X}"


@functools.cache
def _fonts() -> list:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    _add_chinese_font()
    return [FT2Font(findfont(name)) for name in ("DejaVu Sans", CHINESE_FONT)]


# The same way of telling a position has the same colour in every figure.
OF_POSITION = dict(zip(["learned", "sinusoidal", "relative", "rotary"], COLOURS, strict=False))


def similarities(panels: Mapping[str, "Tensor"], groups: Mapping[str, Sequence[str]]) -> "Figure":
    """How alike each two words are, from −1 (blue) to 1 (red): one square for each panel, ordered by groups.

    Args:
        panels: title → similarities of all words of all groups, in their order, shape [words, words].
        groups: what the words have in common → the words.
    """
    words = [word for members in groups.values() for word in members]
    figure, axes = new_figure(len(panels), width=2.0 + 3.1 * len(panels), height=4.4)
    for ax, (title, matrix) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(False)
        for end in list(itertools.accumulate(len(members) for members in groups.values()))[:-1]:
            ax.axhline(end - 0.5, color="black", linewidth=0.8)
            ax.axvline(end - 0.5, color="black", linewidth=0.8)
    axes[0].set_yticks(range(len(words)), words, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.6, label="cosine similarity")
    return figure


# The same part of a model, or of the memory that it takes, has the same colour in every figure.
OF_PART = {
    "embeddings": OF_TENSOR["token"],
    "attention": OF_TENSOR["value"],
    "feed-forward": OF_TENSOR["feed-forward"],
    "norms": "black",
    "rest": "0.7",
    **dict(zip(["weights", "gradients", "KV cache", "optimiser", "activations"], COLOURS, strict=False)),
    "trained": COLOURS[1],  # numbers with their gradients and the optimiser's
}


def stacked_bars(
    rows: Mapping[str, Mapping[str, float]], xlabel: str, limits: Mapping[str, float] | None = None
) -> "Figure":
    """One horizontal bar per row, made of parts laid end to end; `limits` are named, dashed lines across all rows.

    Args:
        rows: name → part → size. Each part has one colour; the total stands behind the bar.
        xlabel: what is measured.
        limits: name → where the line stands.
    """
    limits = limits or {}
    figure, [ax] = new_figure(width=8.5, height=1.3 + 0.45 * len(rows))
    for place, parts in enumerate(rows.values()):
        start = 0.0
        for part, size in parts.items():
            ax.barh(place, size, left=start, height=0.6, color=OF_PART.get(part), label=part)
            start += size
        ax.text(start, place, f"  {start:.4g}", va="center", fontsize=9)
    longest = max([sum(parts.values()) for parts in rows.values()] + list(limits.values()))
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel=xlabel, xlim=(0, 1.1 * longest))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    for name, where in limits.items():
        ax.axvline(where, color="0.3", linestyle="--", linewidth=1.2)
        ax.text(where, -0.55, f" {name}", ha="center", va="bottom", fontsize=9, color="0.3")
    handles, names = ax.get_legend_handles_labels()
    if by_name := dict(zip(names, handles, strict=True)):
        figure.legend(by_name.values(), by_name, loc="outside right upper", fontsize=9)
    return figure


def who_hears_whom(panels: Mapping[str, "Tensor"], tokens: Sequence[str]) -> "Figure":
    """One square per panel: row i has a coloured field in column j where the vector of token i depends on token j.

    Args:
        panels: name → shape [n, n], true or false.
        tokens: the n tokens.
    """
    from matplotlib.colors import ListedColormap

    figure, axes = new_figure(len(panels), width=2.9 * len(panels), height=3.2)
    places = range(len(tokens))
    for ax, (name, heard) in zip(axes, panels.items(), strict=True):
        ax.imshow(heard.numpy(), cmap=ListedColormap(["white", OF_TENSOR["weights"]]), vmin=0, vmax=1)
        ax.set(title=name, xticks=places, xticklabels=tokens, yticks=places, yticklabels=tokens, xlabel="… this one")
        ax.set_xticks([place - 0.5 for place in places], minor=True)
        ax.set_yticks([place - 0.5 for place in places], minor=True)
        ax.grid(False)
        ax.grid(which="minor", color="0.85", linewidth=0.8)
        ax.tick_params(which="both", length=0)
    axes[0].set_ylabel("this one hears …")
    return figure


def attention_maps(
    maps: dict[str, "Tensor"], queries: Sequence[str], keys: Sequence[str] | None = None, *, per_row: int = 4
) -> "Figure":
    """One heat map per entry: row i shows how token i shares its attention out among the columns.

    A weight of exactly 0, as only a mask makes it, is grey. Small maps have their numbers written in.

    Args:
        maps: title → weights of shape [len(queries), len(keys)]; each row sums to 1.
        queries: the tokens that look, from top to bottom.
        keys: the tokens that are looked at, from left to right; without it, the same.
        per_row: maps that stand side by side.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap

    keys = queries if keys is None else keys
    columns = min(per_row, len(maps))
    rows = -(-len(maps) // columns)
    alone = len(maps) == 1
    # Many maps are small pictures to compare; one map, or a few of a few tokens, are there to be read.
    cell = 0.34 if len(keys) > 8 and alone else 0.58 if len(maps) <= 4 else 1.5 / len(keys)
    readable = len(keys) <= 8 and len(maps) <= 4
    shades = LinearSegmentedColormap.from_list("weights", ["white", OF_TENSOR["weights"]]).with_extremes(bad="0.9")
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * (cell * len(keys) + 0.35) + 1.2, rows * (cell * len(queries) + 0.45) + 0.8),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    plt.close(figure)
    for ax in axes.flat[len(maps) :]:
        ax.axis("off")
    for ax, (title, weights) in zip(axes.flat, maps.items(), strict=False):
        weights = weights.detach().double()
        ax.imshow(weights.masked_fill(weights == 0, float("nan")).numpy(), cmap=shades, vmin=0, vmax=1, aspect="auto")
        ax.set_title(title, fontsize=10)
        small = {"fontsize": 10 if cell > 0.3 else 7}
        ax.set_xticks(range(len(keys)), keys, **small)
        ax.set_yticks(range(len(queries)), queries, **small)
        ax.tick_params(length=0)
        ax.grid(False)
        for side in ("top", "right"):
            ax.spines[side].set_visible(True)
        for i, row in enumerate(weights.tolist() if readable else []):
            for j, weight in enumerate(row):
                if weight > 0:
                    ax.text(j, i, f"{weight:.2f}".lstrip("0"), ha="center", va="center", fontsize=9)
    figure.supxlabel("looked at", fontsize=9)
    figure.supylabel("who looks", fontsize=9)
    return figure


def power_laws(panels: dict[str, dict[str, Sequence[float]]], x: Sequence[float], xlabel: str) -> "Figure":
    """One panel per quantity, both axes logarithmic: measured points, and the power of x that fits the last three.

    Args:
        panels: label of the y axis → name of the line → values at `x`.
        x: where was measured, at least three places.
        xlabel: what x means.
    """
    import numpy as np

    figure, axes = new_figure(len(panels), width=4.9 * len(panels), height=3.8)
    for ax, (ylabel, lines) in zip(axes, panels.items(), strict=True):
        for number, (name, values) in enumerate(lines.items()):
            power, shift = np.polyfit(np.log(x[-3:]), np.log(values[-3:]), 1)
            ax.plot(x, values, "o", color=COLOURS[number], markersize=5)
            fit = np.exp(shift) * np.asarray(x[-3:], dtype=float) ** power
            ax.plot(x[-3:], fit, color=COLOURS[number], linewidth=1.2, label=f"{name}: n to the power {power:.1f}")
        ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
        ax.set_xticks(x, [f"{place:g}" for place in x])
        ax.minorticks_off()
        ax.legend(fontsize=9)
    return figure


def next_tokens(panels: dict[str, "Tensor"], vocabulary: Sequence[str], top: int = 12) -> "Figure":
    """One panel per entry: a bar for each of the tokens that the first entry finds most probable.

    Args:
        panels: title → probabilities, shape [len(vocabulary)].
        vocabulary: the tokens' texts.
        top: how many bars.
    """
    figure, axes = new_figure(len(panels), width=1.0 + 2.2 * len(panels), height=0.8 + 0.26 * top)
    order = next(iter(panels.values())).argsort(descending=True, stable=True)[:top].tolist()
    widest = max(float(probabilities[order].max()) for probabilities in panels.values())
    for ax, (title, probabilities) in zip(axes, panels.items(), strict=True):
        draw_next_tokens(ax, probabilities, [vocabulary[i] for i in order], order)
        others = 1 - float(probabilities[order].sum())
        ax.set(title=title, xlim=(0, 1.1 * widest), xlabel=f"all others: {max(others, 0):.2f}")
    return figure


def draw_next_tokens(ax: "Axes", probabilities: "Tensor", names: Sequence[str], ids: Sequence[int]) -> None:
    """Horizontal bars for the tokens `ids`, from top to bottom; a token without probability gets a cross."""
    values = [float(probabilities[i]) for i in ids]
    ax.barh(range(len(ids)), values, color=OF_TENSOR["token"])
    for row, value in enumerate(values):
        if value == 0:
            ax.plot(0, row, "x", color=COLOURS[1], clip_on=False, markersize=6)
    ax.set_yticks(range(len(ids)), [name.replace(" ", "␣").replace("\n", "⏎") for name in names])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def cuts(panels: dict[str, "Tensor"], kept: dict[str, Callable[["Tensor"], int]], most: int = 80) -> "Figure":
    """One panel per entry: probabilities in falling order, and how many tokens each rule keeps.

    Args:
        panels: title → probabilities, shape [vocabulary].
        kept: rule → function from the probabilities to the number of tokens that stay.
        most: ranks that are drawn.
    """
    figure, axes = new_figure(len(panels), width=9.5, height=3.8)
    for ax, (title, probabilities) in zip(axes, panels.items(), strict=True):
        ranks = range(1, most + 1)
        ax.bar(ranks, probabilities.sort(descending=True).values[:most].tolist(), color="0.8", width=1.0)
        for number, (rule, count) in enumerate(kept.items()):
            stay = count(probabilities)
            ax.axvline(min(stay, most) + 0.5, color=COLOURS[number], linestyle=["-", "--", ":"][number % 3])
            ax.plot([], [], color=COLOURS[number], linestyle=["-", "--", ":"][number % 3], label=f"{rule}: {stay} stay")
        ax.set(title=title, xlabel="tokens, most probable first", yscale="log", ylim=(1e-5, 1.2), xlim=(0, most + 2))
        ax.legend(loc="upper right")
    axes[0].set_ylabel("probability")
    return figure


def memory_bars(weights: Mapping[str, float], cache: float, rest: float, limits: Mapping[str, float]) -> "Figure":
    """One bar for each number format: weights, cache and the rest, in GiB, against what each GPU of `limits` has."""
    figure, [ax] = new_figure(width=8.0, height=0.55 * len(weights) + 1.6)
    ends = []
    for row, gib in enumerate(weights.values()):
        start = 0.0
        for name, part, colour in [
            ("weights", gib, COLOURS[0]),
            ("cache", cache, COLOURS[1]),
            ("the rest", rest, "0.7"),
        ]:
            ax.barh(row, part, left=start, color=colour, height=0.6, label=name if row == 0 else None)
            start += part
        ax.text(start, row, f" {start:.1f}", va="center", fontsize=9)
        ends.append(1.1 * start)
    for name, gib in limits.items():
        ax.axvline(gib, color="black", linestyle="--", linewidth=1)
        ax.text(gib, -0.75, f" {name} ", ha="right" if gib == min(limits.values()) else "left", fontsize=9)
    ax.set(
        yticks=range(len(weights)),
        yticklabels=list(weights),
        xlabel="GiB",
        xlim=(0, max(22, *ends)),
        ylim=(len(weights) - 0.5, -1),
    )
    ax.grid(axis="y", visible=False)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def shares_in_rows(counts: dict[str, tuple[int, int]], xlabel: str, chance: float | None = None) -> "Figure":
    """One row per entry, (right, total): the share as a point, its 95 % interval (Wilson) as a bar."""
    from course_utils.metrics import wilson_interval

    figure, [ax] = new_figure(width=7.0, height=1.2 + 0.36 * len(counts))
    for place, (right, total) in enumerate(counts.values()):
        ax.plot(wilson_interval(right, total), [place, place], color=COLOURS[0], linewidth=3, alpha=0.5)
        ax.plot(right / total, place, "o", color=COLOURS[0])
    if chance is not None:
        ax.axvline(chance, color="0.5", linestyle="--", linewidth=1)
        ax.text(chance, -0.75, " chance", color="0.4", va="center")
    ax.set(yticks=range(len(counts)), yticklabels=list(counts), xlim=(0, 1.02), ylim=(len(counts) - 0.5, -1.2))
    ax.set_xlabel(xlabel)
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.grid(axis="y", visible=False)
    return figure


def confusion_matrices(matrices: dict[str, Sequence[Sequence[int]]], rows: list[str], columns: list[str]) -> "Figure":
    """Counts as shaded squares with their numbers, one panel per matrix; rows are what is true."""
    figure, axes = new_figure(len(matrices), width=4.3 * len(matrices), height=4.0)
    for ax, (title, counts) in zip(axes, matrices.items(), strict=True):
        most = max(map(max, counts))
        ax.imshow(counts, cmap="Blues", vmin=0, vmax=most)
        for i, row in enumerate(counts):
            for j, number in enumerate(row):
                ax.text(j, i, number, ha="center", va="center", color="white" if number > 0.6 * most else "black")
        ax.set(title=title, xlabel="answer", xticks=range(len(columns)), yticks=range(len(rows)))
        ax.set_xticklabels(columns, rotation=35, ha="right")
        ax.set_yticklabels(rows)
        ax.grid(visible=False)
    axes[0].set_ylabel("true class")
    return figure
