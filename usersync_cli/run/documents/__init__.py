"""Steps of documents: streams that are read page by page, each page a checkpoint.

`step` reads the pages, `stream` is what is known of a stream on its way into its table, `batch` loads the records of a page,
`retry` tries rejects again. Rows that left, and the memory of a dry run, are private.
"""
