"""Fuzz targets of the parsers, their kept seeds, and the runs with a time budget."""
