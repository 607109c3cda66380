"""Commands that people type: `python -m webmesh …`."""
