"""Wrong answers to the exercise of notebook 00."""

# exercise → misconception → (what the solution says, what the student writes instead), once or more
SLIPS = {
    "average": {
        "not divided": ("sum(numbers) / len(numbers)", "sum(numbers)"),
        "rounded down": ("/ len", "// len"),
        "one too few": ("len(numbers)", "max(1, len(numbers) - 1)"),
        "middle of the range": ("sum(numbers) / len(numbers)", "(max(numbers) - min(numbers)) / 2 + min(numbers)"),
        "middle number": ("sum(numbers) / len(numbers)", "__import__('statistics').median(numbers)"),
    }
}  # fmt: skip
