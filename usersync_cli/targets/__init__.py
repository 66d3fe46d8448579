"""Where rows go: one file each, found by its file name."""
