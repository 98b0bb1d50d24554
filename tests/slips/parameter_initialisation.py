"""Wrong answers to the exercises of notebook 04."""

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "closest_pair": {
        "inputs compared instead of neurons": ("W.T", "W"),
        "a neuron compared with itself": ("range(i)", "range(i + 1)"),
        "furthest pair": ("min(", "max("),
        "average over the pairs": ("min(distances)", "sum(distances) / len(distances)"),
        "only neighbours": ("for j in range(i)", "for j in [i - 1] if i > 0"),
        "only against the first neuron": ("for j in range(i)", "for j in [0] if i > 0"),
        "signs cancel": (".norm()", ".sum().abs()"),
        "lengths compared": ("(neurons[i] - neurons[j]).norm()", "abs(neurons[i].norm() - neurons[j].norm())"),
        "root forgotten": (".norm()", ".norm() ** 2"),
    },
    "xavier": {
        "variance used as standard deviation": ("(2 / (n_in + n_out)) ** 0.5", "2 / (n_in + n_out)"),
        "gain forgotten": ("gain * ", ""),
        "gain inside the root": ("gain * (2 / (n_in + n_out))", "(gain * 2 / (n_in + n_out))"),
        "only the inputs counted": ("2 / (n_in + n_out)", "1 / n_in"),
        "only the outputs counted": ("2 / (n_in + n_out)", "1 / n_out"),
        "sum instead of average": ("2 / (n_in", "1 / (n_in"),
        "fans multiplied": ("n_in + n_out", "n_in * n_out"),
        "bound is the standard deviation": ("3**0.5 * std", "std"),
        "3 instead of its root": ("3**0.5", "3"),
        "whole width as bound": ("3**0.5", "12**0.5"),
        "gain missing in the bound": ("3**0.5 * std", "(6 / (n_in + n_out)) ** 0.5"),
        "std and bound swapped": ("return std, bound", "return bound, std"),
    },
    "kaiming": {
        "fan_in and fan_out swapped": ("shape[0]", "shape[1]"),
        "variance used as standard deviation": ("gain / n_in**0.5", "gain**2 / n_in"),
        "gain forgotten": ("gain / n_in", "1 / n_in"),
        "2 outside the root": ("(2 / (1 + slope**2)) ** 0.5", "2 / (1 + slope**2)"),
        "Xavier's average": ("gain / n_in**0.5", "(2 / sum(noise.shape)) ** 0.5"),
        "slope ignored": (" / (1 + slope**2)", ""),
        "slope not squared": ("slope**2", "slope"),
        "all weights counted": ("n_in**0.5", "noise.numel() ** 0.5"),
        "added instead of multiplied": ("**0.5 * noise", "**0.5 + noise"),
    },
}  # fmt: skip
