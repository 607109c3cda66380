"""Logs and metrics; nothing below imports them."""
