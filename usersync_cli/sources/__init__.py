"""One vendor, one file. A source is a module with `Settings` and `Source`; it is found by its file name."""
