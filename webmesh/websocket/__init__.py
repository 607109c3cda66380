"""The transport: sockets that carry messages, and what accepts and dials them."""
