"""Result files: read back, selected, passed on."""
