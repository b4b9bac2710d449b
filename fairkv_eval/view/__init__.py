"""Which tokens survive: in the terminal, as HTML, as PNG."""
