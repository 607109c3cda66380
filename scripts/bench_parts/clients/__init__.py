"""Load from the peers' own clients, for protocols that are not worth speaking by hand: gRPC and zerorpc.

Each is a program of its own, `python -m bench_parts.clients.NAME PORT PID PLAN`, which prints its sample as JSON.
They cost more than their servers' share of a core allows for, so the server may not be busy all the time:
compare its CPU per call, not its calls a second.
"""
