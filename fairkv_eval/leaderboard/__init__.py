"""One board of many results: rows, tables, page."""
