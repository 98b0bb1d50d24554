"""Wrong answers to the exercises of notebook 11."""

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "lora": {
        "scaling forgotten": ("alpha / len(A) * (x @ A.T @ B.T)", "x @ A.T @ B.T"),
        "not divided by r": ("alpha / len(A)", "alpha"),
        "divided by the width": ("len(A)", "A.shape[1]"),
        "r over alpha": ("alpha / len(A)", "len(A) / alpha"),
        "A and B swapped": ("x @ A.T @ B.T", "x @ B @ A"),
        "W transposed": ("x @ W.T", "x @ W"),
        "W left out": ("x @ W.T + ", ""),
        "scaling on everything": ("x @ W.T + alpha / len(A) * (x @ A.T @ B.T)",
                                  "alpha / len(A) * (x @ W.T + x @ A.T @ B.T)"),
    },
    "first_matrices": {
        "both at zero": ("return random_a", "return 0 * random_a"),
        "A at zero": ("random_a, 0 * random_b\n", "0 * random_a, random_b\n"),
        "returned in the other order": ("return random_a, 0 * random_b", "return 0 * random_b, random_a"),
        "B of A's shape": ("0 * random_b", "0 * random_a"),
        "B small": ("0 * random_b", "0.01 * random_b"),
    },
    "merge": {
        "wrong sign": ("W + alpha", "W - alpha"),
        "merged twice": ("return W + alpha / len(A) * B @ A",
                         "W = W + alpha / len(A) * B @ A\n    return W + alpha / len(A) * B @ A"),
        "scaling forgotten": ("alpha / len(A) * ", ""),
        "not divided by r": ("alpha / len(A)", "alpha"),
        "transposed": ("B @ A", "A.T @ B.T"),
        "W left out": ("W + alpha", "alpha"),
        "scaling on W too": ("W + alpha / len(A) * B @ A", "alpha / len(A) * (W + B @ A)"),
    },
    "trained_numbers": {
        "B forgotten": ("(n_in + n_out)", "n_in"),
        "A forgotten": ("(n_in + n_out)", "n_out"),
        "multiplied": ("(n_in + n_out)", "n_in * n_out"),
        "the product's size": ("r * (n_in + n_out)", "n_in * n_out"),
        "frozen weights counted": ("r * (n_in", "n_out * n_in + r * (n_in"),
        "r forgotten": ("r * (n_in + n_out)", "n_in + n_out"),
        "an r by r matrix too": ("(n_in + n_out)", "(n_in + r + n_out)"),
        "one layer only": ("in layers", "in layers[:1]"),
    },
}  # fmt: skip
