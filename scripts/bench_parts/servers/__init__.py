"""The servers under measurement, one program each: `python -m bench_parts.servers.NAME [OPTIONS]`.

Each listens on a free loopback port, prints `PORT n` once it does, and ends by itself after LIFETIME.
"""
