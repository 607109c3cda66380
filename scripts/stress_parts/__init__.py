"""The parts of `scripts/stress`: one file for each scenario, the server they stress, and who does it to it."""
