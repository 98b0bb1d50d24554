"""Wrong answers to the exercises of notebook 10."""

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "split_prefix": {
        "key and value swapped": ("for key, value in", "for value, key in"),
        "no permute": ("table.view(len(table), layers, 2, heads, head_dim)",
                       "table.view(layers, 2, heads, len(table), head_dim)", ".permute(1, 2, 3, 0, 4)", ""),
        "all keys first": ("layers, 2, heads", "2, layers, heads", "(1, 2, 3, 0, 4)", "(2, 1, 3, 0, 4)"),
        "heads inside": ("2, heads, head_dim)", "2, head_dim, heads)", "(1, 2, 3, 0, 4)", "(1, 2, 4, 0, 3)"),
        "places backwards": ("    parts =", "    table = table.flip(0)\n    parts ="),
    },
    "prefix_attention": {
        "values behind": ("[prefix_value, value]", "[value, prefix_value]"),
        "keys as values": ("[prefix_value, value]", "[prefix_key, value]"),
        "mask lengthened behind": ("(prefix_key.shape[-2], 0)", "(0, prefix_key.shape[-2])"),
        "prefix masked out": ("value=True", "value=False"),
        "prefix rotated": ("cat([prefix_key, rotate(key)], dim=-2)", "rotate(cat([prefix_key, key], dim=-2))"),
        "text not rotated": ("rotate(key)", "key", "rotate(query)", "query"),
        "no scale": (" / query.shape[-1] ** 0.5", ""),
    },
    "trained_share": {
        "counts tensors": ("p.numel()", "1"),
        "counts rows": ("p.numel()", "p.shape[0]"),
        "the frozen share": ("if p.requires_grad", "if not p.requires_grad"),
        "everything is counted as trained": (" if p.requires_grad", ""),
        "against the frozen ones": ("trained / every", "trained / (every - trained)"),
    },
    "example": {
        "loss on the prompt": ("[-100] * len(prompt)", "prompt"),
        "the end is not learned": ("+ answer + [end]\n    return", "+ answer + [-100]\n    return"),
        "no end": (" + [end]", ""),
        "shifted here": ("[-100] * len(prompt) + answer + [end]", "[-100] * (len(prompt) - 1) + answer + [end, -100]"),
        "zero instead of −100": ("-100", "0"),
        "prompt learned instead of the answer": ("[-100] * len(prompt) + answer + [end]",
                                                 "prompt + [-100] * (len(answer) + 1)"),
    },
}  # fmt: skip
