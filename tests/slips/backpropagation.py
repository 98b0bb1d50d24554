"""Wrong answers to the exercises of notebook 02."""

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "multiply_backward": {
        "own factor": ("gradient * b, gradient * a", "gradient * a, gradient * b"),
        "upstream forgotten": ("gradient * b, gradient * a", "b, a"),
        "like a sum": ("gradient * b, gradient * a", "gradient, gradient"),
        "both factors": ("gradient * b, gradient * a", "a * b * gradient, a * b * gradient"),
        "upstream added": ("gradient * b, gradient * a", "gradient + b, gradient + a"),
    },
    "sweep": {
        "overwriting instead of accumulating": ("+= part", "= part"),
        "first part only": ("gradient[source] += part",
                            "gradient[source] = part if gradient[source] == 0 else gradient[source]"),
        "multiplied instead of added": ("+= part", "*= part"),
        "local derivative forgotten": ("+= part", "+= gradient[node]"),
        "upstream forgotten": ("backward(gradient[node])", "backward(1)"),
        "upstream twice": ("+= part", "+= part * gradient[node]"),
        "no beginning": ("    gradient[order[0]] = 1.0\n", ""),
        "wrong direction": ("in order:", "in order[::-1]:"),
    },
    "linear_backward": {
        "transposes swapped": ("dY @ W.T", "dY.T @ W", "X.T @ dY", "X @ dY.T"),
        "transposes forgotten": ("W.T", "W", "X.T", "X"),
        "W not transposed": ("W.T", "W"),
        "X not transposed": ("X.T", "X"),
        "dW transposed": ("X.T @ dY", "dY.T @ X"),
        "factors in the wrong order": ("dY @ W.T", "W.T @ dY"),
        "rows summed": ("dim=0", "dim=1"),
        "db averaged": ("sum", "mean"),
        "divided by n again": ("X.T @ dY", "X.T @ dY / X.shape[0]", "dY.sum(dim=0)", "dY.mean(dim=0)"),
        "dX and dW exchanged": ("return dX, dW", "return dW, dX"),
    },
    "softmax_cross_entropy": {
        "sign of p − t": ("(p - t)", "(t - p)"),
        "mean forgotten in the gradient": ("(p - t) / n", "p - t"),
        "mean forgotten": ("mean()", "sum()", "(p - t) / n", "p - t"),
        "divided by all entries": ("(p - t) / n", "(p - t) / logits.numel()"),
        "target forgotten": ("(p - t)", "p"),
        "softmax over the rows": ("dim=1", "dim=0"),
        "overflow": ("logits - logits.max(dim=1, keepdim=True).values", "logits"),
        "minus forgotten": ("loss = -p", "loss = p"),
        "log forgotten": (".log()", ""),
    },
}  # fmt: skip
