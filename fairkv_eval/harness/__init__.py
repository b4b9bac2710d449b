"""The harness's requests, processes, arguments and task files."""
