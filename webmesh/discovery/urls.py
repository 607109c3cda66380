"""How options of discovery are written in URLs, and how nodes' URLs are put together."""

from __future__ import annotations


def yes_or_no(text: str) -> bool:
    """What an option of yes or no says.

    Raises:
        ValueError: Neither.
    """
    if text in ("1", "true", "yes"):
        return True
    if text in ("0", "false", "no"):
        return False
    raise ValueError("it is 1 or 0")


def networks_text(text: str) -> list[str]:
    """The networks of a list with commas."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def node_url(host: str, *, path: str = "", tls: bool = False, port: int | None = None) -> str:
    """The URL of a node at a host, which may be an IPv6 address when there is a port."""
    if port is not None:
        host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    slash = "/" if path and not path.startswith("/") else ""
    return f"{'wss' if tls else 'ws'}://{host}{slash}{path}"
