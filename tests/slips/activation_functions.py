"""Wrong answers to the exercises of notebook 03."""

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "sigmoid_slope": {
        "sigmoid taken twice": ("return y", "y = y.sigmoid()\n    return y"),
        "tanh's formula": ("y * (1 - y)", "1 - y * y"),
        "factor y missing": ("y * (1 - y)", "1 - y"),
        "factor 1 − y missing": ("y * (1 - y)", "y"),
        "sign": ("(1 - y)", "(y - 1)"),
        "slope of the inverse": ("y * (1 - y)", "1 / y / (1 - y)"),
        "largest slope everywhere": ("y * (1 - y)", "0.25 * y / y"),
    },
    "count_dead": {
        "counts zeros": (".all(dim=0)", ""),
        "silent once": (".all(dim=0)", ".any(dim=0)"),
        "examples instead of neurons": ("dim=0", "dim=1"),
        "first example only": ("outputs == 0", "outputs[:1] == 0"),
        "share instead of number": (".sum()", ".double().mean()"),
        "counts the living": (".all(dim=0)", ".all(dim=0).logical_not()"),
        "nearly zero": ("outputs == 0", "outputs.round(decimals=3) == 0"),
    },
    "leaky_relu": {
        "plain ReLU": ("slope * (x <= 0)", "0 * (x <= 0)"),
        "slope missing in the backward pass": ("factor * upstream", "(x > 0) * upstream"),
        "slope missing in the forward pass": ("factor * x", "x.clamp(min=0)"),
        "upstream forgotten": ("factor * upstream", "factor"),
        "sign of upstream": ("    return factor * x, factor * upstream",
                             "    y = factor * x\n    factor = (upstream > 0) + slope * (upstream <= 0)\n"
                             "    return y, factor * upstream"),
        "output instead of derivative": ("factor * upstream", "factor * x * upstream"),
        "sides swapped": ("x > 0", "x < 0", "x <= 0", "x >= 0"),
        "folded upwards": ("slope *", "-slope *"),
    },
}  # fmt: skip
