"""The parts of `scripts/bench`: servers to compare, a load generator, a clock on the server, a table."""
