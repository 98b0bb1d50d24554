"""Explorers: sliders that redraw a figure, with a static default picture for readers without a kernel.

An explorer is one display with three faces: the live widget in JupyterLab, a PNG on GitHub, in print and in slides,
and a line of text for terminals and for the comparison of outputs.
"""

import base64
import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from course_utils.messages import CourseError

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure
    from torch import Tensor


STEPS = 100  # of a path on a surface
# The figure is drawn when a slider is let go: drawing takes longer than the slider's own steps.
SLIDER = {"continuous_update": False, "style": {"description_width": "initial"}}


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


def between(name: str, value: float, low: float, high: float) -> float:
    """`value` if it is a number from `low` to `high`, else a CourseError that says what to give."""
    if isinstance(value, int | float) and low <= value <= high:  # false for nan
        return value
    raise CourseError(
        f"{name} is {value!r}, but must be a number from {low:g} to {high:g}.",
        f"{name} 为 {value!r}，应为 {low:g} 到 {high:g} 之间的数。",
    )


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """`value` if it is one of `choices`, else a CourseError that lists them and names the nearest."""
    import difflib

    choices = list(choices)
    if value in choices:
        return value
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(value).lower(), by_lower, n=1)
    en, zh = (f" Did you mean {by_lower[near[0]]!r}?", f"是否想用 {by_lower[near[0]]!r}？") if near else ("", "")
    listed = ", ".join(choices) or "—"
    raise CourseError(
        f"{name} {value!r} is unknown: choose one of {listed}.{en}",
        f"没有名为 {value!r} 的 {name}：可选 {listed}。{zh}",
    )


def gradient_descent(
    optimizers: dict[str, tuple[Callable, object]],
    surfaces: dict[str, tuple[Callable[["Tensor"], "Tensor"], tuple[float, float, float, float]]],
    *,
    optimizer: str = "SGD",
    surface: str = "taxi",
    learning_rate: float = 0.05,
) -> Explorer:
    """Explorer of notebook 01: surface, optimiser, ε, α or ρ, start point → path and loss curve.

    Args:
        optimizers: name → (step function, first state). A step takes (theta, g, state, learning_rate) and may take
            `alpha`, `rho` or `rho1`; it returns (theta, state).
        surfaces: name → (loss of points [..., 2] → [...], window (left, right, bottom, top)).
        optimizer, surface, learning_rate: what is shown first.
    """
    import ipywidgets

    from course_utils import plots

    one_of("optimizer", optimizer, optimizers)
    one_of("surface", surface, surfaces)
    between("learning_rate", learning_rate, 1e-4, 10)

    def draw(surface, optimizer, learning_rate, decay, across, up):
        loss, window = surfaces[surface]
        left, right, bottom, top = window
        start = (left + across * (right - left), bottom + up * (top - bottom))
        path = descent_path(*optimizers[optimizer], loss, start, learning_rate, decay)
        figure = plots.paths_on_contours(loss, {optimizer: path}, window)
        if len(path) <= STEPS:
            figure.suptitle(f"diverged after {len(path) - 1} steps: ε is too large here")
        return figure

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
            **SLIDER,
        ),
        "decay": slide(value=0.9, max=0.99, step=0.01, description="α, ρ or ρ₁ (memory)", **SLIDER),
        "across": slide(value=0.18, max=1, step=0.01, description="start: left to right", **SLIDER),
        "up": slide(value=0.75, max=1, step=0.01, description="start: bottom to top", **SLIDER),
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
        result = step(theta, g, state, learning_rate, **settings)
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise CourseError(
                f"{step.__name__} must return two things: the new theta and what it remembers, `return theta, state`.",
                f"{step.__name__} 应返回两样东西：新的 theta 和记住的量，即 `return theta, state`。",
            )
        theta, state = result
        if not torch.isfinite(theta).all() or theta.abs().max() > 1e6:
            break
        path.append(theta)
    return torch.stack(path)


def backpropagation(graphs: dict[str, Callable[[float], object]], *, graph: str = "", step: int = 0) -> Explorer:
    """Explorer of notebook 02: one forward and one backward pass, value by value.

    Args:
        graphs: name → function that builds a graph for a value of w and returns its output, a node of the reader's
            engine (see `plots.graph_nodes`).
        graph, step: what is shown first.
    """
    import ipywidgets

    from course_utils import plots

    graph = graph or next(iter(graphs))
    one_of("graph", graph, list(graphs))

    def draw(graph, step, w):
        output = graphs[graph](w)
        values, gradients, active, title = walk(output)[min(step, 2 * len(_made(output)))]
        return plots.graph(output, values=values, gradients=gradients, active=active, title=title)

    longest = max(2 * len(_made(build(0.8))) for build in graphs.values())
    controls = {
        "graph": ipywidgets.Dropdown(options=list(graphs), value=graph, description="graph"),
        "step": ipywidgets.IntSlider(value=step, max=longest, description="step", **SLIDER),
        "w": ipywidgets.FloatSlider(value=0.8, min=-2, max=2, step=0.1, description="w", **SLIDER),
    }
    return Explorer("one forward and one backward pass", draw, controls)


def _made(output: object) -> list:
    from course_utils import plots

    return [node for node in plots.graph_nodes(output) if node.inputs]


def walk(output: object) -> list[tuple[list, dict, object, str]]:
    """What is known after each step of a pass forward and back through the graph of `output`.

    Returns (nodes whose value is known, node → gradient so far, the node at work, what it does) for the start, for
    each operation on the way forward and for each on the way back.
    """
    from course_utils import plots

    made = _made(output)
    values = [node for node in plots.graph_nodes(output) if not node.inputs]
    gradients: dict = {}
    steps = [(list(values), {}, None, "start: only the inputs are known")]
    for number, node in enumerate(made, 1):
        values.append(node)
        made_from = ", ".join(f"{source.data:.3g}" for source in node.inputs)
        does = f"forward {number} of {len(made)}: {node.operation.symbol} makes {node.data:.3g} from {made_from}"
        steps.append((list(values), {}, node, does))
    gradients[output] = 1.0
    for number, node in enumerate(reversed(made), 1):
        parts = node.operation.backward(gradients[node])
        for source, part in zip(node.inputs, parts, strict=True):
            gradients[source] = gradients.get(source, 0.0) + part
        handed = " and ".join(f"{part:.3g}" for part in parts)
        does = f"backward {number} of {len(made)}: {node.operation.symbol} has {gradients[node]:.3g}, hands on {handed}"
        steps.append((list(values), dict(gradients), node, does))
    return [(values, gradients, active, does.replace("-", "−")) for values, gradients, active, does in steps]


def activation_functions(
    functions: dict[str, Callable[..., "Tensor"]],
    gradient_norms: Callable[..., "Tensor"],
    *,
    function: str = "tanh",
) -> Explorer:
    """Explorer of notebook 03: function, input scale, slope of leaky ReLU → curve, derivative, gradient by layer.

    Args:
        functions: name → activation, element by element; "leaky ReLU" also takes a `slope`.
        gradient_norms: takes (activation, input_scale=…) and returns the size of the gradient at the input and after
            each layer of a stack, relative to the last.
        function: what is shown first.
    """
    import functools

    import ipywidgets
    import torch

    from course_utils import plots

    one_of("function", function, functions)

    def draw(function, input_scale, slope):
        f = functions[function]
        if function == "leaky ReLU":
            f = functools.partial(f, slope=slope)
        figure, (curve, derivative, stack) = plots.new_figure(3, width=11.5, height=3.6)
        plots.draw_function_and_slope(curve, derivative, function, f, reach=5.0)
        # What the first layer of the stack sees: sums of many independent terms, √2 as large as the input.
        spread, places = 2**0.5 * input_scale, torch.linspace(-5, 5, 200)
        share = torch.exp(-((places / spread) ** 2) / 2)
        derivative.fill_between(places, share, color="0.85", zorder=0, label="where inputs fall")
        derivative.legend(loc="upper left")
        curve.set(ylim=(-2, 3))
        derivative.set(ylim=(-1.1, 1.6))
        colour = plots.OF_ACTIVATION.get(function)
        stack.plot(gradient_norms(f, input_scale=input_scale).clamp_min(1e-16), color=colour)
        stack.set(yscale="log", ylim=(1e-14, 1e6), xlabel="layer", title="gradient, last layer = 1", xlim=(0, None))
        figure.suptitle(function)
        return figure

    controls = {
        "function": ipywidgets.Dropdown(options=list(functions), value=function, description="function"),
        "input_scale": ipywidgets.FloatLogSlider(
            value=1.0, min=-2, max=2, step=0.1, readout_format=".2f", description="scale of the input", **SLIDER
        ),
        "slope": ipywidgets.FloatSlider(value=0.1, max=1, step=0.01, description="slope of leaky ReLU", **SLIDER),
    }
    return Explorer("activation functions in a stack of layers", draw, controls)


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
    between("width", width, 10, 300)
    between("depth", depth, 1, 100)

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

    controls = {
        "scheme": ipywidgets.Dropdown(options=list(schemes), value=scheme, description="scheme"),
        "activation": ipywidgets.Dropdown(options=list(activations), value=activation, description="activation"),
        "width": ipywidgets.IntSlider(value=width, min=10, max=300, step=10, description="width", **SLIDER),
        "depth": ipywidgets.IntSlider(value=depth, min=1, max=100, description="depth", **SLIDER),
    }
    return Explorer("a signal and a gradient through a network's layers", draw, controls)


def retrieval(
    passages: list,
    scores_by: Callable[[str, str], Iterable[float]],
    prompt_for: Callable[[str, list], str],
    ask: Callable[[str], str],
    terms: Callable[[str], list[str]],
    searches: list[str],
    *,
    question: str,
    k: int = 4,
) -> Explorer:
    """Explorer of notebook 12: question → passages with scores and what they share with it → prompt → answer.

    Args:
        passages: what is searched, each with `.file` and `.text`.
        scores_by: takes (search, question) and returns a score for each passage.
        prompt_for: takes (question, passages found) and returns the prompt.
        ask: the language model, from prompt to answer.
        terms: cuts a text into the terms that are compared.
        searches: the names that `scores_by` knows; the first is shown first.
        question, k: what is shown first.
    """
    import ipywidgets
    import numpy as np

    from course_utils import plots
    from course_utils.retrieval import LONGEST_QUESTION

    between("k", k, 1, 10)

    def draw(question, search, k):
        if not question.strip() or len(question) > LONGEST_QUESTION:
            answer = (
                f"(type a question of 1 to {LONGEST_QUESTION} characters · 请输入 1 到 {LONGEST_QUESTION} 个字符的问题)"
            )
            return plots.retrieved(question[:60], [], "", answer, terms)
        scores = np.asarray(scores_by(search, question))
        best = np.argsort(-scores, kind="stable")[:k]
        prompt = prompt_for(question, [passages[number] for number in best])
        found = [(float(scores[number]), passages[number].file, passages[number].text) for number in best]
        return plots.retrieved(question, found, prompt, ask(prompt), terms)

    controls = {
        "question": ipywidgets.Text(value=question, description="question", layout={"width": "90%"}, **SLIDER),
        "search": ipywidgets.Dropdown(options=list(searches), value=searches[0], description="search"),
        "k": ipywidgets.IntSlider(value=k, min=1, max=10, description="passages", **SLIDER),
    }
    return Explorer("from a question to an answer", draw, controls)


LONGEST_TEXT = 80  # characters that the explorer of notebook 05 cuts


def tokens(cut: Callable[[str, int], dict[str, list[bytes]]], most_merges: int, *, text: str, merges: int) -> Explorer:
    """Explorer of notebook 05: a text and a number of merges → the text cut in several ways, with counts.

    Args:
        cut: takes the text and how many merges BPE may use; returns name → tokens, as UTF-8 bytes.
        most_merges: how many merges there are.
        text, merges: what is shown first.
    """
    import ipywidgets

    from course_utils import plots

    between("merges", merges, 0, most_merges)

    def draw(text, merges):
        figure = plots.token_boxes(cut(text[:LONGEST_TEXT], merges))
        if len(text) > LONGEST_TEXT:
            figure.suptitle(f"only the first {LONGEST_TEXT} characters are shown", fontsize=9)
        return figure

    controls = {
        # Redrawn when Enter is pressed or the box is left, not at each key.
        "text": ipywidgets.Text(value=text, description="text", continuous_update=False, layout={"width": "30em"}),
        "merges": ipywidgets.IntSlider(
            value=merges, max=most_merges, step=10, description="merges", continuous_update=False
        ),
    }
    return Explorer("a text cut into tokens", draw, controls)


def memory(
    needed: Callable[..., dict[str, float]],
    models: dict[str, object],
    dtypes: list[str],
    optimisers: list[str],
    *,
    model: str = "",
    dtype: str = "",
    context: int = 2048,
    batch: int = 1,
) -> Explorer:
    """Explorer of notebook 07: model, dtype, context, batch, optimiser → GiB by part, and whether a T4 holds it.

    Args:
        needed: takes (model, dtype, context, batch, optimiser) and returns bytes by part; nothing where that cannot
            be done.
        models: name → what `needed` takes as model.
        dtypes, optimisers: the choices; the first optimiser is shown first.
        model, dtype, context, batch: what is shown first.
    """
    import ipywidgets

    from course_utils import plots
    from course_utils.runtime import GIB

    model, dtype = model or next(iter(models)), dtype or dtypes[0]
    one_of("model", model, models)
    one_of("dtype", dtype, dtypes)
    between("context", context, 128, 32768)
    between("batch", batch, 1, 64)
    card = 16e9 / GIB

    def draw(model, dtype, context, batch, optimiser):
        parts = {name: size / GIB for name, size in needed(models[model], dtype, context, batch, optimiser).items()}
        total = sum(parts.values())
        figure = plots.stacked_bars({model: parts}, "GiB", {"T4 (16 GB)": card})
        if parts:
            verdict = "fits a T4" if total < card else "does not fit a T4"
            text = f"{dtype}, context {context}, batch {batch}, {optimiser}: {total:.1f} GiB, {verdict}"
        else:
            text = f"{dtype} weights are too coarse for small steps: train in fp16 or fp32"
        figure.suptitle(text, fontsize=10)
        return figure

    choose = ipywidgets.Dropdown
    lengths = [128 * 2**power for power in range(9)]
    controls = {
        "model": choose(options=list(models), value=model, description="model"),
        "dtype": choose(options=dtypes, value=dtype, description="dtype"),
        "context": ipywidgets.SelectionSlider(options=lengths, value=context, description="context", **SLIDER),
        "batch": ipywidgets.IntSlider(value=batch, min=1, max=64, description="batch", **SLIDER),
        "optimiser": choose(options=optimisers, description="optimiser"),
    }
    return Explorer("memory for running and training a model", draw, controls)


def sampling(
    prompts: list[str],
    next_logits: Callable[[str], "Tensor"],
    rule: Callable[..., "Tensor"],
    samples: Callable[[str, Callable[["Tensor"], "Tensor"]], list[str]],
    vocabulary: list[str],
) -> Explorer:
    """Explorer of notebook 08: prompt, temperature, top-k, top-p, min-p → what may come next, and texts drawn so.

    Args:
        prompts: to choose from; the first is shown first.
        next_logits: prompt → scores of the next token, shape [len(vocabulary)].
        rule: takes (logits, temperature, k, p, min_p) and returns logits.
        samples: takes a prompt and a function logits → logits, and returns a few texts.
        vocabulary: the tokens' texts.
    """
    import functools
    import textwrap

    import ipywidgets
    import torch

    from course_utils import plots

    def draw(prompt, temperature, k, p, min_p, seed):
        logits = next_logits(prompt)
        settings = {"temperature": temperature, "k": k, "p": p, "min_p": min_p}
        with torch.random.fork_rng(devices=[]):  # the same texts each time, and the notebook's own draws go on
            torch.manual_seed(seed)
            texts = samples(prompt, lambda row: rule(row, *settings.values()))
        order = logits.argsort(descending=True, stable=True)[:12].tolist()
        figure, (learned, drawn, text) = plots.new_figure(3, width=11.5, height=4.2)
        for ax, title, scores in (
            (learned, "as learned", logits),
            (drawn, "drawn from", rule(logits, *settings.values())),
        ):
            probabilities = scores.softmax(dim=-1)
            plots.draw_next_tokens(ax, probabilities, [vocabulary[i] for i in order], order)
            ax.set(title=f"{title}: {int((probabilities > 0).sum())} tokens", xlim=(0, 1), xlabel="probability")
        text.axis("off")
        lines = [line for sample in texts for line in [*textwrap.wrap(sample, _columns(sample)), ""]]
        # The panel's width is fixed, the text's is not: it may not push the bars aside.
        text.text(0, 1, "\n".join(lines), va="top", fontsize=9, transform=text.transAxes).set_in_layout(False)
        figure.suptitle(prompt)
        return figure

    slide = functools.partial(ipywidgets.FloatSlider, **SLIDER)
    controls = {
        "prompt": ipywidgets.Dropdown(options=prompts, description="prompt"),
        "temperature": slide(value=1.0, min=0.1, max=3, step=0.1, description="temperature"),
        "k": ipywidgets.IntSlider(value=len(vocabulary), min=1, max=len(vocabulary), description="top-k", **SLIDER),
        "p": slide(value=0.9, min=0.05, max=1, step=0.05, description="top-p"),
        "min_p": slide(value=0.0, max=1, step=0.01, description="min-p"),
        "seed": ipywidgets.IntSlider(value=1, min=1, max=20, description="draw number", **SLIDER),
    }
    return Explorer("the next token, and texts drawn by a rule", draw, controls)


def _columns(text: str) -> int:
    """Where to break a line: a Chinese character is about twice as wide as a letter."""
    return 21 if any("\u4e00" <= character <= "\u9fff" for character in text) else 42


LONGEST = 24  # characters of a sentence whose attention is drawn


def attention(
    look: Callable[..., tuple[list[str], "Tensor"]],
    *,
    layers: int,
    heads: int,
    sentence: str,
    layer: int = 1,
    head: int = 1,
) -> Explorer:
    """Explorer of notebook 06: sentence, layer, head, mask, temperature → heat map of the weights on the tokens.

    Args:
        look: takes (sentence, layer, head, causal, temperature) and returns the tokens and weights [n, n].
        layers, heads: of the model; both are counted from 1.
        sentence, layer, head: what is shown first.
    """
    import ipywidgets

    from course_utils import plots

    between("layer", layer, 1, layers)
    between("head", head, 1, heads)

    def draw(sentence, layer, head, causal, temperature):
        # The course's font has the characters of GB2312; of longer texts the map would be unreadable.
        sentence = "".join(sign for sign in sentence.strip() if sign.encode("gb2312", errors="ignore"))[:LONGEST]
        if not sentence:
            figure, [ax] = plots.new_figure(height=1.0)
            ax.axis("off")
            ax.text(0.5, 0.5, "Type a sentence.  请输入一句话。", ha="center", va="center", fontsize=13)
            return figure
        tokens, weights = look(sentence, layer, head, causal, temperature)
        return plots.attention_maps({f"layer {layer}, head {head}": weights}, tokens)

    # Drawn when a slider is let go, and when the sentence is finished, as above.
    controls = {
        "sentence": ipywidgets.Text(value=sentence, description="sentence", layout={"width": "500px"}, **SLIDER),
        "layer": ipywidgets.IntSlider(value=layer, min=1, max=layers, description="layer", **SLIDER),
        "head": ipywidgets.IntSlider(value=head, min=1, max=heads, description="head", **SLIDER),
        "causal": ipywidgets.Checkbox(value=True, description="mask"),
        "temperature": ipywidgets.FloatLogSlider(
            value=1.0, min=-1, max=1, step=0.1, readout_format=".2f", description="temperature", **SLIDER
        ),
    }
    return Explorer("attention weights of a trained model", draw, controls)


def chatglm_memory(
    models: dict[str, tuple[dict[str, float], int]],
    limits: dict[str, float],
    *,
    model: str = "",
    tokens: int = 2048,
    conversations: int = 1,
) -> Explorer:
    """Explorer of notebook 09: model, length and number of conversations → memory for each number format.

    Args:
        models: name → (GiB of the weights by number format, bytes of cache for each token).
        limits: GPU → GiB that it offers.
        model, tokens, conversations: what is shown first.
    """
    import ipywidgets

    from course_utils import plots
    from course_utils.runtime import GIB

    model = model or next(iter(models))
    one_of("model", model, list(models))
    between("tokens", tokens, 1, 32768)
    between("conversations", conversations, 1, 32)

    def draw(model, tokens, conversations):
        weights, cache_bytes = models[model]
        figure = plots.memory_bars(weights, tokens * conversations * cache_bytes / GIB, 1.0, limits)
        figure.suptitle(f"{model}, {conversations} × {tokens:,} tokens")
        return figure

    controls = {
        "model": ipywidgets.Dropdown(options=list(models), value=model, description="model"),
        "tokens": ipywidgets.SelectionSlider(
            options=[2**power for power in range(7, 16)], value=tokens, description="tokens", **SLIDER
        ),
        "conversations": ipywidgets.IntSlider(
            value=conversations, min=1, max=32, description="conversations", **SLIDER
        ),
    }
    return Explorer("memory of a model and its conversations", draw, controls)


def prefix(
    needed: Callable[..., tuple[int, dict[str, float]]],
    models: dict[str, object],
    limits: dict[str, float],
    *,
    model: str = "",
    pre_seq_len: int = 128,
    batch: int = 1,
) -> Explorer:
    """Explorer of notebook 10: model, prefix length, texts at once → trained numbers, memory of the training.

    Args:
        needed: takes (model, pre_seq_len, batch) and returns the numbers that are trained, and GiB by part.
        models: name → what `needed` takes.
        limits: GPU → GiB that it offers.
        model, pre_seq_len, batch: what is shown first.
    """
    import ipywidgets

    from course_utils import plots

    model = model or next(iter(models))
    one_of("model", model, models)
    between("pre_seq_len", pre_seq_len, 1, 2048)
    between("batch", batch, 1, 32)

    def draw(model, pre_seq_len, batch):
        trained, parts = needed(models[model], pre_seq_len, batch)
        figure = plots.stacked_bars({model: parts}, "GiB", limits)
        figure.suptitle(f"prefix of {pre_seq_len}, {batch} at once: {trained:,} numbers trained", fontsize=10)
        return figure

    controls = {
        "model": ipywidgets.Dropdown(options=list(models), value=model, description="model"),
        "pre_seq_len": ipywidgets.SelectionSlider(
            options=[2**power for power in range(12)], value=pre_seq_len, description="pre_seq_len", **SLIDER
        ),
        "batch": ipywidgets.SelectionSlider(
            options=[2**power for power in range(6)], value=batch, description="texts at once", **SLIDER
        ),
    }
    return Explorer("what a prefix trains and what it takes", draw, controls)


def lora(
    needed: Callable[..., tuple[int, int, dict[str, float]]],
    models: dict[str, object],
    targets: dict[str, object],
    limits: dict[str, float],
    *,
    model: str = "",
    target: str = "",
    rank: int = 8,
    alpha: int = 32,
) -> Explorer:
    """Explorer of notebook 11: model, target modules, rank, α → trained numbers, their share, memory of the training.

    Args:
        needed: takes (model, target, rank) and returns the numbers that are trained, those of the frozen model, and
            bytes by part.
        models, targets: name → what `needed` takes.
        limits: GPU → GiB that it offers.
        model, target, rank, alpha: what is shown first.
    """
    import ipywidgets

    from course_utils import plots
    from course_utils.runtime import GIB

    model, target = model or next(iter(models)), target or next(iter(targets))
    one_of("model", model, models)
    one_of("target", target, targets)
    between("rank", rank, 1, 256)
    between("alpha", alpha, 1, 512)

    def draw(model, target, rank, alpha):
        trained, frozen, parts = needed(models[model], targets[target], rank)
        figure = plots.stacked_bars({model: {name: size / GIB for name, size in parts.items()}}, "GiB", limits)
        figure.suptitle(
            f"r = {rank}, α/r = {alpha / rank:g}, {target}: {trained:,} trained, {trained / frozen:.3%} of the model",
            fontsize=10,
        )
        return figure

    controls = {
        "model": ipywidgets.Dropdown(options=list(models), value=model, description="model"),
        "target": ipywidgets.Dropdown(options=list(targets), value=target, description="targets"),
        "rank": ipywidgets.SelectionSlider(
            options=[2**power for power in range(9)], value=rank, description="rank r", **SLIDER
        ),
        "alpha": ipywidgets.SelectionSlider(
            options=[2**power for power in range(10)], value=alpha, description="α", **SLIDER
        ),
    }
    return Explorer("what LoRA trains and what it takes", draw, controls)
