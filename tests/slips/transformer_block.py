"""Wrong answers to the exercises of notebook 07."""

ATTENTION = "x + attention(attention_norm(x))"
FEED_FORWARD = "x + feed_forward(feed_forward_norm(x))"
BOTH = f"    x = {ATTENTION}\n    return {FEED_FORWARD}"

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "layer_norm": {
        "wrong axis": ("dim=-1", "dim=0"),
        "axis counted from the front": ("dim=-1", "dim=1"),
        "one mean for everything": ("dim=-1, keepdim=True", ""),
        "unbiased variance": ("((x - mean) ** 2).mean(", "x.var("),
        "eps outside the root": ("(variance + eps) ** 0.5", "(variance**0.5 + eps)"),
        "eps missing": (" + eps", ""),
        "gain forgotten": ("gain * ", ""),
        "bias forgotten": (" + bias", ""),
        "bias multiplied by the gain": ("gain * (x - mean) / (variance + eps) ** 0.5 + bias",
                                        "gain * ((x - mean) / (variance + eps) ** 0.5 + bias)"),
        "mean not subtracted": ("gain * (x - mean)", "gain * x"),
        "RMSNorm": ("mean = x.mean(dim=-1, keepdim=True)", "mean = 0"),
        "divided by the variance": ("(variance + eps) ** 0.5", "(variance + eps)"),
        "softmax": ("(x - mean) / (variance + eps) ** 0.5", "x.exp() / x.exp().sum(dim=-1, keepdim=True)"),
    },
    "block": {
        "post-norm": (ATTENTION, "attention_norm(x + attention(x))",
                      FEED_FORWARD, "feed_forward_norm(x + feed_forward(x))"),
        "both residuals forgotten": ("x + ", ""),
        "no residual around attention": ("x + attention", "attention"),
        "no residual around the feed-forward network": ("x + feed_forward", "feed_forward"),
        "normalised value carried on": (BOTH, "    x = attention_norm(x)\n    x = x + attention(x)\n"
                                        "    x = feed_forward_norm(x)\n    return x + feed_forward(x)"),
        "both read the old x": (BOTH, f"    return {ATTENTION} + feed_forward(feed_forward_norm(x))"),
        "what attention added is lost": (BOTH, f"    y = {ATTENTION}\n"
                                         "    return x + feed_forward(feed_forward_norm(y))"),
        "no norms": ("attention_norm(x)", "x", "feed_forward_norm(x)", "x"),
        "norm behind the part": ("attention(attention_norm(x))", "attention_norm(attention(x))",
                                 "feed_forward(feed_forward_norm(x))", "feed_forward_norm(feed_forward(x))"),
        "one norm for both": ("feed_forward_norm(x)", "attention_norm(x)"),
        "norms swapped": ("(attention_norm(x))", "(OTHER(x))", "(feed_forward_norm(x))", "(attention_norm(x))",
                          "OTHER", "feed_forward_norm"),
        "feed-forward first": (BOTH, f"    x = {FEED_FORWARD}\n    return {ATTENTION}"),
    },
    "dropout": {
        "active in evaluation": ("    if not training:\n        return x\n", ""),
        "only in evaluation": ("if not training", "if training"),
        "not rescaled": (" / (1 - rate)", ""),
        "rescaled in evaluation": ("return x\n", "return x * (1 - rate)\n", " / (1 - rate)", ""),
        "rescaled twice": ("return x\n", "return x * (1 - rate)\n"),
        "kept and dropped swapped": (">=", "<"),
        "divided by the rate": ("(1 - rate)", "rate"),
        "multiplied by the kept share": ("/ (1", "* (1"),
        "dropped numbers stay": ("return x * kept / (1 - rate)", "x[kept] = x[kept] / (1 - rate)\n    return x",
                                 "    kept", "    x = x.clone()\n    kept"),
        "whole rows dropped": ("noise >=", "noise[:, :1] >="),
        "the mask returned": ("x * kept", "kept"),
    },
    "gpt_parameters": {
        "biases forgotten": ("(h * h + h)", "h * h", "(h * 4 * h + 4 * h) + (4 * h * h + h)", "8 * h * h"),
        "tied head counted twice": ("+ 2 * h", "+ 2 * h + vocab_size * h"),
        "positions forgotten": (" + context_length * h", ""),
        "final norm forgotten": (" + 2 * h\n", "\n"),
        "final norm in every layer": ("norms) + 2 * h", "norms + 2 * h)"),
        "norms of the blocks forgotten": (" + norms", ""),
        "one norm a block": ("2 * (h + h)", "h + h"),
        "output projection forgotten": ("4 * (h * h + h)", "3 * (h * h + h)"),
        "only the way up": (" + (4 * h * h + h)", ""),
        "not widened": ("(h * 4 * h + 4 * h) + (4 * h * h + h)", "2 * (h * h + h)"),
        "one layer": ("num_layers * ", ""),
        "embeddings in every layer": ("embeddings + num_layers * (", "num_layers * (embeddings + "),
    },
}  # fmt: skip
