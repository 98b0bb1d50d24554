"""Wrong answers to the exercises of notebook 12."""

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "windows": {
        "overlap off by one": ("end - overlap", "end - overlap + 1"),
        "overlap forgotten": ("end - overlap", "end"),
        "overlap used as the step": ("start = end - overlap", "start = start + max(overlap, 1)"),
        "end of the text lost": ("if end == length:", "if end + size - overlap > length:"),
        "a tail that repeats": (
            "if end == length:",
            "if start + size - overlap >= length:",
            "start = end - overlap",
            "start = start + size - overlap",
        ),
        "end beyond the text": ("min(start + size, length)", "start + size", "end == length", "end >= length"),
    },
    "cosine": {
        "not normalised": (" / (norms * (question @ question) ** 0.5)", ""),
        "only the question normalised": ("norms * ", ""),
        "only the passages normalised": (" * (question @ question) ** 0.5", ""),
        "squared lengths": (".sum(axis=1) ** 0.5", ".sum(axis=1)", "question) ** 0.5", "question)"),
        "lengths added": ("norms * (question", "norms + (question"),
        "absolute values": ("return passages @ question", "return abs(passages @ question)"),
        "one length for all passages": ("axis=1", ""),
    },
    "recall": {
        "k forgotten": ("ranking[:k]", "ranking"),
        "counted over the wrong set: precision": ("/ len(needs)", "/ k"),
        "counted over the wrong set: every alternative": (
            "bool(need & found)",
            "len(need & found)",
            "/ len(needs)",
            "/ sum(len(need) for need in needs)",
        ),
        "any need is enough": (
            "sum(bool(need & found) for need in needs) / len(needs)",
            "float(any(need & found for need in needs))",
        ),
        "every need demanded": (
            "sum(bool(need & found) for need in needs) / len(needs)",
            "float(all(need & found for need in needs))",
        ),
        "one place too few": ("[:k]", "[: k - 1]"),
        "one place too many": ("[:k]", "[: k + 1]"),
    },
    "fuse": {
        "places counted from 0": ("enumerate(ranking, 1)", "enumerate(ranking)"),
        "last ranking wins": ("scores.get(passage, 0) + 1", "1"),
        "places added": ("1 / (c + place)", "c + place"),
        "c forgotten": ("(c + place)", "place"),
        "only what all rankings know": (
            "scores[passage] = ",
            "if all(passage in other for other in rankings):\n                scores[passage] = ",
        ),
        "average instead of sum": (
            "1 / (c + place)",
            "1 / (c + place) / sum(passage in other for other in rankings)",
        ),
    },
}  # fmt: skip
