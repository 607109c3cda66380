"""Discovery: where the addresses of a mesh's nodes come from."""
