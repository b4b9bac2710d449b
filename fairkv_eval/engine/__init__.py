"""Runs (prompt, policy) jobs: prefill, evict, tail, decode."""
