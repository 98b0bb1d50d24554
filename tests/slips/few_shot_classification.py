"""Wrong answers to the exercises of notebook 13."""

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "choose_examples": {
        "one class only": ("    for label in labels:\n", "    for label in labels[:1]:\n", "name == label and ", "",
                           "fit[:per_class]", "fit[: per_class * len(labels)]"),
        "label leaked": (" if not any(word in text for word in labels)", ""),
        "another class's name leaked": ("not any(word in text for word in labels)", "label not in text"),
        "from the test set": ('"dev"', '"test"'),
        "from anywhere": (' and split == "dev"', ""),
        "always one": ("fit[:per_class]", "fit[:1]"),
    },
    "label_score": {
        "raw logits": ("logits.log_softmax(dim=-1)", "logits"),
        "divided by the length": ("enumerate(ids))", "enumerate(ids)) / len(ids)"),
        "probabilities added up": ("log_softmax", "softmax"),
        "first token only": ("enumerate(ids)", "enumerate(ids[:1])"),
        "softmax over the positions": ("dim=-1", "dim=0"),
        "one row off": ("logprobs[i,", "logprobs[i - 1,"),
    },
    "confusion": {
        "transposed": ("[[0] * (len(classes) + 1) for _ in classes]", "[[0] * len(classes) for _ in [*classes, None]]",
                       "counts[classes.index(true)][column]", "counts[column][classes.index(true)]"),
        "outside dropped": ("        counts[", "        if answer in classes:\n            counts["),
        "outside counted as the last class": ("else len(classes)\n", "else len(classes) - 1\n"),
        "one row many times": ("[[0] * (len(classes) + 1) for _ in classes]",
                               "[[0] * (len(classes) + 1)] * len(classes)"),
        "right ones only": ("        counts[", "        if answer == true:\n            counts["),
    },
    "recall": {
        "over what was answered": ("sum(counts[i])", "sum(row[i] for row in counts)"),
        "outside left out": ("sum(counts[i])", "sum(counts[i][:-1])"),
        "over all texts": ("sum(counts[i])", "sum(map(sum, counts))"),
        "accuracy": ("counts[i][i] / sum(counts[i])",
                     "sum(counts[j][j] for j in range(len(counts))) / sum(map(sum, counts))"),
    },
    "calibrated": {
        "multiplied by the prior": (" / prior", " * prior"),
        "not normalised": ("weights / weights.sum()", "weights"),
        "first content-free text only": ("free.softmax(dim=-1).mean(dim=0)", "free.softmax(dim=-1)[0]"),
        "log-probabilities averaged": ("free.softmax(dim=-1).mean(dim=0)", "free.mean(dim=0).softmax(dim=-1)"),
        "logarithms divided": ("free.softmax(dim=-1).mean", "free.mean", "logprobs.softmax(dim=-1)", "logprobs"),
    },
}  # fmt: skip
