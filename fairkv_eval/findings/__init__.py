"""The pitfalls paper's findings (arXiv 2510.00231), and ours, asked of anyone's results."""
