"""The parts of `scripts/conformance`: what is tested, as a server and as a client."""
