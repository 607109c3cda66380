"""Engines of topics: what carries, numbers and keeps publications."""
