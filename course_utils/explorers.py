"""Explorers: sliders that redraw a figure, with a static default picture for readers without a kernel.

An explorer is one display with three faces: the live widget in JupyterLab, a PNG on GitHub, in print and in slides,
and a line of text for terminals and for the comparison of outputs.
"""

import base64
import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.messages import CourseError

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure
    from torch import Tensor


STEPS = 100  # of a path on a surface


class Explorer:
    """Controls and the figure that `draw` makes from their values.

    Args:
        title: one line that names the explorer; also its text form.
        draw: takes one keyword argument for each control and returns a new figure.
        controls: ipywidgets by the name of the argument that they set.
    """

    def __init__(self, title: str, draw: Callable[..., "Figure"], controls: dict[str, "Widget"]):
        import ipywidgets

        self.title, self.draw, self.controls = title, draw, controls
        self.image = ipywidgets.Image(value=self._png(), format="png", layout=ipywidgets.Layout(max_width="100%"))
        for control in controls.values():
            control.observe(self._redraw, names="value")
        self.widget = ipywidgets.VBox(
            [ipywidgets.Box(list(controls.values()), layout={"flex_flow": "wrap"}), self.image]
        )

    def _png(self) -> bytes:
        figure = self.draw(**{name: control.value for name, control in self.controls.items()})
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()

    def _redraw(self, change: object) -> None:
        self.image.value = self._png()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        return {
            **self.widget._repr_mimebundle_(),
            "image/png": base64.b64encode(self.image.value).decode(),
            "text/plain": f"Explorer: {self.title}",
        }


def positive(name: str, value: float) -> float:
    """`value` if it is a positive number, else a CourseError that says what to give."""
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        return value
    raise CourseError(
        f"{name} is {value!r}, but must be a positive number such as 0.1.",
        f"{name} 为 {value!r}，应为正数，例如 0.1。",
    )


def one_of(name: str, value: str, choices: list[str]) -> str:
    """`value` if it is one of `choices`, else a CourseError that lists them and the nearest one."""
    import difflib

    if value in choices:
        return value
    near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.3) or choices[:1]
    raise CourseError(
        f"{name} {value!r} is unknown: choose one of {', '.join(choices)}. Did you mean {near[0]!r}?",
        f"没有名为 {value!r} 的 {name}：可选 {', '.join(choices)}。是否想用 {near[0]!r}？",
    )


def gradient_descent(
    optimizers: dict[str, tuple[Callable, object]],
    surfaces: dict[str, tuple[Callable[["Tensor"], "Tensor"], tuple[float, float, float, float]]],
    *,
    optimizer: str = "SGD",
    surface: str = "",
    learning_rate: float = 0.05,
) -> Explorer:
    """Explorer of notebook 01: surface, optimiser, ε, α or ρ, start point → path and loss curve.

    Args:
        optimizers: name → (step function, first state). A step takes (theta, g, state, learning_rate) and may take
            `alpha` or `rho`; it returns (theta, state).
        surfaces: name → (loss of points [..., 2] → [...], window (left, right, bottom, top)).
        optimizer, surface, learning_rate: what is shown first.
    """
    import ipywidgets

    from course_utils import plots

    surface = surface or next(iter(surfaces))
    one_of("optimizer", optimizer, list(optimizers))
    one_of("surface", surface, list(surfaces))
    positive("learning_rate", learning_rate)

    def draw(surface, optimizer, learning_rate, decay, across, up):
        loss, window = surfaces[surface]
        left, right, bottom, top = window
        start = (left + across * (right - left), bottom + up * (top - bottom))
        path = descent_path(*optimizers[optimizer], loss, start, learning_rate, decay)
        figure = plots.paths_on_contours(loss, {optimizer: path}, window)
        if len(path) <= STEPS:
            figure.suptitle(f"diverged after {len(path) - 1} steps: ε is too large here")
        return figure

    # The figure is drawn when a slider is let go: drawing takes longer than the slider's own steps.
    shared = {"continuous_update": False, "style": {"description_width": "initial"}}
    choose, slide = ipywidgets.Dropdown, ipywidgets.FloatSlider
    controls = {
        "surface": choose(options=list(surfaces), value=surface, description="surface"),
        "optimizer": choose(options=list(optimizers), value=optimizer, description="optimizer"),
        "learning_rate": ipywidgets.FloatLogSlider(
            value=learning_rate,
            min=-4,
            max=1,
            step=0.1,
            readout_format=".4f",
            description="ε (learning rate)",
            **shared,
        ),
        "decay": slide(value=0.9, max=0.99, step=0.01, description="α or ρ (memory)", **shared),
        "across": slide(value=0.2, max=1, step=0.01, description="start: left to right", **shared),
        "up": slide(value=0.75, max=1, step=0.01, description="start: bottom to top", **shared),
    }
    return Explorer("gradient descent on a surface", draw, controls)


def descent_path(
    step: Callable,
    state: object,
    loss: Callable[["Tensor"], "Tensor"],
    start: tuple[float, float],
    learning_rate: float,
    decay: float,
) -> "Tensor":
    """The points, shape [STEPS + 1, 2], that `step` visits from `start`; a path that leaves all bounds ends early.

    `decay` is handed to the optimiser as `alpha`, `rho` or `rho1`, whichever it takes.
    """
    import inspect

    import torch

    settings = {name: decay for name in ("alpha", "rho", "rho1") if name in inspect.signature(step).parameters}
    theta = torch.tensor(start, dtype=torch.float64)
    path = [theta]
    for _ in range(STEPS):
        point = theta.clone().requires_grad_()
        (g,) = torch.autograd.grad(loss(point), point)
        theta, state = step(theta, g, state, learning_rate, **settings)
        if not torch.isfinite(theta).all() or theta.abs().max() > 1e6:
            break
        path.append(theta)
    return torch.stack(path)


def initialisation(
    send: Callable[..., tuple[list["Tensor"], list["Tensor"]]],
    schemes: dict[str, Callable[[int, int], float]],
    activations: dict[str, Callable[["Tensor"], "Tensor"]],
    *,
    scheme: str = "",
    activation: str = "",
    width: int = 100,
    depth: int = 50,
) -> Explorer:
    """Explorer of notebook 04: width, depth, scheme, activation → histograms of signal and gradient at five layers.

    Args:
        send: takes (std, activation, width, depth), sends a signal forwards and a gradient back through a fresh
            network, and returns both for the layers 0 to depth.
        schemes: name → standard deviation of the weights, from (n_in, n_out).
        activations: name → function.
        scheme, activation, width, depth: what is shown first.
    """
    import ipywidgets
    import torch

    from course_utils import plots

    scheme, activation = scheme or next(iter(schemes)), activation or next(iter(activations))
    one_of("scheme", scheme, list(schemes))
    one_of("activation", activation, list(activations))
    positive("width", width)
    positive("depth", depth)

    def draw(scheme, activation, width, depth):
        with torch.random.fork_rng(devices=[]):  # the same network each time, and the notebook's own draws go on
            torch.manual_seed(1)
            signals, gradients = send(schemes[scheme], activations[activation], width, depth)
        layers = sorted({round(depth * part / 4) for part in range(5)})
        return plots.histograms(
            {
                "signal": {f"layer {layer}": signals[layer] for layer in layers},
                # the gradient's journey begins at the last layer, and so does its scale
                "gradient": {f"layer {layer}": gradients[layer] for layer in reversed(layers)},
            }
        )

    shared = {"continuous_update": False, "style": {"description_width": "initial"}}
    controls = {
        "scheme": ipywidgets.Dropdown(options=list(schemes), value=scheme, description="scheme"),
        "activation": ipywidgets.Dropdown(options=list(activations), value=activation, description="activation"),
        "width": ipywidgets.IntSlider(value=width, min=10, max=300, step=10, description="width", **shared),
        "depth": ipywidgets.IntSlider(value=depth, min=1, max=100, description="depth", **shared),
    }
    return Explorer("a signal and a gradient through a network's layers", draw, controls)
