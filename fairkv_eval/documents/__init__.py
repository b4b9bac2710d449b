"""Harness documents: built from published files at pinned commits, and from the demo's own."""
