"""The parts of `scripts/fuzz`: what is fuzzed, what it begins with, and how atheris is run."""
