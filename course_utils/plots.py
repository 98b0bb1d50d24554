"""Figures: one style for all of them, with Chinese glyphs that are really drawn."""

import itertools
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
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
    curves: dict[str, Sequence[float]], shares: dict[str, dict[str, tuple[float, int]]], k: int = 5
) -> "Figure":
    """Left recall against k = 1, 2, … for every search; right the shares found at `k`, as `draw_shares` has them."""
    figure, (left, right) = new_figure(2, width=11.0, height=3.8)
    for name, values in curves.items():
        left.plot(range(1, len(values) + 1), [float(value) for value in values], label=name, color=OF_SEARCH.get(name))
    left.axvline(k, color="0.7", linewidth=1, linestyle=":")
    left.set(xlabel="k, passages taken", ylabel="recall at k", ylim=(-0.02, 1.02), xlim=(1, None))
    left.set_xticks([1, *range(k, len(next(iter(curves.values()))) + 1, k)])
    left.legend(loc="center right")
    draw_shares(right, shares)
    right.set(ylabel=f"recall at {k}")
    return figure


def shares(groups: dict[str, dict[str, tuple[float, int]]], ylabel: str) -> "Figure":
    """One panel of `draw_shares`."""
    figure, [ax] = new_figure(width=8.0)
    draw_shares(ax, groups)
    ax.set(ylabel=ylabel)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(groups))
    return figure


def draw_shares(ax: "Axes", groups: dict[str, dict[str, tuple[float, int]]]) -> None:
    """Name → kind → (how many are right, of how many): a dot for each share, with its interval of 95 %."""
    from course_utils.metrics import wilson_interval

    kinds = list(next(iter(groups.values())))
    for number, (name, counts) in enumerate(groups.items()):
        places = [place + (number - (len(groups) - 1) / 2) * 0.15 for place in range(len(kinds))]
        middles = [right / total for right, total in counts.values()]
        ends = [wilson_interval(round(right), total) for right, total in counts.values()]
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
        for n, wrapped in enumerate(_wrapped(parts, width=92)):
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


def _wrapped(parts: list[tuple[str, bool]], width: int) -> list[list[tuple[str, bool]]]:
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
