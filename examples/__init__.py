"""Examples on real data, each in a folder with a page of its own."""
