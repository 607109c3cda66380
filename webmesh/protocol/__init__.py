"""The pure core: bytes, messages and conversations; no socket, clock or greenlet."""
