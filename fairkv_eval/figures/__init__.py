"""Figures of results: data, panels, drawing."""
