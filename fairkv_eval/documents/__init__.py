"""Documents of the tasks, built from published files at pinned commits and from the package's own texts."""
