"""The systems that are read: a file or folder for each, found by its name. README.md says how to write one; `postgres`, `file`,
`fineract` and `teamleader` are those that there are."""
